//! What lies between the two products of a low-rank addition: experts are chosen and weighed.
//!
//! `y += B (gate * scale * (A x))`. All experts of a linear are one product each way: with the gates
//! of those that were not chosen at zero, the sum over experts is one matrix of (E * r) columns.
//! Both products are [`Compute::products`], beside those of the model's own weights.

use crate::activations::Activations;
use crate::float::sigmoid;
use crate::packed::PANEL_COLS;
use crate::{Compute, Isa, isa::stamped};

/// The inner dimensions of a low-rank addition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LowRankShape {
    /// E
    pub n_experts: usize,
    /// r
    pub rank: usize,
}

impl LowRankShape {
    /// E * r: what `A` gives for one linear.
    pub fn width(&self) -> usize {
        self.n_experts * self.rank
    }

    /// The columns of a packed `B`: [`Self::width`] in whole panels, so that it can be of any type.
    pub fn padded_width(&self) -> usize {
        self.width().next_multiple_of(PANEL_COLS)
    }
}

/// How much of each expert each token gets.
///
/// # Shapes
/// (T, E); zero for experts that were not chosen, the others' sum is 1.
#[derive(Debug, Default)]
pub struct ExpertGates {
    n_experts: usize,
    gates: Vec<f32>,
}

impl ExpertGates {
    /// Room for the router's logits of so many tokens; [`Compute::choose_experts`] makes them gates.
    pub fn logits_mut(&mut self, n_tokens: usize, n_experts: usize) -> &mut [f32] {
        self.n_experts = n_experts;
        self.gates.resize(n_tokens * n_experts, 0.0);
        &mut self.gates
    }

    /// By token.
    pub fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.gates.chunks_exact(self.n_experts.max(1))
    }
}

stamped! {
    fn sigmoids(values: &mut [f32]) {
        for value in values {
            *value = sigmoid(*value);
        }
    }
}

stamped! {
    fn scale_into(scale: f32, values: &[f32], out: &mut [f32]) {
        for (out, value) in out.iter_mut().zip(values) {
            *out = *value * scale;
        }
    }
}

/// One token's gates in place of its scores.
fn choose(bias: &[f32], top_k: usize, chosen: &mut Vec<usize>, scores: &mut [f32]) {
    chosen.clear();
    let mut sum = 0.0;
    for _ in 0..top_k {
        let key = |expert_idx: usize| {
            let key = scores[expert_idx] + bias[expert_idx];
            if key.is_nan() { f32::NEG_INFINITY } else { key }
        };
        let free = (0..scores.len()).filter(|expert_idx| !chosen.contains(expert_idx));
        let best = free.reduce(|best, next| if key(next) > key(best) { next } else { best });
        let Some(best) = best else { break };
        sum += scores[best];
        chosen.push(best);
    }
    for (expert_idx, score) in scores.iter_mut().enumerate() {
        *score = if chosen.contains(&expert_idx) { *score / sum } else { 0.0 };
    }
}

impl Compute {
    /// Turns a router's logits into gates: scores are sigmoids of logits; the `top_k` experts with
    /// the greatest score plus bias are chosen, ties to the lower index; their scores are divided by
    /// their sum. The bias does nothing but choose.
    ///
    /// # Shapes
    /// `bias`: (E).
    pub fn choose_experts(&self, bias: &[f32], top_k: usize, gates: &mut ExpertGates) {
        assert_eq!(bias.len(), gates.n_experts, "a bias for each expert");
        sigmoids(self.isa(), &mut gates.gates);
        let mut chosen = Vec::with_capacity(top_k);
        for scores in gates.gates.chunks_exact_mut(gates.n_experts) {
            choose(bias, top_k, &mut chosen, scores);
        }
    }

