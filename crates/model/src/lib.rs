//! Models: files, tokens, templates and architectures.

pub mod chat_template;
pub mod gguf;
pub mod quantize;
