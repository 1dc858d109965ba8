//! Qwen 3's mixtures (Yang et al. 2025): Qwen 3 with many small experts and no dense branch.

use super::{Architecture, Hyperparameters, qwen3};
use crate::error::LoadError;

pub(crate) fn read(read: &Hyperparameters<'_>) -> Result<Architecture, LoadError> {
    let mut qwen = qwen3::read(read)?;
    let inner = if let Some(inner) = read.optional_count("expert_feed_forward_length", 1 << 22)? {
        inner
    } else {
        // Files without it give the width of all active experts together.
        let all = read.count("feed_forward_length", 1 << 22)?;
        let n_active = read.count("expert_used_count", u32::MAX)?;
        if !all.is_multiple_of(n_active) {
            return Err(read.invalid("feed_forward_length", all, "a multiple of active experts"));
        }
        all / n_active
    };
    qwen.feed_forward.experts = Some(read.experts(inner, true)?);
    qwen.feed_forward.dense = None;
    Ok(qwen)
}
