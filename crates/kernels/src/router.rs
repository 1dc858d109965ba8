//! Which experts of a mixture a token goes to, and with what weight (Shazeer et al. 2017).
//!
//! A router sees one token's logits at a time, so a token's experts never depend on its batch.
//!
//! # Numerics
//! Ties go to the lower index. Weights are summed in the order of rank, so they are the same bits
//! everywhere. Renormalised weights divide by a sum of at least [`SMALLEST_SUM`], as in llama.cpp.

use crate::Compute;
use crate::float::{exp, sigmoid};
use crate::isa::stamped;

/// The least number above zero that f16 has without losing bits.
const SMALLEST_SUM: f32 = 6.103_515_6e-5;

/// What turns a router's logits into weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gating {
    /// Over all experts, chosen or not.
    Softmax,
    /// Each expert by itself.
    Sigmoid,
}

/// How a mixture chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Router {
    pub gating: Gating,
    /// A
    pub n_active: usize,
    /// Whether the weights of the chosen experts are made to sum to 1.
    pub renormalise: bool,
}

/// Each token's experts, the heaviest first, and their weights.
///
/// # Shapes
/// (T, A) both.
#[derive(Debug, Default)]
pub struct Routes {
    pub(crate) n_active: usize,
    pub(crate) experts: Vec<usize>,
    pub(crate) weights: Vec<f32>,
}

impl Routes {
    pub fn n_tokens(&self) -> usize {
        self.experts.len() / self.n_active.max(1)
    }

    /// One token's experts and weights by rank.
    pub fn token(&self, token_idx: usize) -> impl Iterator<Item = (usize, f32)> + '_ {
        let ranks = token_idx * self.n_active..(token_idx + 1) * self.n_active;
        self.experts[ranks.clone()].iter().copied().zip(self.weights[ranks].iter().copied())
    }
}

stamped! {
    fn softmax(values: &mut [f32]) {
        let max = values.iter().fold(f32::MIN, |max, value| if *value > max { *value } else { max });
        let mut sum = 0.0;
        for value in values.iter_mut() {
            *value = exp(*value - max);
            sum += *value;
        }
        for value in values {
            *value /= sum;
        }
    }
}

stamped! {
    fn sigmoids(values: &mut [f32]) {
        for value in values {
            *value = sigmoid(*value);
        }
    }
}

impl Compute {
    /// Chooses every token's experts.
    ///
    /// # Shapes
    /// `logits`: (T, E), overwritten with probabilities.
    ///
    /// # Panics
    /// If there are fewer experts than are to be chosen, or none.
    pub fn route(&self, router: Router, logits: &mut [f32], n_experts: usize, out: &mut Routes) {
        let n_active = router.n_active;
        assert!((1..=n_experts).contains(&n_active), "{n_active} of {n_experts} experts");
        assert!(logits.len().is_multiple_of(n_experts), "rows of {n_experts} logits");
        out.n_active = n_active;
        out.experts.clear();
        out.weights.clear();
        for row in logits.chunks_exact_mut(n_experts) {
            match router.gating {
                Gating::Softmax => softmax(self.isa(), row),
                Gating::Sigmoid => sigmoids(self.isa(), row),
            }
            let first = out.weights.len();
            for rank in 0..n_active {
                let chosen = heaviest(row, &out.experts[first..first + rank]);
                out.experts.push(chosen);
                out.weights.push(row[chosen]);
            }
            if router.renormalise {
                let weights = &mut out.weights[first..];
                let sum = weights.iter().sum::<f32>().max(SMALLEST_SUM);
                for weight in weights {
                    *weight /= sum;
                }
            }
        }
    }
}

/// The expert of the greatest weight that is not taken; a weight that is no number counts least.
fn heaviest(weights: &[f32], taken: &[usize]) -> usize {
    let free = (0..weights.len()).filter(|expert_idx| !taken.contains(expert_idx));
    let key = |expert_idx: usize| {
        if weights[expert_idx].is_nan() { f32::NEG_INFINITY } else { weights[expert_idx] }
    };
    free.reduce(|best, next| if key(next) > key(best) { next } else { best })
        .expect("fewer experts are taken than there are")
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::Isa;

    fn route(router: Router, logits: &[f32], n_experts: usize) -> Routes {
        let compute = Compute::new(Isa::detect(), NonZeroUsize::MIN);
        let mut routes = Routes::default();
        compute.route(router, &mut logits.to_vec(), n_experts, &mut routes);
        routes
    }

    fn router(gating: Gating, renormalise: bool) -> Router {
        Router { gating, n_active: 2, renormalise }
    }

    #[test]
    fn weights_are_what_the_formulas_say() {
        let logits = [0.5_f32, -1.0, 2.0, 1.0];
        let exponents: Vec<f64> = logits.iter().map(|x| f64::from(*x).exp()).collect();
        let sum: f64 = exponents.iter().sum();
        let logistic = |x: f64| 1.0 / (1.0 + (-x).exp());
        for (gating, renormalise, expected) in [
            (Gating::Softmax, false, [exponents[2] / sum, exponents[3] / sum]),
            (Gating::Softmax, true, [1.0, -1.0].map(logistic)),
            (Gating::Sigmoid, false, [2.0, 1.0].map(logistic)),
            (
                Gating::Sigmoid,
                true,
                [2.0, 1.0].map(|x| logistic(x) / (logistic(2.0) + logistic(1.0))),
            ),
        ] {
            let routes = route(router(gating, renormalise), &logits, 4);
            let chosen: Vec<(usize, f32)> = routes.token(0).collect();
            assert_eq!([chosen[0].0, chosen[1].0], [2, 3]);
            for ((_, weight), expected) in chosen.iter().zip(expected) {
                assert!((f64::from(*weight) - expected).abs() < 1e-6, "{gating:?} {renormalise}");
            }
        }
    }

    #[test]
    fn ties_go_to_the_lower_index_and_tokens_do_not_meet() {
        let routes = route(router(Gating::Softmax, true), &[1.0, 1.0, 1.0, 5.0, 0.0, 5.0], 3);
        assert_eq!(routes.n_tokens(), 2);
        assert_eq!(routes.token(0).collect::<Vec<_>>(), [(0, 0.5), (1, 0.5)]);
        let second: Vec<usize> = routes.token(1).map(|(expert_idx, _)| expert_idx).collect();
        assert_eq!(second, [0, 2]);
        let alone = route(router(Gating::Softmax, true), &[5.0, 0.0, 5.0], 3);
        assert!(alone.token(0).eq(routes.token(1)));
    }

    #[test]
    fn logits_that_are_no_numbers_still_choose_different_experts() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for gating in [Gating::Softmax, Gating::Sigmoid] {
                let routes = route(router(gating, true), &[bad; 4], 4);
                let chosen: Vec<usize> =
                    routes.token(0).map(|(expert_idx, _)| expert_idx).collect();
                assert_eq!(chosen, [0, 1]);
            }
        }
    }

    #[test]
    fn weights_too_small_to_sum_are_not_blown_up() {
        let routes = route(router(Gating::Sigmoid, true), &[-80.0, -80.0], 2);
        assert!(routes.token(0).all(|(_, weight)| weight < 1e-20));
    }
}
