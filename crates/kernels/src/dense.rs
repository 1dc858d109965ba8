//! Products of float matrices, and the float work between them, for training.
//!
//! Training needs what inference does not: both operands in floats, transposed operands, sums into
//! what is there, and all of it in f64 too, so that gradients can be held against finite
//! differences. The products are those of the `gemm` crate, cut into pieces for the pool's threads;
//! the cut depends on the shape alone, so the bits do not depend on the number of threads. (They do
//! depend on the processor: its caches and its widest vectors choose the order of the sums.)
//!
//! What is not here: layers, gradients (`rapport-train`), quantised weights (`matmul.rs`).
//!
//! Start reading at [`Matrix`] and [`Compute::dense_product`].

use std::fmt::Debug;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, Mul, MulAssign, Neg, Range, Sub};

use crate::float;
use crate::isa::stamped;
use crate::shared_slice::SharedSlice;
use crate::{Compute, Isa};

/// Products of fewer multiplications than this stay on the calling thread.
const MIN_PARALLEL_WORK: usize = 1 << 20;
/// Pieces are multiples of this, so that none has an uneven edge but the last.
const PIECE_ALIGNMENT: usize = 16;

const LANES: usize = 16;

/// A float that can be trained in: f32 in earnest, f64 to check gradients.
pub trait Real:
    Copy
    + Debug
    + Default
    + PartialOrd
    + Send
    + Sync
    + Sum
    + Add<Output = Self>
    + AddAssign
    + Sub<Output = Self>
    + Mul<Output = Self>
    + MulAssign
    + Div<Output = Self>
    + Neg<Output = Self>
    + 'static
{
    const ZERO: Self;
    const ONE: Self;

    fn from_f64(value: f64) -> Self;
    /// The same numbers, if they are f32: some products exist for those alone.
    fn as_f32(values: &[Self]) -> Option<&[f32]>;
    /// As [`Real::as_f32`].
    fn as_f32_mut(values: &mut [Self]) -> Option<&mut [f32]>;
    fn to_f64(self) -> f64;
    #[must_use]
    fn exp(self) -> Self;
    #[must_use]
    fn sqrt(self) -> Self;

    /// Replaces each value by `exp(value - shift)` and gives their sum.
    fn exp_row(isa: Isa, row: &mut [Self], shift: Self) -> Self;

    /// `out = silu(gate) * up`.
    fn swiglu(isa: Isa, gate: &[Self], up: &[Self], out: &mut [Self]);

    /// The gradient of [`Real::swiglu`]: replaces `gate` and `up` by the gradients with respect to
    /// them, given that of `out`.
    fn swiglu_backward(isa: Isa, d_out: &[Self], gate: &mut [Self], up: &mut [Self]);
}

#[inline(always)]
fn exp_row<R: Real>(row: &mut [R], shift: R) -> R {
    let mut sums = [R::ZERO; LANES];
    let (chunks, rest) = row.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *value = (*value - shift).exp();
            *sum += *value;
        }
    }
    for (sum, value) in sums.iter_mut().zip(rest) {
        *value = (*value - shift).exp();
        *sum += *value;
    }
    sum_lanes(sums)
}

#[inline(always)]
fn swiglu<R: Real>(gate: &[R], up: &[R], out: &mut [R]) {
    for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
        *out = *gate / (R::ONE + (-*gate).exp()) * *up;
    }
}

#[inline(always)]
fn swiglu_backward<R: Real>(d_out: &[R], gate: &mut [R], up: &mut [R]) {
    for ((d_out, gate), up) in d_out.iter().zip(gate).zip(up) {
        let sigmoid = R::ONE / (R::ONE + (-*gate).exp());
        let silu = *gate * sigmoid;
        let slope = sigmoid + silu * (R::ONE - sigmoid);
        *gate = *d_out * *up * slope;
        *up = *d_out * silu;
    }
}

/// The greatest number of a row.
///
/// # Panics
/// If the row is empty.
pub fn greatest<R: Real>(row: &[R]) -> R {
    let max = |a: R, b: R| if b > a { b } else { a };
    let mut lanes = [row[0]; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = max(*lane, *value);
        }
    }
    lanes.into_iter().chain(rest.iter().copied()).fold(row[0], max)
}

