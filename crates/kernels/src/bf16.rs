//! Products with a matrix of bfloat16 that stays as it is: frozen weights in training.
//!
//! Both operands are rounded to bf16 (8 bits of mantissa), products are summed in f32. A processor
//! with AVX512_BF16 does two multiplications where f32 does one, so this is up to twice as fast as
//! [`Compute::dense_product`].
//!
//! The matrix is packed once: panels of [`PANEL`] columns, in them pairs of rows, so that one
//! instruction multiplies a pair of `x` by sixteen pairs of the matrix.
//!
//! # Numerics
//! Rounding is to nearest, ties to even. Sums run along rows in pairs and blocks of [`BLOCK_PAIRS`]
//! pairs, whatever the number of threads. AVX512_BF16 rounds once a pair and takes subnormals for
//! zero; plain code rounds twice. The two agree within `2^-22` of the sum of the products' sizes
//! and are not the same bits.
//!
//! What is not here: gradients of the matrix (it is frozen), other layouts.

use crate::isa::stamped;
use crate::shared_slice::SharedSlice;
use crate::{Compute, Isa, Matrix, MatrixMut, Onto};

/// Columns of a panel: three registers of sixteen sums.
const PANEL: usize = 48;
/// Rows of `x` that share a panel's loads: with three registers each, 24 sums in flight.
const TILE: usize = 8;
/// Pairs of a sum that are done before the next panel: a panel's part then stays in L2.
const BLOCK_PAIRS: usize = 1024;
/// Rows of `x` in a task.
const TASK_ROWS: usize = 128;
/// Panels in a task.
const TASK_PANELS: usize = 8;

/// Two neighbours along a row, the first in the low half.
type Pair = u32;

fn round(value: f32) -> u32 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    // A NaN must not round to infinity.
    if value.is_nan() { (bits >> 16) | 0x40 } else { rounded }
}

fn low(pair: Pair) -> f32 {
    f32::from_bits(pair << 16)
}

fn high(pair: Pair) -> f32 {
    f32::from_bits(pair & 0xffff_0000)
}

/// Rows rounded to bf16, as the left side of a product.
#[derive(Clone, Debug, Default)]
pub struct Bf16Rows {
    n_rows: usize,
    n_cols: usize,
    pairs: Vec<Pair>,
}

impl Bf16Rows {
    /// Room for rows of at most so many numbers together, without a byte more.
    pub fn reserve(&mut self, n_rows: usize, n_cols: usize) {
        let n_pairs = n_rows * n_cols.div_ceil(2);
        self.pairs.reserve_exact(n_pairs.saturating_sub(self.pairs.len()));
    }

    fn row_pairs(&self) -> usize {
        self.n_cols.div_ceil(2)
    }

    /// Bytes in memory.
    pub fn n_bytes(&self) -> usize {
        self.pairs.capacity() * size_of::<Pair>()
    }
}

/// A matrix in bf16, as the right side of a product.
#[derive(Clone, Debug)]
pub struct Bf16Matrix {
    /// K
    n_rows: usize,
    /// N
    n_cols: usize,
    /// (panels, K / 2, [`PANEL`])
    pairs: Vec<Pair>,
}

impl Bf16Matrix {
    /// Rounds and packs a matrix.
    pub fn pack(matrix: Matrix<'_, f32>) -> Self {
        let (n_rows, n_cols) = (matrix.n_rows(), matrix.n_cols());
        let n_pairs = n_rows.div_ceil(2);
        let mut pairs = vec![0; n_cols.div_ceil(PANEL) * n_pairs * PANEL];
        for (panel_idx, panel) in pairs.chunks_exact_mut(n_pairs * PANEL).enumerate() {
            for (pair_idx, columns) in panel.chunks_exact_mut(PANEL).enumerate() {
                for (column_idx, pair) in columns.iter_mut().enumerate() {
                    let column = panel_idx * PANEL + column_idx;
                    if column < n_cols {
                        let at =
                            |row| if row < n_rows { round(matrix.get(row, column)) } else { 0 };
                        *pair = at(2 * pair_idx) | at(2 * pair_idx + 1) << 16;
                    }
                }
            }
        }
        Self { n_rows, n_cols, pairs }
    }

    /// K
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// N
    pub fn n_cols(&self) -> usize {
        self.n_cols
    }

    /// Bytes in memory.
    pub fn n_bytes(&self) -> usize {
        size_of_val(&*self.pairs)
    }
}

