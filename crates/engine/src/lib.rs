//! Many conversations at once over one model. Ids in, ids out.
//!
//! [`Engine`] is a plain state machine: [`Engine::submit`] a request, call [`Engine::step`] until
//! it has nothing to do; each step is one pass over the weights for all running sequences and
//! returns what happened. Whoever drives it owns the thread, the clock and the text.
//!
//! A reply is a list of [`Phase`]s: an optional thought, then the answer. That is all the engine
//! knows of modes.
//!
//! Whatever the schedule, a request's tokens are the same: batched or alone, prompt in chunks or
//! whole, from cached pages or cold, preempted or not, guessed ahead or not.
//!
//! Start reading at `engine.rs`, the schedule; then `sequence.rs` for one reply, `prefix.rs` and
//! `disk.rs` for what is kept of it, `users.rs` for fairness, `draft.rs` for guessing ahead,
//! `embedding.rs` for texts as vectors.
//!
//! What is not here: text, HTTP, SQL, async, time.

mod disk;
mod draft;
mod embedding;
mod engine;
mod pages;
mod prefix;
mod request;
mod sampler;
mod sequence;
mod users;

pub use disk::{DiskConfig, DiskError, DiskProblem, DiskReport, DiskStatistics};
pub use embedding::{Embeddable, EmbeddingError, EmbeddingJob};
pub use engine::{DraftError, Engine, EngineConfig, EngineStatistics, PageCounts};
pub use prefix::{AdapterKey, CacheKey, CacheScope, SharedPrefix};
pub use request::{
    CachedTokens, Constraint, Ending, EngineEvent, EngineRequest, Failure, Phase, SequenceId,
    SubmitError, UserKey,
};
pub use sampler::{Choice, Sampler};
