//! Llama and everything built like it: SmolLM2, Mistral, TinyLlama (Touvron et al. 2023).
//!
//! Pre-norm blocks of grouped-query attention and SwiGLU; rotary pairs are neighbours in the file.

use rapport_kernels::{AttentionShape, Rope};

use crate::architecture::{Architecture, Hyperparameters};
use crate::error::LoadError;
use crate::gguf::Gguf;

pub(crate) fn read(gguf: &Gguf) -> Result<Architecture, LoadError> {
    let read = Hyperparameters::new(gguf, "llama");
    if let Some(n_experts) = read.optional_count("expert_count", u32::MAX)? {
        return Err(read.invalid("expert_count", n_experts, "no experts"));
    }
    let hidden = read.count("embedding_length", 1 << 20)?;
    let n_heads = read.count("attention.head_count", 1 << 16)?;
    let n_kv_heads = read.optional_count("attention.head_count_kv", 1 << 16)?.unwrap_or(n_heads);
    if !n_heads.is_multiple_of(n_kv_heads) {
        return Err(read.invalid("attention.head_count_kv", n_kv_heads, "a divisor of head_count"));
    }
    let head_dim = match read.optional_count("attention.key_length", 1 << 14)? {
        Some(head_dim) => head_dim,
        None if hidden.is_multiple_of(n_heads) => hidden / n_heads,
        None => return Err(read.invalid("attention.head_count", n_heads, "a divisor of hidden")),
    };
    if let Some(length) = read.optional_count("attention.value_length", 1 << 14)?
        && length != head_dim
    {
        return Err(read.invalid("attention.value_length", length, "the length of keys"));
    }
    let rope_dims = read.optional_count("rope.dimension_count", 1 << 14)?.unwrap_or(head_dim);
    if rope_dims > head_dim || rope_dims % 2 == 1 {
        return Err(read.invalid("rope.dimension_count", rope_dims, "even, at most a head"));
    }
    let context_tokens = read.count("context_length", 1 << 24)?;
    let scaling = read.rope_scaling(context_tokens)?;
    let factors = if gguf.find("rope_freqs.weight").is_some() {
        let tensor = gguf.require("rope_freqs.weight", &[rope_dims as u64 / 2])?;
        Some(crate::transformer::vector(gguf, &tensor)?)
    } else {
        None
    };
    let base = read.positive("rope.freq_base", Some(10_000.0))?;
    Ok(Architecture {
        name: "llama".to_owned(),
        context_tokens,
        hidden,
        feed_forward: read.count("feed_forward_length", 1 << 22)?,
        attention: AttentionShape {
            n_layers: read.count("block_count", 1 << 12)?,
            n_heads,
            n_kv_heads,
            head_dim,
        },
        norm_epsilon: read.positive("attention.layer_norm_rms_epsilon", None)?,
        rope: Rope::new(rope_dims, base, &scaling, factors.as_deref(), true),
    })
}
