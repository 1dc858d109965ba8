//! The shared words of Rapport.
//!
//! Every crate that asks for a reply, or gives one, says it in these types: a conversation is a
//! list of [`Message`]s, a [`Request`] adds how to answer it, and the reply is a stream of
//! [`Event`]s behind the trait [`Generate`]. Values here are already valid: text from outside is
//! parsed into them at the edge, and nothing inside has to default an `Option`.
//!
//! What is not here: I/O, wire formats, tokens (the engine has those), time.
//!
//! Start reading at [`Generate`].

mod build;
mod embed;
mod format;
mod generate;
mod message;
mod mode;
mod readiness;
mod sampling;
mod tool;

pub use build::BuildId;
pub use embed::{Embedding, EmbeddingInput, EmbeddingRequest};
pub use format::{FormatError, FormatKind, OutputFormat};
pub use generate::{
    AdapterChoice, AdapterInfo, Caller, Control, Event, EventSink, FinishReason, Generate,
    GenerateError, ModelInfo, Outcome, PromptForm, Reader, Reply, Request, TextToken, Timings,
    TokenLogprob, TopLogprob, Usage, reply,
};
pub use message::{Message, Role};
pub use mode::{InvalidMode, InvalidThinkingBudget, Mode, ModeChoice, ThinkingBudget};
pub use readiness::Readiness;
pub use sampling::{InvalidSampling, LogitBias, Sampling, SamplingDraft};
pub use tool::{CallCount, Tool, ToolCall, ToolChoice, Tools};
