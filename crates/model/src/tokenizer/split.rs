//! Pre-tokenizers: how text is cut into pieces that merges never cross.
//!
//! Each is a published regular expression, written out as a scanner over characters; the names are
//! those of `tokenizer.ggml.pre`. Unicode's letters, numbers and white space are meant.

use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

/// A way of cutting text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Splitter {
    /// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
    Gpt2,
    /// Every number alone, then [`Splitter::Gpt2`].
    SmolLm,
    /// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,n}|
    /// ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`, n being 3 for Llama 3 and 1 for Qwen 2.
    Words { max_digits: usize },
    /// Punctuation, [`Splitter::Gpt2`], numbers, then three digits at a time: what llama.cpp does
    /// where a file does not say.
    Default,
}

/// The values of `tokenizer.ggml.pre` that are known.
pub(crate) const SUPPORTED: &[(&str, Splitter)] = &[
    ("default", Splitter::Default),
    ("gpt-2", Splitter::Gpt2),
    ("smollm", Splitter::SmolLm),
    ("llama-bpe", Splitter::Words { max_digits: 3 }),
    ("llama3", Splitter::Words { max_digits: 3 }),
    ("llama-v3", Splitter::Words { max_digits: 3 }),
    ("qwen2", Splitter::Words { max_digits: 1 }),
    ("deepseek-r1-qwen", Splitter::Words { max_digits: 1 }),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Letter,
    Number,
    Space,
    Other,
}

fn class(c: char) -> Class {
    if c.is_ascii() {
        return match c {
            'a'..='z' | 'A'..='Z' => Class::Letter,
            '0'..='9' => Class::Number,
            ' ' | '\t'..='\r' => Class::Space,
            _ => Class::Other,
        };
    }
    if c.is_whitespace() {
        return Class::Space;
    }
    match c.general_category_group() {
        GeneralCategoryGroup::Letter => Class::Letter,
        GeneralCategoryGroup::Number => Class::Number,
        _ => Class::Other,
    }
}

fn is_default_punctuation(c: char) -> bool {
    matches!(c, '$' | '+' | '<' | '=' | '>' | '^' | '~' | '|')
        || (if c.is_ascii() {
            c.is_ascii_punctuation() && c != '`'
        } else {
            c.general_category_group() == GeneralCategoryGroup::Punctuation
        })
}

impl Splitter {
    /// Calls `each` with every piece of `text`, in order; together they are `text`.
    pub(crate) fn split<'t>(self, text: &'t str, each: &mut dyn FnMut(&'t str)) {
        match self {
            Self::Gpt2 => repeat(text, each, gpt2_piece),
            Self::Words { max_digits } => {
                repeat(text, each, |text| words_piece(text, max_digits));
            }
            Self::SmolLm => {
                let number = |c| class(c) == Class::Number;
                cut(text, number, true, &mut |piece, is_number| {
                    if is_number { each(piece) } else { repeat(piece, each, gpt2_piece) }
                });
            }
            Self::Default => {
                cut(text, is_default_punctuation, false, &mut |piece, is_punctuation| {
                    // Punctuation, too, goes through the later expressions, which leave it whole
                    // but for a contraction at its start.
                    let _ = is_punctuation;
                    repeat(piece, &mut |piece| digits(piece, each), gpt2_piece);
                });
            }
        }
    }
}

/// `\p{N}+` apart from the rest, then ASCII digits three at a time.
fn digits<'t>(text: &'t str, each: &mut dyn FnMut(&'t str)) {
    cut(text, |c| class(c) == Class::Number, false, &mut |piece, is_number| {
        if !is_number {
            return each(piece);
        }
        let mut rest = piece;
        while !rest.is_empty() {
            let n_bytes = match rest.as_bytes() {
                [a, b, c, ..] if [a, b, c].iter().all(|byte| byte.is_ascii_digit()) => 3,
                // What no three digits cover stays together up to the next three.
                bytes => (1..bytes.len())
                    .find(|&at| {
                        rest.is_char_boundary(at)
                            && bytes[at..].len() >= 3
                            && bytes[at..at + 3].iter().all(u8::is_ascii_digit)
                    })
                    .unwrap_or(bytes.len()),
            };
            each(&rest[..n_bytes]);
            rest = &rest[n_bytes..];
        }
    });
}

