//! What the `rapport` binary is made of. `main.rs` reads flags and the environment, once, and
//! calls these.

pub mod models;
pub mod pull;
