//! Causal grouped-query attention over packed sequences, and its gradient.
//!
//! Queries, keys and values lie by head: for each sequence of a pack, (H, T, D) or (G, T, D), one
//! sequence after another, so that a task (one key-value head of one sequence with its query heads)
//! has contiguous pieces. Scores exist for a block of queries at a time and are computed again for
//! the gradient, as in FlashAttention (Dao et al. 2022).

use std::ops::Range;

use rapport_kernels::{Compute, Isa, Matrix, MatrixMut, Onto, Real, dense_product, greatest};

use super::base::Shape;
use super::parallel::for_each;

/// Queries whose scores exist at once.
const BLOCK_QUERIES: usize = 64;

/// Turns rows of heads, (T, N, D), into (N, T, D) for each sequence, rotating on the way if there
/// are angles.
pub(crate) fn by_head<R: Real>(
    compute: &Compute,
    spans: &[Range<usize>],
    (n_heads, head_dim): (usize, usize),
    angles: Option<&[[R; 2]]>,
    (rows, heads): (&[R], &mut [R]),
) {
    let n_pairs = head_dim / 2;
    for_each(compute, head_tasks(spans, n_heads, head_dim, heads), |(span, head_idx, out)| {
        for (token, out) in span.zip(out.chunks_exact_mut(head_dim)) {
            let head = &rows[(token * n_heads + head_idx) * head_dim..][..head_dim];
            let Some(angles) = angles else {
                out.copy_from_slice(head);
                continue;
            };
            for (pair, [cos, sin]) in angles[token * n_pairs..][..n_pairs].iter().enumerate() {
                let (a, b) = (head[pair], head[pair + n_pairs]);
                out[pair] = a * *cos - b * *sin;
                out[pair + n_pairs] = a * *sin + b * *cos;
            }
        }
    });
}

/// The way back, which is also the gradient of [`by_head`]: rotates by the opposite angles.
pub(crate) fn by_token<R: Real>(
    compute: &Compute,
    spans: &[Range<usize>],
    (n_heads, head_dim): (usize, usize),
    angles: Option<&[[R; 2]]>,
    (heads, rows): (&[R], &mut [R]),
) {
    let (n_pairs, n_cols) = (head_dim / 2, n_heads * head_dim);
    let mut tasks = Vec::new();
    let mut rest = rows;
    for span in spans {
        let (rows, after) = rest.split_at_mut(span.len() * n_cols);
        rest = after;
        tasks.push((span.clone(), rows));
    }
    for_each(compute, tasks, |(span, rows)| {
        let heads = &heads[span.start * n_cols..span.end * n_cols];
        for (token, row) in rows.chunks_exact_mut(n_cols).enumerate() {
            for (head_idx, out) in row.chunks_exact_mut(head_dim).enumerate() {
                let head = &heads[(head_idx * span.len() + token) * head_dim..][..head_dim];
                let Some(angles) = angles else {
                    out.copy_from_slice(head);
                    continue;
                };
                let angles = &angles[(span.start + token) * n_pairs..][..n_pairs];
                for (pair, [cos, sin]) in angles.iter().enumerate() {
                    let (a, b) = (head[pair], head[pair + n_pairs]);
                    out[pair] = a * *cos + b * *sin;
                    out[pair + n_pairs] = b * *cos - a * *sin;
                }
            }
        }
    });
}

/// A piece of `heads` for each head of each sequence: (T, D).
fn head_tasks<'a, R>(
    spans: &[Range<usize>],
    n_heads: usize,
    head_dim: usize,
    heads: &'a mut [R],
) -> Vec<(Range<usize>, usize, &'a mut [R])> {
    let mut tasks = Vec::with_capacity(spans.len() * n_heads);
    let mut rest = heads;
    for span in spans {
        for head_idx in 0..n_heads {
            let (piece, after) = rest.split_at_mut(span.len() * head_dim);
            rest = after;
            tasks.push((span.clone(), head_idx, piece));
        }
    }
    tasks
}

/// Where the pieces of one key-value head and its query heads lie.
struct GroupPlace {
    n_tokens: usize,
    queries: Range<usize>,
    keys: Range<usize>,
}

fn group_places(shape: &Shape, spans: &[Range<usize>]) -> Vec<GroupPlace> {
    let (head_dim, n_kv_heads) = (shape.head_dim, shape.n_kv_heads);
    let per_group = shape.n_heads / n_kv_heads;
    let mut places = Vec::with_capacity(spans.len() * n_kv_heads);
    for span in spans {
        for group in 0..n_kv_heads {
            let piece = |heads: usize| {
                let start = span.start * n_kv_heads * heads + group * heads * span.len();
                start * head_dim..(start + heads * span.len()) * head_dim
            };
            places.push(GroupPlace {
                n_tokens: span.len(),
                queries: piece(per_group),
                keys: piece(1),
            });
        }
    }
    places
}

/// Cuts a slice into the pieces of the places, in order.
fn cut<'a, R>(
    mut rest: &'a mut [R],
    places: &[GroupPlace],
    piece: impl Fn(&GroupPlace) -> &Range<usize>,
) -> Vec<&'a mut [R]> {
    let mut pieces = Vec::with_capacity(places.len());
    for place in places {
        let (taken, after) = rest.split_at_mut(piece(place).len());
        rest = after;
        pieces.push(taken);
    }
    pieces
}

