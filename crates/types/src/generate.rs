//! Asking for a reply, and what comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use crate::{
    BuildId, Embedding, EmbeddingRequest, FormatError, Message, Mode, ModeChoice, OutputFormat,
    Readiness, Sampling, SamplingDraft, ThinkingBudget, ToolCall, Tools,
};

/// Anything that can answer a conversation: a model in this process, an engine behind HTTP, or a
/// script in a test. Evaluation, training rollouts and the server reach a model only through this.
pub trait Generate: Send + Sync {
    /// What would answer.
    fn model(&self) -> ModelInfo;

    /// Starts a reply. Events arrive at `sink`, in order, from some other thread; exactly one of
    /// [`Event::Finished`] and [`Event::Failed`] is the last.
    ///
    /// # Errors
    /// Refused before anything ran: nothing was generated and `sink` was not called.
    fn start(&self, request: Request, sink: EventSink) -> Result<Control, GenerateError>;

    /// What can be added to the model, by the names that [`AdapterChoice::Named`] takes.
    fn adapters(&self) -> Vec<AdapterInfo> {
        Vec::new()
    }

    /// How it samples what a request leaves open, as the makers of what answers would have it.
    fn sampling(&self, _adapter: &AdapterChoice) -> SamplingDraft {
        SamplingDraft::default()
    }

    /// The tokens of a text, or `None` where the tokenizer is out of reach.
    fn tokenize(&self, _text: &str) -> Option<Vec<TextToken>> {
        None
    }

    /// Tokens that the prompt of `request` has, or `None` where the tokenizer is out of reach.
    ///
    /// # Errors
    /// As [`Generate::start`], as far as the prompt goes.
    fn count_prompt_tokens(&self, _request: &Request) -> Result<Option<u32>, GenerateError> {
        Ok(None)
    }

    /// How many numbers its embeddings have; `None` where it makes none.
    fn embedding_width(&self) -> Option<u32> {
        None
    }

    /// The embeddings of all inputs, in order; waits for them.
    ///
    /// # Errors
    /// The first input that cannot be embedded, or nobody makes embeddings here.
    fn embed(&self, _request: EmbeddingRequest) -> Result<Vec<Embedding>, GenerateError> {
        Err(GenerateError::Unsupported { ability: "embeddings" })
    }

    /// Whether it can answer now. Until it can, [`Generate::model`] knows no more than the name.
    fn readiness(&self) -> Readiness {
        Readiness::Ready
    }

    /// Begins anew to become ready, where that failed; `false` where there is nothing to try.
    fn try_again(&self) -> bool {
        false
    }

    /// # Errors
    /// [`GenerateError::NotReady`] where asking it now is in vain.
    fn check_ready(&self) -> Result<(), GenerateError> {
        match self.readiness() {
            Readiness::Ready | Readiness::Away { .. } => Ok(()),
            waiting => Err(GenerateError::NotReady(waiting)),
        }
    }
}

/// A token with its bytes, which may be part of a character.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextToken {
    pub id: u32,
    pub bytes: Vec<u8>,
}

/// Receives a reply's events. Must not block for long: the engine waits for it. Returning
/// [`Reader::Gone`] cancels the reply.
pub type EventSink = Box<dyn FnMut(Event) -> Reader + Send>;

/// Whether anybody still reads a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    Listening,
    Gone,
}

/// A model as a person would ask about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelInfo {
    pub name: String,
    /// The longest conversation, prompt and reply together.
    pub context_tokens: u32,
    pub build: BuildId,
}

/// Something that can be added to a model, and the build that answers with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterInfo {
    pub name: String,
    pub build: BuildId,
}

/// With what is added to the model a reply is made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum AdapterChoice {
    /// As [`Generate::model`] says.
    #[default]
    Default,
    /// The model alone.
    None,
    /// One of [`Generate::adapters`].
    Named(String),
}

