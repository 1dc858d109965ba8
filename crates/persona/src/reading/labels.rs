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

/// How a reply sounds.
pub const TONES: [&str; 12] = [
    "gentle",
    "warm",
    "plain",
    "cheerful",
    "playful",
    "calm",
    "direct",
    "encouraging",
    "serious",
    "curious",
    "respectful",
    "brief",
];
