//! The events of a stream, put together to a reply: a state machine without I/O or time.
//!
//! An engine may leave out or garble much (indices of tool calls, usage, the end); what is not
//! needed is done without, and a reply that is not whole has failed.

use rapport_types::{
    BuildId, Event, FinishReason, GenerateError, OutputFormat, Request, TokenLogprob, ToolCall,
    ToolChoice, TopLogprob, Usage,
};
use serde_json::Value;

use crate::short_hash;
use crate::sse::SseEvent;

/// The longest reply; a model writes less in a day.
const MAX_REPLY_BYTES: usize = 64 << 20;
const MAX_CALLS: usize = 256;

/// A call of a tool that is being told in pieces.
#[derive(Debug, Default)]
struct Calling {
    index: Option<i64>,
    id: String,
    name: String,
    arguments: String,
}

/// Times as the engine has taken them, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct EngineTimes {
    pub(crate) first_token: Option<f64>,
    pub(crate) prompt: Option<f64>,
    pub(crate) decode: Option<f64>,
}

/// Reads one reply.
#[derive(Debug)]
pub(crate) struct ReplyReader {
    format: OutputFormat,
    /// Tools that may be called.
    callable: Vec<String>,
    must_call: bool,
    stops: Vec<String>,
    model: String,
    fingerprint: String,
    build: Option<BuildId>,
    text: String,
    n_bytes: usize,
    n_thoughts: u32,
    n_texts: u32,
    calling: Vec<Calling>,
    finish: Option<FinishReason>,
    stop: Option<String>,
    is_done: bool,
    usage: Option<Usage>,
    /// Tokens of the prompt and those of them that were cached, where they are told early.
    prompt: Option<(u32, u32)>,
    times: EngineTimes,
}

/// How a reply ended that is whole.
#[derive(Debug)]
pub(crate) struct Ending {
    pub(crate) calls: Vec<ToolCall>,
    pub(crate) reason: FinishReason,
    pub(crate) stop: Option<String>,
}

impl ReplyReader {
    pub(crate) fn new(request: &Request, model: &str) -> Self {
        let callable: Vec<String> =
            request.tools.callable().map(|tool| tool.name.clone()).collect();
        let choice = &request.tools.choice;
        Self {
            must_call: matches!(choice, ToolChoice::Required | ToolChoice::Named(_)),
            format: request.format.clone(),
            callable,
            stops: request.stop.clone(),
            model: model.to_owned(),
            fingerprint: String::new(),
            build: None,
            text: String::new(),
            n_bytes: 0,
            n_thoughts: 0,
            n_texts: 0,
            calling: Vec::new(),
            finish: None,
            stop: None,
            is_done: false,
            usage: None,
            prompt: None,
            times: EngineTimes::default(),
        }
    }

    /// Takes an event and adds what it tells to the reply. The reason is for whoever runs the engine.
    pub(crate) fn take(&mut self, event: &SseEvent, told: &mut Vec<Event>) -> Result<(), String> {
        if event.data.trim() == "[DONE]" {
            self.is_done = true;
            return Ok(());
        }
        if self.is_done || event.data.is_empty() {
            return Ok(());
        }
        let chunk: Value = serde_json::from_str(&event.data)
            .map_err(|error| format!("an event is no JSON: {error}"))?;
        if event.name == "error" || chunk.get("error").is_some_and(|error| !error.is_null()) {
            let error = chunk.get("error").unwrap_or(&chunk);
            let message = error["message"].as_str().or(error.as_str()).unwrap_or("it does not say");
            return Err(format!("it broke off and says: {}", shortened(message)));
        }
        self.n_bytes += event.data.len();
        if self.n_bytes > MAX_REPLY_BYTES {
            return Err(format!("the reply has more than {MAX_REPLY_BYTES} bytes"));
        }
        self.notes(&chunk);
        match chunk["choices"].as_array().map(Vec::as_slice) {
            Some([choice, ..]) => self.choice(choice, told),
            _ => Ok(()),
        }
    }

