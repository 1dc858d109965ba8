//! Quantised blocks and the arithmetic over them.

pub mod blocks;
pub mod quantize;
