//! The float work between products: norms, activations, rotary positions.
//!
//! Bodies are plain Rust, compiled once for each instruction set ([`crate::isa::stamped`]); sums
//! run in 16 lanes that are added up in a fixed order.

use crate::isa::stamped;
use crate::shared_slice::SharedSlice;
use crate::{Activations, Compute};

const LANES: usize = 16;

/// `e^x` within 2 ulp for `x <= 88`, 0 below -87.3; written so that compilers vectorise it.
///
/// Cody-Waite reduction to `|r| <= ln(2)/2`, then the Taylor polynomial of degree 7.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let n = (x * std::f32::consts::LOG2_E).round_ties_even();
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, x));
    let mut p = EXP_POLYNOMIAL[0];
    for coefficient in &EXP_POLYNOMIAL[1..] {
        p = r.mul_add(p, *coefficient);
    }
    // A cast to an integer saturates, which compilers do lane by lane: the number is read from the low
    // bits of a sum instead, where a float of this size has its units.
    let n = (n + UNITS).to_bits().wrapping_sub(UNITS.to_bits());
    let power = f32::from_bits(n.wrapping_add(127) << 23);
    if x < -87.3 { 0.0 } else { p * power }
}

/// 1.5 * 2^23: floats of this size are whole numbers, and their bits count them.
const UNITS: f32 = 12_582_912.0;

pub(crate) const LN2_HIGH: f32 = 0.693_359_4;
pub(crate) const LN2_LOW: f32 = -2.121_944_4e-4;
/// From the highest power down.
pub(crate) const EXP_POLYNOMIAL: [f32; 8] =
    [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];

/// `1 + e^x`; infinite from 88 on, where `exp` has no value.
#[inline(always)]
fn one_plus_exp(x: f32) -> f32 {
    let sum = 1.0 + exp(x);
    if x > 88.0 { f32::INFINITY } else { sum }
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / one_plus_exp(-x)
}

/// `cap * tanh(x / cap)`: about `x` near zero, never beyond the cap.
#[inline(always)]
pub(crate) fn soft_cap(x: f32, cap: f32) -> f32 {
    // Beyond 10, tanh is 1 in f32.
    let e = exp((x / cap).clamp(-10.0, 10.0) * 2.0);
    cap * ((e - 1.0) / (e + 1.0))
}

/// Adds up 16 lanes pairwise.
#[inline(always)]
pub(crate) fn sum_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// What a row is multiplied by to have a mean square of 1.
#[inline(always)]
fn rms_scale(x: &[f32], epsilon: f32) -> f32 {
    let mut squares = [0.0_f32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (square, value) in squares.iter_mut().zip(chunk) {
            *square = value.mul_add(*value, *square);
        }
    }
    for (square, value) in squares.iter_mut().zip(rest) {
        *square = value.mul_add(*value, *square);
    }
    let mean = sum_lanes(squares) / x.len() as f32;
    1.0 / (mean + epsilon).sqrt()
}

stamped! {
    fn rms_norm_row(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
        let scale = rms_scale(x, epsilon);
        for ((out, value), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = value * scale * weight;
        }
    }
}

stamped! {
    fn rms_norm_add_row(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
        let scale = rms_scale(x, epsilon);
        for ((out, value), weight) in out.iter_mut().zip(x).zip(weight) {
            *out += value * scale * weight;
        }
    }
}

stamped! {
    fn rms_norm_in_place(x: &mut [f32], weight: &[f32], epsilon: f32) {
        let scale = rms_scale(x, epsilon);
        for (value, weight) in x.iter_mut().zip(weight) {
            *value = *value * scale * weight;
        }
    }
}

stamped! {
    fn silu_mul_row(gate: &[f32], up: &[f32], out: &mut [f32]) {
        for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
            *out = gate / one_plus_exp(-gate) * up;
        }
    }
}

stamped! {
    fn gelu_mul_row(gate: &[f32], up: &[f32], out: &mut [f32]) {
        // x / 2 * (1 + tanh(u)) is x * sigmoid(2 u), with u = sqrt(2 / pi) * (x + 0.044715 x^3).
        const TWICE_SQRT_2_OVER_PI: f32 = 1.595_769_2;
        for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
            let cubic = (gate * gate).mul_add(0.044_715, 1.0);
            *out = gate / one_plus_exp(-TWICE_SQRT_2_OVER_PI * gate * cubic) * up;
        }
    }
}