    fn notes(&mut self, chunk: &Value) {
        if let Some(model) = chunk["model"].as_str().filter(|model| !model.is_empty()) {
            model.clone_into(&mut self.model);
        }
        if let Some(fingerprint) = chunk["system_fingerprint"].as_str() {
            fingerprint.clone_into(&mut self.fingerprint);
        }
        let reasoned = self.n_thoughts;
        if let Some(usage) = usage(&chunk["usage"], reasoned) {
            self.usage = Some(usage);
            self.prompt = Some((usage.prompt_tokens, usage.cached_tokens));
        }
        let progress = &chunk["prompt_progress"];
        if let Some(total) = count(&progress["total"]) {
            self.prompt = Some((total, count(&progress["cache"]).unwrap_or(0).min(total)));
        }
        // llama-server's and our own.
        let llama = &chunk["timings"];
        if llama.is_object() {
            self.times.prompt = llama["prompt_ms"].as_f64();
            self.times.decode = llama["predicted_ms"].as_f64();
            if let (Some(usage), Some(cached)) = (&mut self.usage, count(&llama["cache_n"])) {
                usage.cached_tokens = usage.cached_tokens.max(cached.min(usage.prompt_tokens));
            }
        }
        let ours = &chunk["rapport"];
        if ours.is_object() {
            let times = &ours["timings"];
            self.times = EngineTimes {
                first_token: times["first_token_ms"].as_f64(),
                prompt: times["prompt_ms"].as_f64(),
                decode: times["decode_ms"].as_f64(),
            };
            self.build = ours["build"].as_str().and_then(build);
        }
    }

    fn choice(&mut self, choice: &Value, told: &mut Vec<Event>) -> Result<(), String> {
        let delta = &choice["delta"];
        let thought = text(&delta["reasoning_content"]).or(text(&delta["reasoning"]));
        if let Some(thought) = thought {
            self.n_thoughts = self.n_thoughts.saturating_add(1);
            told.push(Event::Thought(thought.to_owned()));
        }
        let logprobs = logprobs(&choice["logprobs"]);
        let piece = text(&delta["content"]).or(text(&choice["text"]));
        if piece.is_some() || !logprobs.is_empty() {
            let text = piece.unwrap_or_default().to_owned();
            self.n_texts = self.n_texts.saturating_add(1);
            if self.format != OutputFormat::Text {
                self.text += &text;
            }
            told.push(Event::Text { text, logprobs });
        }
        for part in delta["tool_calls"].as_array().into_iter().flatten() {
            self.call(part)?;
        }
        match choice["finish_reason"].as_str() {
            None => {}
            Some("length" | "max_tokens") => self.finish = Some(FinishReason::Length),
            Some(reason @ ("content_filter" | "error" | "abort")) => {
                return Err(format!("it cut the reply: {reason}"));
            }
            Some(_) => self.finish = Some(FinishReason::Stop),
        }
        if let Some(stop) = choice["stop_reason"].as_str().or(choice["matched_stop"].as_str()) {
            self.stop = self.stops.iter().find(|known| *known == stop).cloned();
        }
        Ok(())
    }

    fn call(&mut self, part: &Value) -> Result<(), String> {
        let index = part["index"].as_i64();
        let id = text(&part["id"]);
        let place = match (index, id) {
            (Some(_), _) => self.calling.iter().position(|calling| calling.index == index),
            // Without an index, another name for the call begins another call.
            (None, Some(id)) => self.calling.iter().position(|calling| calling.id == id),
            (None, None) => self.calling.len().checked_sub(1),
        };
        let place = match place {
            Some(place) => place,
            None if self.calling.len() >= MAX_CALLS => {
                return Err(format!("it calls more than {MAX_CALLS} tools"));
            }
            None => {
                self.calling.push(Calling { index, ..Calling::default() });
                self.calling.len() - 1
            }
        };
        let calling = &mut self.calling[place];
        if let Some(id) = id {
            id.clone_into(&mut calling.id);
        }
        let function = &part["function"];
        if let Some(name) = text(&function["name"]) {
            // Some tell the whole name each time.
            name.clone_into(&mut calling.name);
        }
        match &function["arguments"] {
            Value::String(piece) => calling.arguments += piece,
            whole @ Value::Object(_) => calling.arguments = whole.to_string(),
            _ => {}
        }
        Ok(())
    }

