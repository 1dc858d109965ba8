//! Products of packed weights with activations.
//!
//! One output is one row of weights times one token. Its value is defined here, by the plain loops
//! of [`scalar_tile`]: panel after panel, in each group first the exact integer sum of codes, then
//! `sum * (scale * token scale)` added with one rounding, then the group's offset likewise. The
//! vector kernels compute 16 rows at once in just this order, so they return the same bits.

use std::ops::Range;

use crate::activations::Activations;
use crate::dense::Onto;
use crate::packed::{
    Layout, PANEL_COLS, PackedMatrix, TILE_ROWS, float_weight, panel_code, panel_group,
};
use crate::pool::ThreadPool;
use crate::shared_slice::SharedSlice;
use crate::{Compute, Isa};

/// Tokens that one call of a tile kernel handles at most: enough that the call costs nothing, few
/// enough that their outputs stay in the nearest cache.
pub(crate) const MAX_TILE_TOKENS: usize = 32;

/// A few tokens' activations, as the tile kernels read them.
#[derive(Clone, Copy)]
#[cfg_attr(
    not(target_arch = "x86_64"),
    expect(dead_code, reason = "plain code adds up the codes itself")
)]
pub(crate) struct TokenBlock<'a> {
    pub(crate) first_row: usize,
    pub(crate) n_rows: usize,
    pub(crate) stride: usize,
    pub(crate) values: &'a [f32],
    pub(crate) codes: &'a [i8],
    pub(crate) scales: &'a [f32],
    pub(crate) neg_sums: &'a [i32],
    pub(crate) neg_scaled_sums: &'a [f32],
    pub(crate) neg_half_sums: &'a [i32],
}

/// Computes 16 rows for up to [`MAX_TILE_TOKENS`] tokens: the panels of one tile, the tokens, and
/// one array of 16 outputs for each token.
pub(crate) type TileKernel = fn(Layout, &[u8], TokenBlock<'_>, &mut [[f32; TILE_ROWS]]);

impl Activations {
    /// Rows in blocks of [`MAX_TILE_TOKENS`]; the last may be shorter.
    pub(crate) fn blocks(&self, rows: Range<usize>) -> impl Iterator<Item = TokenBlock<'_>> {
        let firsts = rows.clone().step_by(MAX_TILE_TOKENS);
        firsts.map(move |first| self.block(first, MAX_TILE_TOKENS.min(rows.end - first)))
    }

    fn block(&self, first: usize, n: usize) -> TokenBlock<'_> {
        let panels = self.stride / PANEL_COLS;
        TokenBlock {
            first_row: first,
            n_rows: n,
            stride: self.stride,
            values: &self.values[first * self.stride..][..n * self.stride],
            codes: &self.codes[first * self.stride..][..n * self.stride],
            scales: &self.scales[first * panels..][..n * panels],
            neg_sums: &self.neg_sums[first * panels..][..n * panels],
            neg_scaled_sums: &self.neg_scaled_sums[first * panels..][..n * panels],
            neg_half_sums: &self.neg_half_sums[first * panels * 2..][..n * panels * 2],
        }
    }
}

/// The specification of every tile kernel.
pub(crate) fn scalar_tile(
    layout: Layout,
    tile: &[u8],
    x: TokenBlock<'_>,
    out: &mut [[f32; TILE_ROWS]],
) {
    for (token_idx, out) in out.iter_mut().enumerate() {
        *out = [0.0; TILE_ROWS];
        for (panel_idx, panel) in tile.chunks_exact(layout.panel_bytes()).enumerate() {
            let col_start = token_idx * x.stride + panel_idx * PANEL_COLS;
            if layout.is_quantized() {
                let panels = x.stride / PANEL_COLS;
                let scale = x.scales[token_idx * panels + panel_idx];
                let codes = &x.codes[col_start..][..PANEL_COLS];
                scalar_panel(layout, panel, codes, scale, out);
            } else {
                for col in 0..PANEL_COLS {
                    let value = x.values[col_start + col];
                    for (lane, out) in out.iter_mut().enumerate() {
                        let weight = float_weight(layout, panel, col * TILE_ROWS + lane);
                        *out = weight.mul_add(value, *out);
                    }
                }
            }
        }
    }
}

