//! Attention over paged keys and values.
//!
//! Keys and values live in [`KvPage`]s of [`PAGE_TOKENS`] tokens. Attention visits a sequence's
//! pages in order with an online softmax (Milakov and Gimelshein 2018; Dao et al. 2022). Every
//! [`SEGMENT_PAGES`] pages start a softmax of their own and are merged in order, so that threads can
//! share one long sequence. A query's result depends on positions alone: not on how the prompt was
//! cut into chunks, what else is in the batch, who computed what, or which pages were there before.
//!
//! [`visit_page`] is the specification; the AVX-512 form of it is in `attention_x86.rs`.

use std::cmp::Reverse;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::float::exp;
use crate::isa::stamped;
use crate::{Activations, Compute, Isa};

/// Tokens of a page.
pub const PAGE_TOKENS: usize = 32;

/// Query rows that are computed together at most, for as many independent sums as registers hold.
pub(crate) const MAX_ROWS: usize = 8;
/// Tokens of one sequence that share the work of reading a page.
const BLOCK_TOKENS: usize = 16;
/// Pages that share a softmax before it is merged with those before.
const SEGMENT_PAGES: usize = 8;

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

    fn page_numbers(&self) -> usize {
        self.n_layers * self.n_kv_heads * 2 * self.side()
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
}

impl KvType {
    /// Bytes of one page: keys and values of all layers.
    pub fn page_bytes(self, shape: AttentionShape) -> usize {
        let number_bytes = match self {
            Self::F16 => 2,
            Self::F32 => 4,
        };
        shape.page_numbers() * number_bytes
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
}

impl KvPage {
    pub fn new(shape: AttentionShape, kv_type: KvType) -> Self {
        let n_numbers = shape.page_numbers();
        let numbers = match kv_type {
            KvType::F16 => Numbers::F16(vec![f16::ZERO; n_numbers].into_boxed_slice()),
            KvType::F32 => Numbers::F32(vec![0.0; n_numbers].into_boxed_slice()),
        };
        Self { shape, numbers }
    }

    fn start(&self, layer_idx: usize, kv_head_idx: usize) -> usize {
        (layer_idx * self.shape.n_kv_heads + kv_head_idx) * 2 * self.shape.side()
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
        }
    }
}

/// One kv head of one layer of a page: keys (D, 32) and values (32, D).
#[derive(Clone, Copy)]
pub(crate) enum PageHead<'a> {
    F16 { keys: &'a [f16], values: &'a [f16] },
    F32 { keys: &'a [f32], values: &'a [f32] },
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

/// How a layer scores keys against queries.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scoring {
    /// The factor on each product, usually `1 / sqrt(D)`.
    pub scale: f32,
    /// Scores become `cap * tanh(score / cap)`.
    pub soft_cap: Option<f32>,
    /// A query sees this many tokens, itself the last of them; `None` for all.
    pub window: Option<usize>,
}

impl Scoring {
    /// As in "Attention Is All You Need": `1 / sqrt(D)`, no cap, no window.
    pub fn scaled(head_dim: usize) -> Self {
        Self { scale: 1.0 / (head_dim as f32).sqrt(), soft_cap: None, window: None }
    }
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

/// The slots of a page that a query row sees.
pub(crate) type Visible = Range<usize>;

/// A few query rows and one page of their sequence.
pub(crate) struct PageVisit<'a> {
    /// (R, D), already scaled.
    pub(crate) queries: &'a [f32],
    pub(crate) page: PageHead<'a>,
    /// (R)
    pub(crate) visible: &'a [Visible],
    pub(crate) soft_cap: Option<f32>,
    /// (R)
    pub(crate) running: &'a mut [Running],
    /// (R, D)
    pub(crate) out: &'a mut [f32],
    pub(crate) head_dim: usize,
}

