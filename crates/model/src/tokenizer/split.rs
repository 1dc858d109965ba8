//! Pre-tokenizers: how text is cut into the words that byte-level BPE merges within.
//!
//! Each is defined by regular expressions (quoted at its function); these are hand-written
//! scanners for them, one pass over the characters, because they must never backtrack: a message
//! may be a megabyte of spaces. The expressions and which model uses which are as in llama.cpp
//! (`llama-vocab.cpp`, `unicode.cpp`).
//!
//! One place differs from the expressions as published with the models: `(?i:'s)` there also
//! matches `'ſ` (long s), which llama.cpp and this scanner take for an ordinary letter.

use super::char_class::{CharClass, CharClasses};

/// A rule for words, and the defaults that come with the name of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PreTokenizer {
    pub(super) rule: SplitRule,
    /// A word that is a token is that token, whatever the merges would make of it.
    pub(super) ignore_merges: bool,
    /// Whether text starts with the BOS token when the metadata do not say.
    pub(super) add_bos: bool,
}

/// Where words end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SplitRule {
    Gpt2,
    /// As [`SplitRule::Gpt2`], with every digit a word of its own.
    Gpt2SingleDigits,
    /// Case-blind contractions, any one character before letters, line breaks kept together.
    Gpt4 {
        max_digits: usize,
        /// Combining marks count as letters.
        marks_join: bool,
    },
    /// llama.cpp's rule for files that do not name theirs.
    Default,
}

impl PreTokenizer {
    const fn plain(rule: SplitRule) -> Self {
        Self { rule, ignore_merges: false, add_bos: false }
    }
}

const LLAMA3_RULE: SplitRule = SplitRule::Gpt4 { max_digits: 3, marks_join: false };
const LLAMA3: PreTokenizer = PreTokenizer { rule: LLAMA3_RULE, ignore_merges: true, add_bos: true };
const QWEN2_RULE: SplitRule = SplitRule::Gpt4 { max_digits: 1, marks_join: false };
const QWEN35_RULE: SplitRule = SplitRule::Gpt4 { max_digits: 1, marks_join: true };

/// The supported values of `tokenizer.ggml.pre`. Names whose rule is one of these but whose special
/// tokens need more (separators, stripped masks) are absent.
const PRE_TOKENIZERS: &[(PreTokenizer, &[&str])] = &[
    (PreTokenizer::plain(SplitRule::Default), &["default"]),
    (
        PreTokenizer::plain(SplitRule::Gpt2),
        &["gpt-2", "phi-2", "mpt", "olmo", "jais", "exaone4", "trillion", "granite-docling"],
    ),
    (
        PreTokenizer::plain(SplitRule::Gpt2SingleDigits),
        &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"],
    ),
    (
        LLAMA3,
        &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
    ),
    (PreTokenizer::plain(LLAMA3_RULE), &["smaug-bpe", "dbrx"]),
    (
        PreTokenizer::plain(QWEN2_RULE),
        &[
            "qwen2",
            "deepseek-r1-qwen",
            "grok-2",
            "megrez",
            "stablelm2",
            "hunyuan",
            "kormo",
            "f2llmv2",
        ],
    ),
    (PreTokenizer::plain(QWEN35_RULE), &["qwen35"]),
];

impl PreTokenizer {
    /// By `tokenizer.ggml.pre`; an empty name is that of a file without the key.
    pub(super) fn named(name: &str) -> Option<Self> {
        let name = if name.is_empty() { "default" } else { name };
        PRE_TOKENIZERS
            .iter()
            .find(|(_, names)| names.contains(&name))
            .map(|&(pre_tokenizer, _)| pre_tokenizer)
    }

    /// All supported names.
    pub(super) fn names() -> impl Iterator<Item = &'static str> {
        PRE_TOKENIZERS.iter().flat_map(|(_, names)| names.iter().copied())
    }
}

impl SplitRule {
    /// Gives `emit` the words of `text` in order: none is empty, together they are `text`.
    pub(super) fn split<'t>(self, text: &'t str, mut emit: impl FnMut(&'t str)) {
        match self {
            Self::Gpt2 => split_gpt2(text, &mut emit),
            Self::Gpt2SingleDigits => split_single_digits(text, &mut emit),
            Self::Gpt4 { max_digits, marks_join } => {
                let scanner = Scanner::over(text);
                scanner.split(
                    |start, first| scanner.gpt4_word_end(start, first, max_digits, marks_join),
                    &mut emit,
                );
            }
            Self::Default => split_default(text, &mut emit),
        }
    }
}

/// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
fn split_gpt2<'t>(text: &'t str, emit: &mut impl FnMut(&'t str)) {
    let scanner = Scanner::over(text);
    scanner.split(|start, first| scanner.gpt2_word_end(start, first), emit);
}