/// Adds up lanes pairwise.
#[inline(always)]
fn sum_lanes<R: Real>(mut lanes: [R; LANES]) -> R {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            let other = lanes[lane + width];
            lanes[lane] += other;
        }
        width /= 2;
    }
    lanes[0]
}

stamped! {
    fn exp_row_f32(row: &mut [f32], shift: f32, sum: &mut f32) {
        *sum = exp_row(row, shift);
    }
}

stamped! {
    fn swiglu_f32(gate: &[f32], up: &[f32], out: &mut [f32]) {
        swiglu(gate, up, out);
    }
}

stamped! {
    fn swiglu_backward_f32(d_out: &[f32], gate: &mut [f32], up: &mut [f32]) {
        swiglu_backward(d_out, gate, up);
    }
}

impl Real for f32 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;

    fn from_f64(value: f64) -> Self {
        value as Self
    }

    fn as_f32(values: &[Self]) -> Option<&[f32]> {
        Some(values)
    }

    fn as_f32_mut(values: &mut [Self]) -> Option<&mut [f32]> {
        Some(values)
    }

    fn to_f64(self) -> f64 {
        f64::from(self)
    }

    #[inline(always)]
    fn exp(self) -> Self {
        // Kept where the polynomial holds: sigmoids only need to saturate above.
        float::exp(self.min(88.0))
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        self.sqrt()
    }

    fn exp_row(isa: Isa, row: &mut [Self], shift: Self) -> Self {
        let mut sum = 0.0;
        exp_row_f32(isa, row, shift, &mut sum);
        sum
    }

    fn swiglu(isa: Isa, gate: &[Self], up: &[Self], out: &mut [Self]) {
        swiglu_f32(isa, gate, up, out);
    }

    fn swiglu_backward(isa: Isa, d_out: &[Self], gate: &mut [Self], up: &mut [Self]) {
        swiglu_backward_f32(isa, d_out, gate, up);
    }
}

impl Real for f64 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;

    fn from_f64(value: f64) -> Self {
        value
    }

    fn as_f32(_: &[Self]) -> Option<&[f32]> {
        None
    }

    fn as_f32_mut(_: &mut [Self]) -> Option<&mut [f32]> {
        None
    }

    fn to_f64(self) -> f64 {
        self
    }

    fn exp(self) -> Self {
        self.exp()
    }

    fn sqrt(self) -> Self {
        self.sqrt()
    }

    fn exp_row(_: Isa, row: &mut [Self], shift: Self) -> Self {
        exp_row(row, shift)
    }

    fn swiglu(_: Isa, gate: &[Self], up: &[Self], out: &mut [Self]) {
        swiglu(gate, up, out);
    }

    fn swiglu_backward(_: Isa, d_out: &[Self], gate: &mut [Self], up: &mut [Self]) {
        swiglu_backward(d_out, gate, up);
    }
}

/// Numbers seen as a matrix: a view that can be transposed and cut without moving anything.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a, R> {
    data: &'a [R],
    n_rows: usize,
    n_cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a, R> Matrix<'a, R> {
    /// Rows of `n_cols`, one after another.
    ///
    /// # Panics
    /// If the data is not whole rows.
    pub fn new(data: &'a [R], n_cols: usize) -> Self {
        assert!(n_cols > 0 && data.len().is_multiple_of(n_cols), "rows of {n_cols} columns");
        Self { data, n_rows: data.len() / n_cols, n_cols, row_stride: n_cols, col_stride: 1 }
    }

    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    pub fn n_cols(&self) -> usize {
        self.n_cols
    }

    /// # Panics
    /// If there is no such place.
    pub fn get(&self, row: usize, col: usize) -> R
    where
        R: Copy,
    {
        assert!(row < self.n_rows && col < self.n_cols, "row {row}, column {col}");
        self.data[row * self.row_stride + col * self.col_stride]
    }

    #[must_use]
    pub fn transposed(self) -> Self {
        Self {
            n_rows: self.n_cols,
            n_cols: self.n_rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    /// Some of the columns.
    ///
    /// # Panics
    /// If the range is not within the columns.
    #[must_use]
    pub fn columns(self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.n_cols, "columns {range:?}");
        let start = (range.start * self.col_stride).min(self.data.len());
        Self { data: &self.data[start..], n_cols: range.len(), ..self }
    }

    /// Some of the rows.
    ///
    /// # Panics
    /// If the range is not within the rows.
    #[must_use]
    pub fn rows(self, range: Range<usize>) -> Self {
        self.transposed().columns(range).transposed()
    }

    /// One past the last element's place, which is inside the data by construction.
    fn extent(&self) -> usize {
        if self.n_rows == 0 || self.n_cols == 0 {
            return 0;
        }
        (self.n_rows - 1) * self.row_stride + (self.n_cols - 1) * self.col_stride + 1
    }
}

