//! Attention over paged keys and values.
//!
//! Keys and values live in [`KvPage`]s of [`PAGE_TOKENS`] tokens. Attention visits a sequence's
//! pages in order with an online softmax (Milakov and Gimelshein 2018; Dao et al. 2022). Every
//! [`SEGMENT_PAGES`] pages start a softmax of their own and are merged in order, so that threads can
//! share one long sequence. A query's result depends on positions alone: not on how the prompt was
//! cut into chunks, what else is in the batch, who computed what, or which pages were there before.
//!
//! [`visit_page`] is the specification; the AVX-512 form of it is in `attention_x86.rs`, the products
//! of its AVX2 form in `attention_avx2.rs`.

use std::cmp::Reverse;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::float::{exp, soft_cap};
use crate::isa::stamped;
use crate::{Activations, Compute, Isa};

/// Tokens of a page.
pub const PAGE_TOKENS: usize = 32;

/// Tokens of one sequence that share the work of reading a page.
const BLOCK_TOKENS: usize = 16;
/// Pages that share a softmax before it is merged with those before.
const SEGMENT_PAGES: usize = 8;

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
                    let mut short = [f16::ZERO; PAGE_TOKENS];
                    let mut columns = numbers[start..][..side].chunks_exact_mut(PAGE_TOKENS);
                    for keys in keys.chunks(PAGE_TOKENS) {
                        let short = &mut short[..keys.len()];
                        short.convert_from_f32_slice(keys);
                        for (key, column) in short.iter().zip(columns.by_ref()) {
                            column[slot] = *key;
                        }
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

    /// One kv head of one layer.
    fn head(&self, layer_idx: usize, kv_head_idx: usize) -> PageHead<'_> {
        let (start, side) = (self.start(layer_idx, kv_head_idx), self.shape.side());
        match &self.numbers {
            Numbers::F16(numbers) => {
                let (keys, values) = numbers[start..][..2 * side].split_at(side);
                PageHead::F16 { keys, values }
            }
            Numbers::F32(numbers) => {
                let (keys, values) = numbers[start..][..2 * side].split_at(side);
                PageHead::F32 { keys, values }
            }
            Numbers::Q8 { codes, scales } => {
                let n_scales = self.shape.side_scales();
                PageHead::Q8 {
                    codes: &codes[start..][..2 * side],
                    scales: &scales[start / side * n_scales..][..2 * n_scales],
                }
            }
        }
    }
}

/// One kv head of one layer of a page: keys (D, 32) and values (32, D).
#[derive(Clone, Copy)]
pub(crate) enum PageHead<'a> {
    F16 {
        keys: &'a [f16],
        values: &'a [f16],
    },
    F32 {
        keys: &'a [f32],
        values: &'a [f32],
    },
    /// Those of keys, then those of values.
    Q8 {
        codes: &'a [i8],
        scales: &'a [f16],
    },
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
pub(crate) struct Running {
    pub(crate) max: f32,
    /// Sums of `exp(score - max)`, by place in the page.
    pub(crate) sums: [f32; PAGE_TOKENS],
}

impl Running {
    const EMPTY: Self = Self { max: f32::MIN, sums: [0.0; PAGE_TOKENS] };
}

#[inline(always)]
pub(crate) fn scale(numbers: &mut [f32], factor: f32) {
    for number in numbers {
        *number *= factor;
    }
}

/// The slots of a page that a query row sees.
pub(crate) type Visible = Range<usize>;

/// A few query rows and one page of their sequence.
pub(crate) struct PageVisit<'a> {
    /// (R, D), already scaled.
    pub(crate) queries: &'a [f32],
    pub(crate) page: PageHead<'a>,
    /// What is visited next: worth fetching meanwhile.
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(dead_code, reason = "plain code fetches nothing ahead")
    )]
    pub(crate) next: Option<PageHead<'a>>,
    /// (R)
    pub(crate) visible: &'a [Visible],
    pub(crate) soft_cap: Option<f32>,
    /// (R)
    pub(crate) running: &'a mut [Running],
    /// (R, D)
    pub(crate) out: &'a mut [f32],
    pub(crate) head_dim: usize,
}

