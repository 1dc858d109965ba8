//! Losses: each is a value and its gradient by the log-probabilities of tokens, nothing more.
//!
//! A loss sees the log-probabilities of one [`crate::plan::Unit`] (a sequence, or a pair of them)
//! and what the step it belongs to sums up to, so units can go through the network in any packs.
//!
//! Left out, with reasons: IPO, APO and other forms of the preference loss, because one good form
//! with a margin, smoothing and normalisation by length covers what data of this size can tell
//! apart.

use crate::recipe::{DpoRecipe, GrpoRecipe, KlEstimate, KtoRecipe, RewardRecipe};

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

/// A pair's rewards: one part of the step's mean over `n_pairs` of
/// `-log sigmoid(chosen - rejected - margin) + centering (chosen + rejected)^2` (Bradley and Terry
/// 1952; the second term is that of Eisenstein et al. 2023 and keeps rewards near zero).
///
/// Its gradient is by the two rewards.
pub(crate) fn bradley_terry(
    recipe: &RewardRecipe,
    [chosen, rejected]: [f64; 2],
    margin: f64,
    n_pairs: f64,
) -> Graded {
    let h = chosen - rejected - recipe.margin_weight * margin;
    let sum = chosen + rejected;
    let d_h = (sigmoid(h) - 1.0) / n_pairs;
    let d_sum = 2.0 * recipe.centering * sum / n_pairs;
    Graded {
        loss: (softplus(-h) + recipe.centering * sum * sum) / n_pairs,
        d_log_probs: vec![vec![d_h + d_sum, d_sum - d_h]],
        margin: chosen - rejected,
    }
}

/// A reply that the policy wrote: the log-probabilities of its tokens now, when it was written, and
/// under the reference.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written<'a> {
    pub(crate) now: &'a [f64],
    pub(crate) old: &'a [f64],
    /// `None` where the distance from the reference counts nothing.
    pub(crate) reference: Option<&'a [f64]>,
    pub(crate) advantage: f64,
}

/// Group-relative policy optimisation (Shao et al. 2024), one reply's part: each token counts
/// `share`, which is where the aggregations differ ([`crate::recipe::Aggregation`]), in
///
/// `-min(rho A, clip(rho, 1 - low, 1 + high) A) + beta KL`, with `rho = pi(t) / pi_old(t)`
///
/// `clip_high` may lie above `clip_low` (DAPO, Yu et al. 2025). KL, with `d = log pi - log ref`, is
/// `d^2 / 2` or `rho (e^-d + d - 1)`; the factor `rho`, through which the gradient goes, makes the
/// second unbiased (TRL's `use_bias_correction_kl`).
///
/// `margin` is the summed estimate of KL, which is measured with `e^-d + d - 1` either way.
pub(crate) fn grpo(recipe: &GrpoRecipe, reply: Written<'_>, share: f64) -> Graded {
    let mut graded = Graded::default();
    let mut d_log_probs = Vec::with_capacity(reply.now.len());
    for (place, (now, old)) in reply.now.iter().zip(reply.old).enumerate() {
        let ratio = (now - old).exp();
        let free = ratio * reply.advantage;
        let clipped = ratio.clamp(1.0 - recipe.clip_low, 1.0 + recipe.clip_high) * reply.advantage;
        let mut loss = -free.min(clipped);
        let mut slope = if free <= clipped { -free } else { 0.0 };
        if let Some(reference) = reply.reference {
            let d = now - reference[place];
            let k3 = (-d).exp_m1() + d;
            let (kl, d_kl) = match recipe.kl {
                KlEstimate::K2 => (d * d / 2.0, d),
                KlEstimate::K3 => (ratio * k3, ratio * (k3 - (-d).exp_m1())),
            };
            loss += recipe.kl_weight * kl;
            slope += recipe.kl_weight * d_kl;
            graded.margin += k3;
        }
        graded.loss += share * loss;
        d_log_probs.push(share * slope);
    }
    graded.d_log_probs = vec![d_log_probs];
    graded
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

    proptest! {
        #[test]
        fn gradients_of_what_was_written_are_slopes(
            tokens in prop::collection::vec((-4.0..0.0_f64, -0.6..0.6_f64, -1.0..1.0_f64), 1..6),
            (advantage, kl_weight, share) in (-2.0..2.0_f64, 0.0..0.5_f64, 0.1..1.0_f64),
            is_k3 in any::<bool>(),
        ) {
            let kl = if is_k3 { KlEstimate::K3 } else { KlEstimate::K2 };
            let recipe = GrpoRecipe { kl, kl_weight, ..GrpoRecipe::default() };
            let now: Vec<f64> = tokens.iter().map(|token| token.0).collect();
            let old: Vec<f64> = tokens.iter().map(|token| token.0 - token.1).collect();
            let reference: Vec<f64> = tokens.iter().map(|token| token.0 - token.2).collect();
            // A corner has no slope.
            let is_corner = |log_ratio: f64| {
                [1.0 - recipe.clip_low, 1.0 + recipe.clip_high]
                    .iter()
                    .any(|edge| (log_ratio - edge.ln()).abs() < 1e-4)
            };
            prop_assume!(tokens.iter().all(|token| !is_corner(token.1)));
            check(&[now], |log_probs| {
                let reference = Some(&reference[..]);
                let written = Written { now: &log_probs[0], old: &old, reference, advantage };
                grpo(&recipe, written, share)
            })?;
        }

        #[test]
        fn gradients_of_rewards_are_slopes(
            rewards in (-3.0..3.0_f64, -3.0..3.0_f64),
            (margin, centering) in (0.0..2.0_f64, 0.0..0.1_f64),
        ) {
            let recipe = RewardRecipe { centering, margin_weight: 0.7 };
            check(&[vec![rewards.0, rewards.1]], |rewards| {
                bradley_terry(&recipe, [rewards[0][0], rewards[0][1]], margin, 3.0)
            })?;
        }
    }

    #[test]
    fn a_reply_that_went_far_enough_is_let_go() {
        let recipe = GrpoRecipe { kl_weight: 0.0, ..GrpoRecipe::default() };
        let slope = |log_ratio: f64, advantage: f64| {
            let (now, old) = ([log_ratio - 1.0], [-1.0]);
            let written = Written { now: &now, old: &old, reference: None, advantage };
            grpo(&recipe, written, 1.0).d_log_probs[0][0]
        };
        // Good replies are pushed up to 1.28, bad ones down to 0.8, and both are pulled back.
        assert!(slope(0.2, 1.0) < 0.0 && slope(0.3, 1.0).abs() < 1e-12);
        assert!(slope(-0.1, -1.0) > 0.0 && slope(-0.3, -1.0).abs() < 1e-12);
        assert!(slope(-0.5, 1.0) < 0.0 && slope(0.5, -1.0) > 0.0);
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