stamped! {
    fn round_row(values: &[f32], pairs: &mut [Pair]) {
        let (whole, rest) = values.as_chunks::<2>();
        for (pair, [first, second]) in pairs.iter_mut().zip(whole) {
            *pair = round(*first) | round(*second) << 16;
        }
        if let (Some(pair), [last]) = (pairs.last_mut(), rest) {
            *pair = round(*last);
        }
    }
}

/// Where a tile of a product goes, and what of it there is.
#[derive(Clone, Copy)]
struct TileShape {
    out_stride: usize,
    n_cols: usize,
    x_stride: usize,
    onto: Onto,
}

impl Compute {
    /// Whether [`Compute::bf16_product`] runs on instructions made for it.
    pub fn has_bf16(&self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            self.isa() == Isa::Avx512 && is_x86_feature_detected!("avx512bf16")
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            false
        }
    }

    /// Rounds rows of `n_cols` for [`Compute::bf16_product`].
    ///
    /// # Panics
    /// If the values are not whole rows.
    pub fn round_to_bf16(&self, values: &[f32], n_cols: usize, rows: &mut Bf16Rows) {
        assert!(n_cols > 0 && values.len().is_multiple_of(n_cols), "rows of {n_cols} columns");
        rows.n_rows = values.len() / n_cols;
        rows.n_cols = n_cols;
        let row_pairs = rows.row_pairs();
        rows.pairs.resize(rows.n_rows * row_pairs, 0);
        let shared = SharedSlice::new(&mut rows.pairs);
        let n_rows = rows.n_rows;
        self.pool().run(n_rows.div_ceil(TASK_ROWS), &|task_idx| {
            let first = task_idx * TASK_ROWS;
            for row_idx in first..(first + TASK_ROWS).min(n_rows) {
                // SAFETY: each row belongs to one task.
                let pairs = unsafe { shared.take(row_idx * row_pairs, row_pairs) };
                round_row(self.isa(), &values[row_idx * n_cols..][..n_cols], pairs);
            }
        });
    }

    /// `out = [out +] x * matrix`, on all threads.
    ///
    /// # Shapes
    /// `x`: (M, K), `matrix`: (K, N), `out`: (M, N), rows one after another.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn bf16_product(
        &self,
        out: MatrixMut<'_, f32>,
        onto: Onto,
        x: &Bf16Rows,
        matrix: &Bf16Matrix,
    ) {
        assert_eq!((x.n_rows, matrix.n_cols), (out.n_rows(), out.n_cols()), "a product's shape");
        assert_eq!(x.n_cols, matrix.n_rows, "the inner dimension of a product");
        let (n_rows, n_cols, out_stride, out) = out.into_parts();
        let n_pairs = x.row_pairs();
        if n_rows == 0 || n_pairs == 0 {
            return;
        }
        let has_bf16 = self.has_bf16();
        let n_panels = n_cols.div_ceil(PANEL);
        let row_tasks = n_rows.div_ceil(TASK_ROWS);
        let shared = SharedSlice::new(out);
        self.pool().run(row_tasks * n_panels.div_ceil(TASK_PANELS), &|task_idx| {
            let first_row = task_idx % row_tasks * TASK_ROWS;
            let end_row = (first_row + TASK_ROWS).min(n_rows);
            let first_panel = task_idx / row_tasks * TASK_PANELS;
            for panel_idx in first_panel..(first_panel + TASK_PANELS).min(n_panels) {
                let panel = &matrix.pairs[panel_idx * n_pairs * PANEL..][..n_pairs * PANEL];
                let column = panel_idx * PANEL;
                for first_pair in (0..n_pairs).step_by(BLOCK_PAIRS) {
                    let block = first_pair..(first_pair + BLOCK_PAIRS).min(n_pairs);
                    let weights = &panel[block.start * PANEL..block.end * PANEL];
                    let shape = TileShape {
                        out_stride,
                        n_cols: PANEL.min(n_cols - column),
                        x_stride: n_pairs,
                        onto: if first_pair == 0 { onto } else { Onto::WhatIsThere },
                    };
                    for row in (first_row..end_row).step_by(TILE) {
                        let tile_rows = TILE.min(end_row - row);
                        let x_len = (tile_rows - 1) * n_pairs + block.len();
                        let x = &x.pairs[row * n_pairs + block.start..][..x_len];
                        let out_len = (tile_rows - 1) * out_stride + shape.n_cols;
                        let start = shared.place(row * out_stride + column, out_len);
                        // SAFETY: tiles share no element of `out`, and this one is within it.
                        unsafe {
                            tile(self.isa(), has_bf16, tile_rows, shape, (x, weights, start));
                        }
                    }
                }
            }
        });
    }
}

