//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use rapport_types::{Caller, Event, ToolCall};
use serde_json::{Value, json};

use super::request::ChatRequest;
use super::{Head, token_logprob, usage_object};
use crate::answer::{Answer, all_of, total};
use crate::body::JsonBody;
use crate::error::ApiError;
use crate::events::{self, Frame, Wording};
use crate::replies::{Replies, fresh_id, unix_seconds};
use crate::{App, charge, models};

pub(crate) async fn create(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    JsonBody(request): JsonBody<ChatRequest>,
) -> Result<Response, ApiError> {
    let model = models::find(&app, &request.model)?;
    let requests = request.requests(&model, caller)?;
    let build = model.info.build.to_string();
    let replies = Replies::start(&app, &model.generate, requests).await?;
    let head = Head {
        id: fresh_id("chatcmpl-"),
        created: unix_seconds(),
        model: request.model.clone(),
        build,
    };
    let wants_logprobs = request.wants_logprobs();
    if request.deferred.unwrap_or(false) {
        return defer(&app, replies, head, wants_logprobs).await;
    }
    if request.wants_stream() {
        let wants_usage = request.wants_usage_in_stream();
        let words = ChatWords { head, answers: Vec::new(), wants_usage, wants_logprobs };
        return Ok(events::stream(replies, words));
    }
    Ok(Json(whole(replies, &head, wants_logprobs).await?).into_response())
}

/// Makes the reply while nobody waits.
async fn defer(
    app: &App,
    replies: Replies,
    head: Head,
    wants_logprobs: bool,
) -> Result<Response, ApiError> {
    let promise = app.deferred.begin(app.accounts.as_ref(), charge::owner()).await?;
    let (app, id) = (Arc::clone(app), promise.id.clone());
    tokio::spawn(async move {
        app.deferred.keep(promise, whole(replies, &head, wants_logprobs)).await;
    });
    Ok(Json(json!({ "request_id": id })).into_response())
}

async fn whole(replies: Replies, head: &Head, wants_logprobs: bool) -> Result<Value, ApiError> {
    let answers = all_of(replies).await?;
    let choices = answers.iter().enumerate().map(|(reply_idx, answer)| {
        let has_words = !answer.text.is_empty() || answer.calls.is_empty();
        let content = has_words.then_some(&answer.text);
        let mut message = json!({ "role": "assistant", "content": content, "refusal": null });
        if !answer.thought.is_empty() {
            message["reasoning_content"] = json!(answer.thought);
        }
        if !answer.calls.is_empty() {
            message["tool_calls"] = answer.calls.iter().map(tool_call).collect();
        }
        let logprobs = wants_logprobs.then(
            || json!({ "content": answer.logprobs.iter().map(token_logprob).collect::<Vec<_>>() }),
        );
        json!({
            "index": reply_idx,
            "message": message,
            "logprobs": logprobs,
            "finish_reason": finish_reason(answer),
        })
    });
    let mut body = head.object("chat.completion", &choices.collect::<Vec<_>>());
    body["usage"] = usage_object(total(&answers));
    body["rapport"] = answers.first().map_or(Value::Null, Answer::details);
    Ok(body)
}

fn finish_reason(answer: &Answer) -> &'static str {
    if answer.is_cut() {
        "length"
    } else if answer.calls.is_empty() {
        "stop"
    } else {
        "tool_calls"
    }
}

fn tool_call(call: &ToolCall) -> Value {
    let ToolCall { id, name, arguments } = call;
    json!({ "id": id, "type": "function", "function": { "name": name, "arguments": arguments } })
}

struct ChatWords {
    head: Head,
    answers: Vec<Answer>,
    wants_usage: bool,
    wants_logprobs: bool,
}

impl ChatWords {
    fn chunk(&mut self, reply_idx: usize, event: Event) -> Result<Value, ApiError> {
        if self.answers.len() <= reply_idx {
            self.answers.resize_with(reply_idx + 1, Answer::default);
        }
        let answer = &mut self.answers[reply_idx];
        let mut logprobs = Value::Null;
        let delta = match &event {
            Event::Started { .. } => json!({ "role": "assistant", "content": "" }),
            Event::Thought(piece) => json!({ "reasoning_content": piece }),
            Event::Text { text, logprobs: tokens } => {
                if self.wants_logprobs {
                    let tokens: Vec<Value> = tokens.iter().map(token_logprob).collect();
                    logprobs = json!({ "content": tokens });
                }
                json!({ "content": text })
            }
            Event::ToolCall(call) => {
                let mut call = tool_call(call);
                call["index"] = json!(answer.calls.len());
                json!({ "tool_calls": [call] })
            }
            Event::Finished(_) | Event::Failed(_) => json!({}),
        };
        let is_end = matches!(event, Event::Finished(_));
        answer.take(event)?;
        let choice = json!({
            "index": reply_idx,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": is_end.then(|| finish_reason(answer)),
        });
        let mut chunk = self.head.object("chat.completion.chunk", &[choice]);
        if is_end {
            chunk["rapport"] = answer.details();
        }
        Ok(chunk)
    }
}

impl Wording for ChatWords {
    async fn take(&mut self, reply_idx: usize, event: Event) -> Vec<Frame> {
        match self.chunk(reply_idx, event) {
            Ok(chunk) => vec![Frame::data(&chunk)],
            Err(error) => vec![Frame::named("error", &error.body())],
        }
    }

    fn end(&mut self) -> Vec<Frame> {
        let usage = self.wants_usage.then(|| {
            let mut chunk = self.head.object("chat.completion.chunk", &[]);
            chunk["usage"] = usage_object(total(&self.answers));
            Frame::data(&chunk)
        });
        usage.into_iter().chain([Frame::done()]).collect()
    }
}