    /// `out = scale * gate * low`, a matrix of inputs for each linear's `B`; no gates are gates of 1.
    ///
    /// # Shapes
    /// `low`: (T, n, E, r) for n linears; each of `outs`: (T, padded width), resized here.
    pub fn gate_low_rank(
        &self,
        (low, shape): (&[f32], LowRankShape),
        gates: Option<&ExpertGates>,
        scale: f32,
        outs: &mut [Activations],
    ) {
        let width = shape.width();
        let low_width = outs.len() * width;
        assert!(low_width > 0 && low.len().is_multiple_of(low_width), "rows of {low_width}");
        let n_tokens = low.len() / low_width;
        for (linear_idx, out) in outs.iter_mut().enumerate() {
            out.resize(n_tokens, shape.padded_width());
            self.fill_rows(out, |row_idx, out| {
                let low = &low[row_idx * low_width + linear_idx * width..][..width];
                let gates = gates.map(|gates| &gates.gates[row_idx * gates.n_experts..]);
                gate_row(self.isa(), low, shape.rank, gates, scale, out);
            });
        }
    }
}

fn gate_row(
    isa: Isa,
    low: &[f32],
    rank: usize,
    gates: Option<&[f32]>,
    scale: f32,
    out: &mut [f32],
) {
    let (out, padding) = out.split_at_mut(low.len());
    padding.fill(0.0);
    let experts = low.chunks_exact(rank).zip(out.chunks_exact_mut(rank));
    for (expert_idx, (low, out)) in experts.enumerate() {
        let gate = gates.map_or(1.0, |gates| gates[expert_idx]);
        scale_into(isa, gate * scale, low, out);
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;

    fn compute() -> Compute {
        Compute::new(Isa::detect(), NonZeroUsize::MIN)
    }

    fn gates(logits: &[f32], bias: &[f32], top_k: usize) -> Vec<f32> {
        let mut gates = ExpertGates::default();
        gates.logits_mut(1, logits.len()).copy_from_slice(logits);
        compute().choose_experts(bias, top_k, &mut gates);
        gates.gates
    }

    #[test]
    fn a_bias_chooses_and_does_not_weigh() {
        let logits = [0.0, 1.0, -1.0, 1.0];
        assert_eq!(gates(&logits, &[0.0; 4], 2), [0.0, 0.5, 0.0, 0.5], "ties share");
        assert_eq!(gates(&logits, &[0.0; 4], 1), [0.0, 1.0, 0.0, 0.0], "the lower index");
        let found = gates(&logits, &[0.0, 0.0, 5.0, 0.0], 2);
        let (low, high) = (sigmoid(-1.0), sigmoid(1.0));
        let expected = [0.0, high / (low + high), low / (low + high), 0.0];
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
    }

    #[test]
    fn logits_that_are_no_numbers_still_choose_as_many() {
        let found = gates(&[f32::NAN, 1.0, f32::NAN], &[0.0; 3], 2);
        assert_eq!(found.iter().filter(|gate| **gate != 0.0).count(), 2);
    }

    #[test]
    fn rows_are_gated_by_expert_and_padded_with_zeros() {
        let shape = LowRankShape { n_experts: 2, rank: 3 };
        let low: Vec<f32> = (1_u8..=24).map(f32::from).collect();
        let mut gates = ExpertGates::default();
        gates.logits_mut(2, 2).copy_from_slice(&[0.0, 1.0, 0.25, 0.75]);
        // What was there before must not shine through.
        let mut outs = [Activations::default(), Activations::default()];
        for out in &mut outs {
            out.resize(2, 32);
            out.row_mut(1).fill(7.0);
        }
        compute().gate_low_rank((&low, shape), Some(&gates), 2.0, &mut outs);
        assert_eq!(outs[0].row(0)[..6], [0.0, 0.0, 0.0, 8.0, 10.0, 12.0]);
        assert_eq!(outs[1].row(0)[..6], [0.0, 0.0, 0.0, 20.0, 22.0, 24.0]);
        assert_eq!(outs[0].row(1)[..6], [6.5, 7.0, 7.5, 24.0, 25.5, 27.0]);
        assert!(outs.iter().all(|out| out.row(1)[6..].iter().all(|value| *value == 0.0)));
    }
}
