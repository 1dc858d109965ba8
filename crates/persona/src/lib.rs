//! Who answers and how.
//!
//! A [`Persona`] is a file that people can read and change; [`Layers`] puts it together with what
//! the instance, the person and the request say, always in that order and at one place of the
//! prompt, so that a cached prefix stays one. [`measures`] counts how a text is written: pure
//! functions of the text, each with its source. [`reading`] reads a message: feeling, need, danger.
//!
//! [`rewards`] says what a reply is worth, in parts, by the surface of its text.
//!
//! What is not here: models, stored text.

pub mod measures;
mod persona;
pub mod reading;
pub mod rewards;

pub use persona::{
    Example, Language, Layers, Persona, PersonaError, Problem, TONES, Text, builtin,
    builtin_policy, check_policy,
};
