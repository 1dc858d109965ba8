//! What differs between architectures, as data.
//!
//! An [`Architecture`] says everything that the one forward pass ([`crate::Transformer`]) needs to
//! know. Each family has a short file that reads it from a model file's metadata; what most of them
//! share is read by [`Hyperparameters::decoder`].
//!
//! # Where engines differ
//! A GGUF file means what llama.cpp does with it, so that a file gives the same text here:
//! - Grok: the weights of the chosen experts are renormalised, the router's logits are not capped
//!   (`router_logit_softcapping`) and attention has no temperature by position
//!   (`attention.temperature_length`). xAI's own code does not renormalise; SGLang caps and does not
//!   renormalise.
//! - YaRN: `yarn_beta_fast` and `yarn_beta_slow` count for Grok only; everywhere else the ramp runs
//!   from 32 to 1 turns. `yarn_attn_factor` never counts, `attn_factor` always does.
//! - LongRoPE: the long factors count where `context_length` is above
//!   `rope.scaling.original_context_length`; llama.cpp asks the same of the context it is given,
//!   by default the file's. Factors that follow a conversation's length would change the keys of
//!   tokens already computed.
//! - Gemma 3: sliding layers turn by `rope.freq_base_swa` without scaling.
//!
//! What is not here: weights (`transformer.rs` and the layers beside it).

mod gemma3;
mod grok;
mod hyperparameters;
mod llama;
mod olmoe;
mod qwen2;
mod qwen3;
mod qwen3moe;

use rapport_kernels::{Activation, AttentionLayer, AttentionShape, Rope, Router};

use crate::error::LoadError;
use crate::gguf::Gguf;
pub(crate) use hyperparameters::Hyperparameters;

type Read = fn(&Hyperparameters<'_>) -> Result<Architecture, LoadError>;

/// What can be run, by `general.architecture`.
const READERS: [(&str, Read); 7] = [
    ("llama", llama::read),
    ("qwen2", qwen2::read),
    ("qwen3", qwen3::read),
    ("gemma3", gemma3::read),
    ("qwen3moe", qwen3moe::read),
    ("olmoe", olmoe::read),
    ("grok", grok::read),
];

/// The values of `general.architecture` that can be run.
pub(crate) fn supported() -> String {
    READERS.map(|(name, _)| name).join(", ")
}

/// A decoder-only transformer, described: everything that [`crate::Transformer`] needs to know.
#[derive(Clone, Debug)]
pub struct Architecture {
    pub name: String,
    pub context_tokens: usize,
    /// C
    pub hidden: usize,
    /// What embeddings are multiplied by.
    pub embedding_scale: Option<f32>,
    pub norm_epsilon: f32,
    pub attention: AttentionShape,
    /// What a product of query and key is multiplied by.
    pub score_scale: f32,
    pub score_soft_cap: Option<f32>,
    pub query_key_norm: Option<QueryKeyNorm>,
    /// Of the layers that see all tokens.
    pub rope: Rope,
    pub sliding: Option<Sliding>,
    pub feed_forward: FeedForward,
    pub post_norms: Option<PostNorms>,
    /// What logits are multiplied by, before their cap.
    pub logit_scale: Option<f32>,
    pub logit_soft_cap: Option<f32>,
}

/// What one norm of queries or keys spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryKeyNorm {
    Head,
    AllHeads,
}

/// Layers that see the last few tokens only.
#[derive(Clone, Debug)]
pub struct Sliding {
    pub window_tokens: usize,
    pub rope: Rope,
    /// Which layers slide, one for each.
    pub layers: Vec<bool>,
}

/// A gated feed-forward: dense, a mixture of experts, or both side by side.
#[derive(Clone, Debug)]
pub struct FeedForward {
    pub activation: Activation,
    /// F of the dense branch.
    pub dense: Option<usize>,
    pub experts: Option<Experts>,
}

#[derive(Clone, Copy, Debug)]
pub struct Experts {
    /// E
    pub count: usize,
    /// F of one expert.
    pub feed_forward: usize,
    pub router: Router,
}

/// Norms of what a layer's two halves add to the residual stream, as the file names them: the first
/// name that it has.
#[derive(Clone, Copy, Debug)]
pub struct PostNorms {
    pub attention: &'static [&'static str],
    pub feed_forward: &'static [&'static str],
    /// What the sum of a feed-forward's branches is multiplied by before its norm.
    pub feed_forward_scale: Option<f32>,
}

impl Architecture {
    /// Reads the architecture of a file.
    ///
    /// # Errors
    /// If the architecture is not supported or a hyperparameter is missing or impossible.
    pub fn read(gguf: &Gguf) -> Result<Self, LoadError> {
        let found = gguf.metadata().string("general.architecture")?;
        match READERS.iter().find(|(name, _)| *name == found) {
            Some((name, read)) => read(&Hyperparameters::new(gguf, name)),
            None => Err(LoadError::UnknownArchitecture {
                file: gguf.path().display().to_string(),
                found: found.to_owned(),
            }),
        }
    }

    /// How one layer attends, and by which angles.
    pub(crate) fn layer(&self, layer_idx: usize) -> (AttentionLayer, &Rope) {
        let sliding = self.sliding.as_ref().filter(|sliding| sliding.layers[layer_idx]);
        let layer = AttentionLayer {
            layer_idx,
            scale: self.score_scale,
            soft_cap: self.score_soft_cap,
            window: sliding.map(|sliding| sliding.window_tokens),
        };
        (layer, sliding.map_or(&self.rope, |sliding| &sliding.rope))
    }
}
