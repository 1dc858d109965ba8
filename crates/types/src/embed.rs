//! Asking for embeddings: a text as one vector.

use crate::{Caller, Control};

/// Something to embed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EmbeddingInput {
    Text(String),
    /// Ids of the model's own tokenizer.
    Tokens(Vec<u32>),
}

/// Embeddings asked for.
#[derive(Clone, Debug)]
pub struct EmbeddingRequest {
    /// Each not empty.
    pub inputs: Vec<EmbeddingInput>,
    pub caller: Caller,
    /// Stopped by whoever no longer waits.
    pub control: Control,
}

/// The vector of one input.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    /// Of length 1.
    pub vector: Vec<f32>,
    /// Tokens of the input.
    pub n_tokens: u32,
}
