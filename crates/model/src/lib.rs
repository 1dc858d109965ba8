//! Models: files, tokens, templates and architectures.

pub mod gguf;
pub mod quantize;
pub mod tokenizer;