/// What each token attends to, by head.
pub(crate) fn forward<R: Real>(
    compute: &Compute,
    shape: &Shape,
    spans: &[Range<usize>],
    [queries, keys, values]: [&[R]; 3],
    out: &mut [R],
) {
    let head_dim = shape.head_dim;
    let places = group_places(shape, spans);
    let outs = cut(out, &places, |place| &place.queries);
    for_each(compute, places.iter().zip(outs).collect(), |(place, out)| {
        let (keys, values) = (&keys[place.keys.clone()], &values[place.keys.clone()]);
        let head_len = place.n_tokens * head_dim;
        let mut scores = Vec::new();
        let heads = queries[place.queries.clone()].chunks_exact(head_len);
        for (queries, out) in heads.zip(out.chunks_exact_mut(head_len)) {
            for first in (0..place.n_tokens).step_by(BLOCK_QUERIES) {
                let end = (first + BLOCK_QUERIES).min(place.n_tokens);
                let block = first * head_dim..end * head_dim;
                let seen = 0..end * head_dim;
                probabilities(
                    compute.isa(),
                    shape,
                    first,
                    (&queries[block.clone()], &keys[seen.clone()]),
                    &mut scores,
                );
                dense_product(
                    MatrixMut::new(&mut out[block], head_dim),
                    Onto::Nothing,
                    R::ONE,
                    Matrix::new(&scores, end),
                    Matrix::new(&values[seen], head_dim),
                );
            }
        }
    });
}

/// Softmax of a block's scores over the tokens that each query may see: (block, tokens so far).
fn probabilities<R: Real>(
    isa: Isa,
    shape: &Shape,
    first_query: usize,
    (queries, keys): (&[R], &[R]),
    scores: &mut Vec<R>,
) {
    let head_dim = shape.head_dim;
    let n_keys = keys.len() / head_dim;
    scores.clear();
    scores.resize(queries.len() / head_dim * n_keys, R::ZERO);
    dense_product(
        MatrixMut::new(scores, n_keys),
        Onto::Nothing,
        R::from_f64(shape.score_scale),
        Matrix::new(queries, head_dim),
        Matrix::new(keys, head_dim).transposed(),
    );
    for (row_idx, row) in scores.chunks_exact_mut(n_keys).enumerate() {
        let (seen, unseen) = row.split_at_mut(first_query + row_idx + 1);
        unseen.fill(R::ZERO);
        let max = greatest(seen);
        let share = R::ONE / R::exp_row(isa, seen, max);
        for value in seen {
            *value *= share;
        }
    }
}

/// The gradients of queries, keys and values, by head, given that of the output; all three are
/// written over.
pub(crate) fn backward<R: Real>(
    compute: &Compute,
    shape: &Shape,
    spans: &[Range<usize>],
    [queries, keys, values, d_out]: [&[R]; 4],
    [d_queries, d_keys, d_values]: [&mut [R]; 3],
) {
    let head_dim = shape.head_dim;
    let places = group_places(shape, spans);
    let d_queries = cut(d_queries, &places, |place| &place.queries);
    let d_keys = cut(d_keys, &places, |place| &place.keys);
    let d_values = cut(d_values, &places, |place| &place.keys);
    let pieces = d_queries.into_iter().zip(d_keys).zip(d_values);
    for_each(compute, places.iter().zip(pieces).collect(), |(place, pieces)| {
        let ((d_queries, d_keys), d_values) = pieces;
        let (keys, values) = (&keys[place.keys.clone()], &values[place.keys.clone()]);
        let head_len = place.n_tokens * head_dim;
        d_keys.fill(R::ZERO);
        d_values.fill(R::ZERO);
        let (mut scores, mut d_scores) = (Vec::new(), Vec::new());
        for head_idx in 0..place.queries.len() / head_len {
            let head = place.queries.start + head_idx * head_len;
            for first in (0..place.n_tokens).step_by(BLOCK_QUERIES) {
                let end = (first + BLOCK_QUERIES).min(place.n_tokens);
                let block = head + first * head_dim..head + end * head_dim;
                let seen = 0..end * head_dim;
                let queries = &queries[block.clone()];
                probabilities(
                    compute.isa(),
                    shape,
                    first,
                    (queries, &keys[seen.clone()]),
                    &mut scores,
                );
                let d_out = Matrix::new(&d_out[block], head_dim);
                dense_product(
                    MatrixMut::new(&mut d_values[seen.clone()], head_dim),
                    Onto::WhatIsThere,
                    R::ONE,
                    Matrix::new(&scores, end).transposed(),
                    d_out,
                );
                d_scores.clear();
                d_scores.resize(scores.len(), R::ZERO);
                dense_product(
                    MatrixMut::new(&mut d_scores, end),
                    Onto::Nothing,
                    R::ONE,
                    d_out,
                    Matrix::new(&values[seen.clone()], head_dim).transposed(),
                );
                for (p, d) in scores.chunks_exact(end).zip(d_scores.chunks_exact_mut(end)) {
                    let mean: R = p.iter().zip(&*d).map(|(p, d)| *p * *d).sum();
                    for (p, d) in p.iter().zip(d) {
                        *d = *p * (*d - mean);
                    }
                }
                let scale = R::from_f64(shape.score_scale);
                let own =
                    head_idx * head_len + first * head_dim..head_idx * head_len + end * head_dim;
                dense_product(
                    MatrixMut::new(&mut d_queries[own], head_dim),
                    Onto::Nothing,
                    scale,
                    Matrix::new(&d_scores, end),
                    Matrix::new(&keys[seen.clone()], head_dim),
                );
                dense_product(
                    MatrixMut::new(&mut d_keys[seen], head_dim),
                    Onto::WhatIsThere,
                    scale,
                    Matrix::new(&d_scores, end).transposed(),
                    Matrix::new(queries, head_dim),
                );
            }
        }
    });
}
