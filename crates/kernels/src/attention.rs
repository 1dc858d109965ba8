//! Attention over paged keys and values.
//!
//! Keys and values live in [`KvPage`]s of [`PAGE_TOKENS`] tokens. Attention visits a sequence's
//! pages in order with an online softmax (Milakov and Gimelshein 2018; Dao et al. 2022), so a
//! query's result depends on positions alone: not on how the prompt was cut into chunks, what else
//! is in the batch, or which pages were computed earlier.

use std::sync::Arc;

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::float::{exp, soft_cap};
use crate::isa::stamped;
use crate::{Activations, Compute, Isa};

/// Tokens of a page.
pub const PAGE_TOKENS: usize = 32;

/// Query rows that are computed together, for as many independent sums as registers hold.
const ROWS: usize = 4;
/// Tokens of one sequence that share the work of reading a page.
const BLOCK_TOKENS: usize = 16;
/// Dimensions of one token's head that share a scale in [`KvType::Q8`].
const Q8_DIMS: usize = 32;

/// What attention needs to know of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    pub n_layers: usize,
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub head_dim: usize,
}

impl AttentionShape {
    fn side(&self) -> usize {
        PAGE_TOKENS * self.head_dim
    }

    /// Scales of one side of a kv head: (D / 32, 32) of keys, (32, D / 32) of values.
    fn side_scales(&self) -> usize {
        PAGE_TOKENS * self.head_dim.div_ceil(Q8_DIMS)
    }

    fn page_scales(&self) -> usize {
        self.n_layers * self.n_kv_heads * 2 * self.side_scales()
    }

    fn page_numbers(&self) -> usize {
        self.n_layers * self.n_kv_heads * 2 * self.side()
    }
}

/// What one layer does with its scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionLayer {
    pub layer_idx: usize,
    /// What a product of query and key is multiplied by: mostly `1 / sqrt(D)`.
    pub scale: f32,
    /// Scores become `cap * tanh(score / cap)`.
    pub soft_cap: Option<f32>,
    /// How many tokens a query sees, its own among them; `None`: all before it.
    pub window: Option<usize>,
}

impl AttentionLayer {
    /// The first key that the query at `position` sees.
    fn first_key(self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }
}

/// What keys and values are stored as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvType {
    /// Half the memory; the difference is below what quantised weights cost.
    #[default]
    F16,
    /// For comparing with a float reference.
    F32,
    /// Little more than half the memory of [`Self::F16`]: 8-bit codes, an f16 scale for each 32
    /// dimensions of a token's head.
    Q8,
}

impl KvType {
    /// Bytes of one page: keys and values of all layers.
    pub fn page_bytes(self, shape: AttentionShape) -> usize {
        match self {
            Self::F16 => shape.page_numbers() * 2,
            Self::F32 => shape.page_numbers() * 4,
            Self::Q8 => shape.page_numbers() + shape.page_scales() * 2,
        }
    }
}

/// Keys and values of [`PAGE_TOKENS`] consecutive tokens, all layers.
///
/// # Shapes
/// For each layer and kv head, keys (D, 32) and then values (32, D).
#[derive(Clone)]
pub struct KvPage {
    shape: AttentionShape,
    numbers: Numbers,
}

#[derive(Clone)]
enum Numbers {
    F16(Box<[f16]>),
    F32(Box<[f32]>),
    /// Scales in the order of their codes: for each layer and kv head, those of keys and then
    /// those of values.
    Q8 {
        codes: Box<[i8]>,
        scales: Box<[f16]>,
    },
}

impl KvPage {
    pub fn new(shape: AttentionShape, kv_type: KvType) -> Self {
        let n_numbers = shape.page_numbers();
        let numbers = match kv_type {
            KvType::F16 => Numbers::F16(vec![f16::ZERO; n_numbers].into_boxed_slice()),
            KvType::F32 => Numbers::F32(vec![0.0; n_numbers].into_boxed_slice()),
            KvType::Q8 => Numbers::Q8 {
                codes: vec![0; n_numbers].into_boxed_slice(),
                scales: vec![f16::ZERO; shape.page_scales()].into_boxed_slice(),
            },
        };
        Self { shape, numbers }
    }