    pub(crate) fn is_done(&self) -> bool {
        self.is_done
    }

    pub(crate) fn prompt(&self) -> Option<(u32, u32)> {
        self.prompt
    }

    pub(crate) fn times(&self) -> EngineTimes {
        self.times
    }

    /// The stream has ended, in good order as far as HTTP goes.
    ///
    /// # Errors
    /// The reply is not whole, or not what was asked for.
    pub(crate) fn end(&mut self) -> Result<Ending, GenerateError> {
        let Some(reason) = self.finish else {
            let reason = "the engine's stream ended before the reply did".to_owned();
            return Err(GenerateError::Internal { reason });
        };
        let lost = |reason: String| Err(GenerateError::FormatLost { reason });
        let is_cut = reason == FinishReason::Length;
        let mut calls = Vec::new();
        for (call_idx, calling) in self.calling.drain(..).enumerate() {
            let Calling { id, name, arguments, .. } = calling;
            let arguments = if arguments.trim().is_empty() { "{}".to_owned() } else { arguments };
            let is_object = serde_json::from_str::<Value>(&arguments).is_ok_and(|v| v.is_object());
            if !is_object {
                if is_cut {
                    // A call is whole or there is none.
                    continue;
                }
                return lost(format!("the arguments for `{name}` are no JSON object"));
            }
            if !self.callable.contains(&name) {
                return lost(format!("the engine called `{name}`, which was not offered"));
            }
            let id = if id.is_empty() { format!("call_{call_idx}") } else { id };
            calls.push(ToolCall { id, name, arguments });
        }
        if self.must_call && calls.is_empty() && !is_cut {
            return lost("the engine called no tool".to_owned());
        }
        let is_kept = match &self.format {
            _ if is_cut || !calls.is_empty() => true,
            OutputFormat::JsonObject => {
                serde_json::from_str::<Value>(&self.text).is_ok_and(|value| value.is_object())
            }
            OutputFormat::JsonSchema(_) => serde_json::from_str::<Value>(&self.text).is_ok(),
            OutputFormat::Text | OutputFormat::Regex(_) | OutputFormat::Lark(_) => true,
        };
        if !is_kept {
            // Some engines drop a schema that they cannot read and answer all the same.
            return lost("the engine wrote no such JSON".to_owned());
        }
        Ok(Ending { calls, reason, stop: self.stop.take() })
    }

    /// As the engine has told; else pieces, which are about tokens.
    pub(crate) fn usage(&self) -> Usage {
        if let Some(usage) = self.usage {
            return usage;
        }
        let (prompt_tokens, cached_tokens) = self.prompt.unwrap_or_default();
        Usage {
            prompt_tokens,
            cached_tokens,
            completion_tokens: self.n_texts,
            reasoning_tokens: self.n_thoughts,
        }
    }

    /// What answered, which need not be what was asked.
    pub(crate) fn build(&self, asked: &BuildId) -> BuildId {
        let parts = [self.model.as_str(), self.fingerprint.as_str()];
        let parts = if self.fingerprint.is_empty() { &parts[..1] } else { &parts[..] };
        let weights = short_hash(parts);
        self.build.clone().unwrap_or_else(|| BuildId { weights, ..asked.clone() })
    }
}

fn text(value: &Value) -> Option<&str> {
    value.as_str().filter(|text| !text.is_empty())
}

/// A number of tokens that can be one.
fn count(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|count| u32::try_from(count).ok())
}

