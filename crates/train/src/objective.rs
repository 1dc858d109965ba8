//! Losses: each is a value and its gradient by the log-probabilities of tokens, nothing more.
//!
//! A loss sees the log-probabilities of one [`crate::plan::Unit`] (a sequence, or a pair of them)
//! and what the step it belongs to sums up to, so units can go through the network in any packs.
//!
//! Left out, with reasons: IPO, APO and other forms of the preference loss, because one good form
//! with a margin, smoothing and normalisation by length covers what data of this size can tell
//! apart.

use crate::recipe::{DpoRecipe, KtoRecipe};

/// A loss's value and gradient.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Graded {
    pub(crate) loss: f64,
    /// By the log-probability of each target of each sequence.
    pub(crate) d_log_probs: Vec<Vec<f64>>,
    /// How far the chosen reply is ahead, in the loss's own units.
    pub(crate) margin: f64,
}

/// The mean negative log-probability of tokens, weighted: its gradient, which does not depend on the
/// log-probabilities. The loss is the sum of their products.
///
/// `total_weight` is the sum over the step.
pub(crate) fn sft_gradient(weights: &[f64], total_weight: f64) -> Vec<f64> {
    weights.iter().map(|weight| -weight / total_weight).collect()
}

/// A reply of a pair: its tokens' log-probabilities now, and their sum under the reference.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scored<'a> {
    pub(crate) log_probs: &'a [f64],
    pub(crate) reference: f64,
}

impl Scored<'_> {
    /// `log pi(y) / ref(y)`, and what a token's log-probability counts in it.
    fn advantage(&self, length_normalised: bool) -> (f64, f64) {
        let n_tokens = self.log_probs.len().max(1) as f64;
        let share = if length_normalised { 1.0 / n_tokens } else { 1.0 };
        ((self.log_probs.iter().sum::<f64>() - self.reference) * share, share)
    }
}

/// Direct preference optimisation (Rafailov et al. 2023), one pair's part of the step's mean over
/// `n_pairs`:
///
/// `-(1 - s) log sigmoid(h) - s log sigmoid(-h)`, with
/// `h = beta (advantage(chosen) - advantage(rejected)) - margin`
///
/// plus `sft_weight` times the chosen reply's mean negative log-probability.
pub(crate) fn dpo(
    recipe: &DpoRecipe,
    chosen: Scored<'_>,
    rejected: Scored<'_>,
    margin: f64,
    n_pairs: f64,
) -> Graded {
    let (ahead, chosen_share) = chosen.advantage(recipe.length_normalised);
    let (behind, rejected_share) = rejected.advantage(recipe.length_normalised);
    let reward_margin = recipe.beta * (ahead - behind);
    let h = reward_margin - recipe.margin_weight * margin;
    let smoothing = recipe.label_smoothing;
    let preference = (1.0 - smoothing) * softplus(-h) + smoothing * softplus(h);
    // d/dh of the above: sigmoid(h) - (1 - s).
    let d_h = (sigmoid(h) - (1.0 - smoothing)) / n_pairs;
    let n_chosen = chosen.log_probs.len().max(1) as f64;
    let imitation = -chosen.log_probs.iter().sum::<f64>() / n_chosen;
    let d_imitation = -recipe.sft_weight / n_chosen / n_pairs;
    let d_chosen = d_h * recipe.beta * chosen_share + d_imitation;
    let d_rejected = -d_h * recipe.beta * rejected_share;
    Graded {
        loss: (preference + recipe.sft_weight * imitation) / n_pairs,
        d_log_probs: vec![
            vec![d_chosen; chosen.log_probs.len()],
            vec![d_rejected; rejected.log_probs.len()],
        ],
        margin: reward_margin,
    }
}

