//! Whether a reply is as long as it should be, and of the form that was asked for.

use super::text::Text;
use super::{Known, Need};
use crate::measures;

/// 1 within a range of words, falling to 0 at two and a half times its end, and as `n / lowest`
/// below it. The range goes by what is asked for: short, 1 to 20; after three words or fewer, 1 to 45; facts, 1 to 35; writing, 3 to 90;
/// company and celebrating, 4 to 45; venting and comfort, 8 to 60; advice and decisions, 5 to 70;
/// danger, 20 to 90; else 3 to 60. Flat inside, so that shorter is not better.
///
/// The ranges are those of the project's style guide.
pub(super) fn length_fit(known: &Known<'_>) -> f64 {
    let (low, high) = if known.is_danger {
        (20, 90)
    } else if wants_short(&known.asked) {
        (1, 20)
    } else if known.asked.words.len() <= 3 {
        (1, 45)
    } else {
        match known.need() {
            Some(Need::Facts) => (1, 35),
            Some(Need::Create) => (3, 90),
            Some(Need::Company | Need::Celebrate) => (4, 45),
            Some(Need::Vent | Need::Comfort) => (8, 60),
            Some(Need::Advice | Need::Decide) => (5, 70),
            None => (3, 60),
        }
    };
    let n = known.reply.words.len() as f64;
    let (low, high) = (f64::from(low), f64::from(high));
    if n < low {
        n / low
    } else if n > high {
        (1.0 - (n - high) / (1.5 * high)).max(0.0)
    } else {
        1.0
    }
}

fn wants_short(asked: &Text) -> bool {
    asked.has(&[
        "briefly",
        "in brief",
        "in short",
        "just the answer",
        "keep it short",
        "no chat",
        "one line",
        "one sentence",
        "one word",
        "quick answer",
        "short answer",
        "short please",
        "shorter",
        "yes or no",
    ])
}

/// Something that the person asked for and that can be counted.
#[derive(Clone, Debug, PartialEq)]
enum Wanted {
    Words { n: usize, at_most: bool },
    Lines(usize),
    Sentences(usize),
    Syllables([usize; 3]),
    Holds(String),
    YesOrNo,
}

/// The mean over what was asked for in a countable form: so many words, lines or sentences (also
/// `haiku`, `limerick`, `couplet`), a word that must occur, yes or no. A number that is missed by `d`
/// gives `max(0, 1 - 2 d / n)`; a haiku counts its lines and their syllables, with one to spare.
/// `None` where nothing of the kind was asked for. Rhyme, metre and subject are not seen.
pub(super) fn form(known: &Known<'_>) -> Option<f64> {
    let wanted = wanted(&known.asked);
    if wanted.is_empty() {
        return None;
    }
    let reply = &known.reply;
    let lines: Vec<&str> = reply.raw.lines().filter(|line| !line.trim().is_empty()).collect();
    let near = |found: usize, n: usize| (1.0 - 2.0 * found.abs_diff(n) as f64 / n as f64).max(0.0);
    let sum: f64 = wanted
        .iter()
        .map(|wanted| match wanted {
            Wanted::Words { n, at_most: true } if reply.words.len() <= *n => 1.0,
            Wanted::Words { n, .. } => near(reply.words.len(), *n),
            Wanted::Lines(n) => near(lines.len(), *n),
            Wanted::Sentences(n) => near(measures::sentences(&reply.raw), *n),
            Wanted::Syllables(each) => {
                let n_right = each
                    .iter()
                    .zip(&lines)
                    .filter(|(n, line)| {
                        let words = measures::words(line);
                        let found: usize = words.iter().map(|word| measures::syllables(word)).sum();
                        found.abs_diff(**n) <= 1
                    })
                    .count();
                n_right as f64 / 3.0 * near(lines.len(), 3)
            }
            Wanted::Holds(word) => f64::from(u8::from(reply.words.contains(word))),
            Wanted::YesOrNo => f64::from(u8::from(reply.begins(&["yes", "no"]))),
        })
        .sum();
    Some(sum / wanted.len() as f64)
}

fn wanted(asked: &Text) -> Vec<Wanted> {
    const NUMBERS: [&str; 12] = [
        "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
        "twelve",
    ];
    let number = |word: &str| -> Option<usize> {
        let named = NUMBERS.iter().position(|name| *name == word).map(|idx| idx + 1);
        named.or_else(|| word.parse().ok().filter(|n| (1..=200).contains(n)))
    };
    let mut wanted = Vec::new();
    for (idx, pair) in asked.words.windows(2).enumerate() {
        let Some(n) = number(&pair[0]) else { continue };
        let before = idx.checked_sub(1).map(|idx| asked.words[idx].as_str());
        let at_most = matches!(before, Some("under" | "most" | "than" | "maximum" | "within"));
        match pair[1].as_str() {
            "word" | "words" => wanted.push(Wanted::Words { n, at_most }),
            "line" | "lines" => wanted.push(Wanted::Lines(n)),
            "sentence" | "sentences" => wanted.push(Wanted::Sentences(n)),
            _ => {}
        }
    }
    if asked.has(&["haiku"]) {
        wanted.push(Wanted::Syllables([5, 7, 5]));
    }
    if asked.has(&["limerick"]) {
        wanted.push(Wanted::Lines(5));
    }
    if asked.has(&["couplet"]) {
        wanted.push(Wanted::Lines(2));
    }
    if asked.has(&["yes or no"]) {
        wanted.push(Wanted::YesOrNo);
    }
    // with the word "flip"
    let quoted = asked.raw.replace(['\u{201c}', '\u{201d}'], "\"");
    if asked.has(&["the word", "the words"]) {
        let words = quoted.split('"').skip(1).step_by(2).flat_map(measures::words);
        wanted.extend(words.take(4).map(Wanted::Holds));
    }
    wanted
}