/// `None` where it is not told, or cannot be right.
fn usage(told: &Value, n_thoughts: u32) -> Option<Usage> {
    let prompt_tokens = count(&told["prompt_tokens"])?;
    let written = count(&told["completion_tokens"])?;
    let cached = count(&told["prompt_tokens_details"]["cached_tokens"]).unwrap_or(0);
    let details = &told["completion_tokens_details"];
    let reasoned = count(&details["reasoning_tokens"]).or(count(&told["reasoning_tokens"]));
    let reasoning_tokens = reasoned.unwrap_or(n_thoughts).min(written);
    Some(Usage {
        prompt_tokens,
        cached_tokens: cached.min(prompt_tokens),
        completion_tokens: written - reasoning_tokens,
        reasoning_tokens,
    })
}

fn logprobs(told: &Value) -> Vec<TokenLogprob> {
    let bytes = |token: &Value| match token["bytes"].as_array() {
        Some(bytes) => bytes.iter().filter_map(|byte| byte.as_u64()?.try_into().ok()).collect(),
        None => token["token"].as_str().unwrap_or_default().as_bytes().to_vec(),
    };
    let logprob = |token: &Value| token["logprob"].as_f64().unwrap_or(f64::MIN) as f32;
    let top = |token: &Value| TopLogprob { bytes: bytes(token), logprob: logprob(token) };
    if let Some(tokens) = told["tokens"].as_array() {
        return tokens
            .iter()
            .enumerate()
            .map(|(idx, token)| plain_logprob(told, idx, token))
            .collect();
    }
    let tokens = told["content"].as_array().into_iter().flatten();
    tokens
        .map(|token| TokenLogprob {
            bytes: bytes(token),
            logprob: logprob(token),
            top: token["top_logprobs"].as_array().into_iter().flatten().map(top).collect(),
        })
        .collect()
}

/// As the older protocol tells it, in lists beside each other.
fn plain_logprob(told: &Value, idx: usize, token: &Value) -> TokenLogprob {
    let number = |value: &Value| value.as_f64().unwrap_or(f64::MIN) as f32;
    let bytes = |text: &str| text.as_bytes().to_vec();
    let top = told["top_logprobs"][idx].as_object().into_iter().flatten();
    let mut top: Vec<TopLogprob> = top
        .map(|(text, value)| TopLogprob { bytes: bytes(text), logprob: number(value) })
        .collect();
    top.sort_by(|a, b| b.logprob.total_cmp(&a.logprob));
    TokenLogprob {
        bytes: bytes(token.as_str().unwrap_or_default()),
        logprob: number(&told["token_logprobs"][idx]),
        top,
    }
}

/// A build as our own servers write it.
pub(crate) fn build(text: &str) -> Option<BuildId> {
    let mut parts = text.splitn(4, '+').map(str::to_owned);
    let mut next = || parts.next();
    Some(BuildId { weights: next()?, adapter: next()?, persona: next()?, engine: next()? })
}

