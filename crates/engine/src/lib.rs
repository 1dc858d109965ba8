//! Many conversations at once over one model. Ids in, ids out.
//!
//! [`Engine`] is a plain state machine: [`Engine::submit`] a request, call [`Engine::step`] until
//! it has nothing to do; each step is one pass over the weights for all running sequences and
//! returns what happened. Whoever drives it owns the thread, the clock and the text.
//!
//! A reply is a list of [`Phase`]s: an optional thought, then the answer. That is all the engine
//! knows of modes.
//!
//! What is not here: text, HTTP, SQL, async, time.

mod engine;
mod pages;
mod sampler;

pub use engine::{
    Constraint, Ending, Engine, EngineConfig, EngineEvent, EngineRequest, Phase, SequenceId,
    SubmitError,
};
pub use sampler::{Choice, Sampler};