/// One reply asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The conversation so far, oldest first; not empty.
    pub messages: Vec<Message>,
    pub prompt_form: PromptForm,
    pub mode: Mode,
    /// Used only when the reply thinks.
    pub thinking_budget: ThinkingBudget,
    pub sampling: Sampling,
    /// At most this many tokens of answer; the thought is not counted.
    pub max_tokens: u32,
    /// The answer ends before any of these strings; never looked for inside a thought.
    pub stop: Vec<String>,
    /// What the answer must look like; nothing else is ever written.
    pub format: OutputFormat,
    pub tools: Tools,
    pub adapter: AdapterChoice,
    pub caller: Caller,
}

/// How the messages of a [`Request`] become the model's prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PromptForm {
    /// By the model's own chat template.
    #[default]
    Conversation,
    /// Their contents as they are, one after the other; the reply goes on from there, and never
    /// thinks or calls tools.
    Plain,
    /// As a conversation whose last message is the beginning of the reply, its thought included,
    /// which goes on from there without thinking more.
    Prefilled,
}

/// Who asks: what an engine shares its time fairly between, and whose computation it may reuse.
///
/// The default is the one person at this machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Caller {
    /// A keyed hash of the account. Requests with one key share cached computation and one fair
    /// share of the engine; different keys share nothing and cannot time each other.
    pub key: [u8; 32],
    /// Higher goes first; within a priority callers share fairly.
    pub priority: i8,
    /// Within one key, requests of different salts share no computation; 0 is no salt.
    pub cache_salt: [u8; 32],
}

/// Steers a reply that is being made. Cloneable and usable from any thread, a signal handler's
/// included; has no effect once the reply has ended.
#[derive(Clone, Debug, Default)]
pub struct Control {
    flags: Arc<ControlFlags>,
}

#[derive(Debug, Default)]
struct ControlFlags {
    stop: AtomicBool,
    answer_now: AtomicBool,
}

impl Control {
    /// Ends the reply within a token; what was written stays.
    pub fn stop(&self) {
        self.flags.stop.store(true, Ordering::Release);
    }

    /// Ends the thought and goes on to the answer.
    pub fn answer_now(&self) {
        self.flags.answer_now.store(true, Ordering::Release);
    }

    pub fn is_stopped(&self) -> bool {
        self.flags.stop.load(Ordering::Acquire)
    }

    pub fn wants_answer_now(&self) -> bool {
        self.flags.answer_now.load(Ordering::Acquire)
    }
}

/// One step of a reply.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The first event: the prompt is accepted. Counts are 0 where an engine behind HTTP tells them
    /// only at the end.
    Started { choice: ModeChoice, seed: u64, prompt_tokens: u32, cached_tokens: u32 },
    /// A piece of the thought; whole characters.
    Thought(String),
    /// A piece of the answer; whole characters.
    Text { text: String, logprobs: Vec<TokenLogprob> },
    /// The answer calls a tool; only calls that are whole are told.
    ToolCall(ToolCall),
    /// The last event of a reply that ran.
    Finished(Outcome),
    /// The last event of a reply that broke; nothing after it, and nothing is charged for it.
    Failed(GenerateError),
}

/// One token of the answer with its log-probability (natural logarithm, before sampling filters).
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The token's bytes: a token may be part of a character.
    pub bytes: Vec<u8>,
    pub logprob: f32,
    /// The most likely tokens in this place, most likely first.
    pub top: Vec<TopLogprob>,
}

/// An alternative to a [`TokenLogprob`].
#[derive(Clone, Debug, PartialEq)]
pub struct TopLogprob {
    pub bytes: Vec<u8>,
    pub logprob: f32,
}

/// How a reply ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub reason: FinishReason,
    /// The stop string that was met.
    pub stop: Option<String>,
    pub usage: Usage,
    pub timings: Timings,
    pub build: BuildId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended its turn, or a stop string was met.
    Stop,
    /// `max_tokens` or the end of the context.
    Length,
    /// [`Control::stop`], or the reader went away.
    Cancelled,
}