/// `\p{N}`, and what is between by the expression of GPT-2.
fn split_single_digits<'t>(text: &'t str, emit: &mut impl FnMut(&'t str)) {
    let is_number = |_, class| class == CharClass::Number;
    split_runs(text, is_number, |run, holds_numbers| {
        if holds_numbers {
            run.split_inclusive(|_| true).for_each(&mut *emit);
        } else {
            split_gpt2(run, emit);
        }
    });
}

/// Four expressions, each applied to the pieces that the one before has made:
/// `[\p{P}\$\+<=>\^~\|]+`, then that of GPT-2, `\p{N}+`, and `[0-9][0-9][0-9]`.
fn split_default<'t>(text: &'t str, emit: &mut impl FnMut(&'t str)) {
    let is_punctuation = |character, class| {
        class == CharClass::Punctuation
            || matches!(character, '$' | '+' | '<' | '=' | '>' | '^' | '~' | '|')
    };
    let is_number = |_, class| class == CharClass::Number;
    split_runs(text, is_punctuation, |run, punctuation| {
        if punctuation {
            // No letter, digit or space in it: the other expressions leave it whole.
            emit(run);
            return;
        }
        split_gpt2(run, &mut |word| {
            split_runs(word, is_number, |part, holds_numbers| {
                if holds_numbers {
                    split_digit_triples(part, emit);
                } else {
                    emit(part);
                }
            });
        });
    });
}

/// Cuts out every three ASCII digits in a row; what is between stays together.
fn split_digit_triples<'t>(numbers: &'t str, emit: &mut impl FnMut(&'t str)) {
    let mut rest = numbers;
    while let Some(at) = rest.as_bytes().windows(3).position(|w| w.iter().all(u8::is_ascii_digit)) {
        if at > 0 {
            emit(&rest[..at]);
        }
        emit(&rest[at..at + 3]);
        rest = &rest[at + 3..];
    }
    if !rest.is_empty() {
        emit(rest);
    }
}

/// Cuts `text` into maximal runs of characters inside and outside of a set.
fn split_runs<'t>(
    text: &'t str,
    is_inside: impl Fn(char, CharClass) -> bool,
    mut emit: impl FnMut(&'t str, bool),
) {
    let classes = CharClasses::get();
    let mut start = 0;
    let mut inside = false;
    for (at, character) in text.char_indices() {
        if is_inside(character, classes.of(character)) != inside {
            if start < at {
                emit(&text[start..at], inside);
            }
            start = at;
            inside = !inside;
        }
    }
    if start < text.len() {
        emit(&text[start..], inside);
    }
}

/// A character of the text, with its length in bytes.
#[derive(Clone, Copy)]
struct Found {
    character: char,
    class: CharClass,
    len: usize,
}

/// Finds word ends in one text. Positions are byte offsets of characters.
#[derive(Clone, Copy)]
struct Scanner<'t> {
    text: &'t str,
    classes: CharClasses,
}

impl<'t> Scanner<'t> {
    fn over(text: &'t str) -> Self {
        Self { text, classes: CharClasses::get() }
    }

