//! Ids equal those of the `tokenizers` library of Hugging Face, which the models were trained with,
//! on random text.
//!
//! The texts leave out where it and llama.cpp differ: `ſ` after an apostrophe, bytes without a token
//! (U+007F here; the library joins what is on both sides of one), and characters younger than the
//! Unicode of any of the three.

use proptest::prelude::*;
use rapport_model::tokenizer::{Tokenizer, Trust};

use crate::peer::peer;
use crate::reference::{Reference, corpus_texts, open};

/// Blocks that pre-tokenizers treat differently, in all their ways.
fn any_char() -> impl Strategy<Value = char> {
    prop_oneof![
        8 => proptest::char::range(' ', '~'),
        2 => Just(' '),
        2 => prop::sample::select(vec!['\n', '\r', '\t', '\u{b}', '\0', '\u{1b}']),
        2 => prop::sample::select(vec!['\'', 's', 'T', 'r', 'E', 'v', 'l', 'L', 'M', 'd']),
        1 => prop::sample::select(vec!['\u{85}', '\u{a0}', '\u{2003}', '\u{3000}', '\u{200b}']),
        1 => proptest::char::range('\u{80}', '\u{17e}'),
        1 => proptest::char::range('\u{300}', '\u{36f}'),
        1 => proptest::char::range('α', 'ω'),
        1 => proptest::char::range('а', 'я'),
        1 => proptest::char::range('א', 'ת'),
        1 => proptest::char::range('\u{621}', '\u{669}'),
        1 => proptest::char::range('\u{905}', '\u{939}'),
        1 => proptest::char::range('ぁ', 'ゖ'),
        1 => proptest::char::range('一', '龥'),
        1 => proptest::char::range('가', '힣'),
        1 => proptest::char::range('Ⅰ', 'ↈ'),
        1 => proptest::char::range('①', '⓿'),
        1 => proptest::char::range('\u{1f300}', '\u{1f64f}'),
        1 => proptest::char::range('\u{1f1e6}', '\u{1f1ff}'),
        1 => prop::sample::select(vec!['\u{200d}', '\u{fe0f}', '\u{1f3fd}', '\u{e0101}']),
        1 => proptest::char::range('\u{20000}', '\u{2a6d6}'),
        1 => proptest::char::range('\u{e000}', '\u{e0ff}'),
    ]
}

fn any_text() -> impl Strategy<Value = String> {
    let runs = (any_char(), 1_usize..9).prop_map(|(c, n)| c.to_string().repeat(n));
    prop_oneof![
        prop::collection::vec(any_char(), 0..80).prop_map(String::from_iter),
        prop::collection::vec(runs, 0..30).prop_map(|runs| runs.concat()),
    ]
}

fn check(reference_name: &str) {
    let file = open("bpe.gguf");
    let reference = Reference::load(reference_name);
    let vocabulary = reference.vocabulary(&file);
    let ours = Tokenizer::new(&vocabulary).expect("a good vocabulary");
    let theirs = peer(&vocabulary);
    let expected =
        |text: &str| theirs.encode_fast(text, false).expect("any text").get_ids().to_vec();

    // The peer knows no special tokens, which the corpus is full of.
    for text in corpus_texts().iter().filter(|text| !text.contains(['<', 'ſ', '\u{7f}'])) {
        assert_eq!(ours.encode(text, Trust::Content), expected(text), "{text:?}");
    }
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) };
    proptest!(config, |(text in any_text())| {
        prop_assert_eq!(ours.encode(&text, Trust::Content), expected(&text));
    });
}

#[test]
fn gpt2() {
    check("bpe_gpt-2.json");
}

#[test]
fn smollm() {
    check("bpe_smollm.json");
}

#[test]
fn llama_bpe() {
    check("bpe_llama-bpe.json");
}

#[test]
fn qwen2() {
    check("bpe_qwen2.json");
}

#[test]
fn qwen35() {
    check("bpe_qwen35.json");
}
