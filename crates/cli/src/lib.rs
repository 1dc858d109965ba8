//! The parts of `rapport` that can be driven without a process: the terminal chat, and the models on
//! this machine.

pub mod chat;
pub mod models;
pub mod pull;
