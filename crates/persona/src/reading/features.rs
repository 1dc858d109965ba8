//! A text as a bag of hashed features: words alone, in pairs and with one between, words under a
//! negation, the first and the last word, the letters of each word in twos to fives, and how it is
//! written.
//!
//! Letters catch spellings that no list has (`sooo`, `thx`). Features are named by 32-bit hashes;
//! which of them count is up to the weights. Case is told apart only by a few features of its own.

/// Bytes of a text that are read; the rest of a longer one changes a reading little and would cost
/// time without bound.
pub const READ_BYTES: usize = 4096;

/// Each kind of feature hashes with a seed of its own.
mod seed {
    pub(super) const WORDS: u32 = 0x811c_9dc5;
    pub(super) const LETTERS: u32 = 0x5bd1_e995;
    pub(super) const SKIPPED: u32 = 0x0123_4567;
    pub(super) const NEGATED: u32 = 0x0000_0099;
    pub(super) const FIRST: u32 = 0x0000_0077;
    pub(super) const LAST: u32 = 0x0000_0078;
    pub(super) const MANNER: u32 = 0x0000_0079;
}

/// How many words a negation reaches.
const NEGATED_WORDS: usize = 3;

/// FNV-1a, finished so that near texts differ in all bits.
fn hash(seed: u32, bytes: &[u8]) -> u32 {
    let mut hash = seed;
    for byte in bytes {
        hash = (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    }
    hash ^= hash >> 16;
    hash = hash.wrapping_mul(0x7feb_352d);
    hash ^ (hash >> 15)
}

/// The part of a text that is read.
pub(super) fn read_part(text: &str) -> &str {
    let mut end = text.len().min(READ_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Words and marks of `text` in lower case; an apostrophe inside a word belongs to it, and three
/// equal letters in a row become two.
pub fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut word = String::new();
    let mut chars = read_part(text).chars().peekable();
    while let Some(letter) = chars.next() {
        let letter = if letter == '\u{2019}' { '\'' } else { letter };
        let joins = letter == '\'' && !word.is_empty();
        if letter.is_alphanumeric() || (joins && chars.peek().is_some_and(|c| c.is_alphanumeric()))
        {
            for lower in letter.to_lowercase() {
                let mut last = word.chars().rev();
                if !(last.next() == Some(lower) && last.next() == Some(lower)) {
                    word.push(lower);
                }
            }
        } else {
            if !word.is_empty() {
                words.push(std::mem::take(&mut word));
            }
            if !letter.is_whitespace() {
                words.push(letter.to_string());
            }
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

fn is_mark(word: &str) -> bool {
    !word.starts_with(char::is_alphanumeric)
}

fn negates(word: &str) -> bool {
    word.ends_with("n't")
        || matches!(word, "not" | "no" | "never" | "without" | "cannot" | "dont" | "cant" | "nor")
}

/// The hashes of the features of `text`, sorted, each once.
pub fn features(text: &str) -> Vec<u32> {
    let words = words(text);
    let mut found = Vec::with_capacity(words.len() * 24);
    let mut joined = String::new();
    for at in 0..words.len() {
        joined.clear();
        for word in words[at..].iter().take(2) {
            joined.push_str(word);
            joined.push(' ');
            found.push(hash(seed::WORDS, joined.as_bytes()));
        }
        if let Some(after_next) = words.get(at + 2) {
            found.push(hash(seed::SKIPPED, format!("{} {after_next}", words[at]).as_bytes()));
        }
    }
    if let (Some(first), Some(last)) = (words.first(), words.last()) {
        found.push(hash(seed::FIRST, first.as_bytes()));
        if let Some(second) = words.get(1) {
            found.push(hash(seed::FIRST, format!("{first} {second}").as_bytes()));
        }
        found.push(hash(seed::LAST, last.as_bytes()));
    }
    let mut n_negated = 0;
    for word in &words {
        if n_negated > 0 {
            found.push(hash(seed::NEGATED, word.as_bytes()));
            n_negated -= 1;
        }
        if negates(word) {
            n_negated = NEGATED_WORDS;
        } else if is_mark(word) {
            n_negated = 0;
        }
    }
    let mut bounds: Vec<usize> = Vec::new();
    for word in &words {
        joined.clear();
        joined.push(' ');
        joined.push_str(word);
        joined.push(' ');
        bounds.clear();
        bounds.extend(joined.char_indices().map(|(at, _)| at));
        bounds.push(joined.len());
        for n_letters in 2..=5 {
            for window in bounds.windows(n_letters + 1) {
                found.push(hash(seed::LETTERS, &joined.as_bytes()[window[0]..window[n_letters]]));
            }
        }
    }
    manner(read_part(text), &words, &mut |named| found.push(hash(seed::MANNER, named.as_bytes())));
    found.sort_unstable();
    found.dedup();
    found
}

/// How it is written, beside what.
fn manner(text: &str, words: &[String], add: &mut dyn FnMut(&str)) {
    let n_upper = text.chars().filter(|c| c.is_uppercase()).count();
    let n_letters = text.chars().filter(|c| c.is_alphabetic()).count();
    if n_letters > 4 && n_upper * 2 > n_letters {
        add("shouts");
    }
    if n_upper == 0 {
        add("no capitals");
    }
    if text.split(|c: char| !c.is_alphanumeric() && c != '\'').any(|word| word == "i") {
        add("small i");
    }
    if text.trim_end().ends_with(['.', '!', '?']) {
        add("ends with a mark");
    }
    let n_words = words.len().min(64).checked_ilog2().unwrap_or(0);
    add(&format!("length {n_words}"));
    for mark in ["!", "?"] {
        let n_marks = words.iter().filter(|word| *word == mark).count().min(4);
        add(&format!("{mark} {n_marks}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_keep_apostrophes_and_cut_long_vowels() {
        assert_eq!(words("I DON’T know... sooooo"), ["i", "don't", "know", ".", ".", ".", "soo"]);
        assert!(words("").is_empty());
    }

    #[test]
    fn features_are_sorted_and_bounded() {
        let long = "ö".repeat(100_000);
        assert!(features(&long).len() < 6 * READ_BYTES);
        let found = features("why why why");
        assert!(found.is_sorted() && found.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn a_negation_reaches_three_words_and_no_mark() {
        let has = |text: &str, word: &str| {
            features(text).binary_search(&hash(seed::NEGATED, word.as_bytes())).is_ok()
        };
        assert!(has("I'm not very happy", "happy"));
        assert!(!has("not now. I'm happy", "happy"));
        assert!(!has("I did not see that you are happy", "happy"));
    }
}
