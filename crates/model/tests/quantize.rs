//! Quantising a model: every tensor in its type, everything else as it was.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use rapport_kernels::blocks::{BlockType, dequantize_row};
use rapport_kernels::quantize::{QuantizeError, WRITABLE};
use rapport_model::gguf::{Gguf, GgufPlan, Value};
use rapport_model::quantize::{QuantizeFileError, Report, block_type_for, quantize_file};

const TENSORS: [(&str, &[u64]); 8] = [
    ("token_embd.weight", &[256, 4]),
    ("blk.0.attn_norm.weight", &[256]),
    ("blk.0.attn_q.weight", &[256, 4]),
    ("blk.0.attn_k.weight", &[96, 2]),
    ("blk.0.attn_v.weight", &[20, 2]),
    ("blk.0.ffn_gate_inp.weight", &[256, 2]),
    ("blk.0.ffn_up_exps.weight", &[512, 2, 3]),
    ("output.weight", &[256, 4]),
];

/// Weights that differ from each other, within -1..1.
fn weights(n_weights: u64) -> Vec<f32> {
    (0..n_weights).map(|i| (i as f32 * 0.7).sin()).collect()
}

fn model(fill: impl Fn(&str, u64) -> Vec<f32>) -> Gguf {
    let mut plan = GgufPlan::new();
    plan.string("general.architecture", "llama").unwrap();
    plan.value("general.file_type", Value::U32(0)).unwrap();
    plan.strings("tokenizer.ggml.tokens", &["a", "b"]).unwrap();
    for (name, dims) in TENSORS {
        plan.tensor(name, dims, BlockType::F32).unwrap();
    }
    let mut writer = plan.begin(Vec::new()).unwrap();
    for (name, dims) in TENSORS {
        let weights = fill(name, dims.iter().product());
        let bytes: Vec<u8> = weights.into_iter().flat_map(f32::to_le_bytes).collect();
        writer.tensor(&bytes).unwrap();
    }
    Gguf::from_bytes(writer.finish().unwrap()).unwrap()
}

fn quantized(source: &Gguf, target: BlockType) -> (Gguf, Report) {
    let mut out = Vec::new();
    let report = quantize_file(source, target, None, &mut out, |_| {}).unwrap();
    (Gguf::from_bytes(out).unwrap(), report)
}

fn types(gguf: &Gguf) -> Vec<BlockType> {
    gguf.tensors().iter().map(|info| info.block_type).collect()
}

#[test]
fn each_tensor_gets_its_type() {
    use BlockType::{F16, F32, Q4_1, Q4K, Q6K, Q8_0};
    let source = model(|_, n| weights(n));
    let cases = [
        (Q4K, [Q6K, F32, Q4K, Q8_0, F16, F32, Q4K, Q6K]),
        (Q4_1, [Q6K, F32, Q4_1, Q4_1, F16, F32, Q4_1, Q6K]),
        (Q8_0, [Q8_0, F32, Q8_0, Q8_0, F16, F32, Q8_0, Q8_0]),
        (F16, [F16, F32, F16, F16, F16, F32, F16, F16]),
        (F32, [F32; 8]),
    ];
    for (target, expected) in cases {
        let (written, _) = quantized(&source, target);
        assert_eq!(types(&written), expected, "{target}");
        for info in source.tensors() {
            let block_type = written.find(&info.name).unwrap().block_type;
            assert_eq!(block_type_for(info, target), block_type);
        }
    }
}

#[test]
fn weights_stay_near_and_everything_else_stays() {
    let source = model(|_, n| weights(n));
    for target in WRITABLE {
        let (written, report) = quantized(&source, target);
        let mut n_converted = 0;
        for info in source.tensors() {
            let before = source.tensor(&info.name).unwrap();
            let after = written.require(&info.name, &info.dims).unwrap();
            if after.info.block_type == info.block_type {
                assert_eq!(after.bytes, before.bytes, "{}", info.name);
                continue;
            }
            n_converted += 1;
            let mut decoded = vec![0.0; info.n_weights() as usize];
            dequantize_row(after.info.block_type, after.bytes, &mut decoded);
            for (weight, decoded) in weights(info.n_weights()).iter().zip(&decoded) {
                assert!((weight - decoded).abs() < 0.13, "{target}: {weight} became {decoded}");
            }
        }
        assert_eq!(report.n_tensors, 8);
        assert_eq!(report.n_converted, n_converted);
        let n_bytes = |gguf: &Gguf| gguf.tensors().iter().map(|info| info.n_bytes).sum::<u64>();
        assert_eq!(report.source_bytes, n_bytes(&source));
        assert_eq!(report.written_bytes, n_bytes(&written));
    }
}

