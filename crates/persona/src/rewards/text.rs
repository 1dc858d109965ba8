//! A text taken apart once for all components.

use crate::measures::{self, FUNCTION_WORDS, Measures};

#[derive(Clone, Debug, Default)]
pub(super) struct Text {
    pub(super) raw: String,
    /// In lower case, with straight apostrophes.
    pub(super) words: Vec<String>,
    /// Words that carry meaning, by their stems.
    pub(super) stems: Vec<String>,
    pub(super) measures: Measures,
}

impl Text {
    pub(super) fn of(raw: &str) -> Self {
        let words = measures::words(raw);
        let stems = words.iter().filter(|word| is_content(word)).map(|word| stem(word)).collect();
        Self { raw: raw.to_owned(), words, stems, measures: Measures::of(raw) }
    }

    /// How often any of the phrases occurs; each is words with one space between.
    pub(super) fn count(&self, phrases: &[&str]) -> usize {
        measures::count_phrases(&self.words, phrases)
    }

    pub(super) fn has(&self, phrases: &[&str]) -> bool {
        phrases.iter().any(|phrase| {
            let first = phrase.split(' ').next().unwrap_or_default();
            let n_words = phrase.split(' ').count();
            self.words
                .windows(n_words)
                .any(|run| run[0] == first && run.iter().map(String::as_str).eq(phrase.split(' ')))
        })
    }

    /// Whether it begins with one of the phrases.
    pub(super) fn begins(&self, phrases: &[&str]) -> bool {
        phrases.iter().any(|phrase| {
            let mut words = self.words.iter().map(String::as_str);
            phrase.split(' ').all(|expected| words.next() == Some(expected))
        })
    }

    /// Whether there is any of these stems.
    pub(super) fn shares(&self, other: &Self) -> Vec<&str> {
        let mut shared: Vec<&str> = self
            .stems
            .iter()
            .filter(|stem| other.stems.contains(stem))
            .map(String::as_str)
            .collect();
        shared.sort_unstable();
        shared.dedup();
        shared
    }

    /// The share of words that only join others: in prose about 0.4 to 0.6, in lists of keywords
    /// near 0.
    pub(super) fn joining_share(&self) -> f64 {
        let n = self.words.iter().filter(|word| is_function(word)).count();
        n as f64 / self.words.len().max(1) as f64
    }

    /// Whether it reads as sentences rather than as a list of words; short texts do.
    pub(super) fn is_prose(&self) -> bool {
        self.words.len() < 8 || self.joining_share() >= 0.22
    }

    pub(super) fn sentences(&self) -> Vec<Self> {
        let parts = self.raw.split_inclusive(['.', '!', '?', '\n']);
        parts.filter(|part| part.chars().any(char::is_alphanumeric)).map(Self::of).collect()
    }

    /// Words of three letters or more in capitals only.
    pub(super) fn n_shouted(&self) -> usize {
        let words = self.raw.split(|c: char| !c.is_alphanumeric());
        words.filter(|word| word.len() >= 3 && word.chars().all(char::is_uppercase)).count()
    }

    /// The text without what stands in double quotation marks: somebody else's words.
    pub(super) fn unquoted(&self) -> Self {
        let text = self.raw.replace(['\u{201c}', '\u{201d}'], "\"");
        let own: Vec<&str> = text.split('"').step_by(2).collect();
        Self::of(&own.join(" "))
    }
}

pub(super) fn is_function(word: &str) -> bool {
    FUNCTION_WORDS.iter().any(|category| category.contains(&word))
}

/// Verbs and nouns so common that sharing them says nothing.
const COMMON: &[&str] = &[
    "ask",
    "come",
    "day",
    "days",
    "dont",
    "feel",
    "feeling",
    "feels",
    "find",
    "get",
    "gets",
    "getting",
    "give",
    "go",
    "goes",
    "going",
    "good",
    "got",
    "have",
    "help",
    "hear",
    "im",
    "it's",
    "keep",
    "kind",
    "know",
    "let",
    "like",
    "look",
    "made",
    "make",
    "makes",
    "mean",
    "need",
    "new",
    "one",
    "people",
    "put",
    "say",
    "says",
    "said",
    "see",
    "something",
    "take",
    "tell",
    "thing",
    "things",
    "think",
    "time",
    "today",
    "told",
    "try",
    "want",
    "way",
    "went",
    "what's",
    "work",
    "write",
    "yes",
    "please",
    "thanks",
    "okay",
    "sorry",
    "bit",
    "lot",
    "who's",
];

pub(super) fn is_content(word: &str) -> bool {
    word.chars().count() >= 3 && !is_function(word) && !COMMON.contains(&word)
        || word.chars().all(|c| c.is_ascii_digit()) && !word.is_empty()
}

/// A word without its commonest endings: enough to see `drawers` in `drawer`.
pub(super) fn stem(word: &str) -> String {
    let mut word = word.strip_suffix("'s").unwrap_or(word);
    for suffix in ["ing", "ed", "ies", "es", "s", "ly", "er", "y", "e"] {
        if let Some(rest) = word.strip_suffix(suffix)
            && rest.chars().count() >= 3
        {
            word = rest;
            break;
        }
    }
    // `stopping` and `stop`.
    let mut letters: Vec<char> = word.chars().collect();
    if letters.len() > 3 && letters[letters.len() - 1] == letters[letters.len() - 2] {
        letters.pop();
    }
    letters.into_iter().collect()
}
