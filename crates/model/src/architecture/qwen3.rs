//! Qwen 3 (Yang et al. 2025): Qwen 2 without biases, with a norm of each head's queries and keys.

use rapport_kernels::RopePairs;

use super::{Architecture, Hyperparameters, QueryKeyNorm};
use crate::error::LoadError;

pub(crate) fn read(read: &Hyperparameters<'_>) -> Result<Architecture, LoadError> {
    let query_key_norm = Some(QueryKeyNorm::Head);
    Ok(Architecture { query_key_norm, ..read.decoder(&read.rope(RopePairs::Halves)?)? })
}
