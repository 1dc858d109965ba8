//! The tokenizer against its references and against hostile input.

mod default_model;
mod hostile;
mod hugging_face;
mod llama_cpp;
mod peer;
mod reference;
