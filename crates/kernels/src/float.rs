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
    let power = f32::from_bits(((n as i32).wrapping_add(127) << 23) as u32);
    if x < -87.3 { 0.0 } else { p * power }
}

pub(crate) const LN2_HIGH: f32 = 0.693_359_4;
pub(crate) const LN2_LOW: f32 = -2.121_944_4e-4;
/// From the highest power down.
pub(crate) const EXP_POLYNOMIAL: [f32; 8] =
    [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];

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

stamped! {
    fn rms_norm_row(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
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
        let scale = 1.0 / (mean + epsilon).sqrt();
        for ((out, value), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = value * scale * weight;
        }
    }
}

stamped! {
    fn silu_mul_row(gate: &[f32], up: &[f32], out: &mut [f32]) {
        for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
            *out = gate / (1.0 + exp(-gate)) * up;
        }
    }
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

    /// `silu(gate) * up`, quantised on the way: the inside of a SwiGLU feed-forward.
    ///
    /// # Shapes
    /// `gate`, `up`: (T, F), `out`: (T, F), resized here.
    pub fn silu_mul(&self, gate: &[f32], up: &[f32], n_cols: usize, out: &mut Activations) {
        assert_eq!(gate.len(), up.len(), "gate and up");
        assert!(gate.len().is_multiple_of(n_cols), "rows of {n_cols} columns");
        out.resize(gate.len() / n_cols, n_cols);
        self.fill_rows(out, |row_idx, out| {
            let start = row_idx * n_cols;
            silu_mul_row(self.isa(), &gate[start..][..n_cols], &up[start..][..n_cols], out);
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
    /// kept, those between blended; keys and queries grow by `1 + 0.1 ln(factor)` times
    /// `attention_factor`.
    Yarn {
        factor: f32,
        original_context: f32,
        attention_factor: f32,
        beta_fast: f32,
        beta_slow: f32,
    },
}

/// Rotary position embedding (Su et al. 2021) of the first `2 * frequencies.len()` dimensions of
/// each head.
#[derive(Clone, Debug)]
pub struct Rope {
    /// Radians a position, for each rotated pair.
    frequencies: Vec<f32>,
    magnitude: f32,
    /// Whether a pair is two neighbours (`llama` files) or one of each half (NeoX).
    neighbours: bool,
}

impl Rope {
    /// # Panics
    /// If `factors` is given and is not one a pair.
    pub fn new(
        n_dims: usize,
        base: f32,
        scaling: &RopeScaling,
        factors: Option<&[f32]>,
        neighbours: bool,
    ) -> Self {
        let n_pairs = n_dims / 2;
        if let Some(factors) = factors {
            assert_eq!(factors.len(), n_pairs, "a factor for each pair");
        }
        let mut magnitude = 1.0;
        let frequencies = (0..n_pairs)
            .map(|pair| {
                let exponent = -2.0 * pair as f64 / n_dims as f64;
                let factor = factors.map_or(1.0, |factors| f64::from(factors[pair]));
                let plain = f64::from(base).powf(exponent) / factor;
                match *scaling {
                    RopeScaling::None => plain as f32,
                    RopeScaling::Linear { factor } => (plain / f64::from(factor)) as f32,
                    RopeScaling::Yarn {
                        factor,
                        original_context,
                        attention_factor,
                        beta_fast,
                        beta_slow,
                    } => {
                        magnitude = attention_factor * (1.0 + 0.1 * factor.ln());
                        // The pair that turns `beta` times over the original context.
                        let pair_of = |beta: f32| {
                            let turns = f64::from(original_context)
                                / (f64::from(beta) * std::f64::consts::TAU);
                            n_dims as f64 * turns.ln() / (2.0 * f64::from(base).ln())
                        };
                        let low = pair_of(beta_fast).floor().max(0.0);
                        let high = pair_of(beta_slow).ceil().min(n_dims as f64 - 1.0);
                        let ramp = (pair as f64 - low) / (high - low).max(0.001);
                        let keep = 1.0 - ramp.clamp(0.0, 1.0);
                        (plain / f64::from(factor) * (1.0 - keep) + plain * keep) as f32
                    }
                }
            })
            .collect();
        Self { frequencies, magnitude, neighbours }
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
            if self.neighbours {
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
