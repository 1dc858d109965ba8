//! Who answers and how.
//!
//! A [`Persona`] is a file that people can read and change; [`Layers`] puts it together with what
//! the instance, the person and the request say, always in that order and at one place of the
//! prompt, so that a cached prefix stays one. [`measures`] counts how a text is written: pure
//! functions of the text, each with its source.
//!
//! What is not here: models, stored text, opinions about whether a text is good.

pub mod measures;
mod persona;

pub use persona::{
    Example, Language, Layers, Persona, PersonaError, Problem, TONES, Text, builtin,
};
