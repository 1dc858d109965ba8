//! Replies that the model under training writes, and what they are worth.
//!
//! This crate knows neither engine nor judge: whoever runs a training brings both, as [`Rollouts`]
//! and [`Reward`]. A reply's text goes back through the tokenizer ([`crate::text`]), so what is
//! learned are the tokens that the text has, which nearly always are those that were sampled.
//!
//! Left out: weighing replies by how the engine's probabilities differ from the trainer's (its
//! weights are rounded, the trainer's are not); log-probabilities of the text as it was sampled
//! would be needed for every token, thoughts included.

use std::error::Error;
use std::sync::Arc;

use rapport_model::adapter::Adapter;
use rapport_types::{
    Caller, Event, FinishReason, Generate, GenerateError, Message, Mode, OutputFormat, PromptForm,
    Request, SamplingDraft, ThinkingBudget, Tools,
};

use crate::random::Random;
use crate::recipe::{GrpoRecipe, RolloutMode};

/// An error of whoever brings the engine or the judge.
pub type Failure = Box<dyn Error + Send + Sync>;

/// Brings the model under training to where replies come from.
pub trait Rollouts {
    /// What answers with this adapter.
    ///
    /// # Errors
    /// Whatever keeps the model from answering.
    fn with_adapter(&self, adapter: &Adapter) -> Result<Arc<dyn Generate>, Failure>;

    /// Memory that it takes beside the training's own, at most.
    fn memory_bytes(&self) -> usize;
}

/// What a reply is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompt {
    pub messages: Vec<Message>,
    pub labels: Labels,
}

/// What the row of a prompt says about it: `feeling`, `need` and `kind` of its `tags`, and its
/// `answers`. Words of whoever wrote the data; rewards that know them use them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    pub feeling: Option<String>,
    pub need: Option<String>,
    pub kind: Option<String>,
    /// Right answers to a question of fact.
    pub answers: Vec<String>,
}

/// What replies are worth.
pub trait Reward {
    /// The scores that it can give, by name.
    fn names(&self) -> Vec<String>;

    /// One score a name, in their order; `None` where it does not apply to this reply.
    ///
    /// # Errors
    /// Whatever keeps the reply from being judged.
    fn scores(&self, prompt: &Prompt, reply: &Message) -> Result<Vec<Option<f64>>, Failure>;

    /// Memory that judging takes, at most.
    fn memory_bytes(&self) -> usize {
        0
    }
}

/// What a stage that writes its own replies needs.
#[derive(Clone, Copy)]
pub struct Policy<'a> {
    pub rollouts: &'a dyn Rollouts,
    pub reward: &'a dyn Reward,
}

/// A reply that the model wrote.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Written {
    pub(crate) reply: Message,
    /// Whether it came to its end rather than to the limit.
    pub(crate) is_whole: bool,
}

/// Replies asked for at the same time: what the engine has in hand.
const AT_ONCE: usize = 32;

/// `n_each` replies to each prompt, in order; the same seed gives the same replies.
///
/// # Errors
/// The first reply that is refused or breaks.
pub(crate) fn write(
    generate: &dyn Generate,
    recipe: &GrpoRecipe,
    prompts: &[&[Message]],
    n_each: usize,
    seed: u64,
) -> Result<Vec<Written>, GenerateError> {
    let asked: Vec<&[Message]> =
        prompts.iter().flat_map(|prompt| std::iter::repeat_n(*prompt, n_each)).collect();
    let mut written = Vec::with_capacity(asked.len());
    for (chunk_idx, chunk) in asked.chunks(AT_ONCE).enumerate() {
        let replies = chunk
            .iter()
            .enumerate()
            .map(|(idx, prompt)| {
                let stream = (chunk_idx * AT_ONCE + idx) as u64;
                let request = request(recipe, prompt, Random::stream(seed, stream).next())?;
                rapport_types::reply(generate, request)
            })
            .collect::<Result<Vec<_>, _>>()?;
        for reply in replies {
            written.push(read(reply)?);
        }
    }
    Ok(written)
}

fn request(recipe: &GrpoRecipe, prompt: &[Message], seed: u64) -> Result<Request, GenerateError> {
    let sampling = SamplingDraft {
        temperature: recipe.temperature as f32,
        top_p: 1.0,
        seed: Some(seed),
        ..SamplingDraft::default()
    };
    let sampling = sampling.validate().map_err(|error| GenerateError::InvalidRequest {
        field: error.field,
        reason: error.to_string(),
    })?;
    Ok(Request {
        adapter: rapport_types::AdapterChoice::Default,
        messages: prompt.to_vec(),
        prompt_form: PromptForm::Conversation,
        mode: match recipe.mode {
            RolloutMode::Fast => Mode::Fast,
            RolloutMode::Thinking => Mode::Thinking,
        },
        thinking_budget: ThinkingBudget::Medium,
        sampling,
        max_tokens: recipe.max_new_tokens,
        stop: Vec::new(),
        format: OutputFormat::Text,
        tools: Tools::default(),
        caller: Caller::default(),
    })
}

fn read(reply: rapport_types::Reply) -> Result<Written, GenerateError> {
    let (mut text, mut thought) = (String::new(), String::new());
    for event in reply {
        match event {
            Event::Thought(piece) => thought += &piece,
            Event::Text { text: piece, .. } => text += &piece,
            Event::Finished(outcome) => {
                let thought = (!thought.is_empty()).then_some(thought);
                let reply = Message { thought, ..Message::assistant(text) };
                return Ok(Written { reply, is_whole: outcome.reason == FinishReason::Stop });
            }
            Event::Failed(error) => return Err(error),
            Event::Started { .. } | Event::ToolCall(_) => {}
        }
    }
    Err(GenerateError::EngineStopped)
}
