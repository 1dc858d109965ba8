//! OLMoE (Muennighoff et al. 2024): a mixture whose weights are not renormalised, with one norm over
//! all heads of a token's queries and one over its keys.

use rapport_kernels::RopePairs;

use super::{Architecture, Hyperparameters, QueryKeyNorm};
use crate::error::LoadError;

pub(crate) fn read(read: &Hyperparameters<'_>) -> Result<Architecture, LoadError> {
    let mut olmoe = read.decoder(&read.rope(RopePairs::Halves)?)?;
    olmoe.query_key_norm = Some(QueryKeyNorm::AllHeads);
    let inner = read.count("feed_forward_length", 1 << 22)?;
    olmoe.feed_forward.experts = Some(read.experts(inner, false)?);
    olmoe.feed_forward.dense = None;
    Ok(olmoe)
}
