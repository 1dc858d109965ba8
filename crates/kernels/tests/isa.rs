//! Every instruction set and thread count gives the bits of the scalar specification.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::num::NonZeroUsize;
use std::sync::Arc;

use proptest::prelude::*;
use rapport_kernels::blocks::{BlockType, dequantize_row};
use rapport_kernels::quantize::quantize_row;
use rapport_kernels::{
    Activation, Activations, AttentionLayer, AttentionShape, Compute, ExpertRows, Gating, Isa,
    KvPage, KvType, PAGE_TOKENS, PackedExperts, PackedMatrix, Router, Routes, Span,
};

fn computes() -> Vec<Compute> {
    let with = |isa, n_threads| Compute::new(isa, NonZeroUsize::new(n_threads).unwrap());
    let mut all = vec![with(Isa::Scalar, 1)];
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        all.push(with(isa, 1));
        all.push(with(isa, 3));
    }
    all
}

/// Small, fast and seeded; quality does not matter here.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn float(&mut self) -> f32 {
        (self.next() % 20_001) as f32 / 10_000.0 - 1.0
    }
}

/// Random blocks whose f16 scales and offsets are finite and of ordinary size.
fn random_matrix(block_type: BlockType, n_rows: usize, n_cols: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed | 1);
    let n_bytes = block_type.row_bytes(n_cols).unwrap() * n_rows;
    if !block_type.is_quantized() {
        return (0..n_rows * n_cols)
            .flat_map(|_| {
                let value = random.float();
                match block_type {
                    BlockType::F32 => value.to_le_bytes().to_vec(),
                    BlockType::F16 => half::f16::from_f32(value).to_le_bytes().to_vec(),
                    _ => half::bf16::from_f32(value).to_le_bytes().to_vec(),
                }
            })
            .collect();
    }
    let mut bytes: Vec<u8> = (0..n_bytes).map(|_| random.next() as u8).collect();
    let scale_places: &[usize] = match block_type {
        BlockType::Q4_1 | BlockType::Q5_1 | BlockType::Q4K | BlockType::Q5K => &[0, 2],
        BlockType::Q2K => &[80, 82],
        BlockType::Q3K => &[108],
        BlockType::Q6K => &[208],
        _ => &[0],
    };
    for block in bytes.chunks_exact_mut(block_type.block_bytes()) {
        for place in scale_places {
            let scale = half::f16::from_f32(random.float() * 0.1);
            block[*place..*place + 2].copy_from_slice(&scale.to_le_bytes());
        }
    }
    bytes
}