/// `cap * tanh(score / cap)`; the bound keeps `exp` in its range and changes no result.
#[inline(always)]
pub(crate) fn cap_score(score: f32, cap: f32) -> f32 {
    let x = (score / cap).clamp(-20.0, 20.0);
    cap * (1.0 - 2.0 / (exp(2.0 * x) + 1.0))
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
            if let Some(cap) = visit.soft_cap {
                weights.iter_mut().for_each(|weight| *weight = cap_score(*weight, cap));
            }
            let mut max = running.max;
            for weight in &weights[visible.clone()] {
                max = if *weight > max { *weight } else { max };
            }
            if max > running.max {
                let shrink = exp(running.max - max);
                running.max = max;
                running.sums.iter_mut().for_each(|sum| *sum *= shrink);
                out.iter_mut().for_each(|out| *out *= shrink);
            }
            for (slot, (weight, sum)) in weights.iter_mut().zip(&mut running.sums).enumerate() {
                let seen = exp(*weight - max);
                *weight = if visible.contains(&slot) { seen } else { 0.0 };
                *sum += *weight;
            }
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
                out.iter_mut().for_each(|out| *out /= sum);
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
        scoring: Scoring,
        layer_idx: usize,
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
                let segments = block.segments(scoring.window);
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
        let layer = Layer { shape, scoring, layer_idx, queries };
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
                finish(task, self.attend(&layer, task));
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
                attended[piece_idx].get_or_init(|| self.attend(&layer, &pieces[piece_idx]));
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
    fn attend(&self, layer: &Layer<'_>, task: &Task<'_>) -> Attended {
        let Layer { shape, scoring, layer_idx, queries } = *layer;
        let Task { block, kv_head_idx, ref segments } = *task;
        let head_dim = shape.head_dim;
        let group = shape.n_heads / shape.n_kv_heads;
        let n_rows = block.n_rows * group;
        let width = group * head_dim;

        let mut scaled = Vec::with_capacity(n_rows * head_dim); // (tokens, H / G, D)
        for row_idx in block.first_row..block.first_row + block.n_rows {
            let from = (row_idx * shape.n_heads + kv_head_idx * group) * head_dim;
            scaled.extend(queries[from..][..width].iter().map(|query| query * scoring.scale));
        }
        let mut total = Attended::new(n_rows, head_dim);
        let mut segment = Attended::new(n_rows, head_dim);
        let mut visible = vec![0..0; n_rows];
        let mut floats = Vec::new();
        let n_keys = block.position + block.n_rows;
        for segment_idx in segments.clone() {
            segment.clear();
            let first_page = segment_idx * SEGMENT_PAGES;
            let end_page = n_keys.div_ceil(PAGE_TOKENS).min(first_page + SEGMENT_PAGES);
            for page_idx in first_page..end_page {
                let first_key = page_idx * PAGE_TOKENS;
                for (row, visible) in visible.iter_mut().enumerate() {
                    let end = block.position + row / group + 1;
                    let start = scoring.window.map_or(0, |window| end.saturating_sub(window));
                    *visible = start.saturating_sub(first_key).min(PAGE_TOKENS)
                        ..end.saturating_sub(first_key).min(PAGE_TOKENS);
                }
                let visit = PageVisit {
                    queries: &scaled,
                    page: block.pages[page_idx].head(layer_idx, kv_head_idx),
                    visible: &visible,
                    soft_cap: scoring.soft_cap,
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
        #[cfg(target_arch = "x86_64")]
        if self.isa() == Isa::Avx512 && visit.head_dim.is_multiple_of(16) {
            return crate::attention_x86::visit_page_512(visit);
        }
        match visit.page {
            PageHead::F32 { keys, values } => visit_page(self.isa(), visit, keys, values),
            PageHead::F16 { keys, values } => {
                floats.resize(keys.len() * 2, 0.0);
                let (wide_keys, wide_values) = floats.split_at_mut(keys.len());
                keys.convert_to_f32_slice(wide_keys);
                values.convert_to_f32_slice(wide_values);
                visit_page(self.isa(), visit, wide_keys, wide_values);
            }
        }
    }
}

/// What all tasks of a call share.
#[derive(Clone, Copy)]
struct Layer<'a> {
    shape: AttentionShape,
    scoring: Scoring,
    layer_idx: usize,
    queries: &'a [f32],
}

impl Span<'_> {
    /// The segments in which some token of the span sees something.
    fn segments(&self, window: Option<usize>) -> Range<usize> {
        const SEGMENT_TOKENS: usize = SEGMENT_PAGES * PAGE_TOKENS;
        let first_key = window.map_or(0, |window| (self.position + 1).saturating_sub(window));
        first_key / SEGMENT_TOKENS..(self.position + self.n_rows).div_ceil(SEGMENT_TOKENS)
    }
}