/// One tile, on the instructions there are.
///
/// # Safety
/// `out` must be good for `tile_rows` rows of `shape`, which nobody else reaches meanwhile, and
/// `has_bf16` true only where the processor has AVX512_BF16.
unsafe fn tile(
    isa: Isa,
    has_bf16: bool,
    tile_rows: usize,
    shape: TileShape,
    (x, weights, out): (&[Pair], &[Pair], *mut f32),
) {
    let mut sums = [[0.0_f32; PANEL]; TILE];
    #[cfg(target_arch = "x86_64")]
    if has_bf16 {
        // SAFETY: the caller says that the processor has the instructions.
        unsafe { x86::tile(tile_rows, x, shape.x_stride, weights, &mut sums) };
    } else {
        plain_tile(isa, tile_rows, x, shape.x_stride, weights, &mut sums);
    }
    #[cfg(not(target_arch = "x86_64"))]
    plain_tile(isa, tile_rows, x, shape.x_stride, weights, &mut sums);
    for (row_idx, sums) in sums[..tile_rows].iter().enumerate() {
        // SAFETY: the row is within what the caller promises.
        let start = unsafe { out.add(row_idx * shape.out_stride) };
        // SAFETY: as above, and nobody else reaches it.
        let row = unsafe { std::slice::from_raw_parts_mut(start, shape.n_cols) };
        match shape.onto {
            Onto::Nothing => row.copy_from_slice(&sums[..shape.n_cols]),
            Onto::WhatIsThere => {
                for (out, sum) in row.iter_mut().zip(sums) {
                    *out += sum;
                }
            }
        }
    }
}