    fn start(&self, layer_idx: usize, kv_head_idx: usize) -> usize {
        (layer_idx * self.shape.n_kv_heads + kv_head_idx) * 2 * self.shape.side()
    }

    /// Appends the page as [`Self::from_bytes`] reads it: its numbers in order, little-endian.
    pub fn write_bytes(&self, out: &mut Vec<u8>) {
        match &self.numbers {
            Numbers::F16(numbers) => out.extend(numbers.iter().flat_map(|x| x.to_le_bytes())),
            Numbers::F32(numbers) => out.extend(numbers.iter().flat_map(|x| x.to_le_bytes())),
            Numbers::Q8 { codes, scales } => {
                out.extend(codes.iter().map(|code| code.cast_unsigned()));
                out.extend(scales.iter().flat_map(|scale| scale.to_le_bytes()));
            }
        }
    }

    /// A page from the bytes of one; `None` if their number is not a page's.
    pub fn from_bytes(shape: AttentionShape, kv_type: KvType, bytes: &[u8]) -> Option<Self> {
        if bytes.len() != kv_type.page_bytes(shape) {
            return None;
        }
        let numbers = match kv_type {
            KvType::F16 => {
                let numbers = bytes.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes));
                Numbers::F16(numbers.collect())
            }
            KvType::F32 => {
                let numbers = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
                Numbers::F32(numbers.collect())
            }
            KvType::Q8 => {
                let (codes, scales) = bytes.split_at(shape.page_numbers());
                let scales = scales.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes));
                Numbers::Q8 {
                    codes: codes.iter().map(|code| code.cast_signed()).collect(),
                    scales: scales.collect(),
                }
            }
        };
        Some(Self { shape, numbers })
    }

    /// Writes one token's keys and values of one layer.
    ///
    /// # Shapes
    /// `keys`, `values`: (G, D).
    pub fn write(&mut self, layer_idx: usize, slot: usize, keys: &[f32], values: &[f32]) {
        let (head_dim, side) = (self.shape.head_dim, self.shape.side());
        assert!(slot < PAGE_TOKENS && layer_idx < self.shape.n_layers, "a place in the page");
        assert_eq!(keys.len(), self.shape.n_kv_heads * head_dim, "keys of a token");
        assert_eq!(values.len(), keys.len(), "values of a token");
        for (kv_head_idx, (keys, values)) in
            keys.chunks_exact(head_dim).zip(values.chunks_exact(head_dim)).enumerate()
        {
            let start = self.start(layer_idx, kv_head_idx);
            let value_start = start + side + slot * head_dim;
            match &mut self.numbers {
                Numbers::F16(numbers) => {
                    let columns = numbers[start..][..side].chunks_exact_mut(PAGE_TOKENS);
                    for (column, key) in columns.zip(keys) {
                        column[slot] = f16::from_f32(*key);
                    }
                    numbers[value_start..][..head_dim].convert_from_f32_slice(values);
                }
                Numbers::F32(numbers) => {
                    let columns = numbers[start..][..side].chunks_exact_mut(PAGE_TOKENS);
                    for (column, key) in columns.zip(keys) {
                        column[slot] = *key;
                    }
                    numbers[value_start..][..head_dim].copy_from_slice(values);
                }
                Numbers::Q8 { codes, scales } => {
                    let n_blocks = head_dim.div_ceil(Q8_DIMS);
                    let scales = &mut scales[start / side * self.shape.side_scales()..];
                    let (key_scales, value_scales) = scales.split_at_mut(self.shape.side_scales());
                    let blocks = keys.chunks(Q8_DIMS).zip(values.chunks(Q8_DIMS));
                    for (block_idx, (keys, values)) in blocks.enumerate() {
                        let key_scale = block_scale(keys);
                        key_scales[block_idx * PAGE_TOKENS + slot] = key_scale;
                        let first_dim = block_idx * Q8_DIMS;
                        for (dim, key) in (first_dim..).zip(keys) {
                            codes[start + dim * PAGE_TOKENS + slot] = code(*key, key_scale);
                        }
                        let value_scale = block_scale(values);
                        value_scales[slot * n_blocks + block_idx] = value_scale;
                        let places = &mut codes[value_start + first_dim..];
                        for (place, value) in places.iter_mut().zip(values) {
                            *place = code(*value, value_scale);
                        }
                    }
                }
            }
        }
    }

    /// One kv head of one layer as floats: keys (D, 32) and values (32, D).
    fn read(
        &self,
        isa: Isa,
        (layer_idx, kv_head_idx): (usize, usize),
        keys: &mut [f32],
        values: &mut [f32],
    ) {
        let (start, side) = (self.start(layer_idx, kv_head_idx), self.shape.side());
        match &self.numbers {
            Numbers::F16(numbers) => {
                numbers[start..][..side].convert_to_f32_slice(keys);
                numbers[start + side..][..side].convert_to_f32_slice(values);
            }
            Numbers::F32(numbers) => {
                keys.copy_from_slice(&numbers[start..][..side]);
                values.copy_from_slice(&numbers[start + side..][..side]);
            }
            Numbers::Q8 { codes, scales } => {
                let n_scales = self.shape.side_scales();
                let scales = &scales[start / side * n_scales..][..2 * n_scales];
                let codes = &codes[start..][..2 * side];
                unpack_q8(isa, codes, scales, self.shape.head_dim, (keys, values));
            }
        }
    }
}

