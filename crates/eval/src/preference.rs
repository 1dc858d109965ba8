//! How often a reward prefers the reply that people preferred.
//!
//! The better replies of a set are often the shorter ones, so the share is also given for pairs of
//! nearly the same length, and beside it the share that would come of length alone.

use std::collections::BTreeMap;

use crate::statistics::Share;

/// Two replies to one prompt, scored.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    /// The fault of the worse one.
    pub fault: String,
    /// The kind of conversation.
    pub kind: String,
    pub chosen: f64,
    pub rejected: f64,
    pub chosen_words: usize,
    pub rejected_words: usize,
}

/// Scores closer than this are a tie.
const SAME: f64 = 1e-9;
/// Lengths that differ by less than this share of the longer are near.
const NEAR: f64 = 0.2;

impl Compared {
    /// 1 if the better reply scored higher, 0.5 for a tie.
    fn is_right(&self) -> f64 {
        win(self.chosen - self.rejected)
    }

    fn is_near(&self) -> bool {
        let longer = self.chosen_words.max(self.rejected_words);
        (self.chosen_words.abs_diff(self.rejected_words) as f64) < NEAR * longer as f64
    }
}

fn win(difference: f64) -> f64 {
    if difference.abs() < SAME {
        0.5
    } else if difference > 0.0 {
        1.0
    } else {
        0.0
    }
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub name: String,
    /// How often the better reply scored higher; a tie counts half.
    pub share: Share,
    pub n_ties: u32,
}

impl Row {
    fn of<'a>(name: &str, pairs: impl Iterator<Item = &'a Compared>) -> Self {
        let wins: Vec<f64> = pairs.map(Compared::is_right).collect();
        let n_ties = wins.iter().filter(|win| (*win - 0.5).abs() < SAME).count() as u32;
        let share = Share::wilson(wins.iter().sum(), wins.len() as u32);
        Self { name: name.to_owned(), share, n_ties }
    }
}

/// The whole, by length, by fault and by kind, in this order; intervals are Wilson's at 95 %.
pub fn agreement(pairs: &[Compared]) -> Vec<Row> {
    let shorter: f64 =
        pairs.iter().map(|pair| win(pair.rejected_words as f64 - pair.chosen_words as f64)).sum();
    let mut rows = vec![
        Row::of("all", pairs.iter()),
        Row::of("lengths within 20 %", pairs.iter().filter(|pair| pair.is_near())),
        Row::of(
            "better one longer by more",
            pairs.iter().filter(|p| !p.is_near() && p.chosen_words > p.rejected_words),
        ),
        Row::of(
            "better one shorter by more",
            pairs.iter().filter(|p| !p.is_near() && p.chosen_words < p.rejected_words),
        ),
        Row {
            name: "(the shorter one, for comparison)".to_owned(),
            share: Share::wilson(shorter, pairs.len() as u32),
            n_ties: pairs.iter().filter(|p| p.chosen_words == p.rejected_words).count() as u32,
        },
    ];
    let by = |key: fn(&Compared) -> &str, title: &str| {
        let mut groups: BTreeMap<&str, Vec<&Compared>> = BTreeMap::new();
        for pair in pairs {
            groups.entry(key(pair)).or_default().push(pair);
        }
        groups
            .into_iter()
            .map(|(name, group)| Row::of(&format!("{title} {name}"), group.into_iter()))
            .collect::<Vec<_>>()
    };
    rows.extend(by(|pair| &pair.fault, "fault"));
    rows.extend(by(|pair| &pair.kind, "kind"));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(chosen: (f64, usize), rejected: (f64, usize)) -> Compared {
        Compared {
            fault: "cold".to_owned(),
            kind: "joy".to_owned(),
            chosen: chosen.0,
            rejected: rejected.0,
            chosen_words: chosen.1,
            rejected_words: rejected.1,
        }
    }

    #[test]
    fn a_tie_is_half_and_length_is_held_apart() {
        let pairs = [
            pair((0.9, 10), (0.1, 50)),
            pair((0.5, 20), (0.5, 22)),
            pair((0.2, 30), (0.4, 31)),
            pair((0.8, 40), (0.3, 10)),
        ];
        let rows = agreement(&pairs);
        let found = |name: &str| {
            let row = rows.iter().find(|row| row.name == name).expect("a row");
            (row.share.n, row.share.successes, row.n_ties)
        };
        assert_eq!(found("all"), (4, 2.5, 1));
        assert_eq!(found("lengths within 20 %"), (2, 0.5, 1));
        assert_eq!(found("better one shorter by more"), (1, 1.0, 0));
        assert_eq!(found("better one longer by more"), (1, 1.0, 0));
        assert_eq!(found("(the shorter one, for comparison)"), (4, 3.0, 0));
        assert_eq!(found("fault cold"), (4, 2.5, 1));
    }
}
