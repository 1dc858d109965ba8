//! Prompts to measure with, and a model's replies to them.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::mpsc;

use rapport_types::{
    AdapterChoice, Caller, Event, FinishReason, Generate, GenerateError, Message, Mode,
    OutputFormat, PromptForm, Reader, Request, Role, Sampling, ThinkingBudget, Tools,
};
use serde::{Deserialize, Serialize};

/// One prompt of a development set.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Item {
    pub id: String,
    /// What is measured by it: `empathy`, `fact_real`, ...
    pub kind: String,
    pub messages: Vec<Turn>,
    /// Right answers, where the kind has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<String>,
    /// The wrong answer that the prompt suggests, or `none`; only in sycophancy pairs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Items that are two halves of one question share this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pair: Option<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Turn {
    pub role: String,
    pub content: String,
}

/// A model's reply to an [`Item`], with everything needed to make it again.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Reply {
    pub id: String,
    pub kind: String,
    /// How it was asked for.
    pub mode: String,
    pub temperature: f32,
    pub seed: u64,
    pub build: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thought: Option<String>,
    pub reply: String,
    /// Whether it was cut at the token limit.
    pub is_cut: bool,
    pub completion_tokens: u32,
    pub reasoning_tokens: u32,
}

/// How every prompt of a set is asked.
#[derive(Clone, Debug)]
pub struct Asking {
    pub mode: Mode,
    pub sampling: Sampling,
    /// Item `i` is asked with this plus `i`, so that no two share their luck.
    pub seed: u64,
    pub max_tokens: u32,
    pub system: Option<String>,
    /// How many replies are written at once.
    pub at_once: NonZeroUsize,
    /// Thoughts by the ids of the items: each reply goes on from its own, whatever the mode.
    pub thoughts: HashMap<String, String>,
}

/// Why a set of replies is not whole.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("{id}: `{role}` is no role: use system, user, assistant or tool")]
    Role { id: String, role: String },
    #[error("{id}: {source}")]
    Generate { id: String, source: GenerateError },
    #[error("{id}: the engine ended without an answer")]
    Gone { id: String },
}

/// Asks a model every item, several at once, and gives the replies in the items' order.
///
/// # Errors
/// The first item that cannot be asked or whose reply fails; sets are whole or not at all.
pub fn ask(
    generate: &dyn Generate,
    items: &[Item],
    asking: &Asking,
    mut progress: impl FnMut(usize),
) -> Result<Vec<Reply>, AskError> {
    let (sender, events) = mpsc::channel::<(usize, Event)>();
    let mut open: HashMap<usize, Reply> = HashMap::new();
    let mut replies: Vec<Option<Reply>> = items.iter().map(|_| None).collect();
    let mut next = 0;
    let mut n_done = 0;
    while n_done < items.len() {
        while next < items.len() && open.len() < asking.at_once.get() {
            let item = &items[next];
            let seed = asking.seed + next as u64;
            let request = request(item, asking, seed)?;
            let (sender, idx) = (sender.clone(), next);
            let sink = Box::new(move |event| match sender.send((idx, event)) {
                Ok(()) => Reader::Listening,
                Err(_) => Reader::Gone,
            });
            generate
                .start(request, sink)
                .map_err(|source| AskError::Generate { id: item.id.clone(), source })?;
            open.insert(next, empty(item, asking, seed));
            next += 1;
        }
        let gone = || {
            let idx = open.keys().min().copied().unwrap_or_default();
            AskError::Gone { id: items[idx].id.clone() }
        };
        let (idx, event) = events.recv().map_err(|_| gone())?;
        let Some(reply) = open.get_mut(&idx) else { continue };
        match event {
            Event::Started { .. } | Event::ToolCall(_) => {}
            Event::Thought(text) => reply.thought.get_or_insert_default().push_str(&text),
            Event::Text { text, .. } => reply.reply.push_str(&text),
            Event::Failed(source) => {
                return Err(AskError::Generate { id: items[idx].id.clone(), source });
            }
            Event::Finished(outcome) => {
                reply.build = outcome.build.to_string();
                reply.is_cut = outcome.reason == FinishReason::Length;
                reply.completion_tokens = outcome.usage.completion_tokens;
                reply.reasoning_tokens = outcome.usage.reasoning_tokens;
                replies[idx] = open.remove(&idx);
                n_done += 1;
                progress(n_done);
            }
        }
    }
    Ok(replies.into_iter().flatten().collect())
}

fn request(item: &Item, asking: &Asking, seed: u64) -> Result<Request, AskError> {
    let mut messages: Vec<_> = asking.system.iter().map(Message::system).collect();
    for turn in &item.messages {
        let role = Role::parse(&turn.role)
            .ok_or_else(|| AskError::Role { id: item.id.clone(), role: turn.role.clone() })?;
        messages.push(Message::new(role, &turn.content));
    }
    let mut prompt_form = PromptForm::Conversation;
    if let Some(thought) = asking.thoughts.get(&item.id) {
        prompt_form = PromptForm::Prefilled;
        let begun = Message::new(Role::Assistant, "");
        messages.push(Message { thought: Some(thought.clone()), ..begun });
    }
    Ok(Request {
        messages,
        prompt_form,
        mode: asking.mode,
        thinking_budget: ThinkingBudget::Medium,
        sampling: asking.sampling.with_seed(seed),
        max_tokens: asking.max_tokens,
        stop: Vec::new(),
        format: OutputFormat::Text,
        tools: Tools::default(),
        adapter: AdapterChoice::default(),
        caller: Caller::default(),
    })
}

fn empty(item: &Item, asking: &Asking, seed: u64) -> Reply {
    Reply {
        id: item.id.clone(),
        kind: item.kind.clone(),
        mode: asking.mode.to_string(),
        temperature: asking.sampling.temperature,
        seed,
        build: String::new(),
        thought: asking.thoughts.get(&item.id).cloned(),
        reply: String::new(),
        is_cut: false,
        completion_tokens: 0,
        reasoning_tokens: 0,
    }
}

/// Whether a text turns in circles: some run of words fills a third of it or more by saying the
/// same again at least twice. Counted in lower case, over runs of 4 to 24 words.
pub fn is_loop(text: &str) -> bool {
    let words: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
    (4..=24).any(|length| {
        let mut seen: HashMap<&[String], (usize, usize)> = HashMap::new();
        for (at, run) in words.windows(length).enumerate() {
            let (count, free_from) = seen.entry(run).or_insert((0, 0));
            if at >= *free_from {
                *count += 1;
                *free_from = at + length;
            }
        }
        seen.values().any(|(count, _)| *count >= 3 && (count - 1) * length * 3 >= words.len())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_is_a_loop() {
        assert!(is_loop(&"I am here to help you. ".repeat(4)));
        assert!(is_loop(&format!("Well, let me see. {}", "the cat sat on the mat and ".repeat(5))));
        assert!(!is_loop("You kept the bowl by the door. That is a small thing, and not small."));
        assert!(!is_loop("no no no no"), "too short to be one");
        let twice = "I'm sorry about your dog. Tell me about the walks. I'm sorry about your dog.";
        assert!(!is_loop(twice), "said twice is not yet a circle");
    }
}