/// The scale of up to 32 numbers: the largest becomes 127.
fn block_scale(numbers: &[f32]) -> f16 {
    let max = numbers.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
    // Of infinities something finite is kept, so that one bad token spoils no other.
    f16::from_f32((max / 127.0).min(f16::MAX.to_f32()))
}

fn code(number: f32, scale: f16) -> i8 {
    let scale = scale.to_f32();
    if scale == 0.0 { 0 } else { (number / scale).round_ties_even() as i8 }
}

stamped! {
    /// One kv head's keys (D, 32) and values (32, D) as floats: each code times its scale.
    fn unpack_q8(
        codes: &[i8],
        scales: &[f16],
        head_dim: usize,
        out: (&mut [f32], &mut [f32]),
    ) {
        let (key_codes, value_codes) = codes.split_at(codes.len() / 2);
        let (key_scales, value_scales) = scales.split_at(scales.len() / 2);
        let (keys, values) = out;
        let columns = key_codes.as_chunks::<PAGE_TOKENS>().0.iter()
            .zip(keys.as_chunks_mut::<PAGE_TOKENS>().0);
        let mut column_scales = [0.0_f32; PAGE_TOKENS];
        for (dim, (codes, keys)) in columns.enumerate() {
            if dim % Q8_DIMS == 0 {
                let scales = &key_scales[dim / Q8_DIMS * PAGE_TOKENS..][..PAGE_TOKENS];
                for (scale, packed) in column_scales.iter_mut().zip(scales) {
                    *scale = packed.to_f32();
                }
            }
            for ((key, code), scale) in keys.iter_mut().zip(codes).zip(&column_scales) {
                *key = f32::from(*code) * scale;
            }
        }
        let rows = value_codes.chunks_exact(head_dim).zip(values.chunks_exact_mut(head_dim))
            .zip(value_scales.chunks_exact(head_dim.div_ceil(Q8_DIMS)));
        for ((codes, values), scales) in rows {
            let blocks = codes.chunks(Q8_DIMS).zip(values.chunks_mut(Q8_DIMS)).zip(scales);
            for ((codes, values), scale) in blocks {
                let scale = scale.to_f32();
                for (value, code) in values.iter_mut().zip(codes) {
                    *value = f32::from(*code) * scale;
                }
            }
        }
    }
}

/// Consecutive tokens of one sequence within a batch.
#[derive(Clone, Copy)]
pub struct Span<'a> {
    /// The first token's row in the batch.
    pub first_row: usize,
    pub n_rows: usize,
    /// The first token's position in its sequence.
    pub position: usize,
    /// The sequence's pages, with the keys and values of this span already written.
    pub pages: &'a [Arc<KvPage>],
}

/// One query row's running softmax.
#[derive(Clone, Copy)]
struct Running {
    max: f32,
    /// Sums of `exp(score - max)`, by place in the page.
    sums: [f32; PAGE_TOKENS],
}

/// What [`visit_page`] works on: `ROWS` query rows at a time.
struct PageVisit<'a> {
    /// (R, D), already scaled.
    queries: &'a [f32],
    /// (D, 32)
    keys: &'a [f32],
    /// (32, D)
    values: &'a [f32],
    /// Which keys of the page each row may see: (first, end).
    visible: &'a [[usize; 2]],
    soft_cap: Option<f32>,
    running: &'a mut [Running],
    /// (R, D)
    out: &'a mut [f32],
    head_dim: usize,
}