#[test]
fn metadata_says_what_the_file_is_now() {
    let source = model(|_, n| weights(n));
    for (target, file_type) in [(BlockType::Q4K, 14), (BlockType::Q4_1, 3), (BlockType::BF16, 32)] {
        let (written, _) = quantized(&source, target);
        let metadata = written.metadata();
        let keys: Vec<_> = metadata.iter().map(|(key, _)| key).collect();
        assert_eq!(
            keys,
            [
                "general.architecture",
                "general.file_type",
                "tokenizer.ggml.tokens",
                "general.quantization_version"
            ]
        );
        assert_eq!(metadata.u32("general.file_type").unwrap(), file_type);
        assert_eq!(metadata.u32("general.quantization_version").unwrap(), 2);
        assert_eq!(
            metadata.get("tokenizer.ggml.tokens"),
            source.metadata().get("tokenizer.ggml.tokens")
        );
    }
}

#[test]
fn quantising_to_the_type_it_has_changes_no_weight() {
    let (once, _) = quantized(&model(|_, n| weights(n)), BlockType::Q4K);
    let (twice, report) = quantized(&once, BlockType::Q4K);
    assert_eq!(report.n_converted, 0);
    for info in once.tensors() {
        assert_eq!(once.tensor(&info.name).unwrap().bytes, twice.tensor(&info.name).unwrap().bytes);
    }
}

#[test]
fn progress_counts_every_tensor_and_tells_the_error() {
    let source = model(|_, n| weights(n));
    let mut seen = Vec::new();
    quantize_file(&source, BlockType::Q4_0, None, std::io::sink(), |progress| {
        assert_eq!(progress.n_tensors, TENSORS.len());
        let written = &progress.written;
        let is_copy = written.block_type == written.source.block_type;
        // A sine's root mean square is 0.7; four bits lose a few hundredths of it.
        let expected_errors = if is_copy { 0.0..=0.0 } else { 1e-5..=0.05 };
        assert!(expected_errors.contains(&written.root_mean_square_error), "{written:?}");
        seen.push((progress.n_written, written.source.name.clone()));
    })
    .unwrap();
    let expected: Vec<_> =
        TENSORS.iter().enumerate().map(|(i, (name, _))| (i + 1, (*name).to_owned())).collect();
    assert_eq!(seen, expected);
}

#[test]
fn f07_weights_that_are_not_finite_are_named() {
    let source = model(|name, n| {
        let mut weights = weights(n);
        if name == "blk.0.attn_q.weight" {
            weights[2 * 256 + 3] = f32::NAN;
        }
        weights
    });
    let error = quantize_file(&source, BlockType::Q8_0, None, std::io::sink(), |_| {}).unwrap_err();
    assert!(matches!(
        &error,
        QuantizeFileError::Weights {
            tensor,
            row: 2,
            problem: QuantizeError::NotFinite { column: 3, .. }
        } if tensor == "blk.0.attn_q.weight"
    ));
    assert_eq!(
        error.to_string(),
        "row 2 of tensor `blk.0.attn_q.weight`: weight 3 of the row is NaN: \
         only finite weights can be quantised"
    );
}

#[test]
fn a_type_that_cannot_be_written_is_refused_first() {
    let mut out = Vec::new();
    let source = model(|_, n| weights(n));
    let error = quantize_file(&source, BlockType::Q5K, None, &mut out, |_| {}).unwrap_err();
    let expected = "no model can be written as Q5_K: \
                    choose F32, F16, BF16, Q4_0, Q4_1, Q8_0, Q4_K, Q6_K";
    assert_eq!(error.to_string(), expected);
    assert!(out.is_empty());
}
