//! Qwen 2 and 2.5 (Yang et al. 2024): Llama with biases on query, key and value (they are found by
//! their presence) and rotary pairs across the halves of a head.

use rapport_kernels::RopePairs;

use super::{Architecture, Hyperparameters};
use crate::error::LoadError;

pub(crate) fn read(read: &Hyperparameters<'_>) -> Result<Architecture, LoadError> {
    read.decoder(&read.rope(RopePairs::Halves)?)
}