fn activations(compute: &Compute, n_tokens: usize, n_cols: usize, seed: u64) -> Activations {
    let mut random = Random(seed | 1);
    let mut x = Activations::default();
    x.resize(n_tokens, n_cols);
    for token_idx in 0..n_tokens {
        for value in x.row_mut(token_idx) {
            *value = random.float() * 3.0;
        }
    }
    compute.quantize(&mut x);
    x
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn products_agree_bit_for_bit(
        type_idx in 0..13_usize,
        n_rows in 1..70_usize,
        n_blocks in 1..4_usize,
        n_tokens in 1..20_usize,
        seed: u64,
    ) {
        let block_type = BlockType::ALL[type_idx];
        let n_cols = if block_type.is_quantized() {
            n_blocks * block_type.block_len()
        } else {
            n_blocks * 29
        };
        let bytes = random_matrix(block_type, n_rows, n_cols, seed);
        let mut reference: Option<Vec<f32>> = None;
        for compute in computes() {
            let weights =
                PackedMatrix::pack(compute.pool(), block_type, (n_rows, n_cols), &bytes).unwrap();
            let x = activations(&compute, n_tokens, n_cols, seed);
            let mut out = vec![0.0; n_rows * n_tokens];
            compute.matmul(&x, &mut [(&weights, &mut out)]);
            if let Some(reference) = &reference {
                prop_assert_eq!(bits(reference), bits(&out), "{} {}", block_type, compute.isa());
                continue;
            }

            // The specification itself, against the file's weights in f64.
            let row_bytes = block_type.row_bytes(n_cols).unwrap();
            let mut row = vec![0.0; n_cols];
            let mut unpacked = vec![0.0; n_cols];
            for row_idx in 0..n_rows {
                dequantize_row(block_type, &bytes[row_idx * row_bytes..][..row_bytes], &mut row);
                weights.unpack_row(row_idx, &mut unpacked);
                // K types keep their scales in f16 here: half a unit of f16 on either part.
                for (packed, file) in unpacked.iter().zip(&row) {
                    let largest = row.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
                    prop_assert!((packed - file).abs() <= largest * 2e-3 + 1e-6);
                }
                for token_idx in 0..n_tokens {
                    let exact: f64 = unpacked.iter().zip(x.row(token_idx))
                        .map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
                    let size: f64 = unpacked.iter().map(|w| f64::from(w.abs()) * 3.0).sum();
                    let got = f64::from(out[token_idx * n_rows + row_idx]);
                    let tolerance = if block_type.is_quantized() { 0.005 } else { 1e-6 };
                    prop_assert!((got - exact).abs() <= size * tolerance + 1e-6,
                        "{}: {} for {}", block_type, got, exact);
                }
            }
            reference = Some(out);
        }
    }

    #[test]
    fn attention_agrees_bit_for_bit_and_does_not_depend_on_chunks(
        n_kv_heads in 1..3_usize,
        group in 1..4_usize,
        head_dim in prop::sample::select(vec![8_usize, 16, 24, 48, 64]),
        n_tokens in prop_oneof![6 => 1..80_usize, 1 => 250..560_usize],
        cut in 0..560_usize,
        window in prop::option::of(1..90_usize),
        soft_cap in prop::option::of(0.5..30.0_f32),
        seed: u64,
    ) {
        let n_heads = n_kv_heads * group;
        let scale = 1.0 / (head_dim as f32).sqrt();
        let layer = AttentionLayer { layer_idx: 0, scale, soft_cap, window };
        let shape = AttentionShape { n_layers: 1, n_heads, n_kv_heads, head_dim };
        let mut random = Random(seed | 1);
        let mut numbers = |n: usize| (0..n).map(|_| random.float() * 2.0).collect::<Vec<f32>>();
        let queries = numbers(n_tokens * n_heads * head_dim);
        let keys = numbers(n_tokens * n_kv_heads * head_dim);
        let values = numbers(n_tokens * n_kv_heads * head_dim);
        let mut pages = vec![KvPage::new(shape, KvType::F16); n_tokens.div_ceil(PAGE_TOKENS)];
        let width = n_kv_heads * head_dim;
        for token_idx in 0..n_tokens {
            pages[token_idx / PAGE_TOKENS].write(
                0,
                token_idx % PAGE_TOKENS,
                &keys[token_idx * width..][..width],
                &values[token_idx * width..][..width],
            );
        }
        let pages: Vec<Arc<KvPage>> = pages.into_iter().map(Arc::new).collect();
        let attend = |compute: &Compute, cuts: &[usize]| {
            let mut result = Vec::new();
            for pair in cuts.windows(2) {
                let span = Span {
                    first_row: 0,
                    n_rows: pair[1] - pair[0],
                    position: pair[0],
                    pages: &pages,
                };
                let width = n_heads * head_dim;
                let mut out = Activations::default();
                compute.attention(
                    shape, layer, &queries[pair[0] * width..pair[1] * width], &[span], &mut out,
                );
                for row_idx in 0..span.n_rows {
                    result.extend_from_slice(out.row(row_idx));
                }
            }
            result
        };
        let computes = computes();
        let whole = attend(&computes[0], &[0, n_tokens]);
        let cut = cut.min(n_tokens);
        for compute in &computes {
            prop_assert_eq!(bits(&whole), bits(&attend(compute, &[0, cut, n_tokens])));
            prop_assert_eq!(bits(&whole), bits(&attend(compute, &[0, n_tokens - 1, n_tokens])));
        }

        // Against softmax in f64 over the same f16 keys and values.
        let round = |x: f32| f64::from(half::f16::from_f32(x).to_f32());
        for token_idx in 0..n_tokens {
            for head_idx in 0..n_heads {
                let query = &queries[(token_idx * n_heads + head_idx) * head_dim..][..head_dim];
                let kv = |side: &[f32], key_idx: usize, dim: usize| {
                    round(side[key_idx * width + head_idx / group * head_dim + dim])
                };
                let first = window.map_or(0, |window| (token_idx + 1).saturating_sub(window));
                let scores: Vec<f64> = (first..=token_idx).map(|key_idx| {
                    let score = query.iter().enumerate()
                        .map(|(dim, q)| f64::from(*q) * kv(&keys, key_idx, dim)).sum::<f64>()
                        / (head_dim as f64).sqrt();
                    let Some(cap) = soft_cap else { return score };
                    (score / f64::from(cap)).tanh() * f64::from(cap)
                }).collect();
                let max = scores.iter().copied().fold(f64::MIN, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
                let sum: f64 = weights.iter().sum();
                for dim in 0..head_dim {
                    let exact: f64 = weights.iter().enumerate()
                        .map(|(idx, w)| w / sum * kv(&values, first + idx, dim)).sum();
                    let got = f64::from(whole[(token_idx * n_heads + head_idx) * head_dim + dim]);
                    prop_assert!((got - exact).abs() < 2e-5, "{got} for {exact}");
                }
            }
        }
    }

    #[test]
    fn experts_give_what_each_gives_alone(
        block_type in prop::sample::select(vec![BlockType::F32, BlockType::Q8_0, BlockType::Q4K]),
        n_experts in 1..6_usize,
        n_rows in 1..40_usize,
        n_tokens in 1..12_usize,
        n_active in 1..4_usize,
        seed: u64,
    ) {
        let n_cols = 256;
        let n_active = n_active.min(n_experts);
        let bytes = random_matrix(block_type, n_experts * n_rows, n_cols, seed);
        let expert_bytes = bytes.len() / n_experts;
        let mut random = Random(seed | 1);
        let logits: Vec<f32> = (0..n_tokens * n_experts).map(|_| random.float() * 3.0).collect();
        let router = Router { gating: Gating::Softmax, n_active, renormalise: true };
        let mut reference = None;
        for compute in computes() {
            let x = activations(&compute, n_tokens, n_cols, seed);
            let shape = (n_experts, n_rows, n_cols);
            let experts = PackedExperts::pack(compute.pool(), block_type, shape, &bytes).unwrap();
            let mixture = |x: &Activations, logits: &[f32]| {
                let (mut routes, mut rows) = (Routes::default(), ExpertRows::default());
                compute.route(router, &mut logits.to_vec(), n_experts, &mut routes);
                rows.sort(&routes, n_experts);
                let mut gathered = Activations::default();
                compute.gather_experts(x, &rows, &mut gathered);
                let mut outputs = vec![0.0; rows.n_rows() * n_rows];
                compute.expert_matmul(&gathered, &rows, &mut [(&experts, &mut outputs)]);
                if x.n_rows() == 1 {
                    let mut shared = vec![0.0; outputs.len()];
                    compute.expert_matmul(x, &rows, &mut [(&experts, &mut shared)]);
                    assert_eq!(bits(&shared), bits(&outputs));
                }
                assert_eq!(rows.loads().map(|(_, n)| n).sum::<usize>(), rows.n_rows());
                let mut out = vec![0.0; x.n_rows() * n_rows];
                compute.add_experts(&routes, &rows, &outputs, &mut out);
                (routes, out)
            };
            let (routes, batch) = mixture(&x, &logits);
            for token_idx in 0..n_tokens {
                let mut alone = Activations::default();
                alone.resize(1, n_cols);
                alone.row_mut(0).copy_from_slice(x.row(token_idx));
                compute.quantize(&mut alone);
                let (_, got) = mixture(&alone, &logits[token_idx * n_experts..][..n_experts]);
                prop_assert_eq!(bits(&got), bits(&batch[token_idx * n_rows..][..n_rows]));

                // One matrix after another, by the plain product.
                let mut expected = vec![0.0_f32; n_rows];
                for (expert_idx, weight) in routes.token(token_idx) {
                    let bytes = &bytes[expert_idx * expert_bytes..][..expert_bytes];
                    let shape = (n_rows, n_cols);
                    let matrix =
                        PackedMatrix::pack(compute.pool(), block_type, shape, bytes).unwrap();
                    let mut out = vec![0.0; n_rows];
                    compute.matmul(&alone, &mut [(&matrix, &mut out)]);
                    for (sum, value) in expected.iter_mut().zip(out) {
                        *sum = weight.mul_add(value, *sum);
                    }
                }
                prop_assert_eq!(bits(&got), bits(&expected));
            }
            prop_assert_eq!(reference.get_or_insert_with(|| bits(&batch)), &bits(&batch));
        }
    }

    #[test]
    fn row_operations_agree_bit_for_bit(n_tokens in 1..6_usize, n_cols in 1..140_usize, seed: u64) {
        let mut random = Random(seed | 1);
        let x: Vec<f32> = (0..n_tokens * n_cols).map(|_| random.float() * 20.0).collect();
        let y: Vec<f32> = (0..n_tokens * n_cols).map(|_| random.float()).collect();
        let weight = &y[..n_cols];
        let mut reference = None;
        for compute in computes() {
            let mut out = Activations::default();
            compute.rms_norm(&x, weight, 1e-5, &mut out);
            let mut rows: Vec<u32> = (0..n_tokens).flat_map(|row| bits(out.row(row))).collect();
            for activation in [Activation::Silu, Activation::Gelu] {
                compute.gate_mul(activation, &x, &y, n_cols, &mut out);
                rows.extend((0..n_tokens).flat_map(|row| bits(out.row(row))));
            }
            let mut added = y.clone();
            compute.rms_norm_add(&x, weight, 1e-5, &mut added);
            compute.rms_norm_heads(&mut added, n_cols, &y[..1], 1e-5);
            compute.scale_and_cap(&mut added, n_cols, 3.0, Some(2.5));
            rows.extend(bits(&added));
            prop_assert_eq!(reference.get_or_insert_with(|| rows.clone()), &rows);
        }
    }
}

#[test]
fn hostile_scales_neither_panic_nor_leak_into_other_rows() {
    for block_type in BlockType::ALL.into_iter().filter(|t| t.is_quantized()) {
        let n_cols = block_type.block_len();
        let mut bytes = random_matrix(block_type, 20, n_cols, 7);
        let clean = bytes.clone();
        let row_bytes = block_type.row_bytes(n_cols).unwrap();
        bytes[3 * row_bytes..4 * row_bytes].fill(0xff);
        let mut reference = None;
        for compute in computes() {
            let product = |bytes: &[u8]| {
                let weights =
                    PackedMatrix::pack(compute.pool(), block_type, (20, n_cols), bytes).unwrap();
                let x = activations(&compute, 2, n_cols, 5);
                let mut out = vec![0.0; 40];
                compute.matmul(&x, &mut [(&weights, &mut out)]);
                out
            };
            let (hostile, clean) = (product(&bytes), product(&clean));
            for row_idx in (0..40).filter(|row_idx| row_idx % 20 != 3) {
                assert_eq!(hostile[row_idx].to_bits(), clean[row_idx].to_bits());
            }
            let kept = reference.get_or_insert_with(|| bits(&clean));
            assert_eq!(*kept, bits(&clean));
        }
    }
}

/// Blocks of Q5_1, which nothing here writes, of weights that are -1 (code 0) or 1 (code 31).
fn q5_1_row(weights: &[f32], out: &mut Vec<u8>) {
    for block in weights.as_chunks::<32>().0 {
        let ones = (0..32).filter(|&at| block[at] > 0.0).fold(0_u32, |ones, at| ones | 1 << at);
        out.extend(half::f16::from_f32(2.0 / 31.0).to_le_bytes());
        out.extend(half::f16::from_f32(-1.0).to_le_bytes());
        out.extend(ones.to_le_bytes());
        let nibble = |at: usize| if ones >> at & 1 == 1 { 15_u8 } else { 0 };
        out.extend((0..16).map(|at| nibble(at) | nibble(at + 16) << 4));
    }
}

/// Sums of the greatest products there can be stay within what vectors add them up in.
#[test]
fn sums_of_the_greatest_codes_are_exact() {
    let types = [BlockType::Q4_0, BlockType::Q4_1, BlockType::Q5_1, BlockType::Q8_0];
    for block_type in types {
        for (first, others) in [(-1.0, 1.0), (1.0, -1.0)] {
            let mut row = [others; 64];
            (row[0], row[32]) = (first, first);
            let mut bytes = Vec::new();
            for _ in 0..17 {
                match block_type {
                    BlockType::Q5_1 => q5_1_row(&row, &mut bytes),
                    _ => quantize_row(block_type, &row, &mut bytes).unwrap(),
                }
            }
            let mut reference: Option<Vec<u32>> = None;
            for compute in computes() {
                let weights =
                    PackedMatrix::pack(compute.pool(), block_type, (17, 64), &bytes).unwrap();
                let mut x = Activations::default();
                x.resize(9, 64);
                for row_idx in 0..9 {
                    x.row_mut(row_idx).fill(if row_idx % 2 == 0 { 1.0 } else { -1.0 });
                }
                compute.quantize(&mut x);
                let mut out = vec![0.0; 9 * 17];
                compute.matmul(&x, &mut [(&weights, &mut out)]);
                assert!(out.iter().all(|sum| (sum.abs() - 60.0).abs() < 10.0), "{block_type}");
                assert_eq!(*reference.get_or_insert_with(|| bits(&out)), bits(&out));
            }
        }
    }
}