stamped! {
    fn scale_and_cap_row(x: &mut [f32], scale: f32, cap: Option<f32>) {
        for value in x {
            *value *= scale;
            if let Some(cap) = cap {
                *value = soft_cap(*value, cap);
            }
        }
    }
}

/// What bends the gate of a feed-forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)` (Elfwing et al. 2017).
    Silu,
    /// The tanh form of `x * Phi(x)` (Hendrycks and Gimpel 2016).
    Gelu,
}

impl Compute {
    /// Root-mean-square norm of each row, quantised on the way (Zhang and Sennrich 2019).
    ///
    /// # Shapes
    /// `x`: (T, C), `weight`: (C), `out`: (T, C), resized here.
    pub fn rms_norm(&self, x: &[f32], weight: &[f32], epsilon: f32, out: &mut Activations) {
        let n_cols = weight.len();
        assert!(x.len().is_multiple_of(n_cols), "rows of {n_cols} columns");
        out.resize(x.len() / n_cols, n_cols);
        self.fill_rows(out, |row_idx, out| {
            rms_norm_row(self.isa(), &x[row_idx * n_cols..][..n_cols], weight, epsilon, out);
        });
    }

    /// `out += norm(x)`: a branch that has a norm of its own joins the residual stream.
    ///
    /// # Shapes
    /// `x`: (T, C), `weight`: (C), `out`: (T, C).
    pub fn rms_norm_add(&self, x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
        let n_cols = weight.len();
        assert!(x.len().is_multiple_of(n_cols) && x.len() == out.len(), "rows of {n_cols} columns");
        let rows = SharedSlice::new(out);
        self.pool().run(x.len() / n_cols, &|row_idx| {
            // SAFETY: each task has a row of its own.
            let out = unsafe { rows.take(row_idx * n_cols, n_cols) };
            rms_norm_add_row(self.isa(), &x[row_idx * n_cols..][..n_cols], weight, epsilon, out);
        });
    }

    /// Norms each head of queries or keys, or all heads of a token as one: the weight's length says.
    ///
    /// # Shapes
    /// `heads`: (T, H, D) with rows of `n_cols = H * D`; `weight`: (D) or (H * D).
    pub fn rms_norm_heads(&self, heads: &mut [f32], n_cols: usize, weight: &[f32], epsilon: f32) {
        assert!(heads.len().is_multiple_of(n_cols), "rows of {n_cols} columns");
        assert!(n_cols.is_multiple_of(weight.len()), "heads of {} columns", weight.len());
        let n_rows = heads.len() / n_cols;
        let rows = SharedSlice::new(heads);
        self.pool().run(n_rows, &|row_idx| {
            // SAFETY: each task has a row of its own.
            let row = unsafe { rows.take(row_idx * n_cols, n_cols) };
            for head in row.chunks_exact_mut(weight.len()) {
                rms_norm_in_place(self.isa(), head, weight, epsilon);
            }
        });
    }

    /// `activation(gate) * up`, quantised on the way: the inside of a gated feed-forward.
    ///
    /// # Shapes
    /// `gate`, `up`: (T, F), `out`: (T, F), resized here.
    pub fn gate_mul(
        &self,
        activation: Activation,
        gate: &[f32],
        up: &[f32],
        n_cols: usize,
        out: &mut Activations,
    ) {
        assert_eq!(gate.len(), up.len(), "gate and up");
        assert!(gate.len().is_multiple_of(n_cols), "rows of {n_cols} columns");
        out.resize(gate.len() / n_cols, n_cols);
        self.fill_rows(out, |row_idx, out| {
            let row = row_idx * n_cols..(row_idx + 1) * n_cols;
            match activation {
                Activation::Silu => silu_mul_row(self.isa(), &gate[row.clone()], &up[row], out),
                Activation::Gelu => gelu_mul_row(self.isa(), &gate[row.clone()], &up[row], out),
            }
        });
    }