/// A matrix that a product is written to; its rows are contiguous.
#[derive(Debug)]
pub struct MatrixMut<'a, R> {
    data: &'a mut [R],
    n_rows: usize,
    n_cols: usize,
    row_stride: usize,
}

impl<'a, R> MatrixMut<'a, R> {
    pub(crate) fn n_rows(&self) -> usize {
        self.n_rows
    }

    pub(crate) fn n_cols(&self) -> usize {
        self.n_cols
    }

    /// Rows, columns, the distance of rows, and the data.
    pub(crate) fn into_parts(self) -> (usize, usize, usize, &'a mut [R]) {
        (self.n_rows, self.n_cols, self.row_stride, self.data)
    }

    /// Rows of `n_cols`, one after another.
    ///
    /// # Panics
    /// If the data is not whole rows.
    pub fn new(data: &'a mut [R], n_cols: usize) -> Self {
        assert!(n_cols > 0 && data.len().is_multiple_of(n_cols), "rows of {n_cols} columns");
        let n_rows = data.len() / n_cols;
        Self { data, n_rows, n_cols, row_stride: n_cols }
    }

    /// Some of the columns.
    ///
    /// # Panics
    /// If the range is not within the columns.
    #[must_use]
    pub fn columns(self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.n_cols, "columns {range:?}");
        let start = range.start.min(self.data.len());
        Self { data: &mut self.data[start..], n_cols: range.len(), ..self }
    }
}

/// What becomes of the numbers that a product is written over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Onto {
    Nothing,
    WhatIsThere,
}

impl Compute {
    /// `out = [out +] scale * a * b`, on all threads.
    ///
    /// # Shapes
    /// `a`: (M, K), `b`: (K, N), `out`: (M, N).
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn dense_product<R: Real>(
        &self,
        out: MatrixMut<'_, R>,
        onto: Onto,
        scale: R,
        a: Matrix<'_, R>,
        b: Matrix<'_, R>,
    ) {
        check(&out, &a, &b);
        let (m, n, k) = (out.n_rows, out.n_cols, a.n_cols);
        let by_rows = m >= n;
        let longer = m.max(n);
        if m * n * k < MIN_PARALLEL_WORK || longer < 2 * PIECE_ALIGNMENT {
            return dense_product(out, onto, scale, a, b);
        }
        // Each piece packs the operand that it shares with the others, so there are no more of them
        // than threads; and one thread makes two, so as to round as two do.
        let n_pieces = self.pool().n_threads().max(2);
        let piece = longer.div_ceil(n_pieces).next_multiple_of(PIECE_ALIGNMENT);
        let (n_rows, n_cols, row_stride) = (out.n_rows, out.n_cols, out.row_stride);
        let shared = SharedSlice::new(out.data);
        self.pool().run(longer.div_ceil(piece), &|piece_idx| {
            let range = piece_idx * piece..((piece_idx + 1) * piece).min(longer);
            let (rows, cols) = if by_rows { (range, 0..n_cols) } else { (0..n_rows, range) };
            let place = OutPlace {
                start: rows.start * row_stride + cols.start,
                n_rows: rows.len(),
                n_cols: cols.len(),
                row_stride,
            };
            // SAFETY: pieces share no element of `out`, and `place` is inside it.
            unsafe { gemm_at(&shared, &place, onto, scale, (a.rows(rows), b.columns(cols))) };
        });
    }
}

