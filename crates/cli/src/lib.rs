//! The parts of `rapport` that can be driven without a process: the terminal chat, the models on this
//! machine, and one that is still on its way.

pub mod chat;
pub mod late;
pub mod models;
pub mod pull;
