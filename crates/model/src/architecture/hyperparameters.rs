//! What differs between architectures, as data.

use rapport_kernels::{AttentionShape, Rope, RopeScaling};

use crate::error::LoadError;
use crate::gguf::{Gguf, Metadata};
use crate::llama;

/// The values of `general.architecture` that can be run.
pub(crate) const SUPPORTED: &[&str] = &["llama"];

/// A decoder-only transformer, described: everything that [`crate::Transformer`] needs to know.
#[derive(Clone, Debug)]
pub struct Architecture {
    pub name: String,
    pub context_tokens: usize,
    /// C
    pub hidden: usize,
    /// F
    pub feed_forward: usize,
    pub attention: AttentionShape,
    pub norm_epsilon: f32,
    pub rope: Rope,
}

impl Architecture {
    /// Reads the architecture of a file.
    ///
    /// # Errors
    /// If the architecture is not supported or a hyperparameter is missing or impossible.
    pub fn read(gguf: &Gguf) -> Result<Self, LoadError> {
        let name = gguf.metadata().string("general.architecture")?;
        match name {
            "llama" => llama::read(gguf),
            found => Err(LoadError::UnknownArchitecture {
                file: gguf.path().display().to_string(),
                found: found.to_owned(),
            }),
        }
    }
}

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
        let value = match (self.metadata.optional_f32(&self.key(key))?, default) {
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

    /// `rope.scaling.*`, as llama.cpp writes and reads them.
    pub(crate) fn rope_scaling(&self, context_tokens: usize) -> Result<RopeScaling, LoadError> {
        let kind = self.metadata.optional_string(&self.key("rope.scaling.type"))?;
        let factor = || {
            let legacy = self.positive("rope.scale_linear", Some(1.0))?;
            self.positive("rope.scaling.factor", Some(legacy))
        };
        Ok(match kind {
            Some("none" | "longrope") => RopeScaling::None,
            None | Some("linear") => match factor()? {
                1.0 => RopeScaling::None,
                factor => RopeScaling::Linear { factor },
            },
            Some("yarn") => RopeScaling::Yarn {
                factor: factor()?,
                original_context: self
                    .optional_count("rope.scaling.original_context_length", u32::MAX)?
                    .unwrap_or(context_tokens) as f32,
                attention_factor: self.positive("rope.scaling.attn_factor", Some(1.0))?,
                beta_fast: self.positive("rope.scaling.yarn_beta_fast", Some(32.0))?,
                beta_slow: self.positive("rope.scaling.yarn_beta_slow", Some(1.0))?,
            },
            Some(other) => {
                return Err(self.invalid("rope.scaling.type", other, "none, linear or yarn"));
            }
        })
    }
}
