//! The parts of `rapport` that can be driven without a process: the terminal chat.

pub mod chat;
