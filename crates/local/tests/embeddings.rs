//! Embeddings of the default model: llama.cpp's, and the same bits however they are asked for.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail their test")]

use std::num::NonZeroUsize;

use rapport_kernels::{Compute, Isa};
use rapport_local::LocalModel;
use rapport_types::{
    Caller, Control, Embedding, EmbeddingInput, EmbeddingRequest, Generate, GenerateError,
};
use serde_json::Value;

fn model() -> LocalModel {
    let compute = Compute::new(Isa::detect(), NonZeroUsize::new(2).unwrap());
    LocalModel::load(&rapport_testkit::default_model(), compute, 4096).unwrap()
}

fn embed(model: &LocalModel, inputs: Vec<EmbeddingInput>) -> Result<Vec<Embedding>, GenerateError> {
    let (caller, control) = (Caller::default(), Control::default());
    model.embed(EmbeddingRequest { inputs, caller, control })
}

fn text(text: &str) -> EmbeddingInput {
    EmbeddingInput::Text(text.to_owned())
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

#[test]
fn embeddings_are_those_of_llama_cpp() {
    let fixture = include_str!("fixtures/embeddings.json");
    let expected: Vec<Value> = serde_json::from_str(fixture).unwrap();
    let model = model();
    let inputs = expected.iter().map(|one| text(one["text"].as_str().unwrap())).collect();
    let got = embed(&model, inputs).unwrap();
    assert_eq!(got.len(), expected.len());
    for (got, expected) in got.iter().zip(&expected) {
        assert_eq!(u64::from(got.n_tokens), expected["n_tokens"].as_u64().unwrap());
        let numbers = expected["vector"].as_array().unwrap();
        let numbers: Vec<f32> = numbers.iter().map(|x| x.as_f64().unwrap() as f32).collect();
        assert_eq!(got.vector.len(), numbers.len());
        let length = cosine(&got.vector, &got.vector);
        assert!((length - 1.0).abs() < 1e-6, "{length}");
        // Both round activations to 8 bits, in other places: what two builds of llama.cpp differ by.
        let cosine = cosine(&got.vector, &numbers);
        assert!(cosine > 0.999, "{}: {cosine}", expected["text"]);
    }
}

#[test]
fn a_vector_is_the_same_bits_alone_together_and_as_tokens() {
    let model = model();
    // Longer than a pass, so that it is cut, and beside others.
    let long = "The quick brown fox jumps over the lazy dog. ".repeat(40);
    let texts = ["a", "Good evening!", &long, "Another text of some words."];
    let together = embed(&model, texts.iter().map(|one| text(one)).collect()).unwrap();
    assert!(together[2].n_tokens > 256, "{}", together[2].n_tokens);
    for (one, expected) in texts.iter().zip(&together) {
        assert_eq!(&embed(&model, vec![text(one)]).unwrap()[0], expected, "{one:.20}");
        let tokens = model.tokenize(one).unwrap().iter().map(|token| token.id).collect();
        let by_tokens = embed(&model, vec![EmbeddingInput::Tokens(tokens)]).unwrap();
        assert_eq!(&by_tokens[0], expected, "{one:.20}");
    }
}

#[test]
fn inputs_that_cannot_be_embedded_are_named() {
    let model = model();
    let too_long = EmbeddingInput::Tokens(vec![1; 10_000]);
    for (input, reason) in [
        (EmbeddingInput::Tokens(vec![u32::MAX]), "number 1: there is no token 4294967295"),
        (too_long, "number 1: it has 10000 tokens and the model takes 4096"),
        (EmbeddingInput::Tokens(Vec::new()), "number 1: there is nothing in it"),
    ] {
        let error = embed(&model, vec![text("fine"), input]).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    let control = Control::default();
    control.stop();
    let stopped =
        EmbeddingRequest { inputs: vec![text("late")], caller: Caller::default(), control };
    assert_eq!(model.embed(stopped), Err(GenerateError::EngineStopped));
}