/// As [`Compute::dense_product`], on the calling thread: for use inside a job.
///
/// # Panics
/// If the shapes do not fit.
pub fn dense_product<R: Real>(
    out: MatrixMut<'_, R>,
    onto: Onto,
    scale: R,
    a: Matrix<'_, R>,
    b: Matrix<'_, R>,
) {
    check(&out, &a, &b);
    let MatrixMut { data, n_rows, n_cols, row_stride } = out;
    let shared = SharedSlice::new(data);
    let place = OutPlace { start: 0, n_rows, n_cols, row_stride };
    // SAFETY: nobody else has `out`, and all of it is inside its data.
    unsafe { gemm_at(&shared, &place, onto, scale, (a, b)) };
}

fn check<R: Real>(out: &MatrixMut<'_, R>, a: &Matrix<'_, R>, b: &Matrix<'_, R>) {
    assert_eq!((a.n_rows, b.n_cols), (out.n_rows, out.n_cols), "the shape of a product");
    assert_eq!(a.n_cols, b.n_rows, "the inner dimension of a product");
}

/// Where in a slice a piece of a product goes.
struct OutPlace {
    start: usize,
    n_rows: usize,
    n_cols: usize,
    row_stride: usize,
}

/// # Safety
/// No other thread may reach the elements of `out` at `place` meanwhile.
unsafe fn gemm_at<R: Real>(
    out: &SharedSlice<'_, R>,
    place: &OutPlace,
    onto: Onto,
    scale: R,
    (a, b): (Matrix<'_, R>, Matrix<'_, R>),
) {
    if place.n_rows == 0 || place.n_cols == 0 {
        return;
    }
    assert!(a.extent() <= a.data.len() && b.extent() <= b.data.len(), "views inside their data");
    let extent = (place.n_rows - 1) * place.row_stride + place.n_cols;
    let first = out.place(place.start, extent);
    let reads_out = onto == Onto::WhatIsThere;
    let keep = if reads_out { R::ONE } else { R::ZERO };
    // SAFETY: all three views are inside their data, and this thread alone writes `out` here.
    unsafe {
        gemm::gemm(
            place.n_rows,
            place.n_cols,
            a.n_cols,
            first,
            1,
            place.row_stride as isize,
            reads_out,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            keep,
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use proptest::prelude::*;

    use super::*;

    /// Numbers whose sums are exact in f32, so that any order gives the same.
    fn values(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 28) as f32 - 8.0
        };
        (0..n).map(|_| next()).collect()
    }

    fn at(matrix: &Matrix<'_, f32>, row: usize, col: usize) -> f32 {
        matrix.get(row, col)
    }

    fn plain(a: &Matrix<'_, f32>, b: &Matrix<'_, f32>) -> Vec<f32> {
        let cell = |row, col| (0..a.n_cols).map(|k| at(a, row, k) * at(b, k, col)).sum();
        (0..a.n_rows)
            .flat_map(|row| (0..b.n_cols).map(move |col| (row, col)))
            .map(|(row, col)| cell(row, col))
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn products_equal_the_plain_loops(
            (m, n, k) in (1..150_usize, 1..150_usize, 1..90_usize),
            (a_flip, b_flip, adds) in any::<(bool, bool, bool)>(),
            threads in 1..4_usize,
        ) {
            let compute = Compute::new(Isa::detect(), NonZeroUsize::new(threads).unwrap());
            let (a_data, b_data) = (values(m * k, 1), values(k * n, 2));
            let a = if a_flip { Matrix::new(&a_data, m).transposed() } else { Matrix::new(&a_data, k) };
            let b = if b_flip { Matrix::new(&b_data, k).transposed() } else { Matrix::new(&b_data, n) };
            let before = values(m * n, 3);
            let mut out = before.clone();
            let onto = if adds { Onto::WhatIsThere } else { Onto::Nothing };
            compute.dense_product(MatrixMut::new(&mut out, n), onto, 2.0, a, b);
            for ((out, before), product) in out.iter().zip(&before).zip(plain(&a, &b)) {
                let expected = 2.0 * product + if adds { *before } else { 0.0 };
                // Adding zero takes a zero's sign away, on which sums need not agree.
                prop_assert_eq!((*out + 0.0).to_bits(), (expected + 0.0).to_bits());
            }
        }

        #[test]
        fn columns_of_a_product_leave_the_others_alone(cut in 0..20_usize, width in 1..20_usize) {
            let (a_data, b_data) = (values(6 * 5, 4), values(5 * width, 5));
            let (a, b) = (Matrix::new(&a_data, 5), Matrix::new(&b_data, width));
            let mut out = vec![7.0_f32; 6 * 40];
            dense_product(MatrixMut::new(&mut out, 40).columns(cut..cut + width), Onto::Nothing, 1.0, a, b);
            let expected = plain(&a, &b);
            for (row_idx, row) in out.chunks_exact(40).enumerate() {
                prop_assert_eq!(&row[cut..cut + width], &expected[row_idx * width..][..width]);
                prop_assert!(row[..cut].iter().chain(&row[cut + width..]).all(|x| x.to_bits() == 7.0_f32.to_bits()));
            }
        }
    }

    #[test]
    fn the_bits_do_not_depend_on_the_number_of_threads() {
        let (m, n, k) = (200, 130, 576);
        let a_data: Vec<f32> = values(m * k, 6).iter().map(|x| x / 7.0).collect();
        let b_data: Vec<f32> = values(k * n, 7).iter().map(|x| x / 3.0).collect();
        let on = |threads| {
            let compute = Compute::new(Isa::detect(), NonZeroUsize::new(threads).unwrap());
            let mut out = vec![0.0; m * n];
            let (a, b) = (Matrix::new(&a_data, k), Matrix::new(&b_data, n));
            compute.dense_product(MatrixMut::new(&mut out, n), Onto::Nothing, 1.0, a, b);
            out
        };
        assert_eq!(on(1), on(3));
    }

    #[test]
    fn float_work_in_f32_is_that_in_f64() {
        let gate: Vec<f64> = (-60..60).map(|i| f64::from(i) * 0.37).collect();
        let up: Vec<f64> = gate.iter().map(|x| 1.5 - 0.2 * x).collect();
        let d_out: Vec<f64> = gate.iter().map(|x| 0.3 + 0.01 * x).collect();
        let narrow = |values: &[f64]| values.iter().map(|x| *x as f32).collect::<Vec<f32>>();
        let close = |wide: &[f64], narrow: &[f32]| {
            for (wide, narrow) in wide.iter().zip(narrow) {
                assert!((wide - f64::from(*narrow)).abs() <= 1e-5 * wide.abs().max(1.0));
            }
        };
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let (mut wide, mut out) = (vec![0.0; gate.len()], vec![0.0; gate.len()]);
            f64::swiglu(isa, &gate, &up, &mut wide);
            f32::swiglu(isa, &narrow(&gate), &narrow(&up), &mut out);
            close(&wide, &out);
            let (mut d_gate, mut d_up) = (gate.clone(), up.clone());
            f64::swiglu_backward(isa, &d_out, &mut d_gate, &mut d_up);
            let (mut gate_32, mut up_32) = (narrow(&gate), narrow(&up));
            f32::swiglu_backward(isa, &narrow(&d_out), &mut gate_32, &mut up_32);
            close(&d_gate, &gate_32);
            close(&d_up, &up_32);
            let (mut row, mut row_32) = (gate.clone(), narrow(&gate));
            let sum = f64::exp_row(isa, &mut row, 22.0);
            let sum_32 = f32::exp_row(isa, &mut row_32, 22.0);
            close(&row, &row_32);
            assert!((sum - f64::from(sum_32)).abs() < 1e-5);
        }
    }
}
