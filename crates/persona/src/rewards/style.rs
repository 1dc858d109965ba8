//! Whether a reply's register is near the person's.

use super::text::Text;
use super::{Family, Known, Need};
use crate::measures::{self, FORMAL, INFORMAL};

/// How much of the person's register the persona takes on.
const MOST_MIRRORED: f64 = 0.4;

/// Words on both sides below which [`measures::style_matching`] is noise and left out.
const MATCHED_WORDS: usize = 50;

/// `0.5 near + 0.5 plain`, and with 50 words or more on both sides `0.8` of it and `0.2 m`:
///
/// - `near = 1 - max(0, |r - 0.4 p| - 0.25)`, with the registers of the reply and of all that the
///   person wrote, -1 (slang) to 1 (ceremony);
/// - `plain = 1 - min(1, 2.5 max(0, s - max(s_p, 1.35) - 0.1))`, with the mean syllables of a word of
///   the reply and of the person: 1.35 is plain talk, an encyclopedia lies near 1.8;
/// - `m` is language style matching ([`measures::style_matching`], Ireland and Pennebaker 2010).
///
/// The persona keeps 0.6 of its own plain register, so that slang and ceremony are met and not
/// copied: a plain reply to slang is nearer than slang through and through. Somebody angry or in danger is not mirrored at all, and facts have no register:
/// `None`. English only.
pub(super) fn style_match(known: &Known<'_>) -> Option<f64> {
    let is_angry = known.family().is_some_and(|(family, _)| family == Family::Anger);
    let is_fact = known.need() == Some(Need::Facts);
    if known.is_danger || is_angry || is_fact || known.asked.words.is_empty() {
        return None;
    }
    let person: Vec<&str> = known.before.iter().map(|text| text.raw.as_str()).collect();
    let person = Text::of(&format!("{} {}", person.join(" "), known.asked.raw));
    let distance = (register(&known.reply) - MOST_MIRRORED * register(&person)).abs();
    let near = 1.0 - (distance - 0.25).max(0.0);
    let stiff = syllables_a_word(&known.reply) - syllables_a_word(&person).max(1.35) - 0.1;
    let plain = 1.0 - (2.5 * stiff).clamp(0.0, 1.0);
    let value = 0.5 * near.max(0.0) + 0.5 * plain;
    if person.words.len().min(known.reply.words.len()) < MATCHED_WORDS {
        return Some(value);
    }
    let matching = measures::style_matching(&person.raw, &known.reply.raw).unwrap_or(0.7);
    Some(0.8 * value + 0.2 * matching)
}

fn syllables_a_word(text: &Text) -> f64 {
    let n: usize = text.words.iter().map(|word| measures::syllables(word)).sum();
    n as f64 / text.words.len().max(1) as f64
}

const SLANG: &[&str] = &[
    "bestie", "bruh", "cuz", "fam", "fr", "heyy", "heyyy", "hubby", "idk", "imo", "jk", "lmao",
    "ngl", "pls", "plz", "rn", "smth", "sucks", "tbh", "thx", "u", "ur", "vibe", "w", "wassup",
    "whats up", "yo", "yooo",
];
const CEREMONY: &[&str] = &[
    "by all means",
    "dear",
    "good afternoon",
    "good day",
    "good evening",
    "grateful",
    "how may i",
    "i am pleased",
    "i shall",
    "i should be",
    "indeed",
    "kindly",
    "madam",
    "may i",
    "of assistance",
    "permit me",
    "satisfaction",
    "sir",
    "with some",
];

/// -1 to 1 by marks of slang and of ceremony: three times their share of all words, and 0.15 for a
/// text without any capital.
pub(super) fn register(text: &Text) -> f64 {
    let n_words = text.words.len().max(1) as f64;
    let n_stretched = text.words.iter().filter(|word| is_stretched(word)).count();
    let loose =
        text.count(SLANG) + text.count(INFORMAL) + n_stretched + measures::n_emoji(&text.raw);
    let formal = text.count(CEREMONY) + text.count(FORMAL);
    let has_letters = text.raw.chars().any(char::is_alphabetic);
    let is_lower = has_letters && !text.raw.chars().any(char::is_uppercase);
    let marks = 3.0 * (formal as f64 - loose as f64) / n_words;
    (marks - if is_lower { 0.15 } else { 0.0 }).clamp(-1.0, 1.0)
}

/// A letter three times in a row.
fn is_stretched(word: &str) -> bool {
    let letters: Vec<char> = word.chars().collect();
    letters.windows(3).any(|run| run[0].is_alphabetic() && run[0] == run[1] && run[1] == run[2])
}
