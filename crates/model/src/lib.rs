//! Models: files, tokens, chat templates and architectures.
//!
//! A model file becomes three things: a [`Transformer`] (ids in, logits out), a tokenizer and a
//! chat template. They know nothing of each other.
//!
//! What is not here: scheduling, sampling, HTTP.
//!
//! # Shapes
//! Dimension letters, everywhere: B batch, T query tokens, S cached tokens, C hidden, H query
//! heads, G kv heads, D head dim, F feed-forward, E experts, A active experts a token, V vocabulary.
//! Row-major, the last dimension contiguous.

pub mod adapter;
pub mod chat_template;
pub mod gguf;
pub mod quantize;
pub mod tokenizer;

mod adapter_file;
mod architecture;
mod error;
mod feed_forward;
mod linear;
mod load;
mod merge;
mod packed_adapter;
mod sampling_advice;
mod transformer;

pub use adapter_file::{AdapterFile, BaseCheck, RowOrder, file_sha256};
pub use architecture::{Architecture, Experts, FeedForward, PostNorms, QueryKeyNorm, Sliding};
pub use error::LoadError;
pub use feed_forward::ExpertLoad;
pub use packed_adapter::PackedAdapter;
pub use sampling_advice::{AdviceError, GENERATION_CONFIG, SamplingAdvice};
pub use transformer::{Batch, BatchSequence, Logits, Scratch, Transformer};