/// Cuts out the runs (or each single one) of characters that `matches` and passes both kinds on.
fn cut<'t>(
    text: &'t str,
    matches: impl Fn(char) -> bool,
    single: bool,
    each: &mut dyn FnMut(&'t str, bool),
) {
    let mut start = 0;
    let mut in_match = false;
    for (at, c) in text.char_indices() {
        let is_match = matches(c);
        if at > start && (is_match != in_match || (single && is_match)) {
            each(&text[start..at], in_match);
            start = at;
        }
        in_match = is_match;
    }
    if start < text.len() {
        each(&text[start..], in_match);
    }
}

fn repeat<'t>(mut text: &'t str, each: &mut dyn FnMut(&'t str), piece: impl Fn(&str) -> usize) {
    while !text.is_empty() {
        let n_bytes = piece(text).max(1);
        each(&text[..n_bytes]);
        text = &text[n_bytes..];
    }
}

/// Bytes of the longest prefix whose characters all are of this class.
fn run(text: &str, wanted: Class) -> usize {
    text.find(|c| class(c) != wanted).unwrap_or(text.len())
}

fn contraction(text: &str, fold_case: bool) -> Option<usize> {
    let rest = text.strip_prefix('\'')?.as_bytes();
    ["s", "t", "re", "ve", "m", "ll", "d"]
        .iter()
        .find(|ending| {
            rest.get(..ending.len()).is_some_and(|start| {
                start == ending.as_bytes()
                    || fold_case && start.eq_ignore_ascii_case(ending.as_bytes())
            })
        })
        .map(|ending| 1 + ending.len())
}

/// `\s+(?!\S)|\s+`: a run of white space leaves its last character to the word after it.
fn space_piece(text: &str) -> usize {
    let n_bytes = run(text, Class::Space);
    if n_bytes == text.len() {
        return n_bytes;
    }
    match text[..n_bytes].char_indices().next_back() {
        Some((last, _)) if last > 0 => last,
        _ => n_bytes,
    }
}

fn gpt2_piece(text: &str) -> usize {
    if let Some(n_bytes) = contraction(text, false) {
        return n_bytes;
    }
    let body = text.strip_prefix(' ').unwrap_or(text);
    match body.chars().next().map(class) {
        Some(class @ (Class::Letter | Class::Number | Class::Other)) => {
            text.len() - body.len() + run(body, class)
        }
        _ => space_piece(text),
    }
}

fn words_piece(text: &str, max_digits: usize) -> usize {
    if let Some(n_bytes) = contraction(text, true) {
        return n_bytes;
    }
    let mut chars = text.chars();
    let Some(first) = chars.next() else { return 0 };
    let first_class = class(first);
    if first_class == Class::Letter {
        return run(text, Class::Letter);
    }
    let is_break = |c: char| c == '\r' || c == '\n';
    let after_first = chars.as_str();
    if first_class != Class::Number && !is_break(first) {
        let n_letters = run(after_first, Class::Letter);
        if n_letters > 0 {
            return first.len_utf8() + n_letters;
        }
    }
    if first_class == Class::Number {
        let numbers = text.char_indices().take_while(|(_, c)| class(*c) == Class::Number);
        return numbers.take(max_digits).map(|(at, c)| at + c.len_utf8()).last().unwrap_or(1);
    }
    let body = text.strip_prefix(' ').unwrap_or(text);
    let n_other = run(body, Class::Other);
    if n_other > 0 {
        let n_before = text.len() - body.len() + n_other;
        let after = &text[n_before..];
        return n_before + after.find(|c| !is_break(c)).unwrap_or(after.len());
    }
    // Only white space is left: up to the last line break of the run, if it has one.
    let n_space = run(text, Class::Space);
    match text[..n_space].rfind(is_break) {
        Some(at) => at + 1,
        None => space_piece(text),
    }
}