/// From a row's scores to weights, zero for slots that it does not see; what the row had summed up is
/// scaled to the greatest score now seen.
#[inline(always)]
fn weigh(
    cap: Option<f32>,
    visible: &Visible,
    running: &mut Running,
    weights: &mut [f32; PAGE_TOKENS],
    out: &mut [f32],
) {
    const LANES: usize = 8;
    if let Some(cap) = cap {
        for weight in weights.iter_mut() {
            *weight = soft_cap(*weight, cap);
        }
    }
    // One comparison of 32 bits, which compilers do for many slots at once.
    let (start, n_visible) = (visible.start as u32, visible.len() as u32);
    let is_visible = |slot: usize| (slot as u32).wrapping_sub(start) < n_visible;
    let mut lanes = [running.max; LANES];
    for (chunk_idx, chunk) in weights.as_chunks::<LANES>().0.iter().enumerate() {
        for (lane, (max, weight)) in lanes.iter_mut().zip(chunk).enumerate() {
            let weight = if is_visible(chunk_idx * LANES + lane) { *weight } else { f32::MIN };
            *max = if weight > *max { weight } else { *max };
        }
    }
    let max = lanes.into_iter().fold(f32::MIN, |max, lane| if lane > max { lane } else { max });
    if max > running.max {
        let shrink = exp(running.max - max);
        running.max = max;
        scale(&mut running.sums, shrink);
        scale(out, shrink);
    }
    for (slot, (weight, sum)) in weights.iter_mut().zip(&mut running.sums).enumerate() {
        let seen = exp(*weight - max);
        *weight = if is_visible(slot) { seen } else { 0.0 };
        *sum += *weight;
    }
}

stamped! {
    #[cfg(target_arch = "x86_64")]
    fn weigh_row(
        cap: Option<f32>,
        visible: &Visible,
        running: &mut Running,
        weights: &mut [f32; PAGE_TOKENS],
        out: &mut [f32],
    ) {
        weigh(cap, visible, running, weights, out);
    }
}

/// [`visit_page`] in AVX2, for heads of whole registers.
#[cfg(target_arch = "x86_64")]
fn visit_page_256(visit: PageVisit<'_>, keys: &[f32], values: &[f32]) {
    use crate::attention_avx2::{MAX_ROWS, add_values, scores};
    let PageVisit { queries, visible, soft_cap, running, out, head_dim, .. } = visit;
    let rows = visible
        .chunks(MAX_ROWS)
        .zip(running.chunks_mut(MAX_ROWS))
        .zip(queries.chunks(MAX_ROWS * head_dim))
        .zip(out.chunks_mut(MAX_ROWS * head_dim));
    for (((visible, running), queries), out) in rows {
        let seen = visible.iter().filter(|visible| !visible.is_empty());
        let Some(start) = seen.clone().map(|visible| visible.start).min() else { continue };
        let end = seen.map(|visible| visible.end).max().unwrap_or(start);
        let mut weights = [[0.0; PAGE_TOKENS]; MAX_ROWS];
        let weights = &mut weights[..visible.len()];
        scores(queries, keys, head_dim, weights);
        let rows = visible.iter().zip(running).zip(out.chunks_exact_mut(head_dim));
        for (weights, ((visible, running), out)) in weights.iter_mut().zip(rows) {
            if visible.is_empty() {
                weights.fill(0.0);
            } else {
                weigh_row(Isa::Avx2, soft_cap, visible, running, weights, out);
            }
        }
        add_values(weights, values, head_dim, &(start..end), out);
    }
}

stamped! {
    /// `keys` and `values`: the page's, as floats.
    fn visit_page(visit: PageVisit<'_>, keys: &[f32], values: &[f32]) {
        let head_dim = visit.head_dim;
        let keys = keys.as_chunks::<PAGE_TOKENS>().0;
        let rows = visit.running.iter_mut()
            .zip(visit.visible)
            .zip(visit.queries.chunks_exact(head_dim))
            .zip(visit.out.chunks_exact_mut(head_dim));
        for (((running, visible), query), out) in rows {
            if visible.is_empty() {
                continue;
            }
            let mut weights = [0.0_f32; PAGE_TOKENS];
            for (query, keys) in query.iter().zip(keys) {
                for (weight, key) in weights.iter_mut().zip(keys) {
                    *weight = query.mul_add(*key, *weight);
                }
            }
            weigh(visit.soft_cap, visible, running, &mut weights, out);
            for slot in visible.clone() {
                let weight = weights[slot];
                for (out, value) in out.iter_mut().zip(&values[slot * head_dim..][..head_dim]) {
                    *out = weight.mul_add(*value, *out);
                }
            }
        }
    }
}

/// Some query rows after some segments.
struct Attended {
    /// (R)
    running: Vec<Running>,
    /// (R, D)
    out: Vec<f32>,
}

impl Attended {
    fn new(n_rows: usize, head_dim: usize) -> Self {
        Self { running: vec![Running::EMPTY; n_rows], out: vec![0.0; n_rows * head_dim] }
    }

