//! The parts of the `rapport` program that its tests and examples drive; `main.rs` reads flags and
//! the environment and puts them together.

pub mod chat;