fn scalar_panel(
    layout: Layout,
    panel: &[u8],
    codes: &[i8],
    token_scale: f32,
    out: &mut [f32; TILE_ROWS],
) {
    let (group_cols, has_offset) = match layout {
        Layout::Byte { group_cols, has_offset } => (group_cols, has_offset),
        Layout::Nibble { has_offset } => (PANEL_COLS, has_offset),
        _ => unreachable!("float layouts have no codes"),
    };
    for (group_idx, codes) in codes.chunks(group_cols).enumerate() {
        let token_sum: i32 = codes.iter().map(|&code| i32::from(code)).sum();
        for (lane, out) in out.iter_mut().enumerate() {
            let sum: i32 = (group_idx * group_cols..)
                .zip(codes)
                .map(|(col, &code)| panel_code(layout, panel, lane, col) * i32::from(code))
                .sum();
            let group = panel_group(layout, panel, lane, group_idx);
            *out = (sum as f32).mul_add(group.scale * token_scale, *out);
            if has_offset {
                *out = (token_sum as f32 * token_scale).mul_add(group.offset, *out);
            }
        }
    }
}

pub(crate) fn tile_kernel(isa: Isa) -> TileKernel {
    match isa {
        Isa::Scalar => scalar_tile,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => crate::x86::avx2_tile,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => crate::x86::avx512_tile,
        #[cfg(not(target_arch = "x86_64"))]
        _ => scalar_tile,
    }
}

/// One product of a job: `out = [out +] x * weights^T` for some rows of `x`.
///
/// # Shapes
/// `x`: (T, C), of which `rows` take part; `weights`: (R, C); `out`: (rows, R).
pub struct Product<'a> {
    pub x: &'a Activations,
    pub rows: Range<usize>,
    pub weights: &'a PackedMatrix,
    pub out: &'a mut [f32],
    pub onto: Onto,
}

impl Compute {
    /// `out = x * weights^T` for several matrices that read the same `x`, in one job.
    ///
    /// # Shapes
    /// `x`: (T, C); each matrix (R, C) with its `out`: (T, R).
    ///
    /// # Panics
    /// If a shape does not fit.
    pub fn matmul(&self, x: &Activations, products: &mut [(&PackedMatrix, &mut [f32])]) {
        let products = products.iter_mut().map(|(weights, out)| Product {
            x,
            rows: 0..x.n_rows(),
            weights,
            out,
            onto: Onto::Nothing,
        });
        self.products(products);
    }

    /// `out += x * weights^T`: a projection back into the residual stream.
    pub fn matmul_add(&self, x: &Activations, weights: &PackedMatrix, out: &mut [f32]) {
        let rows = 0..x.n_rows();
        self.products([Product { x, rows, weights, out, onto: Onto::WhatIsThere }]);
    }

    /// Several products in one job; none may read what another writes.
    ///
    /// # Panics
    /// If a shape does not fit.
    pub fn products<'a>(&self, products: impl IntoIterator<Item = Product<'a>>) {
        let jobs: Vec<Job<'_>> = products.into_iter().map(Job::new).collect();
        let kernel = tile_kernel(self.isa());
        let n_tiles: usize = jobs.iter().map(|job| job.weights.n_tiles()).sum();
        let chunk_tiles = chunk_tiles(self.pool(), n_tiles);
        self.pool().run(n_tiles.div_ceil(chunk_tiles), &|chunk_idx| {
            let end = n_tiles.min((chunk_idx + 1) * chunk_tiles);
            for flat_idx in chunk_idx * chunk_tiles..end {
                let (job, tile_idx) = find_tile(&jobs, flat_idx);
                match job.onto {
                    Onto::Nothing => job.compute_tile(kernel, tile_idx, copy_sums),
                    Onto::WhatIsThere => job.compute_tile(kernel, tile_idx, |out, sums| {
                        // A whole tile's rows have a length that the compiler knows.
                        match out.as_mut_array() {
                            Some(out) => add_sums::<TILE_ROWS>(out, sums),
                            None => out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum),
                        }
                    }),
                }
            }
        });
    }
}

