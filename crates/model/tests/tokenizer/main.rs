//! The tokenizer against its references and against hostile input.

mod default_model;
mod llama_cpp;
mod reference;
