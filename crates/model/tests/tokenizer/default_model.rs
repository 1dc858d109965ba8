//! Ids equal those of llama.cpp on the vocabulary of the default model.

use rapport_model::gguf::Gguf;
use rapport_model::tokenizer::{Tokenizer, Vocabulary};

use crate::reference::Reference;

#[test]
fn the_default_model_has_the_ids_of_llama_cpp() {
    let file = Gguf::open(&rapport_testkit::default_model()).expect("the default model opens");
    let vocabulary = Vocabulary::from_gguf(&file).expect("it has a vocabulary");
    let tokenizer = Tokenizer::new(&vocabulary).expect("which is sound");
    let reference = Reference::load("default_model.json");
    let n_equal = reference.check("default model", &tokenizer);
    assert!(n_equal > 5_000, "only {n_equal} tokens were compared");
    assert_eq!(tokenizer.end_ids(), reference.ends);
}
