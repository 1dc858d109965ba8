//! Whether a reply is meant for this person, and whether it says anything twice.

use super::feeling::STOCK;
use super::text::Text;
use super::{Known, Need};
use crate::measures;

/// Different words of the person's that the reply takes up, by stem, outside general sentences.
pub(super) fn n_taken_up(reply: &Text, asked: &Text) -> usize {
    let mut taken: Vec<String> = Vec::new();
    for sentence in reply.sentences().iter().filter(|sentence| !is_general(sentence)) {
        taken.extend(asked.shares(sentence).into_iter().map(str::to_owned));
    }
    taken.sort_unstable();
    taken.dedup();
    taken.len()
}

/// Verbs of a sentence about things in general: a detail in it is a heading, not taken up.
const GENERAL: &[&str] = &[
    "affect",
    "affects",
    "are",
    "can",
    "causes",
    "in order to",
    "is a",
    "is also",
    "is an",
    "is common",
    "is disrespectful",
    "is essential",
    "is good",
    "is harmful",
    "is important",
    "is inappropriate",
    "is natural",
    "is normal",
    "is the",
    "many",
    "may",
    "often",
    "refers to",
    "require",
    "requires",
    "sometimes",
    "typically",
    "usually",
];
/// Rules for everybody.
const RULES: &[&str] = &[
    "consider",
    "important to",
    "make sure",
    "remember",
    "should",
    "try to",
    "you must",
    "you need",
];

/// Whether a sentence could be said to anybody: a rule or a stock phrase, or a statement about things
/// in general in which neither of the two people occurs. A question never is.
pub(super) fn is_general(sentence: &Text) -> bool {
    if sentence.has(RULES) {
        return true;
    }
    if sentence.raw.trim_end().ends_with('?') {
        return false;
    }
    if sentence.has(STOCK) {
        return true;
    }
    let speaks = sentence.words.iter().any(|word| {
        let word = word.split('\'').next().unwrap_or_default();
        matches!(word, "i" | "you" | "your" | "yours" | "we" | "us" | "let")
    });
    !speaks && sentence.has(GENERAL)
}

/// The share of general sentences.
pub(super) fn general_share(reply: &Text) -> f64 {
    let sentences = reply.sentences();
    let n = sentences.iter().filter(|sentence| is_general(sentence)).count();
    n as f64 / sentences.len().max(1) as f64
}

/// The share of words with three syllables or more beyond 12 %: abstract words are long, and what
/// people handle has short names (the count behind Gunning's fog index, 1952).
fn abstract_share(reply: &Text) -> f64 {
    let n = reply.words.iter().filter(|word| measures::syllables(word) >= 3).count();
    (n as f64 / reply.words.len().max(1) as f64 - 0.12).max(0.0)
}

/// `(0.8 + 0.2 min(1, d / k) - 0.5 general - min(0.5, 3 abstract) - 0.2 min(stock, 2))
/// (1 - 0.8 parrot) (1 - 0.8 stuffing)`: *general* is the share of sentences that could be said to
/// anybody, *abstract* the share of long words beyond 12 %, *stock* the number of stock phrases; `d`
/// different content words of the person's last turn in the reply, of which at most
/// `k = min(2, words there are)` wanted; *parrot* grows from 0 at a run of four words said back (I
/// and you exchanged) to 1 at eight, or at the whole of a short message; *stuffing* is the share of
/// the reply's content words that are the person's, beyond 60 %, of six or more. Halved for what is
/// no prose.
///
/// The words taken up count little, because they tell good replies from bad ones no better than a
/// coin: good ones take a detail up in other words (`the cat` by `her paws`), bad ones make headings
/// of it. More than two bring nothing, so that listing them does not pay. `None` for facts and
/// judgements, where the question's words come back anyway, for writing, and where the person gave no
/// detail.
pub(super) fn specific(known: &Known<'_>) -> Option<f64> {
    let is_asked = known.is_personal() || matches!(known.need(), Some(Need::Advice | Need::Decide));
    if !is_asked || known.asks_a_matter() {
        return None;
    }
    let mut given = known.asked.stems.clone();
    given.sort_unstable();
    given.dedup();
    if given.is_empty() || known.reply.words.is_empty() {
        return None;
    }
    let wanted = given.len().min(2) as f64;
    let taken = n_taken_up(&known.reply, &known.asked) as f64;
    let own_share = known.reply.stems.iter().filter(|stem| given.contains(stem)).count() as f64
        / known.reply.stems.len().max(1) as f64;
    let stuffing =
        if known.reply.stems.len() >= 6 { (own_share - 0.6).max(0.0) / 0.4 } else { 0.0 };
    let parrot = parroted(known);
    let prose = if known.reply.is_prose() { 1.0 } else { 0.5 };
    let value = 0.8 + 0.2 * (taken / wanted).min(1.0)
        - 0.5 * general_share(&known.reply)
        - (3.0 * abstract_share(&known.reply)).min(0.5)
        - 0.2 * known.reply.count(STOCK).min(2) as f64;
    Some(prose * value.max(0.0) * (1.0 - 0.8 * parrot) * (1.0 - 0.8 * stuffing))
}

