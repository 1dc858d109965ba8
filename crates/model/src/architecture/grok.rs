//! Grok-1, and Grok-2 with its dense branch beside the experts and a cap on the logits (xAI 2024).
//!
//! Norms before and after each half of a layer; scores, and in Grok-2 logits, pass through a tanh.
//! Defaults are Grok-1's: its early files lack the keys.

use rapport_kernels::{Activation, RopePairs, RopeScaling};

use super::{Architecture, Hyperparameters, PostNorms};
use crate::error::LoadError;

pub(crate) fn read(read: &Hyperparameters<'_>) -> Result<Architecture, LoadError> {
    let mut rope = read.rope(RopePairs::Halves)?;
    if let RopeScaling::Yarn { beta_fast, beta_slow, .. } = &mut rope.scaling {
        *beta_fast = read.positive("rope.scaling.yarn_beta_fast", Some(8.0))?;
        *beta_slow = read.positive("rope.scaling.yarn_beta_slow", Some(1.0))?;
        // Known files say 1, or -1 for "not set".
        let blend = read.optional_number("rope.scaling.yarn_ext_factor")?.unwrap_or(1.0);
        if (blend.abs() - 1.0).abs() > f32::EPSILON {
            return Err(read.invalid("rope.scaling.yarn_ext_factor", blend, "1"));
        }
    }
    let mut grok = read.decoder(&rope)?;
    grok.embedding_scale = Some(read.positive("embedding_scale", Some(78.383_674))?);
    grok.score_scale = read.positive("attention.output_scale", Some(0.088_388_35))?;
    grok.score_soft_cap = read.soft_cap("attn_logit_softcapping", Some(30.0))?;
    grok.logit_scale = Some(read.positive("logit_scale", Some(0.577_350_26))?);
    grok.logit_soft_cap = read.soft_cap("final_logit_softcapping", None)?;

    let dense = read.count("feed_forward_length", 1 << 22)?;
    let expert = read.optional_count("expert_feed_forward_length", 1 << 22)?.unwrap_or(dense);
    grok.feed_forward.activation = Activation::Gelu;
    grok.feed_forward.experts = Some(read.experts(expert, true)?);
    let has_dense = read.has_tensor("blk.0.ffn_up.weight");
    grok.feed_forward.dense = has_dense.then_some(dense);
    grok.post_norms = Some(PostNorms {
        attention: &["attn_output_norm"],
        feed_forward: &["layer_output_norm", "post_ffw_norm"],
        feed_forward_scale: has_dense.then_some(std::f32::consts::FRAC_1_SQRT_2),
    });
    Ok(grok)
}
