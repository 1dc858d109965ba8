//! Ids equal those of llama.cpp on small vocabularies, for every pre-tokenizer.

use rapport_model::tokenizer::Tokenizer;

use crate::reference::{Reference, open};

fn check(vocabulary: &str, reference_name: &str) {
    let file = open(vocabulary);
    let reference = Reference::load(reference_name);
    let tokenizer = Tokenizer::new(&reference.vocabulary(&file)).expect("a good vocabulary");
    let n_equal = reference.check(reference_name, &tokenizer);
    assert!(n_equal > 5_000, "only {n_equal} tokens were compared");
    assert_eq!(tokenizer.end_ids(), reference.ends, "{reference_name}");

    for (id, bytes) in (0..).zip(&reference.pieces) {
        let found = tokenizer.token_bytes(id).expect("an id of the vocabulary");
        assert_eq!(found, bytes, "{reference_name}: token {id}");
    }
}

#[test]
fn default_pre_tokenizer() {
    check("bpe.gguf", "bpe_default.json");
}

#[test]
fn gpt2() {
    check("bpe.gguf", "bpe_gpt-2.json");
}

#[test]
fn smollm() {
    check("bpe.gguf", "bpe_smollm.json");
}

#[test]
fn llama_bpe() {
    check("bpe.gguf", "bpe_llama-bpe.json");
}

#[test]
fn qwen2() {
    check("bpe.gguf", "bpe_qwen2.json");
}

#[test]
fn qwen35() {
    check("bpe.gguf", "bpe_qwen35.json");
}

#[test]
fn sentence_piece_with_a_space_before_the_text() {
    check("spm.gguf", "spm_space_prefix.json");
}

#[test]
fn sentence_piece_without_a_space_before_the_text() {
    check("spm.gguf", "spm_plain.json");
}

#[test]
fn sentence_piece_with_merges_within_words() {
    check("spm_words.gguf", "spm_words.json");
}