/// Tokens spent on a reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt, cached ones included.
    pub prompt_tokens: u32,
    /// Tokens of the prompt that were not computed again.
    pub cached_tokens: u32,
    /// Tokens of the answer.
    pub completion_tokens: u32,
    /// Tokens of the thought, tags included; not part of `completion_tokens`.
    pub reasoning_tokens: u32,
}

/// Where the time of a reply went, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timings {
    /// From the request to the first token, waiting included.
    pub first_token_ms: f64,
    /// Computing the prompt.
    pub prompt_ms: f64,
    /// From the first token to the last.
    pub decode_ms: f64,
}

impl Timings {
    /// Tokens a second while writing, or `None` for a reply of fewer than two tokens.
    pub fn decode_tokens_per_second(&self, usage: &Usage) -> Option<f64> {
        let n_gaps = (usage.completion_tokens + usage.reasoning_tokens).checked_sub(1)?;
        (n_gaps > 0 && self.decode_ms > 0.0).then(|| f64::from(n_gaps) * 1e3 / self.decode_ms)
    }
}

/// Why there is no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GenerateError {
    #[error("there are no messages to answer")]
    NoMessages,
    #[error(
        "the prompt has {prompt_tokens} tokens and the model takes {context_tokens} \
         with room for the reply: shorten it or start a new conversation"
    )]
    PromptTooLong { prompt_tokens: u32, context_tokens: u32 },
    #[error("the model's chat template refuses this conversation: {reason}")]
    Template { reason: String },
    #[error("{field} is not valid: {reason}")]
    InvalidRequest { field: &'static str, reason: String },
    #[error(transparent)]
    Format(#[from] FormatError),
    /// What was written is the beginning of an answer and must not be taken for one.
    #[error("the answer could not be kept to its format: {reason}")]
    FormatLost { reason: String },
    #[error("there is no adapter `{name}` here: use {}", adapter_names(known))]
    UnknownAdapter { name: String, known: Vec<String> },
    #[error("too many replies are being made; try again shortly")]
    Overloaded,
    #[error("the engine has stopped")]
    EngineStopped,
    #[error("the model is {0}")]
    NotReady(Readiness),
    /// What was asked is of a kind that the server's input filter lets nobody ask.
    #[error(
        "the input filter of this server refuses what was asked ({category}): ask for something \
         else, in a new conversation"
    )]
    Filtered { category: String },
    #[error("this model makes no {ability}")]
    Unsupported { ability: &'static str },
    /// An engine behind HTTP has too much to do.
    #[error("the engine is busy; try again in {retry_after_s} s")]
    Busy { retry_after_s: u32 },
    /// No engine behind HTTP can be asked now.
    #[error(
        "the engine behind this server cannot answer: {reason}; try again in {retry_after_s} s"
    )]
    Unavailable { reason: String, retry_after_s: u32 },
    #[error("the reply failed inside the engine: {reason}")]
    Internal { reason: String },
}

fn adapter_names(known: &[String]) -> String {
    if known.is_empty() { "none".to_owned() } else { format!("{}, or none", known.join(", ")) }
}

/// A reply as an iterator over its events, for callers that can wait.
///
/// Dropping it cancels the reply.
#[derive(Debug)]
pub struct Reply {
    control: Control,
    events: mpsc::Receiver<Event>,
}

impl Reply {
    pub fn control(&self) -> Control {
        self.control.clone()
    }
}

impl Iterator for Reply {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        self.events.recv().ok()
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.control.stop();
    }
}

/// Starts a reply and reads it as an iterator.
///
/// # Errors
/// As [`Generate::start`].
pub fn reply(generate: &dyn Generate, request: Request) -> Result<Reply, GenerateError> {
    let (sender, events) = mpsc::channel();
    let sink: EventSink = Box::new(move |event| match sender.send(event) {
        Ok(()) => Reader::Listening,
        Err(_) => Reader::Gone,
    });
    let control = generate.start(request, sink)?;
    Ok(Reply { control, events })
}
