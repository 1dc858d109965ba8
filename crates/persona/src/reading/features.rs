//! A text as a bag of hashed n-grams: words in ones, twos and threes, and the letters of each word
//! in threes, fours and fives.
//!
//! Letters catch spellings that no list has (`sooo`, `thx`). Features are named by 32-bit hashes;
//! which of them count is up to the weights.

/// Bytes of a text that are read; the rest of a longer one changes a reading little and would cost
/// time without bound.
pub const READ_BYTES: usize = 4096;

const WORD_SEED: u32 = 0x811c_9dc5;
const LETTER_SEED: u32 = 0x5bd1_e995;

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

/// Words and marks of `text` in lower case; an apostrophe inside a word belongs to it, three equal
/// letters in a row become two, and `[name]` stays one word.
pub fn words(text: &str) -> Vec<String> {
    let mut end = text.len().min(READ_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut words: Vec<String> = Vec::new();
    let mut word = String::new();
    let mut chars = text[..end].chars().peekable();
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

/// The hashes of the features of `text`, sorted, each once.
pub fn features(text: &str) -> Vec<u32> {
    let words = words(text);
    let mut found = Vec::with_capacity(words.len() * 20);
    let mut joined = String::new();
    for at in 0..words.len() {
        joined.clear();
        for word in words[at..].iter().take(3) {
            joined.push_str(word);
            joined.push(' ');
            found.push(hash(WORD_SEED, joined.as_bytes()));
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
        for n_letters in 3..=5 {
            for window in bounds.windows(n_letters + 1) {
                found.push(hash(LETTER_SEED, &joined.as_bytes()[window[0]..window[n_letters]]));
            }
        }
    }
    // How it is written, beside what: shouting, and how long.
    let n_upper = text.chars().filter(|c| c.is_uppercase()).count();
    let n_letters = text.chars().filter(|c| c.is_alphabetic()).count();
    if n_letters > 4 && n_upper * 2 > n_letters {
        found.push(hash(WORD_SEED, b"\0shouts"));
    }
    found.push(hash(WORD_SEED, &[0, words.len().min(64).checked_ilog2().unwrap_or(0) as u8]));
    found.sort_unstable();
    found.dedup();
    found
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
        assert!(features(&long).len() < 3 * READ_BYTES);
        let found = features("why why why");
        assert!(found.is_sorted() && found.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
