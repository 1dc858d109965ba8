//! The inputs of a product: floats, and beside them their 8-bit form.

use crate::Isa;
use crate::isa::stamped;
use crate::packed::PANEL_COLS;
use crate::shared_slice::SharedSlice;

const HALF_COLS: usize = PANEL_COLS / 2;

/// Rows of inputs, one a token, padded to whole panels.
///
/// # Shapes
/// (T, C) for `values` and `codes`; a scale for each panel of 32 columns; sums for each panel and
/// each half panel, which the products need where a weight's code is stored with an offset.
///
/// # Numerics
/// `code = round_ties_even(value / scale)`, `scale = max|value| / 127` of the panel: at most half a
/// scale from the float. Scales stay f32.
#[derive(Debug, Default)]
pub struct Activations {
    pub(crate) n_rows: usize,
    /// Columns with padding.
    pub(crate) stride: usize,
    n_cols: usize,
    pub(crate) values: Vec<f32>,
    pub(crate) codes: Vec<i8>,
    pub(crate) scales: Vec<f32>,
    /// Minus the sum of the codes of each panel.
    pub(crate) neg_sums: Vec<i32>,
    /// The same times the panel's scale.
    pub(crate) neg_scaled_sums: Vec<f32>,
    /// Minus the sum of the codes of each half panel.
    pub(crate) neg_half_sums: Vec<i32>,
}

impl Activations {
    /// Makes room for `n_rows` rows of `n_cols`; the values are what they were or zero.
    pub fn resize(&mut self, n_rows: usize, n_cols: usize) {
        if self.n_cols != n_cols {
            // Padding must be zero wherever it now falls.
            self.values.clear();
        }
        self.n_rows = n_rows;
        self.n_cols = n_cols;
        self.stride = n_cols.next_multiple_of(PANEL_COLS);
        let n_panels = n_rows * self.stride / PANEL_COLS;
        self.values.resize(n_rows * self.stride, 0.0);
        self.codes.resize(n_rows * self.stride, 0);
        self.scales.resize(n_panels, 0.0);
        self.neg_sums.resize(n_panels, 0);
        self.neg_scaled_sums.resize(n_panels, 0.0);
        self.neg_half_sums.resize(n_panels * 2, 0);
    }

    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    pub fn n_cols(&self) -> usize {
        self.n_cols
    }

    pub fn row(&self, row_idx: usize) -> &[f32] {
        &self.values[row_idx * self.stride..][..self.n_cols]
    }

    /// The floats of a row; [`crate::Compute::quantize`] afterwards.
    pub fn row_mut(&mut self, row_idx: usize) -> &mut [f32] {
        &mut self.values[row_idx * self.stride..][..self.n_cols]
    }
}

/// [`Activations`] whose rows are written by the tasks of a job.
pub(crate) struct SharedRows<'a> {
    stride: usize,
    n_cols: usize,
    values: SharedSlice<'a, f32>,
    codes: SharedSlice<'a, i8>,
    scales: SharedSlice<'a, f32>,
    neg_sums: SharedSlice<'a, i32>,
    neg_scaled_sums: SharedSlice<'a, f32>,
    neg_half_sums: SharedSlice<'a, i32>,
}

impl Activations {
    pub(crate) fn shared_rows(&mut self) -> SharedRows<'_> {
        SharedRows {
            stride: self.stride,
            n_cols: self.n_cols,
            values: SharedSlice::new(&mut self.values),
            codes: SharedSlice::new(&mut self.codes),
            scales: SharedSlice::new(&mut self.scales),
            neg_sums: SharedSlice::new(&mut self.neg_sums),
            neg_scaled_sums: SharedSlice::new(&mut self.neg_scaled_sums),
            neg_half_sums: SharedSlice::new(&mut self.neg_half_sums),
        }
    }
}

impl SharedRows<'_> {
    /// Some columns of a row's floats, not yet quantised.
    ///
    /// # Safety
    /// No other task may have any of them.
    #[expect(clippy::mut_from_ref, reason = "tasks take disjoint pieces")]
    pub(crate) unsafe fn columns(&self, row_idx: usize, first: usize, n: usize) -> &mut [f32] {
        assert!(first + n <= self.n_cols, "columns of a row");
        // SAFETY: the caller's alone.
        unsafe { self.values.take(row_idx * self.stride + first, n) }
    }

    /// Fills the floats of a row by `write`, then quantises them.
    ///
    /// # Safety
    /// No other task may have this row.
    pub(crate) unsafe fn write(&self, isa: Isa, row_idx: usize, write: impl FnOnce(&mut [f32])) {
        let n_panels = self.stride / PANEL_COLS;
        // SAFETY: the row, and with it each of these pieces, is the caller's alone.
        let values = unsafe { self.values.take(row_idx * self.stride, self.stride) };
        write(&mut values[..self.n_cols]);
        let out = QuantizedRow {
            // SAFETY: as above.
            codes: unsafe { self.codes.take(row_idx * self.stride, self.stride) },
            // SAFETY: as above.
            scales: unsafe { self.scales.take(row_idx * n_panels, n_panels) },
            // SAFETY: as above.
            neg_sums: unsafe { self.neg_sums.take(row_idx * n_panels, n_panels) },
            // SAFETY: as above.
            neg_scaled_sums: unsafe { self.neg_scaled_sums.take(row_idx * n_panels, n_panels) },
            // SAFETY: as above.
            neg_half_sums: unsafe { self.neg_half_sums.take(row_idx * n_panels * 2, n_panels * 2) },
        };
        quantize_row(isa, values, out);
    }
}

