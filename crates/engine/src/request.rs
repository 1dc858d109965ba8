//! What an engine is asked for and what it answers: plain data.

use std::fmt;
use std::sync::Arc;

use crate::prefix::CacheScope;
use crate::sampler::Choice;
use rapport_model::PackedAdapter;
use rapport_types::Sampling;

/// A sequence's name, unique within its engine; later requests have larger ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(pub(crate) u64);

/// Whose request it is. Work is shared fairly between users, however much each asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserKey(pub u64);

/// Restricts which tokens may come next.
///
/// A constraint that panics ends its own sequence and no other.
pub trait Constraint: Send {
    /// Sets the logits of forbidden tokens to negative infinity; leaves at least one.
    fn mask(&mut self, logits: &mut [f32]);
    /// Takes note of the token that was chosen.
    fn accept(&mut self, token: u32);
    /// Whether nothing more may follow.
    fn is_complete(&self) -> bool;
}

/// A part of a reply that ends in its own way: a thought, an answer.
pub struct Phase {
    /// Written before anything is chosen.
    pub opening: Vec<u32>,
    /// Any of these, chosen, ends the phase; it is written.
    pub stop_tokens: Vec<u32>,
    /// At most this many chosen tokens; 0 skips straight to `closing`.
    pub max_tokens: u32,
    /// Written where the phase did not end itself by a stop token or its constraint.
    pub closing: Vec<u32>,
    pub constraint: Option<Box<dyn Constraint>>,
}

impl Phase {
    /// The most tokens that the phase can write.
    pub(crate) fn max_written(&self) -> usize {
        self.opening.len() + self.max_tokens as usize + self.closing.len()
    }
}

impl fmt::Debug for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Phase").field("max_tokens", &self.max_tokens).finish_non_exhaustive()
    }
}

/// One reply asked for.
#[derive(Debug)]
pub struct EngineRequest {
    /// Not empty; ids below the vocabulary.
    pub prompt: Vec<u32>,
    /// Not empty; the last one is the answer.
    pub phases: Vec<Phase>,
    pub sampling: Sampling,
    pub seed: u64,
    pub user: UserKey,
    /// Requests of a higher priority go first and may take the place of running lower ones.
    /// Within a priority users share fairly.
    pub priority: i8,
    /// Who may reuse what this sequence computes: only with the same adapter.
    pub cache: CacheScope,
    /// What is added to the model; packed for it.
    pub adapter: Option<Arc<PackedAdapter>>,
}

/// Why a request was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    #[error("the prompt is empty")]
    EmptyPrompt,
    #[error("token {token} is not one of the model's {n_vocab}")]
    UnknownToken { token: u32, n_vocab: usize },
    #[error("prompt and reply need {needed_tokens} tokens and there is room for {room_tokens}")]
    TooLong { needed_tokens: usize, room_tokens: usize },
    #[error("{n_waiting} requests are waiting, which is all that may: try again shortly")]
    Overloaded { n_waiting: usize },
    #[error("{n_waiting} requests of this user are waiting, which is all that may: let one finish")]
    UserOverloaded { n_waiting: usize },
}

/// Tokens of a prompt that were not computed again, by where they came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CachedTokens {
    pub memory: usize,
    pub disk: usize,
}

impl CachedTokens {
    pub fn total(self) -> usize {
        self.memory + self.disk
    }
}

/// Something that happened in a step.
#[derive(Clone, Debug, PartialEq)]
pub enum EngineEvent {
    /// The sequence has its place; what its prompt lacks is computed from now on.
    Started {
        id: SequenceId,
        cached: CachedTokens,
    },
    /// A token was written: chosen by the sampler, or forced by a phase's opening or closing.
    Token {
        id: SequenceId,
        phase_idx: usize,
        choice: Choice,
        is_forced: bool,
    },
    PhaseEnded {
        id: SequenceId,
        phase_idx: usize,
        ending: Ending,
    },
    /// The last phase ended; the sequence is gone.
    Finished {
        id: SequenceId,
    },
    /// The sequence broke and is gone; others go on.
    Failed {
        id: SequenceId,
        failure: Failure,
    },
}

impl EngineEvent {
    pub fn id(&self) -> SequenceId {
        match *self {
            Self::Started { id, .. }
            | Self::Token { id, .. }
            | Self::PhaseEnded { id, .. }
            | Self::Finished { id }
            | Self::Failed { id, .. } => id,
        }
    }
}

/// Why a sequence broke.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("choosing the next token failed: {message}")]
    Choosing { message: String },
    #[error("a pass over the model failed: {message}")]
    Pass { message: String },
}

/// How a phase ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// By a stop token, or its constraint was complete.
    Complete,
    /// `max_tokens`.
    Limit,
    /// [`crate::Engine::end_phase`].
    Asked,
}