/// Computes one tile for blocks of tokens and hands each token's 16 sums to `store`.
pub(crate) fn for_each_token(
    kernel: TileKernel,
    (layout, tile): (Layout, &[u8]),
    blocks: &[TokenBlock<'_>],
    store: impl FnMut(usize, &[f32; TILE_ROWS]),
) {
    // A reply being written is one token: clearing room for many took as long as some products.
    match blocks {
        [block] if block.n_rows == 1 => for_tokens::<1>(kernel, (layout, tile), blocks, store),
        _ => for_tokens::<MAX_TILE_TOKENS>(kernel, (layout, tile), blocks, store),
    }
}

#[inline(always)]
fn for_tokens<const N: usize>(
    kernel: TileKernel,
    (layout, tile): (Layout, &[u8]),
    blocks: &[TokenBlock<'_>],
    mut store: impl FnMut(usize, &[f32; TILE_ROWS]),
) {
    let mut sums = [[0.0; TILE_ROWS]; N];
    for block in blocks {
        let sums = &mut sums[..block.n_rows];
        kernel(layout, tile, *block, sums);
        (block.first_row..).zip(sums).for_each(|(token_idx, sums)| store(token_idx, sums));
    }
}

/// The outputs of a tile that has as many rows as `out` is long.
pub(crate) fn copy_sums(out: &mut [f32], sums: &[f32; TILE_ROWS]) {
    out.copy_from_slice(&sums[..out.len()]);
}

fn add_sums<const N: usize>(out: &mut [f32; N], sums: &[f32; N]) {
    for (out, sum) in out.iter_mut().zip(sums) {
        *out += sum;
    }
}

struct Job<'a> {
    weights: &'a PackedMatrix,
    out: SharedSlice<'a, f32>,
    blocks: Vec<TokenBlock<'a>>,
    first_row: usize,
    onto: Onto,
}

impl<'a> Job<'a> {
    fn new(product: Product<'a>) -> Self {
        let Product { x, rows, weights, out, onto } = product;
        assert!(rows.end <= x.n_rows(), "rows {rows:?} of {}", x.n_rows());
        assert_eq!(weights.n_cols(), x.n_cols(), "columns of weights and activations");
        assert_eq!(out.len(), weights.n_rows() * rows.len(), "outputs of a product");
        let (out, first_row) = (SharedSlice::new(out), rows.start);
        Self { weights, out, blocks: x.blocks(rows).collect(), first_row, onto }
    }

    #[inline(always)]
    fn compute_tile(
        &self,
        kernel: TileKernel,
        tile_idx: usize,
        store: impl Fn(&mut [f32], &[f32; TILE_ROWS]),
    ) {
        let n_outputs = self.weights.n_rows();
        let first_output = tile_idx * TILE_ROWS;
        let n_lanes = TILE_ROWS.min(n_outputs - first_output);
        let tile = (self.weights.layout(), self.weights.tile(tile_idx));
        for_each_token(kernel, tile, &self.blocks, |row_idx, sums| {
            let at = (row_idx - self.first_row) * n_outputs + first_output;
            // SAFETY: a tile's outputs for a row belong to the one task that has the tile.
            let out = unsafe { self.out.take(at, n_lanes) };
            store(out, sums);
        });
    }
}

fn find_tile<'a, 'b>(jobs: &'b [Job<'a>], mut flat_idx: usize) -> (&'b Job<'a>, usize) {
    for job in jobs {
        if flat_idx < job.weights.n_tiles() {
            return (job, flat_idx);
        }
        flat_idx -= job.weights.n_tiles();
    }
    unreachable!("a tile of these products")
}

/// Tiles a thread takes at once: enough pieces that a slow thread does not hold up the others, few
/// enough that taking one costs nothing.
pub(crate) fn chunk_tiles(pool: &ThreadPool, n_tiles: usize) -> usize {
    n_tiles.div_ceil(pool.n_threads() * 8).max(1)
}
