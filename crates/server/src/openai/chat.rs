//! `POST /v1/chat/completions`.

use std::convert::Infallible;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use rapport_types::{Event, FinishReason, ModeChoice, Outcome, TokenLogprob, Usage};
use serde_json::{Value, json};

use super::request::ChatRequest;
use crate::App;
use crate::error::ApiError;
use crate::replies::{Replies, fresh_id, unix_seconds};

pub(crate) async fn create(
    State(app): State<App>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let body =
        body.map_err(|error| ApiError::unreadable_body(error.status(), &error.body_text()))?;
    let request = ChatRequest::parse(&body)?;
    let replies = Replies::start(&app, request.requests(&app)?).await?;
    let head = Head {
        id: fresh_id("chatcmpl-"),
        created: unix_seconds(),
        model: request.model.clone(),
        build: app.generate.model().build.to_string(),
    };
    if request.stream.unwrap_or(false) {
        return Ok(stream_reply(replies, head, &request));
    }
    whole_reply(replies, &head, request.wants_logprobs()).await
}

/// What every part of an answer begins with.
struct Head {
    id: String,
    created: u64,
    model: String,
    build: String,
}

impl Head {
    fn object(&self, kind: &str, choices: &[Value]) -> Value {
        json!({
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.build,
            "choices": choices,
        })
    }
}

/// What is known of one reply so far.
#[derive(Default)]
struct Progress {
    thought: String,
    text: String,
    logprobs: Vec<Value>,
    chosen: Option<(ModeChoice, u64)>,
    outcome: Option<Outcome>,
}

impl Progress {
    /// What Rapport says of a reply beside the protocol's own fields.
    fn details(&self) -> Value {
        let timings = self.outcome.as_ref().map(|outcome| {
            let timings = outcome.timings;
            json!({
                "first_token_ms": timings.first_token_ms,
                "prompt_ms": timings.prompt_ms,
                "decode_ms": timings.decode_ms,
                "tokens_per_second": timings.decode_tokens_per_second(&outcome.usage),
            })
        });
        let (choice, seed) = self.chosen.as_ref().map_or((None, None), |(choice, seed)| {
            (Some(json!({ "mode": choice.mode.as_str(), "reason": choice.reason })), Some(*seed))
        });
        let build = self.outcome.as_ref().map(|outcome| outcome.build.to_string());
        json!({ "mode": choice, "seed": seed, "build": build, "timings": timings })
    }

    fn finish_reason(&self) -> &'static str {
        match self.outcome.as_ref().map(|outcome| outcome.reason) {
            Some(FinishReason::Length) => "length",
            _ => "stop",
        }
    }
}

async fn whole_reply(
    mut replies: Replies,
    head: &Head,
    wants_logprobs: bool,
) -> Result<Response, ApiError> {
    let mut all: Vec<Progress> = Vec::new();
    while let Some((reply_idx, event)) = replies.next().await {
        if all.len() <= reply_idx {
            all.resize_with(reply_idx + 1, Progress::default);
        }
        let progress = &mut all[reply_idx];
        match event {
            Event::Started { choice, seed, .. } => progress.chosen = Some((choice, seed)),
            Event::Thought(piece) => progress.thought += &piece,
            Event::Text { text, logprobs } => {
                progress.text += &text;
                progress.logprobs.extend(logprobs.iter().map(token_logprob));
            }
            Event::ToolCall(_) => {}
            Event::Finished(outcome) => progress.outcome = Some(outcome),
            Event::Failed(error) => return Err(error.into()),
        }
    }
    let outcomes = all.iter().filter_map(|progress| progress.outcome.as_ref());
    let usage = total(outcomes.map(|outcome| outcome.usage));
    let choices = all.iter().enumerate().map(|(reply_idx, progress)| {
        let mut message = json!({ "role": "assistant", "content": progress.text, "refusal": null });
        if !progress.thought.is_empty() {
            message["reasoning_content"] = json!(progress.thought);
        }
        let logprobs = wants_logprobs.then(|| json!({ "content": progress.logprobs }));
        json!({
            "index": reply_idx,
            "message": message,
            "logprobs": logprobs,
            "finish_reason": progress.finish_reason(),
        })
    });
    let mut body = head.object("chat.completion", &choices.collect::<Vec<_>>());
    body["usage"] = usage_object(usage);
    body["rapport"] = all.first().map_or(Value::Null, Progress::details);
    Ok(Json(body).into_response())
}

