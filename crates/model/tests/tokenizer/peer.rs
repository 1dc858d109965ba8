//! The `tokenizers` library of Hugging Face, given the same vocabulary.

use rapport_model::tokenizer::Vocabulary;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer};

/// A byte-level BPE tokenizer without special tokens.
///
/// # Panics
/// For a pre-tokenizer that the library has no equal of (`default`).
pub(crate) fn peer(vocabulary: &Vocabulary<'_>) -> Tokenizer {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("the fixtures are UTF-8");
    let ids: Vocab = (0..).zip(&vocabulary.tokens).map(|(id, token)| (text(token), id)).collect();
    let merges = vocabulary
        .merges
        .iter()
        .map(|merge| {
            let merge = text(merge);
            let (left, right) = merge.split_once(' ').expect("two tokens");
            (left.to_owned(), right.to_owned())
        })
        .collect();
    let model = BPE::builder()
        .vocab_and_merges(ids, merges)
        .ignore_merges(vocabulary.pre == "llama-bpe")
        .build()
        .expect("the fixtures are sound");
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(pre_tokenizer(vocabulary.pre)));
    tokenizer
}

fn pre_tokenizer(name: &str) -> PreTokenizerWrapper {
    let byte_level = |use_regex| PreTokenizerWrapper::from(ByteLevel::new(false, true, use_regex));
    let gpt4 = |max_digits: usize, letters: &str| {
        let pattern = [
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)".to_owned(),
            format!(r"[^\r\n\p{{L}}\p{{N}}]?[{letters}]+"),
            format!(r"\p{{N}}{{1,{max_digits}}}"),
            format!(r" ?[^\s{letters}\p{{N}}]+[\r\n]*"),
            r"\s*[\r\n]+|\s+(?!\S)|\s+".to_owned(),
        ]
        .join("|");
        let isolated = SplitDelimiterBehavior::Isolated;
        let split = Split::new(SplitPattern::Regex(pattern), isolated, false);
        let split = split.expect("the pattern is sound");
        Sequence::new(vec![split.into(), byte_level(false)]).into()
    };
    match name {
        "gpt-2" => byte_level(true),
        "smollm" => Sequence::new(vec![Digits::new(true).into(), byte_level(true)]).into(),
        "llama-bpe" => gpt4(3, r"\p{L}"),
        "qwen2" => gpt4(1, r"\p{L}"),
        "qwen35" => gpt4(1, r"\p{L}\p{M}"),
        other => panic!("the library has no pre-tokenizer like {other}"),
    }
}
