//! Llama and what is built like it: SmolLM2, Mistral, TinyLlama (Touvron et al. 2023); with
//! experts, Mixtral (Jiang et al. 2024), whose files call themselves `llama` too.
//!
//! Pre-norm blocks of grouped-query attention and SwiGLU; rotary pairs are neighbours in the file.

use rapport_kernels::RopePairs;

use super::{Architecture, Hyperparameters};
use crate::error::LoadError;

pub(crate) fn read(read: &Hyperparameters<'_>) -> Result<Architecture, LoadError> {
    let mut rope = read.rope(RopePairs::Neighbours)?;
    rope.factors = read.rope_factors(rope.n_dims)?;
    let mut llama = read.decoder(&rope)?;
    if let Some(inner) = llama.feed_forward.dense
        && read.optional_count("expert_count", u32::MAX)?.is_some()
    {
        llama.feed_forward.experts = Some(read.experts(inner, true)?);
        llama.feed_forward.dense = None;
    }
    Ok(llama)
}