/// How much of the person's message is said back in a row, 0 to 1.
fn parroted(known: &Known<'_>) -> f64 {
    let (asked, reply) = (mirrored(&known.asked.words), mirrored(&known.reply.words));
    let run = longest_run(&asked, &reply);
    let whole = asked.len().clamp(4, 8) as f64;
    ((run as f64 - 3.0) / (whole - 3.0).max(1.0)).clamp(0.0, 1.0)
}

/// Words with I and you, my and your, am and are made one.
fn mirrored(words: &[String]) -> Vec<&str> {
    let one = |word: &'_ String| -> &'static str {
        match word.as_str() {
            "i" | "me" | "you" => "i",
            "my" | "your" => "my",
            "mine" | "yours" => "mine",
            "am" | "are" => "are",
            "was" | "were" => "was",
            "i'm" | "you're" | "im" => "i'm",
            "i've" | "you've" => "i've",
            "i'd" | "you'd" => "i'd",
            "myself" | "yourself" => "myself",
            _ => "",
        }
    };
    words
        .iter()
        .map(|word| match one(word) {
            "" => word.as_str(),
            other => other,
        })
        .collect()
}

/// The longest run of words that occurs in both.
fn longest_run(one: &[&str], other: &[&str]) -> usize {
    let mut longest = 0;
    let mut before = vec![0_usize; other.len() + 1];
    for word in one {
        let mut row = vec![0; other.len() + 1];
        for (idx, other_word) in other.iter().enumerate() {
            if word == other_word {
                row[idx + 1] = before[idx] + 1;
                longest = longest.max(row[idx + 1]);
            }
        }
        before = row;
    }
    longest
}

/// `1 - min(1, 2 r) - c`: `r` is the share of the reply's word triples (pairs under twelve words)
/// that came before in it, `c` 0.5 times the largest share of its triples that stand in one of our
/// earlier turns, where that is over 0.3. Loops come to 0. It does not see one thought in two
/// wordings.
pub(super) fn no_repetition(known: &Known<'_>) -> f64 {
    let words = &known.reply.words;
    let n = if words.len() < 12 { 2 } else { 3 };
    let runs: Vec<&[String]> = words.windows(n).collect();
    if runs.is_empty() {
        return 1.0;
    }
    let n_again = runs.iter().enumerate().filter(|(idx, run)| runs[..*idx].contains(run)).count();
    let repeated = n_again as f64 / runs.len() as f64;
    let copied = known
        .own
        .iter()
        .map(|text| {
            let own: Vec<&[String]> = text.words.windows(n).collect();
            runs.iter().filter(|run| own.contains(run)).count() as f64 / runs.len() as f64
        })
        .fold(0.0, f64::max);
    let copied = if copied > 0.3 { 0.5 * copied } else { 0.0 };
    (1.0 - (2.0 * repeated).min(1.0) - copied).max(0.0)
}
