//! A reply in the words of `/v1/responses`: a list of items, each opened, filled and closed.

use rapport_types::{Event, Message, TokenLogprob, ToolCall};
use serde_json::{Value, json};

use crate::App;
use crate::answer::Answer;
use crate::error::ApiError;
use crate::events::{Frame, Wording};
use crate::openai::token_logprob;
use crate::replies::{fresh_id, unix_seconds};
use crate::stored::{Owner, Responses, StoredResponse};

/// What is needed to keep a response.
pub(super) struct Storing {
    pub(super) app: App,
    pub(super) owner: Owner,
    pub(super) input: Vec<Value>,
    pub(super) messages: Vec<Message>,
}

/// Turns events into a response and the events of its stream.
pub(super) struct ResponseWords {
    response: Value,
    storing: Option<Storing>,
    answer: Answer,
    output: Vec<Value>,
    open: Option<Open>,
    n_events: u64,
    pub(super) failure: Option<ApiError>,
}

/// The item that is being written.
struct Open {
    id: String,
    kind: OpenKind,
    text: String,
    logprobs: Vec<Value>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum OpenKind {
    Reasoning,
    Message,
}

impl Open {
    fn part(&self) -> Value {
        match self.kind {
            OpenKind::Reasoning => json!({ "type": "reasoning_text", "text": self.text }),
            OpenKind::Message => json!({
                "type": "output_text", "text": self.text, "annotations": [],
                "logprobs": self.logprobs,
            }),
        }
    }

    fn item(&self, status: &str, content: &[Value]) -> Value {
        match self.kind {
            OpenKind::Reasoning => json!({
                "id": self.id, "type": "reasoning", "status": status, "summary": [],
                "content": content,
            }),
            OpenKind::Message => json!({
                "id": self.id, "type": "message", "status": status, "role": "assistant",
                "content": content,
            }),
        }
    }
}

impl ResponseWords {
    /// A response that says again what was asked, in the fields of `echo`.
    pub(super) fn new(id: &str, echo: Value, storing: Option<Storing>) -> Self {
        let mut response = json!({
            "id": id,
            "object": "response",
            "created_at": unix_seconds(),
            "status": "in_progress",
            "error": null,
            "incomplete_details": null,
            "output": [],
            "usage": null,
        });
        if let (Value::Object(response), Value::Object(echo)) = (&mut response, echo) {
            response.extend(echo);
        }
        let (output, answer) = (Vec::new(), Answer::default());
        Self { response, storing, answer, output, open: None, n_events: 0, failure: None }
    }

    pub(super) fn into_response(self) -> Value {
        self.response
    }

    /// Takes an event and gives the stream's events for it.
    pub(super) async fn event(&mut self, event: Event) -> Vec<Frame> {
        let mut frames = Vec::new();
        match &event {
            Event::Started { .. } => {
                for name in ["response.created", "response.in_progress"] {
                    let response = json!({ "response": self.response });
                    frames.push(self.frame(name, response));
                }
            }
            Event::Thought(piece) => {
                self.write(OpenKind::Reasoning, piece, &[], &mut frames);
            }
            Event::Text { text, logprobs } => {
                self.write(OpenKind::Message, text, logprobs, &mut frames);
            }
            Event::ToolCall(call) => {
                self.close("completed", &mut frames);
                self.call(call, &mut frames);
            }
            Event::Finished(_) | Event::Failed(_) => {}
        }
        let is_end = matches!(event, Event::Finished(_));
        if let Err(error) = self.answer.take(event) {
            frames.push(self.failed(error.into()));
        } else if is_end {
            self.finish(&mut frames).await;
        }
        frames
    }

    fn frame(&mut self, name: &'static str, fields: Value) -> Frame {
        let mut data = json!({ "type": name, "sequence_number": self.n_events });
        self.n_events += 1;
        if let (Value::Object(data), Value::Object(fields)) = (&mut data, fields) {
            data.extend(fields);
        }
        Frame::named(name, &data)
    }

    fn write(
        &mut self,
        kind: OpenKind,
        piece: &str,
        tokens: &[TokenLogprob],
        frames: &mut Vec<Frame>,
    ) {
        if self.open.as_ref().is_none_or(|open| open.kind != kind) {
            self.close("completed", frames);
            let prefix = if kind == OpenKind::Reasoning { "rs_" } else { "msg_" };
            let (id, text, logprobs) = (fresh_id(prefix), String::new(), Vec::new());
            let open = Open { id, kind, text, logprobs };
            let (item, part) = (open.item("in_progress", &[]), open.part());
            let (item_id, output_index) = (open.id.clone(), self.output.len());
            self.open = Some(open);
            let added = json!({ "output_index": output_index, "item": item });
            frames.push(self.frame("response.output_item.added", added));
            let added = json!({
                "item_id": item_id, "output_index": output_index, "content_index": 0, "part": part,
            });
            frames.push(self.frame("response.content_part.added", added));
        }
        let output_index = self.output.len();
        let Some(open) = &mut self.open else { return };
        open.text += piece;
        let logprobs: Vec<Value> = tokens.iter().map(token_logprob).collect();
        let mut delta = json!({
            "item_id": open.id, "output_index": output_index, "content_index": 0, "delta": piece,
        });
        let name = match kind {
            OpenKind::Reasoning => "response.reasoning_text.delta",
            OpenKind::Message => {
                delta["logprobs"] = json!(logprobs);
                "response.output_text.delta"
            }
        };
        open.logprobs.extend(logprobs);
        frames.push(self.frame(name, delta));
    }