stamped! {
    /// The specification.
    fn plain_tile(
        tile_rows: usize,
        x: &[Pair],
        x_stride: usize,
        weights: &[Pair],
        sums: &mut [[f32; PANEL]; TILE],
    ) {
        let (columns, _) = weights.as_chunks::<PANEL>();
        for (row_idx, sums) in sums[..tile_rows].iter_mut().enumerate() {
            for (pair, weights) in x[row_idx * x_stride..].iter().zip(columns) {
                let (x_low, x_high) = (low(*pair), high(*pair));
                for (sum, weight) in sums.iter_mut().zip(weights) {
                    *sum = x_high.mul_add(high(*weight), x_low.mul_add(low(*weight), *sum));
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m512, __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_loadu_si512, _mm512_set1_epi32,
        _mm512_setzero_ps, _mm512_storeu_ps,
    };

    use super::{PANEL, Pair, TILE};

    const LANES: usize = 16;
    const REGISTERS: usize = PANEL / LANES;

    /// # Panics
    /// If there are more rows than a tile has.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) fn tile(
        tile_rows: usize,
        x: &[Pair],
        x_stride: usize,
        weights: &[Pair],
        sums: &mut [[f32; PANEL]; TILE],
    ) {
        match tile_rows {
            1 => rows::<1>(x, x_stride, weights, sums),
            2 => rows::<2>(x, x_stride, weights, sums),
            3 => rows::<3>(x, x_stride, weights, sums),
            4 => rows::<4>(x, x_stride, weights, sums),
            5 => rows::<5>(x, x_stride, weights, sums),
            6 => rows::<6>(x, x_stride, weights, sums),
            7 => rows::<7>(x, x_stride, weights, sums),
            8 => rows::<8>(x, x_stride, weights, sums),
            more => unreachable!("{more} rows in a tile of {TILE}"),
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn rows<const ROWS: usize>(
        x: &[Pair],
        x_stride: usize,
        weights: &[Pair],
        sums: &mut [[f32; PANEL]; TILE],
    ) {
        let (columns, _) = weights.as_chunks::<PANEL>();
        let x_rows: [&[Pair]; ROWS] =
            std::array::from_fn(|row_idx| &x[row_idx * x_stride..][..columns.len()]);
        let mut registers = [[_mm512_setzero_ps(); REGISTERS]; ROWS];
        for (pair_idx, weights) in columns.iter().enumerate() {
            let weights: [__m512bh; REGISTERS] = std::array::from_fn(|register| {
                let lanes: &[Pair; LANES] =
                    weights[register * LANES..].first_chunk().expect("whole registers");
                pairs(load(lanes))
            });
            for (row, registers) in x_rows.iter().zip(&mut registers) {
                // SAFETY: every row was cut to as many pairs as there are columns.
                let pair = unsafe { *row.get_unchecked(pair_idx) };
                let x = pairs(_mm512_set1_epi32(pair.cast_signed()));
                for (register, weights) in registers.iter_mut().zip(weights) {
                    *register = _mm512_dpbf16_ps(*register, x, weights);
                }
            }
        }
        for (sums, registers) in sums.iter_mut().zip(registers) {
            let (lanes, _) = sums.as_chunks_mut::<LANES>();
            for (lanes, register) in lanes.iter_mut().zip(registers) {
                store(lanes, register);
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load(lanes: &[Pair; LANES]) -> __m512i {
        // SAFETY: sixteen pairs are 64 bytes; the load needs no alignment.
        unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn store(lanes: &mut [f32; LANES], register: __m512) {
        // SAFETY: sixteen floats are 64 bytes; the store needs no alignment.
        unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), register) }
    }

    /// The same bits, as pairs of bf16.
    #[inline(always)]
    fn pairs(bits: __m512i) -> __m512bh {
        // SAFETY: both are 64 bytes that may hold anything.
        unsafe { std::mem::transmute::<__m512i, __m512bh>(bits) }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use half::bf16;
    use proptest::prelude::*;

    use super::*;

    fn values(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    fn product(
        isa: Isa,
        threads: usize,
        x: &[f32],
        matrix: &Bf16Matrix,
        out: &mut [f32],
        onto: Onto,
    ) {
        let compute = Compute::new(isa, NonZeroUsize::new(threads).unwrap());
        let mut rows = Bf16Rows::default();
        compute.round_to_bf16(x, matrix.n_rows(), &mut rows);
        compute.bf16_product(MatrixMut::new(out, matrix.n_cols()), onto, &rows, matrix);
    }

    #[test]
    fn rounding_is_that_of_the_half_crate() {
        let mut numbers = vec![0.0, -0.0, 1.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1e-40];
        // Ties to both sides.
        numbers.extend([0x3f80_8000, 0x3f81_8000, 0x3f80_8001, 0x3f80_7fff].map(f32::from_bits));
        numbers.extend(values(1000, 5));
        for number in numbers {
            assert_eq!(round(number), u32::from(bf16::from_f32(number).to_bits()), "{number}");
        }
        assert!(low(round(f32::NAN)).is_nan() && low(round(f32::from_bits(0x7f80_0001))).is_nan());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn products_equal_the_plain_sums_of_rounded_numbers(
            (m, n, k) in (1..150_usize, 1..200_usize, 1..120_usize),
            (flip, adds) in any::<(bool, bool)>(),
        ) {
            let (x, weights) = (values(m * k, 1), values(k * n, 2));
            let view = if flip { Matrix::new(&weights, k).transposed() } else { Matrix::new(&weights, n) };
            let matrix = Bf16Matrix::pack(view);
            let onto = if adds { Onto::WhatIsThere } else { Onto::Nothing };
            let rounded = |value: f32| f64::from(bf16::from_f32(value).to_f32());
            for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
                let mut out = values(m * n, 3);
                let before = out.clone();
                product(isa, 2, &x, &matrix, &mut out, onto);
                for (place, out) in out.iter().enumerate() {
                    let (row, column) = (place / n, place % n);
                    let terms = (0..k).map(|i| rounded(x[row * k + i]) * rounded(view.get(i, column)));
                    let sum: f64 = terms.clone().sum::<f64>()
                        + if adds { f64::from(before[place]) } else { 0.0 };
                    let size: f64 = 1.0 + terms.map(f64::abs).sum::<f64>();
                    let error = (f64::from(*out) - sum).abs();
                    prop_assert!(error < 4e-7 * size, "{isa} {row} {column}: {out} for {sum}");
                }
            }
        }
    }

    #[test]
    fn the_bits_do_not_depend_on_the_number_of_threads() {
        // More rows than a block of the sum has.
        let (m, n, k) = (150, 100, 2 * BLOCK_PAIRS + 321);
        let (x, weights) = (values(m * k, 7), values(k * n, 8));
        let matrix = Bf16Matrix::pack(Matrix::new(&weights, n));
        let on = |threads| {
            let mut out = vec![0.0; m * n];
            product(Isa::detect(), threads, &x, &matrix, &mut out, Onto::Nothing);
            out.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        assert_eq!(on(1), on(3));
    }
}
