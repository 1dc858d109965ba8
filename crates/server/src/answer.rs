//! What is known of a reply so far, for protocols to put into their words.

use rapport_types::{
    Event, FinishReason, GenerateError, ModeChoice, Outcome, TokenLogprob, ToolCall, Usage,
};
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::replies::Replies;

#[derive(Default)]
pub(crate) struct Answer {
    pub(crate) thought: String,
    pub(crate) text: String,
    pub(crate) calls: Vec<ToolCall>,
    pub(crate) logprobs: Vec<TokenLogprob>,
    pub(crate) chosen: Option<(ModeChoice, u64)>,
    pub(crate) outcome: Option<Outcome>,
}

impl Answer {
    /// Adds an event.
    ///
    /// # Errors
    /// The event says that the reply broke.
    pub(crate) fn take(&mut self, event: Event) -> Result<(), GenerateError> {
        match event {
            Event::Started { choice, seed, .. } => self.chosen = Some((choice, seed)),
            Event::Thought(piece) => self.thought += &piece,
            Event::Text { text, logprobs } => {
                self.text += &text;
                self.logprobs.extend(logprobs);
            }
            Event::ToolCall(call) => self.calls.push(call),
            Event::Finished(outcome) => self.outcome = Some(outcome),
            Event::Failed(error) => return Err(error),
        }
        Ok(())
    }

    /// What Rapport says of a reply beside the protocol's own fields.
    pub(crate) fn details(&self) -> Value {
        let (choice, seed) = self.chosen.as_ref().map_or((None, None), |(choice, seed)| {
            (Some(json!({ "mode": choice.mode.as_str(), "reason": choice.reason })), Some(*seed))
        });
        let outcome = self.outcome.as_ref();
        let build = outcome.map(|outcome| outcome.build.to_string());
        let timings = outcome.map(|outcome| {
            let timings = outcome.timings;
            json!({
                "first_token_ms": timings.first_token_ms,
                "prompt_ms": timings.prompt_ms,
                "decode_ms": timings.decode_ms,
                "tokens_per_second": timings.decode_tokens_per_second(&outcome.usage),
            })
        });
        let usage = outcome.map(|outcome| {
            let usage = outcome.usage;
            json!({
                "prompt_tokens": usage.prompt_tokens,
                "cached_tokens": usage.cached_tokens,
                "answer_tokens": usage.completion_tokens,
                "reasoning_tokens": usage.reasoning_tokens,
            })
        });
        json!({ "mode": choice, "seed": seed, "build": build, "timings": timings, "usage": usage })
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.outcome.as_ref().is_some_and(|outcome| outcome.reason == FinishReason::Length)
    }

    pub(crate) fn usage(&self) -> Usage {
        self.outcome.as_ref().map(|outcome| outcome.usage).unwrap_or_default()
    }
}

/// Waits for all of the replies.
pub(crate) async fn all_of(mut replies: Replies) -> Result<Vec<Answer>, ApiError> {
    let mut answers: Vec<Answer> = Vec::new();
    while let Some((reply_idx, event)) = replies.next().await {
        if answers.len() <= reply_idx {
            answers.resize_with(reply_idx + 1, Answer::default);
        }
        answers[reply_idx].take(event)?;
    }
    Ok(answers)
}

/// The prompt counts once, the replies add up.
pub(crate) fn total(answers: &[Answer]) -> Usage {
    answers.iter().map(Answer::usage).fold(Usage::default(), |sum, usage| Usage {
        prompt_tokens: sum.prompt_tokens.max(usage.prompt_tokens),
        cached_tokens: sum.cached_tokens.max(usage.cached_tokens),
        completion_tokens: sum.completion_tokens + usage.completion_tokens,
        reasoning_tokens: sum.reasoning_tokens + usage.reasoning_tokens,
    })
}
