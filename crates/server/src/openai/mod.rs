//! OpenAI's protocol.

pub(crate) mod chat;
pub(crate) mod models;
mod request;