    fn clear(&mut self) {
        self.running.fill(Running::EMPTY);
        self.out.fill(0.0);
    }

    /// Takes in the segment that follows.
    fn merge(&mut self, isa: Isa, next: &Self, head_dim: usize) {
        let rows = self.running.iter_mut().zip(&next.running);
        let outs = self.out.chunks_exact_mut(head_dim).zip(next.out.chunks_exact(head_dim));
        for ((running, next), (out, next_out)) in rows.zip(outs) {
            let max = if next.max > running.max { next.max } else { running.max };
            let (old, new) = (exp(running.max - max), exp(next.max - max));
            running.max = max;
            blend(isa, &mut running.sums, old, &next.sums, new);
            blend(isa, out, old, next_out, new);
        }
    }

    fn normalize(&mut self, head_dim: usize) {
        for (out, running) in self.out.chunks_exact_mut(head_dim).zip(&self.running) {
            let sum: f32 = running.sums.iter().sum();
            if sum > 0.0 {
                for out in out {
                    *out /= sum;
                }
            }
        }
    }
}

stamped! {
    fn blend(old: &mut [f32], old_weight: f32, new: &[f32], new_weight: f32) {
        for (old, new) in old.iter_mut().zip(new) {
            *old = new.mul_add(new_weight, *old * old_weight);
        }
    }
}

/// What one task computes: a kv head of a block of tokens, over some segments of their sequence.
struct Task<'a> {
    block: Span<'a>,
    kv_head_idx: usize,
    segments: Range<usize>,
}

impl Compute {
    /// Causal attention of a batch of queries over their sequences' pages.
    ///
    /// # Shapes
    /// `queries`: (T, H, D); `out`: (T, H * D), resized here and quantised.
    ///
    /// # Numerics
    /// Scores, softmax and sums in f32 over the stored keys and values.
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