/// One row's worth of quantised output.
pub(crate) struct QuantizedRow<'a> {
    pub(crate) codes: &'a mut [i8],
    pub(crate) scales: &'a mut [f32],
    pub(crate) neg_sums: &'a mut [i32],
    pub(crate) neg_scaled_sums: &'a mut [f32],
    pub(crate) neg_half_sums: &'a mut [i32],
}

/// Quantises one padded row.
pub(crate) fn quantize_row(isa: Isa, values: &[f32], out: QuantizedRow<'_>) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => crate::x86::quantize_row_512(values, out),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => crate::x86::quantize_row_256(values, out),
        _ => quantize_row_plain(isa, values, out),
    }
}

stamped! {
    /// What [`quantize_row`] computes.
    fn quantize_row_plain(values: &[f32], out: QuantizedRow<'_>) {
        let (values, _) = values.as_chunks::<PANEL_COLS>();
        let (codes, _) = out.codes.as_chunks_mut::<PANEL_COLS>();
        for (panel_idx, (values, codes)) in values.iter().zip(codes).enumerate() {
            // Without their sign, floats are in the order of their bits, and a NaN is the largest:
            // it spoils the panel instead of vanishing.
            let bits = values.iter().map(|value| value.abs().to_bits());
            let largest = f32::from_bits(bits.fold(0, u32::max));
            let scale = largest / 127.0;
            let inverse = if scale > 0.0 { 127.0 / largest } else { 0.0 };
            let mut sums = [0_i32; 2];
            for (half_idx, sum) in sums.iter_mut().enumerate() {
                for col in half_idx * HALF_COLS..(half_idx + 1) * HALF_COLS {
                    let code = (values[col] * inverse).round_ties_even() as i8;
                    codes[col] = code;
                    *sum -= i32::from(code);
                }
            }
            out.scales[panel_idx] = scale;
            out.neg_sums[panel_idx] = sums[0] + sums[1];
            out.neg_scaled_sums[panel_idx] = (sums[0] + sums[1]) as f32 * scale;
            out.neg_half_sums[panel_idx * 2] = sums[0];
            out.neg_half_sums[panel_idx * 2 + 1] = sums[1];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_within_half_a_scale_and_sums_add_up_on_every_isa() {
        let n_cols = 96;
        let values: Vec<f32> = (0..n_cols)
            .map(|col| ((col * 37 % 101) as f32 - 50.0) * 10_f32.powi(col / 32 * 20 - 20))
            .collect();
        let mut by_isa = Vec::new();
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let mut codes = vec![0; n_cols as usize];
            let (mut scales, mut sums, mut halves) = (vec![0.0; 3], vec![0; 3], vec![0; 6]);
            let out = QuantizedRow {
                codes: &mut codes,
                scales: &mut scales,
                neg_sums: &mut sums,
                neg_scaled_sums: &mut [0.0; 3],
                neg_half_sums: &mut halves,
            };
            quantize_row(isa, &values, out);
            for (col, value) in values.iter().enumerate() {
                let back = f32::from(codes[col]) * scales[col / 32];
                assert!((back - value).abs() <= scales[col / 32] * 0.5001);
            }
            for (panel_idx, panel) in codes.chunks(32).enumerate() {
                let sum: i32 = panel.iter().map(|&code| i32::from(code)).sum();
                assert_eq!(sums[panel_idx], -sum);
                assert_eq!(halves[panel_idx * 2] + halves[panel_idx * 2 + 1], -sum);
            }
            by_isa.push((codes, scales));
        }
        assert!(by_isa.windows(2).all(|pair| pair[0] == pair[1]));
    }

    /// Rows that no model should give, in AVX2 as in plain code.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn what_is_no_number_or_too_small_becomes_the_same_codes() {
        if !Isa::Avx2.is_available() {
            return;
        }
        let ends =
            [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1e-38, 1e-45, -1e-41, 0.0];
        for end in ends {
            for scale in [1.0, 1e-40, 0.0] {
                let mut values = [0.25 * scale; PANEL_COLS];
                (values[3], values[20]) = (end, -end);
                let [plain, avx2] = [Isa::Scalar, Isa::Avx2].map(|isa| {
                    let mut codes = [0; PANEL_COLS];
                    let (mut scales, mut sums, mut halves) = ([0.0], [0], [0; 2]);
                    let mut scaled_sums = [0.0];
                    let out = QuantizedRow {
                        codes: &mut codes,
                        scales: &mut scales,
                        neg_sums: &mut sums,
                        neg_scaled_sums: &mut scaled_sums,
                        neg_half_sums: &mut halves,
                    };
                    quantize_row(isa, &values, out);
                    (codes, scales.map(f32::to_bits), sums, halves)
                });
                assert_eq!(plain, avx2, "{end:e} among {scale:e}");
            }
        }
    }
}
