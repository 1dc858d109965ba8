//! Reading of a message: its words and its hashed features so far.

pub mod features;
pub mod labels;