        let mut tasks = Vec::new();
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
                let segments = block.segments(layer);
                tasks.extend((0..shape.n_kv_heads).map(|kv_head_idx| Task {
                    block,
                    kv_head_idx,
                    segments: segments.clone(),
                }));
            }
        }
        let group = shape.n_heads / shape.n_kv_heads;
        let width = group * shape.head_dim;
        let pool = self.pool();
        let call = Call { shape, layer, queries };
        let rows = out.shared_rows();
        let finish = |task: &Task<'_>, mut attended: Attended| {
            attended.normalize(shape.head_dim);
            for (token_idx, attended) in attended.out.chunks_exact(width).enumerate() {
                let row_idx = task.block.first_row + token_idx;
                // SAFETY: a kv head's columns of a row belong to the one task that has them.
                let out = unsafe { rows.columns(row_idx, task.kv_head_idx * width, width) };
                out.copy_from_slice(attended);
            }
        };
        let n_segments: usize = tasks.iter().map(|task| task.segments.len()).sum();
        if tasks.len() >= pool.n_threads() * 4 || n_segments == tasks.len() {
            // The longest first, so that no thread is left with one at the end.
            tasks.sort_by_key(|task| Reverse(task.segments.len()));
            pool.run(tasks.len(), &|task_idx| {
                let task = &tasks[task_idx];
                finish(task, self.attend(&call, task));
            });
        } else {
            let pieces: Vec<Task<'_>> = tasks
                .iter()
                .flat_map(|task| {
                    task.segments.clone().map(|segment| Task {
                        block: task.block,
                        kv_head_idx: task.kv_head_idx,
                        segments: segment..segment + 1,
                    })
                })
                .collect();
            let attended: Vec<OnceLock<Attended>> =
                pieces.iter().map(|_| OnceLock::new()).collect();
            pool.run(pieces.len(), &|piece_idx| {
                attended[piece_idx].get_or_init(|| self.attend(&call, &pieces[piece_idx]));
            });
            let mut attended = attended.into_iter().filter_map(OnceLock::into_inner);
            for task in &tasks {
                let mut total = Attended::new(task.block.n_rows * group, shape.head_dim);
                for segment in attended.by_ref().take(task.segments.len()) {
                    total.merge(self.isa(), &segment, shape.head_dim);
                }
                finish(task, total);
            }
        }
        self.quantize(out);
    }

    /// One kv head of one block of tokens over its segments: rows (tokens, H / G).
    fn attend(&self, call: &Call<'_>, task: &Task<'_>) -> Attended {
        let Call { shape, layer, queries } = *call;
        let Task { block, kv_head_idx, ref segments } = *task;
        let head_dim = shape.head_dim;
        let group = shape.n_heads / shape.n_kv_heads;
        let n_rows = block.n_rows * group;
        let width = group * head_dim;

        let mut scaled = Vec::with_capacity(n_rows * head_dim); // (tokens, H / G, D)
        for row_idx in block.first_row..block.first_row + block.n_rows {
            let from = (row_idx * shape.n_heads + kv_head_idx * group) * head_dim;
            scaled.extend(queries[from..][..width].iter().map(|query| query * layer.scale));
        }
        let mut total = Attended::new(n_rows, head_dim);
        let mut segment = Attended::new(n_rows, head_dim);
        let mut visible = vec![0..0; n_rows];
        let mut floats = Vec::new();
        let n_keys = block.position + block.n_rows;
        let last_page = n_keys.div_ceil(PAGE_TOKENS).min(segments.end * SEGMENT_PAGES);
        let head = |page_idx: usize| block.pages[page_idx].head(layer.layer_idx, kv_head_idx);
        for segment_idx in segments.clone() {
            segment.clear();
            let first_page = segment_idx * SEGMENT_PAGES;
            let end_page = last_page.min(first_page + SEGMENT_PAGES);
            for page_idx in first_page..end_page {
                let first_key = page_idx * PAGE_TOKENS;
                for (row, visible) in visible.iter_mut().enumerate() {
                    let end = block.position + row / group + 1;
                    let start = layer.first_key(end - 1);
                    *visible = start.saturating_sub(first_key).min(PAGE_TOKENS)
                        ..end.saturating_sub(first_key).min(PAGE_TOKENS);
                }
                let visit = PageVisit {
                    queries: &scaled,
                    page: head(page_idx),
                    next: (page_idx + 1 < last_page).then(|| head(page_idx + 1)),
                    visible: &visible,
                    soft_cap: layer.soft_cap,
                    running: &mut segment.running,
                    out: &mut segment.out,
                    head_dim,
                };
                self.visit(visit, &mut floats);
            }
            total.merge(self.isa(), &segment, head_dim);
        }
        total
    }

    fn visit(&self, visit: PageVisit<'_>, floats: &mut Vec<f32>) {
        let isa = self.isa();
        #[cfg(target_arch = "x86_64")]
        if isa == Isa::Avx512 && visit.head_dim.is_multiple_of(16) {
            let page = match visit.page {
                packed @ PageHead::Q8 { .. } => {
                    let (keys, values) = packed.widen(isa, visit.head_dim, floats);
                    PageHead::F32 { keys, values }
                }
                page => page,
            };
            return crate::attention_x86::visit_page_512(PageVisit { page, ..visit });
        }
        let (keys, values) = visit.page.widen(isa, visit.head_dim, floats);
        #[cfg(target_arch = "x86_64")]
        if isa == Isa::Avx2 && visit.head_dim.is_multiple_of(8) {
            return visit_page_256(visit, keys, values);
        }
        visit_page(isa, visit, keys, values);
    }
}

impl<'a> PageHead<'a> {
    /// Keys (D, 32) and values (32, D) as floats, in `floats` where they are not already.
    fn widen(self, isa: Isa, head_dim: usize, floats: &'a mut Vec<f32>) -> (&'a [f32], &'a [f32]) {
        let side = PAGE_TOKENS * head_dim;
        if let PageHead::F32 { keys, values } = self {
            return (keys, values);
        }
        floats.resize(2 * side, 0.0);
        let (wide_keys, wide_values) = floats.split_at_mut(side);
        match self {
            PageHead::F32 { .. } => {}
            PageHead::F16 { keys, values } => {
                keys.convert_to_f32_slice(wide_keys);
                values.convert_to_f32_slice(wide_values);
            }
            PageHead::Q8 { codes, scales } => {
                unpack_q8(isa, codes, scales, head_dim, (&mut *wide_keys, &mut *wide_values));
            }
        }
        (wide_keys, wide_values)
    }
}

/// What all tasks of a call share.
#[derive(Clone, Copy)]
struct Call<'a> {
    shape: AttentionShape,
    layer: AttentionLayer,
    queries: &'a [f32],
}

impl Span<'_> {
    /// The segments in which some token of the span sees something.
    fn segments(&self, layer: AttentionLayer) -> Range<usize> {
        const SEGMENT_TOKENS: usize = SEGMENT_PAGES * PAGE_TOKENS;
        let first_key = layer.first_key(self.position);
        first_key / SEGMENT_TOKENS..(self.position + self.n_rows).div_ceil(SEGMENT_TOKENS)
    }
}