    fn split(self, word_end: impl Fn(usize, Found) -> usize, emit: &mut impl FnMut(&'t str)) {
        let mut start = 0;
        while let Some(first) = self.at(start) {
            let end = word_end(start, first);
            emit(&self.text[start..end]);
            start = end;
        }
    }

    fn at(self, position: usize) -> Option<Found> {
        let byte = *self.text.as_bytes().get(position)?;
        let character = if byte.is_ascii() {
            char::from(byte)
        } else {
            self.text[position..].chars().next()?
        };
        Some(Found { character, class: self.classes.of(character), len: character.len_utf8() })
    }

    /// Where the run of characters that `belongs` ends, at most `max_chars` of them.
    fn run_end(self, start: usize, max_chars: usize, belongs: impl Fn(CharClass) -> bool) -> usize {
        let mut end = start;
        for _ in 0..max_chars {
            match self.at(end) {
                Some(found) if belongs(found.class) => end += found.len,
                _ => break,
            }
        }
        end
    }

    fn gpt2_word_end(self, start: usize, first: Found) -> usize {
        if let Some(end) = self.contraction_end(start, u8::clone) {
            return end;
        }
        let body_start = start + usize::from(first.character == ' ');
        match self.at(body_start).map(|body| body.class) {
            None | Some(CharClass::Whitespace) => self.whitespace_end(start),
            Some(class @ (CharClass::Letter | CharClass::Number)) => {
                self.run_end(body_start, usize::MAX, |other| other == class)
            }
            Some(_) => self.run_end(body_start, usize::MAX, |class| {
                !matches!(class, CharClass::Letter | CharClass::Number | CharClass::Whitespace)
            }),
        }
    }

    /// With `\p{N}{1,max_digits}`, and `\p{L}` as `[\p{L}\p{M}]` where marks join:
    ///
    /// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|`
    /// `\s*[\r\n]+|\s+(?!\S)|\s+`
    fn gpt4_word_end(
        self,
        start: usize,
        first: Found,
        max_digits: usize,
        marks_join: bool,
    ) -> usize {
        let is_letter =
            |class| class == CharClass::Letter || (marks_join && class == CharClass::Mark);
        let is_symbol = |class| {
            !(is_letter(class) || matches!(class, CharClass::Number | CharClass::Whitespace))
        };

        if let Some(end) = self.contraction_end(start, u8::to_ascii_lowercase) {
            return end;
        }
        if first.class == CharClass::Number {
            return self.run_end(start, max_digits, |class| class == CharClass::Number);
        }
        if !is_line_break(first.character) {
            let second = start + first.len;
            let second_is_letter = || self.at(second).is_some_and(|found| is_letter(found.class));
            if is_letter(first.class) || second_is_letter() {
                return self.run_end(second, usize::MAX, is_letter);
            }
        }
        let body_start = start + usize::from(first.character == ' ');
        if self.at(body_start).is_some_and(|body| is_symbol(body.class)) {
            let mut end = self.run_end(body_start, usize::MAX, is_symbol);
            while self.at(end).is_some_and(|found| is_line_break(found.character)) {
                end += 1;
            }
            return end;
        }
        self.line_breaks_end(start).unwrap_or_else(|| self.whitespace_end(start))
    }

    /// `'s|'t|'re|'ve|'m|'ll|'d`, after `fold` of the letters.
    fn contraction_end(self, start: usize, fold: impl Fn(&u8) -> u8) -> Option<usize> {
        let mut bytes = self.text.as_bytes()[start..].iter();
        if bytes.next() != Some(&b'\'') {
            return None;
        }
        match (bytes.next().map(&fold), bytes.next().map(&fold)) {
            (Some(b's' | b't' | b'm' | b'd'), _) => Some(start + 2),
            (Some(b'r' | b'v'), Some(b'e')) | (Some(b'l'), Some(b'l')) => Some(start + 3),
            _ => None,
        }
    }

    /// `\s*[\r\n]+`: where the last line break of this run of whitespace ends.
    fn line_breaks_end(self, start: usize) -> Option<usize> {
        let run = &self.text[start..self.run_end(start, usize::MAX, is_whitespace)];
        run.rfind(is_line_break).map(|last| start + last + 1)
    }

    /// `\s+(?!\S)|\s+`: a run of whitespace leaves its last character to the word behind it, unless
    /// it is the only one or the text ends there.
    fn whitespace_end(self, start: usize) -> usize {
        let end = self.run_end(start, usize::MAX, is_whitespace);
        let run = &self.text[start..end];
        let last_len = run.chars().next_back().map_or(0, char::len_utf8);
        if end == self.text.len() || last_len == run.len() { end } else { end - last_len }
    }
}

fn is_whitespace(class: CharClass) -> bool {
    class == CharClass::Whitespace
}

fn is_line_break(character: char) -> bool {
    matches!(character, '\r' | '\n')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(name: &str, text: &str) -> String {
        let mut words = Vec::new();
        let pre_tokenizer = PreTokenizer::named(name).expect("it is supported");
        pre_tokenizer.rule.split(text, |word| words.push(word));
        words.join("|")
    }

    #[test]
    fn each_rule_cuts_in_its_own_places() {
        let text = "It's  I'LL 2024!\r\n\n x\u{301}(y) $5";
        let cut = |name| words(name, text);
        assert_eq!(cut("gpt-2"), "It|'s| | I|'|LL| 2024|!|\r\n\n| x|\u{301}(|y|)| $|5");
        assert_eq!(cut("smollm"), "It|'s| | I|'|LL| |2|0|2|4|!|\r\n\n| x|\u{301}(|y|)| $|5");
        assert_eq!(cut("default"), "It|'|s| | I|'|LL| |202|4|!|\r\n\n| x|\u{301}|(|y|)| |$|5");
        assert_eq!(cut("llama-bpe"), "It|'s| | I|'LL| |202|4|!\r\n\n| x|\u{301}(|y|)| $|5");
        assert_eq!(cut("qwen2"), "It|'s| | I|'LL| |2|0|2|4|!\r\n\n| x|\u{301}(|y|)| $|5");
        assert_eq!(cut("qwen35"), "It|'s| | I|'LL| |2|0|2|4|!\r\n\n| x\u{301}|(y|)| $|5");
    }

    #[test]
    fn names_that_no_rule_has_are_not_supported() {
        assert_eq!(PreTokenizer::named("gpt-5"), None);
        assert_eq!(PreTokenizer::named(""), PreTokenizer::named("default"));
        for name in PreTokenizer::names() {
            assert!(PreTokenizer::named(name).is_some(), "{name}");
        }
    }

    #[test]
    fn words_are_not_empty_and_make_up_the_text() {
        let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
        proptest!(config, |(text in any::<String>())| {
            for (pre_tokenizer, _) in PRE_TOKENIZERS {
                let mut words = Vec::new();
                pre_tokenizer.rule.split(&text, |word| words.push(word));
                prop_assert!(words.iter().all(|word| !word.is_empty()));
                prop_assert_eq!(words.concat(), text.as_str());
            }
        });
    }
}
