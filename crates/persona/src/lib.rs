//! How a person is read.
//!
//! Pure functions from text to values: no I/O, no clock, no model of language. Start reading at
//! [`reading`].

pub mod reading;
