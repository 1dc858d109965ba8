//! Gemma 3 (Kamath et al. 2025): five of six layers see a sliding window, with a rotary base of
//! their own; norms before and after each half of a layer, and of each head's queries and keys.

use rapport_kernels::{Activation, Rope, RopePairs, RopeScaling};

use super::{Architecture, Hyperparameters, PostNorms, QueryKeyNorm, Sliding};
use crate::error::LoadError;

/// The 27B model scales scores by the width of its layers over their heads; no key says so.
const LAYERS_OF_27B: usize = 62;

pub(crate) fn read(read: &Hyperparameters<'_>) -> Result<Architecture, LoadError> {
    let rope = read.rope(RopePairs::Halves)?;
    let mut gemma = read.decoder(&rope)?;
    gemma.embedding_scale = Some((gemma.hidden as f32).sqrt());
    if gemma.attention.n_layers == LAYERS_OF_27B {
        gemma.score_scale = 1.0 / ((gemma.hidden / gemma.attention.n_heads) as f32).sqrt();
    }
    gemma.query_key_norm = Some(QueryKeyNorm::Head);
    if let Some(window_tokens) = read.window_tokens()? {
        let mut rope = rope;
        rope.base = read.positive("rope.freq_base_swa", Some(10_000.0))?;
        rope.scaling = RopeScaling::None;
        let layers = read.sliding_layers(gemma.attention.n_layers, 6)?;
        gemma.sliding = Some(Sliding { window_tokens, rope: Rope::new(&rope), layers });
    }
    gemma.feed_forward.activation = Activation::Gelu;
    gemma.post_norms = Some(PostNorms {
        attention: &["post_attention_norm"],
        feed_forward: &["post_ffw_norm"],
        feed_forward_scale: None,
    });
    gemma.logit_soft_cap = read.soft_cap("final_logit_softcapping", None)?;
    Ok(gemma)
}
