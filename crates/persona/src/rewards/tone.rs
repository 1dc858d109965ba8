//! Whether a reply's tone fits, with a penalty for each mismatch.

use super::feeling::STOCK;
use super::specific::n_taken_up;
use super::{Asks, Family, Known, Need};

const GUSH: &[&str] = &[
    "amazing",
    "awesome",
    "bestie",
    "best ever",
    "blown away",
    "breathtaking",
    "epic",
    "fantastic",
    "incredible",
    "incredibly",
    "literally",
    "magical",
    "omg",
    "phenomenal",
    "so exciting",
    "superb",
    "stunning",
    "unbelievable",
    "woohoo",
    "wow",
    "yay",
];
const LECTURE: &[&str] = &[
    "always remember",
    "and remember",
    "be grateful",
    "communication is",
    "consider talking",
    "don't forget",
    "is crucial",
    "is essential",
    "is important",
    "isn't healthy",
    "it's important",
    "it's never okay",
    "learn to",
    "make sure",
    "remember that",
    "remember to",
    "seek professional",
    "set boundaries",
    "think about how",
    "try to",
    "you could try",
    "you must",
    "you need to",
    "you ought",
    "you should",
    "you shouldn't",
];
const PUSH: &[&str] = &[
    "at once",
    "block her",
    "block him",
    "break up with",
    "cut her off",
    "cut him off",
    "do it today",
    "don't look back",
    "don't waste",
    "dump her",
    "dump him",
    "immediately",
    "no excuses",
    "right now",
    "tell her tonight",
    "tell him tonight",
    "you have to",
    "you just need to",
    "you must",
    "you need to",
];
/// The manner of a help desk.
const DESK: &[&str] = &[
    "any other questions",
    "any questions",
    "best experience",
    "designed to assist",
    "happy to assist",
    "happy to help",
    "here to assist",
    "here to help",
    "how can i assist",
    "how can i help",
    "how may i",
    "i can assist",
    "let me know if",
    "provide more",
    "provide you with",
    "please provide",
    "further assistance",
    "apologize for any",
    "sorry for any",
    "misunderstanding",
];
const TURNS_AWAY: &[&str] = &[
    "cannot continue",
    "crisis line",
    "emergency hotline",
    "helpline",
    "i'm afraid i'm not",
    "i'm not able to",
    "i'm sorry but",
    "i'm unable",
    "not equipped",
    "suicide hotline",
    "i cannot",
    "i am unable",
];
const LEVITY: &[&str] = &["fun fact", "haha", "hehe", "just kidding", "lmao", "lol"];
const DEFINITION: &[&str] = &[
    "are a",
    "are considered",
    "are important",
    "are often",
    "can be",
    "is a",
    "is an",
    "is considered",
    "is the act",
    "is the process",
    "is usually",
    "it is common",
    "may be",
    "millions of people",
    "refers to",
    "various reasons",
];

/// `max(0, 1 - sum of mismatches)`:
///
/// | mismatch | weight |
/// | --- | --- |
/// | gushing: excitement (marks, capitals, emoji, big words) above what fits | 0.6 x excess / 0.4, at most 0.7 |
/// | cheer for sorrow, condolence for joy | 0.6 |
/// | laughter in fear, grief, danger | 0.5 |
/// | lecture or list where nobody asked for advice | 0.2 a mark, at most 0.6 |
/// | pressing a step on somebody outside danger | 0.25 a mark, at most 0.5 |
/// | a help desk's manner where a person is to be answered | 0.3 |
/// | a refusal or a telephone number for danger that is not there | 0.4 |
/// | brisk: no word to the person, no question, none of their details | 0.4, and 0.2 for a definition |
/// | stock phrases | 0.15 each, at most 0.45 |
///
/// The words are ours; the axes (moralising, warmth, reactive) are those of EQ-Bench 3's rubric. It
/// sees marks, not tone: cold irony without a mark passes. `None` where neither need nor feeling is
/// known.
pub(super) fn tone_fit(known: &Known<'_>) -> Option<f64> {
    let family = known.family().map(|(family, _)| family);
    if family.is_none() && known.need().is_none() && !known.is_danger {
        return None;
    }
    let family = family.unwrap_or(Family::Neutral);
    let reply = &known.reply;
    let is_low = family.is_low() || known.is_danger;
    let is_creative = known.need() == Some(Need::Create);
    let is_personal = (known.is_personal() || known.is_danger) && !is_creative;
    let mut penalty = 0.0;

    let fits = if is_low {
        0.1
    } else if family.is_high() {
        0.45
    } else {
        0.2
    };
    penalty += (0.6 * (excitement(known) - fits) / 0.4).clamp(0.0, 0.7);
    if reply.has(family.opposed()) && !is_creative {
        penalty += 0.6;
    }
    if is_low && reply.has(LEVITY) {
        penalty += 0.5;
    }
    let wants_steps = matches!(known.need(), Some(Need::Advice | Need::Facts | Need::Decide));
    if !wants_steps && !is_creative && !known.is_danger {
        let n_items = reply.raw.matches(". ").count().min(numbered_items(&reply.raw));
        let is_list = reply.measures.list_density > 0.3 || n_items >= 3;
        let n_marks = reply.count(LECTURE) + usize::from(is_list) * 2;
        penalty += (0.2 * n_marks as f64).min(0.6);
    }
    if !known.is_danger && !is_creative {
        penalty += (0.25 * reply.count(PUSH) as f64).min(0.5);
    }
    if reply.has(DESK) && (is_personal || is_creative || known.reading.asks == Some(Asks::Opinion))
    {
        penalty += 0.3;
    }
    let is_unasked = known.reading.asks.is_none() && !known.is_danger;
    if is_unasked && known.need() != Some(Need::Facts) && reply.has(TURNS_AWAY) {
        penalty += 0.4;
    }
    if is_personal {
        let speaks = reply.words.iter().any(|word| {
            word.starts_with("you")
                || matches!(word.as_str(), "we" | "us" | "our" | "let's" | "me" | "i'm" | "i'd")
        });
        let is_brisk = !speaks
            && !reply.raw.contains('?')
            && n_taken_up(reply, &known.asked) == 0
            && reply.words.len() > 3;
        penalty += if is_brisk { 0.4 } else { 0.0 };
        if !speaks && reply.has(DEFINITION) {
            penalty += 0.2;
        }
        penalty += (0.15 * reply.count(STOCK) as f64).min(0.45);
    }
    Some((1.0 - penalty).max(0.0))
}

/// From none, 0, upwards: exclamation marks beyond the first and capitals beyond the person's own,
/// emoji, big words; 0.12 each.
fn excitement(known: &Known<'_>) -> f64 {
    let reply = &known.reply;
    let n_marks = reply.raw.matches(['!', '！']).count().saturating_sub(1);
    let n_shouted = reply.n_shouted().saturating_sub(known.asked.n_shouted());
    let n_emoji = crate::measures::n_emoji(&reply.raw);
    0.12 * (n_marks + n_shouted + n_emoji + reply.count(GUSH)) as f64
}

/// Items as `1. ` or `2) `, in lines or not.
fn numbered_items(text: &str) -> usize {
    text.split_whitespace()
        .filter(|word| {
            word.strip_suffix(['.', ')']).is_some_and(|n| {
                !n.is_empty() && n.len() <= 2 && n.bytes().all(|b| b.is_ascii_digit())
            })
        })
        .count()
}
