//! Reads an architecture's numbers from metadata, checked as they are read.

use rapport_kernels::{
    Activation, AttentionShape, Gating, Rope, RopePairs, RopeScaling, RopeShape, Router,
};

use super::{Architecture, Experts, FeedForward};
use crate::error::LoadError;
use crate::gguf::{Gguf, Metadata};
use crate::load::vector;

/// Hyperparameters under an architecture's prefix, checked as they are read.
pub(crate) struct Hyperparameters<'a> {
    gguf: &'a Gguf,
    metadata: Metadata<'a>,
    prefix: &'a str,
}

impl<'a> Hyperparameters<'a> {
    pub(crate) fn new(gguf: &'a Gguf, prefix: &'a str) -> Self {
        Self { gguf, metadata: gguf.metadata(), prefix }
    }

    pub(crate) fn invalid(
        &self,
        key: &str,
        found: impl std::fmt::Display + Copy,
        expected: &'static str,
    ) -> LoadError {
        LoadError::InvalidHyperparameter {
            file: self.gguf.path().display().to_string(),
            key: format!("{}.{key}", self.prefix),
            found: found.to_string(),
            expected,
        }
    }

    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.prefix)
    }

    /// A count from 1 to `max`.
    pub(crate) fn count(&self, key: &str, max: u32) -> Result<usize, LoadError> {
        self.in_range(key, self.metadata.u32(&self.key(key))?, max)
    }

    pub(crate) fn optional_count(&self, key: &str, max: u32) -> Result<Option<usize>, LoadError> {
        self.metadata
            .optional_u32(&self.key(key))?
            .map(|value| self.in_range(key, value, max))
            .transpose()
    }

    fn in_range(&self, key: &str, value: u32, max: u32) -> Result<usize, LoadError> {
        if (1..=max).contains(&value) {
            Ok(value as usize)
        } else {
            Err(self.invalid(key, value, "a count that a real model could have"))
        }
    }

    /// A finite positive number.
    pub(crate) fn positive(&self, key: &str, default: Option<f32>) -> Result<f32, LoadError> {
        let value = match (self.optional_number(key)?, default) {
            (Some(value), _) => value,
            (None, Some(default)) => default,
            (None, None) => self.metadata.f32(&self.key(key))?,
        };
        if value.is_finite() && value > 0.0 {
            Ok(value)
        } else {
            Err(self.invalid(key, value, "a finite number above 0"))
        }
    }

    pub(crate) fn optional_number(&self, key: &str) -> Result<Option<f32>, LoadError> {
        Ok(self.metadata.optional_f32(&self.key(key))?)
    }

    /// A cap that is off where it is 0.
    pub(crate) fn soft_cap(
        &self,
        key: &str,
        default: Option<f32>,
    ) -> Result<Option<f32>, LoadError> {
        match self.optional_number(key)? {
            None => Ok(default),
            Some(0.0) => Ok(None),
            Some(_) => self.positive(key, None).map(Some),
        }
    }

    pub(crate) fn has_tensor(&self, name: &str) -> bool {
        self.gguf.find(name).is_some()
    }

    /// What most decoders share: pre-norm blocks of grouped-query attention and a gated SiLU
    /// feed-forward. An architecture's own file changes what it does otherwise.
    pub(crate) fn decoder(&self, rope: &RopeShape) -> Result<Architecture, LoadError> {
        let (n_heads, head_dim) = self.heads()?;
        let n_kv_heads =
            self.optional_count("attention.head_count_kv", 1 << 16)?.unwrap_or(n_heads);
        if !n_heads.is_multiple_of(n_kv_heads) {
            let expected = "a divisor of head_count";
            return Err(self.invalid("attention.head_count_kv", n_kv_heads, expected));
        }
        if let Some(length) = self.optional_count("attention.value_length", 1 << 14)?
            && length != head_dim
        {
            return Err(self.invalid("attention.value_length", length, "the length of keys"));
        }
        let n_layers = self.count("block_count", 1 << 12)?;
        Ok(Architecture {
            name: self.prefix.to_owned(),
            context_tokens: self.context_tokens()?,
            hidden: self.count("embedding_length", 1 << 20)?,
            embedding_scale: None,
            norm_epsilon: self.positive("attention.layer_norm_rms_epsilon", None)?,
            attention: AttentionShape { n_layers, n_heads, n_kv_heads, head_dim },
            score_scale: 1.0 / (head_dim as f32).sqrt(),
            score_soft_cap: None,
            query_key_norm: None,
            rope: Rope::new(rope),
            sliding: None,
            feed_forward: FeedForward {
                activation: Activation::Silu,
                dense: Some(self.count("feed_forward_length", 1 << 22)?),
                experts: None,
            },
            post_norms: None,
            logit_scale: None,
            logit_soft_cap: None,
        })
    }

    fn context_tokens(&self) -> Result<usize, LoadError> {
        self.count("context_length", 1 << 24)
    }

    /// (H, D)
    fn heads(&self) -> Result<(usize, usize), LoadError> {
        let hidden = self.count("embedding_length", 1 << 20)?;
        let n_heads = self.count("attention.head_count", 1 << 16)?;
        match self.optional_count("attention.key_length", 1 << 14)? {
            Some(head_dim) => Ok((n_heads, head_dim)),
            None if hidden.is_multiple_of(n_heads) => Ok((n_heads, hidden / n_heads)),
            None => Err(self.invalid("attention.head_count", n_heads, "a divisor of hidden")),
        }
    }

    /// The experts of a mixture, gated by a softmax.
    pub(crate) fn experts(
        &self,
        feed_forward: usize,
        renormalise: bool,
    ) -> Result<Experts, LoadError> {
        let count = self.count("expert_count", 1 << 12)?;
        let n_active = self.count("expert_used_count", 1 << 12)?;
        if n_active > count {
            return Err(self.invalid("expert_used_count", n_active, "at most expert_count"));
        }
        let router = Router { gating: Gating::Softmax, n_active, renormalise };
        Ok(Experts { count, feed_forward, router })
    }

    /// `attention.sliding_window`; 0 means none.
    pub(crate) fn window_tokens(&self) -> Result<Option<usize>, LoadError> {
        let window = self.metadata.optional_u32(&self.key("attention.sliding_window"))?;
        Ok(window.filter(|&window| window > 0).map(|window| window as usize))
    }

    /// Which layers slide: as the file lists them, or all but each `period`th.
    pub(crate) fn sliding_layers(
        &self,
        n_layers: usize,
        default_period: u32,
    ) -> Result<Vec<bool>, LoadError> {
        let key = "attention.sliding_window_pattern";
        // Anything but a list is read as a number below, which says so if it is neither.
        if let Ok(Some(layers)) = self.metadata.optional_bools(&self.key(key)) {
            if layers.len() < n_layers {
                return Err(self.invalid(key, layers.len(), "an entry for each layer"));
            }
            return Ok(layers[..n_layers].to_vec());
        }
        let period = self.metadata.optional_u32(&self.key(key))?.unwrap_or(default_period) as usize;
        Ok((0..n_layers).map(|layer| period == 0 || layer % period < period - 1).collect())
    }

    /// Rotary positions as llama.cpp reads them from the keys that all architectures share.
    pub(crate) fn rope(&self, pairs: RopePairs) -> Result<RopeShape, LoadError> {
        let (_, head_dim) = self.heads()?;
        let n_dims = self.optional_count("rope.dimension_count", 1 << 14)?.unwrap_or(head_dim);
        if n_dims > head_dim || n_dims % 2 == 1 {
            return Err(self.invalid("rope.dimension_count", n_dims, "even, at most a head"));
        }
        Ok(RopeShape {
            n_dims,
            base: self.positive("rope.freq_base", Some(10_000.0))?,
            scaling: self.rope_scaling()?,
            factors: None,
            magnitude: self.positive("rope.scaling.attn_factor", Some(1.0))?,
            pairs,
        })
    }

    fn original_context_tokens(&self) -> Result<usize, LoadError> {
        let key = "rope.scaling.original_context_length";
        self.optional_count(key, 1 << 24)?.map_or_else(|| self.context_tokens(), Ok)
    }

    fn rope_scaling(&self) -> Result<RopeScaling, LoadError> {
        let keys = ["rope.scaling.factor", "rope.scale_linear"];
        let has_value = |key: &&str| self.metadata.get(&self.key(key)).is_some();
        let factor = match keys.into_iter().find(has_value) {
            None => 1.0,
            // 0 says 1.
            Some(key) if self.metadata.f32(&self.key(key))? == 0.0 => 1.0,
            Some(key) => self.positive(key, None)?,
        };
        match self.metadata.optional_string(&self.key("rope.scaling.type"))? {
            Some("none") => Ok(RopeScaling::None),
            None | Some("linear" | "longrope") => Ok(RopeScaling::Linear { factor }),
            Some("yarn") => Ok(RopeScaling::Yarn {
                factor,
                original_context: self.original_context_tokens()? as f32,
                beta_fast: 32.0,
                beta_slow: 1.0,
            }),
            Some(other) => {
                Err(self.invalid("rope.scaling.type", other, "none, linear, yarn or longrope"))
            }
        }
    }

    /// Divisors of the frequencies, where the file has them: Llama 3's, or LongRoPE's for the long
    /// or the short context.
    pub(crate) fn rope_factors(&self, n_dims: usize) -> Result<Option<Vec<f32>>, LoadError> {
        let kind = self.metadata.optional_string(&self.key("rope.scaling.type"))?;
        let name = match kind {
            Some("longrope") if self.context_tokens()? > self.original_context_tokens()? => {
                "rope_factors_long.weight"
            }
            Some("longrope") => "rope_factors_short.weight",
            _ => "rope_freqs.weight",
        };
        if !self.has_tensor(name) {
            return Ok(None);
        }
        let tensor = self.gguf.require(name, &[n_dims as u64 / 2])?;
        vector(self.gguf, &tensor).map(Some)
    }
}