    /// Multiplies each row by `scale` and then bends it under `cap`: what some models do to logits.
    pub fn scale_and_cap(&self, x: &mut [f32], n_cols: usize, scale: f32, cap: Option<f32>) {
        assert!(x.len().is_multiple_of(n_cols), "rows of {n_cols} columns");
        let n_rows = x.len() / n_cols;
        let rows = SharedSlice::new(x);
        self.pool().run(n_rows, &|row_idx| {
            // SAFETY: each task has a row of its own.
            let row = unsafe { rows.take(row_idx * n_cols, n_cols) };
            scale_and_cap_row(self.isa(), row, scale, cap);
        });
    }
}

/// How rotary frequencies are stretched for a context longer than the one trained on.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    None,
    /// Positions divided by `factor`.
    Linear {
        factor: f32,
    },
    /// YaRN (Peng et al. 2023, "NTK-by-parts"): slow frequencies are divided by `factor`, fast ones
    /// kept, those between blended; keys and queries grow by `1 + 0.1 ln(factor)`.
    Yarn {
        factor: f32,
        original_context: f32,
        beta_fast: f32,
        beta_slow: f32,
    },
}

/// Which two numbers of a head turn together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopePairs {
    /// 2i and 2i + 1: files of the `llama` architecture.
    Neighbours,
    /// i and i + D/2 (GPT-NeoX): most others.
    Halves,
}

/// What a [`Rope`] is made from.
#[derive(Clone, Debug)]
pub struct RopeShape {
    /// The first dimensions of each head, those that turn.
    pub n_dims: usize,
    pub base: f32,
    pub scaling: RopeScaling,
    /// Divisors of the frequencies, one a pair: Llama 3's and LongRoPE's.
    pub factors: Option<Vec<f32>>,
    /// What queries and keys are multiplied by besides.
    pub magnitude: f32,
    pub pairs: RopePairs,
}

/// Rotary position embedding (Su et al. 2021) of the first `2 * frequencies.len()` dimensions of
/// each head.
#[derive(Clone, Debug)]
pub struct Rope {
    /// Radians a position, for each rotated pair.
    frequencies: Vec<f32>,
    magnitude: f32,
    pairs: RopePairs,
}

impl Rope {
    /// # Panics
    /// If `factors` is given and is not one a pair.
    pub fn new(shape: &RopeShape) -> Self {
        let n_dims = shape.n_dims as f64;
        let n_pairs = shape.n_dims / 2;
        let base = f64::from(shape.base);
        if let Some(factors) = &shape.factors {
            assert_eq!(factors.len(), n_pairs, "a factor for each pair");
        }
        let frequencies = (0..n_pairs)
            .map(|pair| {
                let factor = shape.factors.as_ref().map_or(1.0, |factors| f64::from(factors[pair]));
                let plain = base.powf(-2.0 * pair as f64 / n_dims) / factor;
                match shape.scaling {
                    RopeScaling::None => plain as f32,
                    RopeScaling::Linear { factor } => (plain / f64::from(factor)) as f32,
                    RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow } => {
                        // The pair that turns `beta` times over the original context.
                        let pair_of = |beta: f32| {
                            let turns = f64::from(original_context)
                                / (f64::from(beta) * std::f64::consts::TAU);
                            n_dims * turns.ln() / (2.0 * base.ln())
                        };
                        let low = pair_of(beta_fast).floor().max(0.0);
                        let high = pair_of(beta_slow).ceil().min(n_dims - 1.0);
                        let ramp = (pair as f64 - low) / (high - low).max(0.001);
                        let keep = 1.0 - ramp.clamp(0.0, 1.0);
                        (plain / f64::from(factor) * (1.0 - keep) + plain * keep) as f32
                    }
                }
            })
            .collect();
        let growth = match shape.scaling {
            RopeScaling::Yarn { factor, .. } => 1.0 + 0.1 * factor.max(1.0).ln(),
            _ => 1.0,
        };
        Self { frequencies, magnitude: shape.magnitude * growth, pairs: shape.pairs }
    }

    /// Which two numbers of a head turn together.
    pub fn pairs(&self) -> RopePairs {
        self.pairs
    }

    /// Cosines and sines of one position: `2 * frequencies.len()` numbers.
    pub fn angles(&self, position: u32, out: &mut Vec<[f32; 2]>) {
        out.clear();
        out.extend(self.frequencies.iter().map(|frequency| {
            let (sin, cos) = (position as f32 * frequency).sin_cos();
            [cos * self.magnitude, sin * self.magnitude]
        }));
    }

    /// Rotates every head of one token's queries or keys in place.
    ///
    /// # Shapes
    /// `heads`: (H, D); `angles`: from [`Rope::angles`].
    pub fn rotate(&self, heads: &mut [f32], head_dim: usize, angles: &[[f32; 2]]) {
        let n_pairs = angles.len();
        for head in heads.chunks_exact_mut(head_dim) {
            if self.pairs == RopePairs::Neighbours {
                for (pair, [cos, sin]) in head.as_chunks_mut::<2>().0.iter_mut().zip(angles) {
                    let [a, b] = *pair;
                    *pair = [a * cos - b * sin, a * sin + b * cos];
                }
            } else {
                let (first, second) = head[..2 * n_pairs].split_at_mut(n_pairs);
                for ((a, b), [cos, sin]) in first.iter_mut().zip(second).zip(angles) {
                    (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
                }
            }
        }
    }
}

