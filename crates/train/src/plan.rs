//! Which rows are learned in which step: decided before the first one, from the seed alone.
//!
//! A unit is what a loss needs at once: a sequence, or the two of a pair. Units are shuffled anew in
//! each epoch, filled into packs one after another, and packs into steps. Nothing is padded, so a
//! pack costs what its tokens cost, and how units are packed changes no result beyond rounding.

use std::ops::Range;

use crate::network::{Pack, Target};
use crate::random::Random;
use crate::text::Sequence;

/// What a loss needs at once.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Unit {
    /// One for SFT and KTO; chosen and rejected for DPO.
    pub(crate) sequences: Vec<Sequence>,
    /// How much better the first of a pair is.
    pub(crate) margin: f64,
    /// For KTO: whether people liked the reply.
    pub(crate) is_liked: bool,
    /// For KTO: another row's reply to this prompt, which says how far replies have moved on the
    /// whole. Nothing is learned from it.
    pub(crate) mismatched: Option<Sequence>,
}

impl Unit {
    /// A unit of sequences and nothing else.
    pub(crate) fn new(sequences: Vec<Sequence>) -> Self {
        Self { sequences, margin: 0.0, is_liked: false, mismatched: None }
    }

    /// Sequences whose log-probabilities under the reference the loss asks for.
    pub(crate) fn referenced(&self) -> impl Iterator<Item = &Sequence> {
        self.sequences.iter().chain(&self.mismatched)
    }

    pub(crate) fn n_tokens(&self) -> usize {
        self.sequences.iter().map(|sequence| sequence.tokens.len()).sum()
    }
}

/// Units of one pass through the network.
pub(crate) type UnitPack = Vec<usize>;

/// Every step of a stage, as packs of units.
pub(crate) fn steps(
    units: &[Unit],
    (pack_tokens, batch_tokens): (usize, usize),
    epochs: f64,
    seed: u64,
) -> Vec<Vec<UnitPack>> {
    if units.is_empty() {
        return Vec::new();
    }
    let n_drawn = ((units.len() as f64 * epochs).round() as usize).max(1);
    let mut order = Vec::with_capacity(n_drawn);
    for epoch in 0.. {
        let mut of_epoch: Vec<usize> = (0..units.len()).collect();
        Random::stream(seed, epoch).shuffle(&mut of_epoch);
        of_epoch.truncate(n_drawn - order.len());
        order.extend(of_epoch);
        if order.len() == n_drawn {
            break;
        }
    }
    let mut steps = Vec::new();
    let mut step: Vec<usize> = Vec::new();
    let mut step_tokens = 0;
    for unit_idx in order {
        let n_tokens = units[unit_idx].n_tokens();
        if !step.is_empty() && step_tokens + n_tokens > batch_tokens {
            steps.push(packs(units, &step, pack_tokens));
            step.clear();
            step_tokens = 0;
        }
        step.push(unit_idx);
        step_tokens += n_tokens;
    }
    steps.push(packs(units, &step, pack_tokens));
    steps
}

/// Fills units into packs of at most `pack_tokens`, first fit; a longer unit is a pack by itself.
pub(crate) fn packs(units: &[Unit], chosen: &[usize], pack_tokens: usize) -> Vec<UnitPack> {
    let mut packs: Vec<(usize, UnitPack)> = Vec::new();
    for &unit_idx in chosen {
        let n_tokens = units[unit_idx].n_tokens();
        match packs.iter_mut().find(|(filled, _)| filled + n_tokens <= pack_tokens) {
            Some((filled, pack)) => {
                *filled += n_tokens;
                pack.push(unit_idx);
            }
            None => packs.push((n_tokens, vec![unit_idx])),
        }
    }
    packs.into_iter().map(|(_, pack)| pack).collect()
}

/// A pack as the network takes it.
#[derive(Debug, Default)]
pub(crate) struct PackedUnits {
    pub(crate) pack: Pack,
    pub(crate) targets: Vec<Target>,
    /// For each unit, for each of its sequences: its targets.
    pub(crate) places: Vec<Vec<Range<usize>>>,
}

impl PackedUnits {
    pub(crate) fn new(units: &[Unit], chosen: &[usize]) -> Self {
        let mut packed = Self::default();
        for &unit_idx in chosen {
            let places = units[unit_idx].sequences.iter().map(|sequence| {
                let span = packed.pack.push(&sequence.tokens);
                let first = packed.targets.len();
                let moved = |target: &Target| Target { row: span.start + target.row, ..*target };
                packed.targets.extend(sequence.targets.iter().map(moved));
                first..packed.targets.len()
            });
            let places = places.collect();
            packed.places.push(places);
        }
        packed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn unit(n_tokens: usize) -> Unit {
        let sequence = Sequence { tokens: vec![0; n_tokens], ..Sequence::default() };
        Unit::new(vec![sequence])
    }

    proptest! {
        #[test]
        fn every_unit_comes_once_an_epoch_and_limits_hold(
            lengths in prop::collection::vec(1..60_usize, 1..80),
            (pack_tokens, batch_factor, seed) in (60..100_usize, 1..5_usize, 0..9_u64),
        ) {
            let units: Vec<Unit> = lengths.iter().map(|n| unit(*n)).collect();
            let batch_tokens = pack_tokens * batch_factor;
            let of = |epochs| steps(&units, (pack_tokens, batch_tokens), epochs, seed);
            let steps = of(2.0);
            let mut counts = vec![0; units.len()];
            for step in &steps {
                let n_tokens = |pack: &UnitPack| pack.iter().map(|idx| lengths[*idx]).sum::<usize>();
                prop_assert!(step.iter().map(n_tokens).sum::<usize>() <= batch_tokens);
                for pack in step {
                    prop_assert!(!pack.is_empty() && n_tokens(pack) <= pack_tokens);
                    for idx in pack {
                        counts[*idx] += 1;
                    }
                }
            }
            prop_assert!(counts.iter().all(|count| *count == 2));
            prop_assert_eq!(&steps, &of(2.0));
            let n_half = of(0.5).concat().concat().len();
            prop_assert_eq!(n_half, ((units.len() as f64 * 0.5).round() as usize).max(1));
        }
    }

    #[test]
    fn targets_find_their_rows_in_the_pack() {
        let sequence = |tokens: &[u32]| Sequence {
            tokens: tokens.to_vec(),
            targets: vec![Target { row: 0, token: tokens[1] }],
            in_thought: vec![false],
            ..Sequence::default()
        };
        let pair = Unit::new(vec![sequence(&[1, 2]), sequence(&[3, 4, 5])]);
        let packed = PackedUnits::new(&[pair.clone(), pair], &[1, 0]);
        assert_eq!(packed.pack.tokens, [1, 2, 3, 4, 5, 1, 2, 3, 4, 5]);
        let rows: Vec<usize> = packed.targets.iter().map(|target| target.row).collect();
        assert_eq!(rows, [0, 2, 5, 7]);
        assert_eq!(packed.places, [vec![0..1, 1..2], vec![2..3, 3..4]]);
        for target in &packed.targets {
            assert_eq!(packed.pack.tokens[target.row + 1], target.token);
        }
    }
}