/// Kahneman-Tversky optimisation (Ethayarajh et al. 2024), one reply's part of the step's mean over
/// `n_replies`: `w (1 - sigmoid(beta (advantage - z)))` for a liked reply, with the sign of the inside
/// turned for a disliked one. `z`, the mean advantage of replies to other prompts, is a constant.
pub(crate) fn kto(
    recipe: &KtoRecipe,
    reply: Scored<'_>,
    is_liked: bool,
    z: f64,
    n_replies: f64,
) -> Graded {
    let (advantage, _) = reply.advantage(false);
    let (weight, sign) =
        if is_liked { (recipe.liked_weight, 1.0) } else { (recipe.disliked_weight, -1.0) };
    let kept = sigmoid(sign * recipe.beta * (advantage - z));
    let d_advantage = -weight * sign * recipe.beta * kept * (1.0 - kept) / n_replies;
    Graded {
        loss: weight * (1.0 - kept) / n_replies,
        d_log_probs: vec![vec![d_advantage; reply.log_probs.len()]],
        margin: sign * recipe.beta * (advantage - z),
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `ln(1 + e^x)` without overflow.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Holds a loss's gradient against finite differences.
    fn check(
        log_probs: &[Vec<f64>],
        of: impl Fn(&[Vec<f64>]) -> Graded,
    ) -> Result<(), TestCaseError> {
        let graded = of(log_probs);
        let step = 1e-6;
        for (sequence, values) in log_probs.iter().enumerate() {
            for place in 0..values.len() {
                let at = |delta: f64| {
                    let mut moved = log_probs.to_vec();
                    moved[sequence][place] += delta;
                    of(&moved).loss
                };
                let slope = (at(step) - at(-step)) / (2.0 * step);
                let found = graded.d_log_probs[sequence][place];
                prop_assert!((slope - found).abs() < 1e-6, "{} for {}", found, slope);
            }
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn gradients_are_slopes(
            chosen in prop::collection::vec(-4.0..0.0_f64, 1..6),
            rejected in prop::collection::vec(-4.0..0.0_f64, 1..6),
            references in (-9.0..0.0_f64, -9.0..0.0_f64),
            (beta, smoothing, sft_weight, margin) in (0.05..2.0_f64, 0.0..0.4_f64, 0.0..1.0_f64, 0.0..2.0_f64),
            length_normalised in any::<bool>(),
        ) {
            let recipe = DpoRecipe {
                beta, length_normalised, label_smoothing: smoothing, margin_weight: 0.7, sft_weight,
            };
            check(&[chosen, rejected], |log_probs| {
                let scored = |idx: usize, reference| Scored { log_probs: &log_probs[idx], reference };
                dpo(&recipe, scored(0, references.0), scored(1, references.1), margin, 3.0)
            })?;
        }
    }

    proptest! {
        #[test]
        fn gradients_of_labels_are_slopes(
            reply in prop::collection::vec(-4.0..0.0_f64, 1..6),
            (reference, z) in (-9.0..0.0_f64, 0.0..3.0_f64),
            (beta, liked_weight, disliked_weight) in (0.05..2.0_f64, 0.0..2.0_f64, 0.0..2.0_f64),
            is_liked in any::<bool>(),
        ) {
            let recipe = KtoRecipe { beta, liked_weight, disliked_weight };
            check(&[reply], |log_probs| {
                kto(&recipe, Scored { log_probs: &log_probs[0], reference }, is_liked, z, 3.0)
            })?;
        }
    }

    #[test]
    fn a_pair_at_the_reference_loses_ln_2() {
        let log_probs = [-1.0, -2.0];
        let scored = Scored { log_probs: &log_probs, reference: -3.0 };
        let graded = dpo(&DpoRecipe::default(), scored, scored, 0.0, 1.0);
        assert!((graded.loss - std::f64::consts::LN_2).abs() < 1e-12);
        assert!(graded.margin.abs() < 1e-12);
        // Far on the wrong side the loss grows in a straight line and stays finite.
        let far = Scored { log_probs: &log_probs, reference: 1e5 };
        let graded = dpo(&DpoRecipe::default(), far, scored, 0.0, 1.0);
        assert!((graded.loss - 0.1 * (1e5 + 3.0)).abs() < 1e-6, "{}", graded.loss);
    }
}