stamped! {
    fn visit_page(page: PageVisit<'_>) {
        let head_dim = page.head_dim;
        let keys = page.keys.as_chunks::<PAGE_TOKENS>().0;
        let row_blocks = page.running.as_chunks_mut::<ROWS>().0.iter_mut()
            .zip(page.visible.as_chunks::<ROWS>().0)
            .zip(page.queries.chunks_exact(ROWS * head_dim))
            .zip(page.out.chunks_exact_mut(ROWS * head_dim));
        for (((running, visible), queries), out) in row_blocks {
            let end = visible[0][1].max(visible[1][1]).max(visible[2][1]).max(visible[3][1]);
            if end == 0 {
                continue;
            }
            let mut weights = [[0.0_f32; PAGE_TOKENS]; ROWS];
            for (dim, keys) in keys.iter().enumerate() {
                for row in 0..ROWS {
                    let query = queries[row * head_dim + dim];
                    for (weight, key) in weights[row].iter_mut().zip(keys) {
                        *weight = query.mul_add(*key, *weight);
                    }
                }
            }
            for row in 0..ROWS {
                let running = &mut running[row];
                let weights = &mut weights[row];
                let [first, end] = visible[row];
                if let Some(cap) = page.soft_cap {
                    for weight in weights.iter_mut() {
                        *weight = soft_cap(*weight, cap);
                    }
                }
                let mut max = running.max;
                for (slot, weight) in weights.iter_mut().enumerate() {
                    let is_visible = slot >= first && slot < end;
                    *weight = if is_visible { *weight } else { f32::NEG_INFINITY };
                    max = if *weight > max { *weight } else { max };
                }
                if max > running.max {
                    let shrink = exp(running.max - max);
                    running.max = max;
                    running.sums.iter_mut().for_each(|sum| *sum *= shrink);
                    out[row * head_dim..][..head_dim].iter_mut().for_each(|out| *out *= shrink);
                }
                for (slot, (weight, sum)) in
                    weights.iter_mut().zip(&mut running.sums).enumerate()
                {
                    let is_visible = slot >= first && slot < end;
                    *weight = if is_visible { exp(*weight - max) } else { 0.0 };
                    *sum += *weight;
                }
            }
            // 16 dimensions of all rows at once; the sum over keys stays in registers.
            let mut dim = 0;
            while dim + 16 <= head_dim {
                let mut sums = [[0.0_f32; 16]; ROWS];
                for row in 0..ROWS {
                    sums[row].copy_from_slice(&out[row * head_dim + dim..][..16]);
                }
                for slot in 0..end {
                    let values: &[f32; 16] =
                        page.values[slot * head_dim + dim..].first_chunk().expect("in the page");
                    for row in 0..ROWS {
                        let weight = weights[row][slot];
                        for (sum, value) in sums[row].iter_mut().zip(values) {
                            *sum = weight.mul_add(*value, *sum);
                        }
                    }
                }
                for row in 0..ROWS {
                    out[row * head_dim + dim..][..16].copy_from_slice(&sums[row]);
                }
                dim += 16;
            }
            for dim in dim..head_dim {
                for row in 0..ROWS {
                    let mut sum = out[row * head_dim + dim];
                    for slot in 0..end {
                        sum = weights[row][slot].mul_add(page.values[slot * head_dim + dim], sum);
                    }
                    out[row * head_dim + dim] = sum;
                }
            }
        }
    }
}