impl Compute {
    /// Rotates the heads of a batch in place.
    ///
    /// # Shapes
    /// `heads`: (T, H, D) with rows of `n_cols = H * D`; `angles`: one table a token.
    pub fn rotate(
        &self,
        rope: &Rope,
        heads: &mut [f32],
        (n_cols, head_dim): (usize, usize),
        angles: &[Vec<[f32; 2]>],
    ) {
        assert_eq!(heads.len(), angles.len() * n_cols, "a table of angles for each token");
        let rows = SharedSlice::new(heads);
        self.pool().run(angles.len(), &|row_idx| {
            // SAFETY: each task has a row of its own.
            let row = unsafe { rows.take(row_idx * n_cols, n_cols) };
            rope.rotate(row, head_dim, &angles[row_idx]);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn bent_functions_hold_at_their_ends() {
        for x in [0.0_f32, 1e-3, 0.5, 1.0, 4.0, 30.0, 88.5, 100.0, 1e4, f32::MAX] {
            for x in [x, -x] {
                let exact = 1.0 / (1.0 + (-f64::from(x)).exp());
                assert!((f64::from(sigmoid(x)) - exact).abs() < 2e-7, "sigmoid({x})");
                let exact = 30.0 * (f64::from(x) / 30.0).tanh();
                assert!((f64::from(soft_cap(x, 30.0)) - exact).abs() < 1e-5, "soft_cap({x})");
                let wide = f64::from(x);
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (wide + 0.044_715 * wide.powi(3));
                let exact = 0.5 * wide * (1.0 + inner.tanh());
                let mut out = [0.0];
                gelu_mul_row(Isa::detect(), &[x], &[1.0], &mut out);
                let error = (f64::from(out[0]) - exact).abs();
                assert!(error <= 1e-6 * exact.abs().max(1.0), "gelu({x}) is {}", out[0]);
            }
        }
        let mut out = [0.0; 4];
        let gates = [-100.0, -89.0, 100.0, 0.0];
        silu_mul_row(Isa::detect(), &gates, &[1.0; 4], &mut out);
        assert_eq!(out.map(|x| x.round() as i32), [0, 0, 100, 0]);
        gelu_mul_row(Isa::detect(), &gates, &[1.0; 4], &mut out);
        assert_eq!(out.map(|x| x.round() as i32), [0, 0, 100, 0]);
        assert!(sigmoid(f32::NAN).is_nan() && soft_cap(f32::NAN, 30.0).is_nan());
    }

    #[test]
    fn exp_is_within_two_ulp() {
        let mut x = -87.0_f32;
        while x < 88.0 {
            let expected = f64::from(x).exp();
            let error = (f64::from(exp(x)) - expected).abs() / expected;
            assert!(error < 2.5e-7, "exp({x}) is off by {error:e}");
            x += 0.0137;
        }
        assert_eq!(exp(-100.0).to_bits(), 0);
        assert_eq!(exp(f32::NEG_INFINITY).to_bits(), 0);
        assert!(exp(f32::NAN).is_nan());
    }
}
