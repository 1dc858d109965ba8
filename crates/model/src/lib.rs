//! Placeholder until the first real code.

pub mod chat_template;