impl Compute {
    /// Causal attention of one layer: a batch of queries over their sequences' pages.
    ///
    /// # Shapes
    /// `queries`: (T, H, D); `out`: (T, H * D), resized here and quantised.
    ///
    /// # Numerics
    /// Scores, softmax and sums in f32 over the stored keys and values; weights that a window
    /// hides are exactly 0, so pages outside it are not read.
    pub fn attention(
        &self,
        shape: AttentionShape,
        layer: AttentionLayer,
        queries: &[f32],
        spans: &[Span<'_>],
        out: &mut Activations,
    ) {
        let n_cols = shape.n_heads * shape.head_dim;
        let n_tokens = queries.len() / n_cols;
        assert_eq!(queries.len(), n_tokens * n_cols, "queries of a batch");
        out.resize(n_tokens, n_cols);

        let mut blocks = Vec::new();
        for span in spans {
            assert!(span.first_row + span.n_rows <= n_tokens, "rows of a span");
            assert!(
                span.pages.len() * PAGE_TOKENS >= span.position + span.n_rows,
                "pages for every position of a span"
            );
            for first in (0..span.n_rows).step_by(BLOCK_TOKENS) {
                let block = Span {
                    first_row: span.first_row + first,
                    n_rows: BLOCK_TOKENS.min(span.n_rows - first),
                    position: span.position + first,
                    pages: span.pages,
                };
                blocks.extend((0..shape.n_kv_heads).map(|kv_head_idx| (block, kv_head_idx)));
            }
        }
        // The longest first, so that no thread is left with one at the end.
        blocks.reverse();

        let group = shape.n_heads / shape.n_kv_heads;
        let rows = out.shared_rows();
        self.pool().run(blocks.len(), &|block_idx| {
            let (block, kv_head_idx) = blocks[block_idx];
            let result = self.attend(shape, layer, queries, block, kv_head_idx);
            let width = group * shape.head_dim;
            for (token_idx, result) in result.chunks_exact(width).take(block.n_rows).enumerate() {
                // SAFETY: a kv head's columns of a row belong to the one task that has them.
                let out = unsafe {
                    rows.columns(block.first_row + token_idx, kv_head_idx * width, width)
                };
                out.copy_from_slice(result);
            }
        });
        self.quantize(out);
    }

    /// One kv head of one block of tokens: (tokens, H / G, D), padded to whole row blocks.
    fn attend(
        &self,
        shape: AttentionShape,
        layer: AttentionLayer,
        queries: &[f32],
        block: Span<'_>,
        kv_head_idx: usize,
    ) -> Vec<f32> {
        let head_dim = shape.head_dim;
        let group = shape.n_heads / shape.n_kv_heads;
        let n_rows = (block.n_rows * group).next_multiple_of(ROWS);

        let mut scaled = vec![0.0; n_rows * head_dim];
        for token_idx in 0..block.n_rows {
            let row = block.first_row + token_idx;
            let from = (row * shape.n_heads + kv_head_idx * group) * head_dim;
            let width = group * head_dim;
            for (scaled, query) in
                scaled[token_idx * width..][..width].iter_mut().zip(&queries[from..][..width])
            {
                *scaled = query * layer.scale;
            }
        }
        let mut out = vec![0.0; n_rows * head_dim];
        let mut running = vec![Running { max: f32::MIN, sums: [0.0; PAGE_TOKENS] }; n_rows];
        let mut visible = vec![[0; 2]; n_rows];
        let mut keys = vec![0.0; shape.side()];
        let mut values = vec![0.0; shape.side()];
        let n_keys = block.position + block.n_rows;
        let first_page = layer.first_key(block.position) / PAGE_TOKENS;
        for page_idx in first_page..n_keys.div_ceil(PAGE_TOKENS) {
            let page_start = page_idx * PAGE_TOKENS;
            for (row, visible) in visible.iter_mut().take(block.n_rows * group).enumerate() {
                let position = block.position + row / group;
                *visible = [layer.first_key(position), position + 1]
                    .map(|key| key.saturating_sub(page_start).min(PAGE_TOKENS));
            }
            let page = &block.pages[page_idx];
            page.read(self.isa(), (layer.layer_idx, kv_head_idx), &mut keys, &mut values);
            let visit = PageVisit {
                queries: &scaled,
                keys: &keys,
                values: &values,
                visible: &visible,
                soft_cap: layer.soft_cap,
                running: &mut running,
                out: &mut out,
                head_dim,
            };
            visit_page(self.isa(), visit);
        }
        for (out, running) in out.chunks_exact_mut(head_dim).zip(&running) {
            let sum: f32 = running.sums.iter().sum();
            if sum > 0.0 {
                for out in out {
                    *out /= sum;
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One page full of numbers, every token written on its own, in any order.
    fn page(shape: AttentionShape, kv_type: KvType, numbers: &[f32]) -> KvPage {
        let mut page = KvPage::new(shape, kv_type);
        let width = shape.n_kv_heads * shape.head_dim;
        for layer_idx in 0..shape.n_layers {
            for slot in (0..PAGE_TOKENS).rev() {
                let from = (layer_idx * PAGE_TOKENS + slot) * 2 * width;
                let (keys, values) = numbers[from..][..2 * width].split_at(width);
                page.write(layer_idx, slot, keys, values);
            }
        }
        page
    }

    fn all(page: &KvPage, isa: Isa) -> Vec<f32> {
        let shape = page.shape;
        let mut result = Vec::new();
        let (mut keys, mut values) = (vec![0.0; shape.side()], vec![0.0; shape.side()]);
        for layer_idx in 0..shape.n_layers {
            for kv_head_idx in 0..shape.n_kv_heads {
                page.read(isa, (layer_idx, kv_head_idx), &mut keys, &mut values);
                result.extend_from_slice(&keys);
                result.extend_from_slice(&values);
            }
        }
        result
    }

    fn bits(numbers: &[f32]) -> Vec<u32> {
        numbers.iter().map(|x| x.to_bits()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn q8_pages_are_near_their_floats_and_the_same_on_every_isa(
            head_dim in prop::sample::select(vec![1_usize, 8, 24, 32, 40, 64, 80, 128]),
            n_kv_heads in 1..3_usize,
            seed: u32,
            exponent in -30..20_i32,
        ) {
            let shape = AttentionShape { n_layers: 2, n_heads: n_kv_heads, n_kv_heads, head_dim };
            let n_numbers = 2 * PAGE_TOKENS * 2 * n_kv_heads * head_dim;
            let mut state = seed;
            let numbers: Vec<f32> = (0..n_numbers).map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state.cast_signed() as f32) * 2.0_f32.powi(exponent - 31)
            }).collect();
            let exact = all(&page(shape, KvType::F32, &numbers), Isa::Scalar);
            let packed = page(shape, KvType::Q8, &numbers);
            let plain = all(&packed, Isa::Scalar);
            for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
                prop_assert_eq!(bits(&all(&packed, isa)), bits(&plain));
            }
            // Half a step of the largest number, the scale's own rounding, and f16's smallest step.
            let max = 2.0_f32.powi(exponent);
            let tolerance = max / 127.0 * 0.57 + 127.0 * 2.0_f32.powi(-25);
            for (got, exact) in plain.iter().zip(&exact) {
                prop_assert!((got - exact).abs() <= tolerance, "{} for {}", got, exact);
            }
        }

        #[test]
        fn bytes_of_a_page_are_the_page(seed: u32) {
            let shape = AttentionShape { n_layers: 2, n_heads: 2, n_kv_heads: 2, head_dim: 40 };
            let numbers: Vec<f32> =
                (0..2 * PAGE_TOKENS * 160).map(|at| ((seed as usize + at * 37) % 101) as f32 - 50.0).collect();
            for kv_type in [KvType::F16, KvType::F32, KvType::Q8] {
                let page = page(shape, kv_type, &numbers);
                let mut bytes = Vec::new();
                page.write_bytes(&mut bytes);
                prop_assert_eq!(bytes.len(), kv_type.page_bytes(shape));
                let back = KvPage::from_bytes(shape, kv_type, &bytes).unwrap();
                prop_assert_eq!(bits(&all(&back, Isa::Scalar)), bits(&all(&page, Isa::Scalar)));
                prop_assert!(KvPage::from_bytes(shape, kv_type, &bytes[1..]).is_none());
            }
        }
    }

    #[test]
    fn one_infinite_number_spoils_only_its_block() {
        let shape = AttentionShape { n_layers: 1, n_heads: 1, n_kv_heads: 1, head_dim: 64 };
        let mut numbers = vec![1.0; PAGE_TOKENS * 128];
        numbers[3] = f32::INFINITY;
        numbers[40] = f32::NAN;
        let read = all(&page(shape, KvType::Q8, &numbers), Isa::Scalar);
        assert!(read.iter().all(|x| x.is_finite()));
        let n_changed = read.iter().filter(|x| (**x - 1.0).abs() > 0.01).count();
        assert_eq!(n_changed, 32 + 1);
    }
}