fn shortened(message: &str) -> String {
    const MAX_CHARS: usize = 200;
    message.chars().filter(|c| !c.is_control()).take(MAX_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use rapport_types::{
        CallCount, Caller, Message, Mode, PromptForm, Sampling, ThinkingBudget, Tool, Tools,
    };
    use serde_json::json;

    use super::*;

    fn request() -> Request {
        let tool = |name: &str| Tool {
            name: name.to_owned(),
            description: String::new(),
            parameters: "{}".to_owned(),
        };
        Request {
            adapter: rapport_types::AdapterChoice::Default,
            messages: vec![Message::user("hi")],
            prompt_form: PromptForm::Conversation,
            mode: Mode::Auto,
            thinking_budget: ThinkingBudget::Medium,
            sampling: Sampling::greedy(),
            max_tokens: 8,
            stop: vec!["END".to_owned()],
            format: OutputFormat::Text,
            tools: Tools {
                offered: vec![tool("weather"), tool("time")],
                choice: ToolChoice::Auto,
                calls: CallCount::Several,
            },
            caller: Caller::default(),
        }
    }

    fn read(request: &Request, chunks: &[Value]) -> (Vec<Event>, ReplyReader, Result<(), String>) {
        let (mut reader, mut told) = (ReplyReader::new(request, "m"), Vec::new());
        let read = chunks.iter().try_for_each(|chunk| {
            let data = chunk.as_str().map_or_else(|| chunk.to_string(), str::to_owned);
            reader.take(&SseEvent { name: String::new(), data }, &mut told)
        });
        (told, reader, read)
    }

    fn delta(delta: &Value) -> Value {
        json!({ "choices": [{ "index": 0, "delta": delta }] })
    }

    fn finish(reason: &str) -> Value {
        json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": reason }] })
    }

    fn text_event(text: &str) -> Event {
        Event::Text { text: text.to_owned(), logprobs: Vec::new() }
    }

    #[test]
    fn thoughts_come_apart_by_either_name_and_usage_counts_them() {
        let usage = json!({
            "prompt_tokens": 9, "completion_tokens": 5, "prompt_tokens_details": { "cached_tokens": 4 },
        });
        let (told, mut reader, read) = read(
            &request(),
            &[
                delta(&json!({ "role": "assistant", "content": "" })),
                delta(&json!({ "reasoning_content": "a" })),
                delta(&json!({ "reasoning": "b" })),
                delta(&json!({ "content": "c", "reasoning_content": null })),
                finish("stop"),
                json!({ "choices": [], "usage": usage }),
                json!("[DONE]"),
            ],
        );
        read.unwrap();
        let thought = |text: &str| Event::Thought(text.to_owned());
        assert_eq!(told, [thought("a"), thought("b"), text_event("c")]);
        assert_eq!(reader.end().unwrap().reason, FinishReason::Stop);
        let usage =
            Usage { prompt_tokens: 9, cached_tokens: 4, completion_tokens: 3, reasoning_tokens: 2 };
        assert_eq!(reader.usage(), usage);
    }

    #[test]
    fn f37_a_stream_that_ends_before_the_reply_is_no_success() {
        let (_, mut reader, read) = read(&request(), &[delta(&json!({ "content": "half" }))]);
        read.unwrap();
        assert!(matches!(reader.end(), Err(GenerateError::Internal { .. })));
        // The reply is whole where only the last words of the protocol are missing.
        let (_, mut reader, _) = self::read(&request(), &[finish("stop")]);
        reader.end().unwrap();
        for broken in [
            json!("<html>"),
            json!({ "error": { "message": "out of memory", "code": 500 } }),
            json!({ "error": "gone" }),
            finish("content_filter"),
        ] {
            assert!(self::read(&request(), &[broken]).2.is_err());
        }
    }

    #[test]
    fn f38_calls_without_an_index_are_put_together() {
        let call = |part: Value| delta(&json!({ "tool_calls": [part] }));
        let parts = |with_index: bool| {
            let index = |n: i64| if with_index { json!(n) } else { Value::Null };
            [
                call(
                    json!({ "index": index(0), "id": "1", "function": { "name": "weather", "arguments": "" } }),
                ),
                call(json!({ "index": index(0), "function": { "arguments": "{\"city\":" } })),
                call(json!({ "index": index(0), "function": { "arguments": "\"Kyoto\"}" } })),
                call(
                    json!({ "index": index(1), "id": "2", "function": { "name": "time", "arguments": {} } }),
                ),
                finish("tool_calls"),
            ]
        };
        let expected = [("1", "weather", r#"{"city":"Kyoto"}"#), ("2", "time", "{}")].map(
            |(id, name, arguments)| ToolCall {
                id: id.to_owned(),
                name: name.to_owned(),
                arguments: arguments.to_owned(),
            },
        );
        for with_index in [true, false] {
            let (_, mut reader, read) = read(&request(), &parts(with_index));
            read.unwrap();
            assert_eq!(reader.end().unwrap().calls, expected);
        }
    }

    #[test]
    fn f19_a_call_is_whole_and_of_a_tool_that_was_offered_or_there_is_none() {
        let ended = |name: &str, arguments: &str, reason: &str| {
            let call = json!({ "id": "1", "function": { "name": name, "arguments": arguments } });
            let (_, mut reader, _) =
                read(&request(), &[delta(&json!({ "tool_calls": [call] })), finish(reason)]);
            reader.end().map(|ending| ending.calls.len())
        };
        assert_eq!(ended("weather", "", "tool_calls"), Ok(1));
        assert_eq!(ended("weather", "{\"a\":", "length"), Ok(0));
        for (name, arguments) in [("weather", "{\"a\":"), ("weather", "[]"), ("format_disk", "{}")]
        {
            let error = ended(name, arguments, "tool_calls").unwrap_err();
            assert!(matches!(error, GenerateError::FormatLost { .. }), "{error}");
        }
        let mut required = request();
        required.tools.choice = ToolChoice::Required;
        let (_, mut reader, _) =
            read(&required, &[delta(&json!({ "content": "no" })), finish("stop")]);
        assert!(reader.end().is_err());
    }

    #[test]
    fn f38_usage_that_cannot_be_is_counted_instead() {
        let two =
            [delta(&json!({ "content": "a" })), delta(&json!({ "content": "b" })), finish("stop")];
        for told in [
            Value::Null,
            json!({ "prompt_tokens": -4, "completion_tokens": 2 }),
            json!({ "prompt_tokens": 4, "completion_tokens": 1e300 }),
            json!({ "prompt_tokens": "4" }),
        ] {
            let chunks: Vec<_> =
                two.iter().cloned().chain([json!({ "choices": [], "usage": told })]).collect();
            let (_, reader, read) = read(&request(), &chunks);
            read.unwrap();
            assert_eq!(reader.usage(), Usage { completion_tokens: 2, ..Usage::default() });
        }
    }

    #[test]
    fn f38_the_build_names_the_model_that_really_answered() {
        let asked = BuildId {
            weights: short_hash(&["m"]),
            adapter: "none".to_owned(),
            persona: "none".to_owned(),
            engine: "e".to_owned(),
        };
        assert_eq!(read(&request(), &[finish("stop")]).1.build(&asked), asked);
        let mut other = finish("stop");
        other["model"] = json!("m2");
        assert_ne!(read(&request(), &[other]).1.build(&asked).weights, asked.weights);
        let mut ours = finish("stop");
        ours["rapport"] = json!({ "build": "w+a+p+0.1.0+local" });
        assert_eq!(read(&request(), &[ours]).1.build(&asked).to_string(), "w+a+p+0.1.0+local");
    }

    #[test]
    fn an_answer_that_left_its_format_has_failed() {
        let ended = |format: OutputFormat, text: &str, reason: &str| {
            let request = Request { format, ..request() };
            let (_, mut reader, _) =
                read(&request, &[delta(&json!({ "content": text })), finish(reason)]);
            reader.end().is_ok()
        };
        assert!(ended(OutputFormat::JsonObject, "{\"a\": 1}", "stop"));
        assert!(!ended(OutputFormat::JsonObject, "Certainly! {}", "stop"));
        assert!(!ended(OutputFormat::JsonSchema("{}".to_owned()), "{\"a\"", "stop"));
        assert!(ended(OutputFormat::JsonSchema("{}".to_owned()), "{\"a\"", "length"));
    }

    #[test]
    fn the_stop_string_that_was_met_and_logprobs_are_kept() {
        let token = json!({ "token": "c", "logprob": -0.5, "bytes": [99], "top_logprobs": [
            { "token": "d", "logprob": -1.5, "bytes": null },
        ] });
        let chunk = json!({ "choices": [{
            "delta": { "content": "c" }, "logprobs": { "content": [token] },
            "finish_reason": "stop", "stop_reason": "END",
        }] });
        let (told, mut reader, _) = read(&request(), &[chunk]);
        let top = vec![TopLogprob { bytes: b"d".to_vec(), logprob: -1.5 }];
        let logprobs = vec![TokenLogprob { bytes: b"c".to_vec(), logprob: -0.5, top }];
        assert_eq!(told, [Event::Text { text: "c".to_owned(), logprobs }]);
        assert_eq!(reader.end().unwrap().stop.as_deref(), Some("END"));
    }
}
