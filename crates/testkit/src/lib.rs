//! What tests use in place of a model. A dev-dependency only: nothing here reaches a user.
//!
//! Start reading at [`ScriptedEngine`].

mod scripted;

pub use scripted::{Script, ScriptedEngine};
