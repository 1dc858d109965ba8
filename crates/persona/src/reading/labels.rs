//! The words of a reading: those of a thought's slots.

/// The labels of GoEmotions (Demszky et al. 2020), in the order of its ids.
pub const FEELINGS: [&str; 28] = [
    "admiration",
    "amusement",
    "anger",
    "annoyance",
    "approval",
    "caring",
    "confusion",
    "curiosity",
    "desire",
    "disappointment",
    "disapproval",
    "disgust",
    "embarrassment",
    "excitement",
    "fear",
    "gratitude",
    "grief",
    "joy",
    "love",
    "nervousness",
    "optimism",
    "pride",
    "realization",
    "relief",
    "remorse",
    "sadness",
    "surprise",
    "neutral",
];

/// What a message asks for.
pub const NEEDS: [&str; 8] =
    ["vent", "comfort", "advice", "facts", "celebrate", "company", "decide", "create"];

/// Which of [`FEELINGS`] mean that nothing is felt or only thought.
pub const NEUTRAL_IDX: usize = 27;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TONES;

    /// One list each in the thought's form, in the data and here.
    #[test]
    fn words_are_those_of_a_thought() {
        let slots = include_str!("../../../local/src/slots.rs");
        for (name, words) in [("FEELINGS", &FEELINGS[..]), ("NEEDS", &NEEDS), ("TONES", TONES)] {
            let list = slots.split(&format!("const {name}: &[&str] =")).nth(1).unwrap();
            let list = list.split("];").next().unwrap();
            let quoted: Vec<&str> = list.split('"').skip(1).step_by(2).collect();
            assert_eq!(quoted, words, "{name}");
        }
    }
}
