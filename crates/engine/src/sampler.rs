//! How the next token is chosen.
//!
//! In order: repetition, presence and frequency penalties, logit bias, the constraint's mask, then
//! greedy or temperature, top-k, top-p, min-p and one draw. The draw is a function of the seed and
//! the token's place alone, so the same seed gives the same text whatever else is in the batch.

use std::collections::HashMap;

use rapport_types::Sampling;

use crate::request::Constraint;

/// A chosen token.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    pub token: u32,
    /// Natural logarithm of its probability before penalties and filters; 0 unless asked for.
    pub logprob: f32,
    /// The most likely tokens in this place with theirs; as many as asked for.
    pub top: Vec<(u32, f32)>,
}

/// One sequence's sampling state.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    seed: u64,
    n_drawn: u64,
    /// Tokens of the prompt and the reply: the repetition penalty looks at both.
    seen: HashMap<u32, Seen>,
    candidates: Vec<(f32, u32)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    n_written: u32,
}

impl Sampler {
    pub fn new(sampling: Sampling, seed: u64, prompt: &[u32]) -> Self {
        let seen = prompt.iter().map(|&token| (token, Seen::default())).collect();
        Self { sampling, seed, n_drawn: 0, seen, candidates: Vec::new() }
    }

    /// Takes note of a token that was written, chosen or forced.
    pub fn accept(&mut self, token: u32) {
        self.seen.entry(token).or_default().n_written += 1;
    }

    /// Chooses a token from one row of logits, which stays as it is; `work` is room for a copy of
    /// it, kept from one call to the next.
    ///
    /// # Panics
    /// If there are no logits.
    pub fn choose(
        &mut self,
        logits: &[f32],
        constraint: Option<&mut (dyn Constraint + 'static)>,
        work: &mut Vec<f32>,
    ) -> Choice {
        self.n_drawn += 1;
        let token = if constraint.is_none() && !self.changes_logits() {
            self.pick(logits)
        } else {
            work.clear();
            work.extend_from_slice(logits);
            self.penalize(work);
            if let Some(constraint) = constraint {
                constraint.mask(work);
            }
            self.pick(work)
        };
        let Some(n_top) = self.sampling.top_logprobs else {
            return Choice { token, logprob: 0.0, top: Vec::new() };
        };
        let normaliser = log_sum_exp(logits);
        let logprob = logits[token as usize] - normaliser;
        Choice { token, logprob, top: top(logits, n_top as usize, normaliser) }
    }

    /// Whether penalties or biases do anything at all.
    #[expect(clippy::float_cmp, reason = "exactly these values do nothing")]
    fn changes_logits(&self) -> bool {
        let sampling = &self.sampling;
        sampling.repetition_penalty != 1.0
            || sampling.presence_penalty != 0.0
            || sampling.frequency_penalty != 0.0
            || !sampling.logit_bias.is_empty()
    }

    fn pick(&mut self, logits: &[f32]) -> u32 {
        if self.sampling.is_greedy() { argmax(logits) } else { self.draw(logits) }
    }

    fn penalize(&self, logits: &mut [f32]) {
        let sampling = &self.sampling;
        for (&token, seen) in &self.seen {
            let Some(logit) = logits.get_mut(token as usize) else { continue };
            if *logit > 0.0 {
                *logit /= sampling.repetition_penalty;
            } else {
                *logit *= sampling.repetition_penalty;
            }
            if seen.n_written > 0 {
                *logit -= sampling.presence_penalty;
                *logit -= sampling.frequency_penalty * seen.n_written as f32;
            }
        }
        for entry in &sampling.logit_bias {
            if let Some(logit) = logits.get_mut(entry.token as usize) {
                *logit += entry.bias;
            }
        }
    }

    fn draw(&mut self, logits: &[f32]) -> u32 {
        let sampling = &self.sampling;
        let max = max(logits);
        if !max.is_finite() {
            return argmax(logits);
        }
        // Below e^-30 of the most likely token nothing is ever drawn.
        let floor = max - 30.0 * sampling.temperature;
        self.candidates.clear();
        self.candidates.extend(
            logits
                .iter()
                .zip(0..)
                .filter(|(logit, _)| **logit >= floor)
                .map(|(logit, token)| (((logit - max) / sampling.temperature).exp(), token)),
        );
        // Most likely first; equal ones by id, so that the order is one.
        let order = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        let n_kept = match sampling.top_k as usize {
            0 => self.candidates.len(),
            top_k => top_k.min(self.candidates.len()),
        };
        if n_kept < self.candidates.len() {
            self.candidates.select_nth_unstable_by(n_kept - 1, order);
            self.candidates.truncate(n_kept);
        }
        self.candidates.sort_unstable_by(order);
        let total: f64 = self.candidates.iter().map(|(weight, _)| f64::from(*weight)).sum();
        let min_weight = sampling.min_p * self.candidates[0].0;
        let mut kept = 0.0;
        let mut n_kept = 0;
        for (weight, _) in &self.candidates {
            if n_kept > 0 && (kept >= f64::from(sampling.top_p) * total || *weight < min_weight) {
                break;
            }
            kept += f64::from(*weight);
            n_kept += 1;
        }
        let mut target = uniform(self.seed, self.n_drawn) * kept;
        for (weight, token) in &self.candidates[..n_kept] {
            target -= f64::from(*weight);
            if target < 0.0 {
                return *token;
            }
        }
        self.candidates[n_kept - 1].1
    }
}

/// The first of the largest logits; NaN counts as smallest.
pub(crate) fn argmax(logits: &[f32]) -> u32 {
    // The largest first, in lanes, and then where it is: twice as fast as both at once.
    let max = max(logits);
    logits.iter().position(|logit| *logit >= max).unwrap_or(0) as u32
}

/// The largest logit, NaN left out; negative infinity if there is none.
fn max(logits: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (chunks, rest) = logits.as_chunks::<16>();
    let mut lanes = [f32::NEG_INFINITY; 16];
    for chunk in chunks {
        for (lane, logit) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, *logit);
        }
    }
    lanes.into_iter().chain(rest.iter().copied()).fold(f32::NEG_INFINITY, larger)
}

