//! A reply in Anthropic's words: a message of blocks.

use rapport_types::{Event, ToolCall, Usage};
use serde_json::{Value, json};

use crate::answer::Answer;
use crate::error::ApiError;
use crate::events::{Frame, Wording};

/// A whole message.
pub(super) fn whole(id: &str, model: &str, answer: &Answer) -> Value {
    let mut content = Vec::new();
    if !answer.thought.is_empty() {
        content.push(json!({ "type": "thinking", "thinking": answer.thought, "signature": "" }));
    }
    if !answer.text.is_empty() {
        content.push(json!({ "type": "text", "text": answer.text }));
    }
    content.extend(answer.calls.iter().map(|call| {
        let mut block = tool_use(call);
        block["input"] = serde_json::from_str(&call.arguments).unwrap_or_else(|_| json!({}));
        block
    }));
    let (stop_reason, stop_sequence) = stop(answer);
    let mut message = message(id, model, &content, answer.usage());
    message["stop_reason"] = json!(stop_reason);
    message["stop_sequence"] = json!(stop_sequence);
    message["rapport"] = answer.details();
    message
}

fn message(id: &str, model: &str, content: &[Value], usage: Usage) -> Value {
    json!({
        "id": id, "type": "message", "role": "assistant", "model": model, "content": content,
        "stop_reason": null, "stop_sequence": null, "usage": usage_object(usage),
    })
}

/// A call, its input yet to come.
fn tool_use(call: &ToolCall) -> Value {
    json!({ "type": "tool_use", "id": call.id, "name": call.name, "input": {} })
}

fn stop(answer: &Answer) -> (&'static str, Option<&str>) {
    let stop = answer.outcome.as_ref().and_then(|outcome| outcome.stop.as_deref());
    if stop.is_some() {
        ("stop_sequence", stop)
    } else if answer.is_cut() {
        ("max_tokens", None)
    } else if answer.calls.is_empty() {
        ("end_turn", None)
    } else {
        ("tool_use", None)
    }
}

/// What was cached is not part of the input here.
fn usage_object(usage: Usage) -> Value {
    json!({
        "input_tokens": usage.prompt_tokens.saturating_sub(usage.cached_tokens),
        "cache_read_input_tokens": usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "output_tokens": usage.completion_tokens + usage.reasoning_tokens,
    })
}

/// Turns events into the events of a message's stream.
pub(super) struct MessageWords {
    id: String,
    model: String,
    answer: Answer,
    n_blocks: usize,
    open: Option<&'static str>,
}

impl MessageWords {
    pub(super) fn new(id: String, model: String) -> Self {
        Self { id, model, answer: Answer::default(), n_blocks: 0, open: None }
    }

    fn open(&mut self, kind: &'static str, block: &Value, frames: &mut Vec<Frame>) {
        self.close(frames);
        let start = json!({ "type": "content_block_start", "index": self.n_blocks, "content_block": block });
        frames.push(Frame::named("content_block_start", &start));
        self.open = Some(kind);
    }

    fn delta(&self, delta: &Value) -> Frame {
        let data = json!({ "type": "content_block_delta", "index": self.n_blocks, "delta": delta });
        Frame::named("content_block_delta", &data)
    }

    fn close(&mut self, frames: &mut Vec<Frame>) {
        if self.open.take().is_some() {
            let data = json!({ "type": "content_block_stop", "index": self.n_blocks });
            frames.push(Frame::named("content_block_stop", &data));
            self.n_blocks += 1;
        }
    }

    fn event(&mut self, event: Event) -> Vec<Frame> {
        let mut frames = Vec::new();
        match &event {
            Event::Started { prompt_tokens, cached_tokens, .. } => {
                let (prompt_tokens, cached_tokens) = (*prompt_tokens, *cached_tokens);
                let usage = Usage { prompt_tokens, cached_tokens, ..Usage::default() };
                let message = message(&self.id, &self.model, &[], usage);
                let data = json!({ "type": "message_start", "message": message });
                frames.push(Frame::named("message_start", &data));
            }
            Event::Thought(piece) => {
                if self.open != Some("thinking") {
                    let block = json!({ "type": "thinking", "thinking": "", "signature": "" });
                    self.open("thinking", &block, &mut frames);
                }
                let delta = json!({ "type": "thinking_delta", "thinking": piece });
                frames.push(self.delta(&delta));
            }
            Event::Text { text, .. } if !text.is_empty() => {
                if self.open != Some("text") {
                    self.open("text", &json!({ "type": "text", "text": "" }), &mut frames);
                }
                frames.push(self.delta(&json!({ "type": "text_delta", "text": text })));
            }
            Event::ToolCall(call) => {
                self.open("tool_use", &tool_use(call), &mut frames);
                let delta = json!({ "type": "input_json_delta", "partial_json": call.arguments });
                frames.push(self.delta(&delta));
                self.close(&mut frames);
            }
            Event::Text { .. } | Event::Finished(_) | Event::Failed(_) => {}
        }
        let is_end = matches!(event, Event::Finished(_));
        if let Err(error) = self.answer.take(event) {
            let body = ApiError::from(error).anthropic_body("");
            return vec![Frame::named("error", &body)];
        }
        if is_end {
            self.close(&mut frames);
            let (stop_reason, stop_sequence) = stop(&self.answer);
            let data = json!({
                "type": "message_delta",
                "delta": { "stop_reason": stop_reason, "stop_sequence": stop_sequence },
                "usage": usage_object(self.answer.usage()),
                "rapport": self.answer.details(),
            });
            frames.push(Frame::named("message_delta", &data));
            frames.push(Frame::named("message_stop", &json!({ "type": "message_stop" })));
        }
        frames
    }
}

impl Wording for MessageWords {
    async fn take(&mut self, _reply_idx: usize, event: Event) -> Vec<Frame> {
        self.event(event)
    }

    fn end(&mut self) -> Vec<Frame> {
        Vec::new()
    }
}
