//! How strongly something is felt: the likeliest feeling by how much it stirs, raised and lowered by
//! degree words, marks, capitals and drawn-out letters.
//!
//! The effects of degree words, exclamation marks and capitals are those that Hutto and Gilbert
//! (2014) found people to hear; sizes are set by hand.

use super::features::read_part;
use super::labels::NEUTRAL_IDX;

/// How much each feeling stirs, in the order of the labels: high for anger and excitement, low for
/// approval and realization.
const AROUSAL: [f32; 28] = [
    0.6, 0.6, 1.0, 0.7, 0.4, 0.5, 0.5, 0.4, 0.6, 0.6, 0.6, 0.8, 0.7, 1.0, 1.0, 0.6, 0.9, 0.8, 0.8,
    0.8, 0.5, 0.7, 0.3, 0.6, 0.7, 0.7, 0.8, 0.0,
];
const STRONGER: &[&str] = &[
    "so",
    "very",
    "really",
    "extremely",
    "incredibly",
    "absolutely",
    "totally",
    "completely",
    "utterly",
    "too",
    "such",
    "deeply",
    "super",
    "fucking",
    "damn",
    "never",
    "ever",
    "always",
];
const WEAKER: &[&str] =
    &["slightly", "somewhat", "kinda", "sorta", "bit", "little", "mildly", "fairly", "okay", "ok"];

/// From 0, calm, to 1; `feelings` are the probabilities of all of them.
pub(super) fn intensity(text: &str, feelings: &[f32]) -> f32 {
    let text = read_part(text);
    let stirring = feelings.iter().zip(AROUSAL).map(|(p, arousal)| p * arousal);
    let strongest = stirring.fold(0.0, f32::max);
    let calm = feelings.get(NEUTRAL_IDX).copied().unwrap_or_default();
    let marks = Marks::of(text);
    let felt = (strongest * (1.0 - 0.5 * calm)).sqrt();
    let raised = 0.1 * marks.stronger.min(3.0)
        + 0.1 * marks.exclamations.min(3.0)
        + 0.25 * marks.capitals
        + 0.1 * marks.drawn_out.min(2.0)
        - 0.12 * marks.weaker.min(2.0);
    (0.75 * felt + raised * (0.4 + 0.6 * felt)).clamp(0.0, 1.0)
}

/// How loudly a text is written.
struct Marks {
    stronger: f32,
    weaker: f32,
    exclamations: f32,
    /// The share of words in capitals.
    capitals: f32,
    drawn_out: f32,
}

impl Marks {
    fn of(text: &str) -> Self {
        let words: Vec<&str> = text.split_whitespace().collect();
        let count = |list: &[&str]| {
            let bare =
                |word: &&str| word.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase();
            words.iter().map(bare).filter(|word| list.contains(&word.as_str())).count() as f32
        };
        let shouts = |word: &&&str| {
            word.chars().filter(|c| c.is_uppercase()).count() > 2
                && !word.chars().any(char::is_lowercase)
        };
        let drawn_out = |word: &&&str| {
            let letters: Vec<char> = word.chars().collect();
            letters
                .windows(3)
                .any(|run| run[0].is_alphabetic() && run[0] == run[1] && run[1] == run[2])
        };
        Self {
            stronger: count(STRONGER),
            weaker: count(WEAKER),
            exclamations: text.matches(['!', '！']).count() as f32,
            capitals: words.iter().filter(shouts).count() as f32 / words.len().max(1) as f32,
            drawn_out: words.iter().filter(drawn_out).count() as f32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_louder_is_stronger() {
        let mut angry = [0.02; 28];
        angry[2] = 0.5;
        let of = |text| intensity(text, &angry);
        assert!(of("I am so angry") > of("I am angry"));
        assert!(of("I am ANGRY!!") > of("I am angry"));
        assert!(of("I am angryyyy") > of("I am angry"));
        assert!(of("I am a bit angry") < of("I am angry"));
        let mut calm = [0.01; 28];
        calm[NEUTRAL_IDX] = 0.9;
        assert!(intensity("The door is open.", &calm) < of("I am angry"));
    }
}