fn stream_reply(replies: Replies, head: Head, request: &ChatRequest) -> Response {
    let state = Streaming {
        replies,
        head,
        all: Vec::new(),
        wants_usage: request.wants_usage_in_stream(),
        wants_logprobs: request.wants_logprobs(),
        step: Step::Events,
    };
    let chunks = stream::unfold(state, |mut state| async move {
        let data = state.next().await?;
        Some((Ok::<_, Infallible>(SseEvent::default().data(data)), state))
    });
    Sse::new(chunks).keep_alive(KeepAlive::default()).into_response()
}

enum Step {
    Events,
    Usage,
    Done,
    Over,
}

struct Streaming {
    replies: Replies,
    head: Head,
    all: Vec<Progress>,
    wants_usage: bool,
    wants_logprobs: bool,
    step: Step,
}

impl Streaming {
    /// The next chunk's text.
    async fn next(&mut self) -> Option<String> {
        match self.step {
            Step::Events => {
                if let Some((reply_idx, event)) = self.replies.next().await {
                    return Some(self.chunk(reply_idx, event).to_string());
                }
                self.step = Step::Done;
                if self.wants_usage {
                    self.step = Step::Usage;
                }
                Box::pin(self.next()).await
            }
            Step::Usage => {
                self.step = Step::Done;
                let outcomes = self.all.iter().filter_map(|progress| progress.outcome.as_ref());
                let usage = total(outcomes.map(|outcome| outcome.usage));
                let mut chunk = self.head.object("chat.completion.chunk", &[]);
                chunk["usage"] = usage_object(usage);
                Some(chunk.to_string())
            }
            Step::Done => {
                self.step = Step::Over;
                Some("[DONE]".to_owned())
            }
            Step::Over => None,
        }
    }

    fn chunk(&mut self, reply_idx: usize, event: Event) -> Value {
        if self.all.len() <= reply_idx {
            self.all.resize_with(reply_idx + 1, Progress::default);
        }
        let progress = &mut self.all[reply_idx];
        let mut logprobs = Value::Null;
        let (delta, finish_reason) = match event {
            Event::Started { choice, seed, .. } => {
                progress.chosen = Some((choice, seed));
                (json!({ "role": "assistant", "content": "" }), None)
            }
            Event::Thought(piece) => (json!({ "reasoning_content": piece }), None),
            Event::Text { text, logprobs: tokens } => {
                if self.wants_logprobs {
                    let tokens: Vec<Value> = tokens.iter().map(token_logprob).collect();
                    logprobs = json!({ "content": tokens });
                }
                (json!({ "content": text }), None)
            }
            Event::ToolCall(_) => (json!({}), None),
            Event::Finished(outcome) => {
                progress.outcome = Some(outcome);
                (json!({}), Some(progress.finish_reason()))
            }
            Event::Failed(error) => {
                // What was sent is no answer: the client is told so, and nothing follows.
                self.step = Step::Over;
                return ApiError::from(error).body();
            }
        };
        let choice = json!({
            "index": reply_idx,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        });
        let is_end = finish_reason.is_some();
        let details = is_end.then(|| self.all[reply_idx].details());
        let mut chunk = self.head.object("chat.completion.chunk", &[choice]);
        if let Some(details) = details {
            chunk["rapport"] = details;
        }
        chunk
    }
}

/// The prompt counts once, the replies add up.
fn total(usages: impl Iterator<Item = Usage>) -> Usage {
    usages.fold(Usage::default(), |sum, usage| Usage {
        prompt_tokens: sum.prompt_tokens.max(usage.prompt_tokens),
        cached_tokens: sum.cached_tokens.max(usage.cached_tokens),
        completion_tokens: sum.completion_tokens + usage.completion_tokens,
        reasoning_tokens: sum.reasoning_tokens + usage.reasoning_tokens,
    })
}

/// OpenAI counts reasoning as part of the completion.
fn usage_object(usage: Usage) -> Value {
    let completion_tokens = usage.completion_tokens + usage.reasoning_tokens;
    json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": usage.prompt_tokens + completion_tokens,
        "prompt_tokens_details": { "cached_tokens": usage.cached_tokens },
        "completion_tokens_details": { "reasoning_tokens": usage.reasoning_tokens },
    })
}

fn token_logprob(token: &TokenLogprob) -> Value {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let top: Vec<Value> = token
        .top
        .iter()
        .map(|top| json!({ "token": text(&top.bytes), "logprob": top.logprob, "bytes": top.bytes }))
        .collect();
    json!({
        "token": text(&token.bytes),
        "logprob": token.logprob,
        "bytes": token.bytes,
        "top_logprobs": top,
    })
}