fn log_sum_exp(logits: &[f32]) -> f32 {
    let max = max(logits);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - max).exp()).sum();
    (f64::from(max) + sum.ln()) as f32
}

fn top(logits: &[f32], n_top: usize, normaliser: f32) -> Vec<(u32, f32)> {
    let mut all: Vec<(u32, f32)> =
        logits.iter().zip(0..).map(|(logit, token)| (token, logit - normaliser)).collect();
    let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    let n_top = n_top.min(all.len());
    if n_top == 0 {
        return Vec::new();
    }
    all.select_nth_unstable_by(n_top - 1, order);
    all.truncate(n_top);
    all.sort_unstable_by(order);
    all
}

/// A number in `[0, 1)` from a seed and a place: SplitMix64 (Steele, Lea and Flood 2014).
fn uniform(seed: u64, place: u64) -> f64 {
    let mut z = seed.wrapping_add(place.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    (z >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use rapport_types::{LogitBias, SamplingDraft};

    fn sampler(draft: SamplingDraft, prompt: &[u32]) -> Sampler {
        Sampler::new(draft.validate().unwrap(), 7, prompt)
    }

    fn plain() -> SamplingDraft {
        SamplingDraft { temperature: 1.0, top_p: 1.0, ..SamplingDraft::default() }
    }

    /// How often each of `logits.len()` tokens is drawn in `n` draws.
    fn frequencies(draft: &SamplingDraft, logits: &[f32], n: u32) -> Vec<f64> {
        let mut sampler = sampler(draft.clone(), &[]);
        let mut counts = vec![0.0; logits.len()];
        for _ in 0..n {
            let token = sampler.choose(logits, None, &mut Vec::new()).token;
            counts[token as usize] += 1.0 / f64::from(n);
        }
        counts
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        let mut greedy = Sampler::new(Sampling::greedy(), 0, &[]);
        assert_eq!(greedy.choose(&[f32::NAN, 3.0, 3.0, f32::NAN], None, &mut Vec::new()).token, 1);
    }

    #[test]
    fn draws_follow_the_softmax_at_the_temperature() {
        let logits = [1.0_f32, 0.0, -1.0, 0.5];
        for temperature in [0.5, 1.0, 2.0] {
            let draft = SamplingDraft { temperature, ..plain() };
            let weights: Vec<f64> =
                logits.iter().map(|x| f64::from(x / temperature).exp()).collect();
            let total: f64 = weights.iter().sum();
            for (got, weight) in frequencies(&draft, &logits, 40_000).iter().zip(&weights) {
                assert!((got - weight / total).abs() < 0.012, "{got} for {}", weight / total);
            }
        }
    }

    #[test]
    fn filters_keep_what_they_promise() {
        let logits = [2.0_f32, 1.0, 0.0, -3.0];
        let kept = |draft: SamplingDraft| -> Vec<bool> {
            frequencies(&draft, &logits, 20_000).iter().map(|share| *share > 0.0).collect()
        };
        assert_eq!(kept(SamplingDraft { top_k: 2, ..plain() }), [true, true, false, false]);
        // Shares are 0.66, 0.24, 0.09, 0.004.
        assert_eq!(kept(SamplingDraft { top_p: 0.7, ..plain() }), [true, true, false, false]);
        assert_eq!(kept(SamplingDraft { top_p: 0.001, ..plain() }), [true, false, false, false]);
        assert_eq!(kept(SamplingDraft { min_p: 0.1, ..plain() }), [true, true, true, false]);
        assert_eq!(kept(plain()), [true, true, true, true]);
    }

    #[test]
    fn penalties_and_bias_change_logits_as_documented() {
        let draft = SamplingDraft {
            temperature: 0.0,
            repetition_penalty: 2.0,
            presence_penalty: 0.5,
            frequency_penalty: 0.25,
            logit_bias: vec![LogitBias { token: 3, bias: 9.0 }, LogitBias { token: 99, bias: 1.0 }],
            ..plain()
        };
        let mut sampler = sampler(draft, &[0, 1]);
        sampler.accept(1);
        sampler.accept(1);
        sampler.accept(2);
        let (logits, mut changed) = ([4.0, -4.0, 4.0, 0.0], Vec::new());
        sampler.choose(&logits, None, &mut changed);
        let bits: Vec<u32> = changed.into_iter().map(f32::to_bits).collect();
        assert_eq!(bits, [2.0_f32, -9.0, 1.25, 9.0].map(f32::to_bits));
    }

    #[test]
    fn log_probabilities_are_those_before_the_filters() {
        let draft = SamplingDraft {
            temperature: 0.0,
            top_logprobs: Some(2),
            logit_bias: vec![LogitBias { token: 2, bias: 50.0 }],
            ..plain()
        };
        let choice = sampler(draft, &[]).choose(&[1.0, 0.0, -1.0], None, &mut Vec::new());
        let normaliser = (1_f32.exp() + 1.0 + (-1_f32).exp()).ln();
        assert_eq!(choice.token, 2);
        assert!((choice.logprob - (-1.0 - normaliser)).abs() < 1e-6);
        assert_eq!(choice.top.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [0, 1]);
        assert!((choice.top[0].1 - (1.0 - normaliser)).abs() < 1e-6);
    }

    #[test]
    fn a_seed_and_a_place_give_one_draw() {
        let logits = [0.0_f32; 50];
        let run = |seed| {
            let mut sampler = Sampler::new(plain().validate().unwrap(), seed, &[]);
            let mut choose = || sampler.choose(&logits, None, &mut Vec::new()).token;
            (0..20).map(|_| choose()).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }
}