    fn close(&mut self, status: &str, frames: &mut Vec<Frame>) {
        let Some(open) = self.open.take() else { return };
        let output_index = self.output.len();
        let at = |fields: Value| {
            let mut place =
                json!({ "item_id": open.id, "output_index": output_index, "content_index": 0 });
            if let (Value::Object(place), Value::Object(fields)) = (&mut place, fields) {
                place.extend(fields);
            }
            place
        };
        let (name, done) = match open.kind {
            OpenKind::Reasoning => {
                ("response.reasoning_text.done", at(json!({ "text": open.text })))
            }
            OpenKind::Message => {
                let fields = json!({ "text": open.text, "logprobs": open.logprobs });
                ("response.output_text.done", at(fields))
            }
        };
        frames.push(self.frame(name, done));
        let part = open.part();
        frames.push(self.frame("response.content_part.done", at(json!({ "part": part }))));
        let item = open.item(status, &[part]);
        let done = json!({ "output_index": output_index, "item": item });
        frames.push(self.frame("response.output_item.done", done));
        self.output.push(item);
    }

    fn call(&mut self, call: &ToolCall, frames: &mut Vec<Frame>) {
        let ToolCall { id: call_id, name, arguments } = call;
        let (id, output_index) = (fresh_id("fc_"), self.output.len());
        let item = |status: &str, arguments: &str| {
            json!({
                "id": id, "type": "function_call", "status": status, "call_id": call_id,
                "name": name, "arguments": arguments,
            })
        };
        let place = json!({ "item_id": id, "output_index": output_index });
        let with = |key: &str, value: Value| {
            let mut fields = place.clone();
            fields[key] = value;
            fields
        };
        let added = json!({ "output_index": output_index, "item": item("in_progress", "") });
        frames.push(self.frame("response.output_item.added", added));
        let delta = with("delta", json!(arguments));
        frames.push(self.frame("response.function_call_arguments.delta", delta));
        let mut done = with("arguments", json!(arguments));
        done["name"] = json!(name);
        frames.push(self.frame("response.function_call_arguments.done", done));
        let item = item("completed", arguments);
        let done = json!({ "output_index": output_index, "item": item });
        frames.push(self.frame("response.output_item.done", done));
        self.output.push(item);
    }

    /// Closes the response and keeps it before anybody is told that it is complete.
    async fn finish(&mut self, frames: &mut Vec<Frame>) {
        let is_cut = self.answer.is_cut();
        let status = if is_cut { "incomplete" } else { "completed" };
        self.close(status, frames);
        let usage = self.answer.usage();
        let output_tokens = usage.completion_tokens + usage.reasoning_tokens;
        let details = self.answer.details();
        let response = &mut self.response;
        response["status"] = json!(status);
        response["output"] = json!(self.output);
        response["completed_at"] = json!(unix_seconds());
        if is_cut {
            response["incomplete_details"] = json!({ "reason": "max_output_tokens" });
        }
        response["usage"] = json!({
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": { "cached_tokens": usage.cached_tokens },
            "output_tokens": output_tokens,
            "output_tokens_details": { "reasoning_tokens": usage.reasoning_tokens },
            "total_tokens": usage.prompt_tokens + output_tokens,
        });
        response["rapport"] = details;
        if let Err(error) = self.store().await {
            let frame = self.failed(error);
            frames.push(frame);
            return;
        }
        let name = if is_cut { "response.incomplete" } else { "response.completed" };
        let response = json!({ "response": self.response });
        frames.push(self.frame(name, response));
    }

    async fn store(&mut self) -> Result<(), ApiError> {
        let Some(storing) = self.storing.take() else { return Ok(()) };
        let Storing { app, owner, input, mut messages } = storing;
        let thought = Some(std::mem::take(&mut self.answer.thought));
        messages.push(Message {
            thought: thought.filter(|thought| !thought.is_empty()),
            tool_calls: std::mem::take(&mut self.answer.calls),
            ..Message::assistant(std::mem::take(&mut self.answer.text))
        });
        let id = self.response["id"].as_str().unwrap_or_default().to_owned();
        let response = self.response.clone();
        Responses::put(&app, owner, &id, StoredResponse { response, input, messages }).await
    }

    fn failed(&mut self, error: ApiError) -> Frame {
        self.response["status"] = json!("failed");
        self.response["error"] = json!({ "code": "server_error", "message": error.message() });
        self.failure = Some(error);
        let response = json!({ "response": self.response });
        self.frame("response.failed", response)
    }
}

impl Wording for ResponseWords {
    async fn take(&mut self, _reply_idx: usize, event: Event) -> Vec<Frame> {
        self.event(event).await
    }

    fn end(&mut self) -> Vec<Frame> {
        Vec::new()
    }
}
