//! `POST /v1/completions`: texts that the model goes on with, without a conversation around them.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use rapport_types::{
    Caller, Event, Message, Mode, OutputFormat, PromptForm, Request, ThinkingBudget, TokenLogprob,
    Tools,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::request::{OneOrMany, StreamOptions};
use super::{Head, usage_object};
use crate::App;
use crate::answer::{Answer, all_of, total};
use crate::body::JsonBody;
use crate::error::ApiError;
use crate::events::{self, Frame, Wording};
use crate::models::{self, Offered};
use crate::replies::{Replies, fresh_id, unix_seconds};
use crate::wanted::{self, MAX_N, WantedSampling};

/// What the protocol says where the request does not.
const DEFAULT_MAX_TOKENS: u32 = 16;

#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct CompletionRequest {
    model: String,
    prompt: OneOrMany,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    max_tokens: Option<u32>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<u32>,
    min_p: Option<f32>,
    presence_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    repetition_penalty: Option<f32>,
    seed: Option<i64>,
    stop: Option<OneOrMany>,
    n: Option<u32>,
    best_of: Option<u32>,
    logprobs: Option<u32>,
    logit_bias: Option<BTreeMap<String, f32>>,
    echo: Option<bool>,
    suffix: Option<String>,
}

impl CompletionRequest {
    /// `n` requests for each prompt.
    fn requests(self, model: &Offered, caller: Caller) -> Result<Vec<Request>, ApiError> {
        let refused = [
            ("echo", self.echo.unwrap_or(false)),
            ("suffix", self.suffix.as_ref().is_some_and(|suffix| !suffix.is_empty())),
            ("best_of", self.best_of.unwrap_or(1) > self.n.unwrap_or(1)),
        ];
        if let Some((param, _)) = refused.iter().find(|(_, is_asked)| *is_asked) {
            return Err(ApiError::invalid(*param, "this server cannot do that: leave it out"));
        }
        let n = wanted::n_replies(self.n)?;
        let prompts = self.prompt.into_texts();
        let n_requests = prompts.len() * n as usize;
        if !(1..=MAX_N as usize).contains(&n_requests) {
            let message = format!("{n_requests} completions: ask for 1 to {MAX_N} at once");
            return Err(ApiError::invalid("prompt", message));
        }
        let stops = self.stop.map(OneOrMany::into_texts).unwrap_or_default();
        let stop = wanted::stop_strings(stops, "stop")?;
        let sampling = WantedSampling {
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            min_p: self.min_p,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
            logit_bias: self.logit_bias.as_ref(),
            top_logprobs: self.logprobs,
        };
        let indexed = prompts.iter().flat_map(|prompt| (0..n).map(move |idx| (prompt, idx)));
        indexed
            .map(|(prompt, reply_idx)| {
                Ok(Request {
                    messages: vec![Message::user(prompt)],
                    prompt_form: PromptForm::Plain,
                    mode: Mode::Fast,
                    thinking_budget: ThinkingBudget::None,
                    sampling: sampling.for_reply(reply_idx, model)?,
                    max_tokens: self.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS),
                    stop: stop.clone(),
                    format: OutputFormat::Text,
                    tools: Tools::default(),
                    adapter: model.adapter.clone(),
                    caller,
                })
            })
            .collect()
    }
}

pub(crate) async fn create(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    JsonBody(request): JsonBody<CompletionRequest>,
) -> Result<Response, ApiError> {
    let model = models::find(&app, &request.model)?;
    let head = Head {
        id: fresh_id("cmpl-"),
        created: unix_seconds(),
        model: request.model.clone(),
        build: model.info.build.to_string(),
    };
    let is_stream = request.stream.unwrap_or(false);
    let options = request.stream_options.as_ref();
    let wants_usage = options.and_then(|options| options.include_usage).unwrap_or(false);
    let wants_logprobs = request.logprobs.is_some();
    let requests = request.requests(&model, caller)?;
    let replies = Replies::start(&app, &model.generate, requests).await?;
    if is_stream {
        let words = CompletionWords {
            head,
            answers: Vec::new(),
            texts: Vec::new(),
            wants_usage,
            wants_logprobs,
        };
        return Ok(events::stream(replies, words));
    }
    let answers = all_of(replies).await?;
    let choices: Vec<Value> = answers
        .iter()
        .enumerate()
        .map(|(reply_idx, answer)| {
            let logprobs = wants_logprobs.then(|| logprobs_object(&answer.logprobs, 0));
            choice(reply_idx, &answer.text, logprobs.as_ref(), Some(finish_reason(answer)))
        })
        .collect();
    let mut body = head.object("text_completion", &choices);
    body["usage"] = usage_object(total(&answers));
    body["rapport"] = answers.first().map_or(Value::Null, Answer::details);
    Ok(Json(body).into_response())
}

fn finish_reason(answer: &Answer) -> &'static str {
    if answer.is_cut() { "length" } else { "stop" }
}

fn choice(
    reply_idx: usize,
    text: &str,
    logprobs: Option<&Value>,
    finish_reason: Option<&str>,
) -> Value {
    json!({
        "index": reply_idx, "text": text, "logprobs": logprobs, "finish_reason": finish_reason,
    })
}

/// The older form: parallel lists. Offsets count characters from the first of the completion.
fn logprobs_object(tokens: &[TokenLogprob], first_offset: usize) -> Value {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut offset = first_offset;
    let offsets: Vec<usize> = tokens
        .iter()
        .map(|token| {
            let at = offset;
            offset += text(&token.bytes).chars().count();
            at
        })
        .collect();
    let top = tokens.iter().map(|token| {
        let entries = token.top.iter().map(|top| (text(&top.bytes), json!(top.logprob)));
        Value::Object(entries.collect::<Map<_, _>>())
    });
    json!({
        "tokens": tokens.iter().map(|token| text(&token.bytes)).collect::<Vec<_>>(),
        "token_logprobs": tokens.iter().map(|token| token.logprob).collect::<Vec<_>>(),
        "top_logprobs": top.collect::<Vec<_>>(),
        "text_offset": offsets,
    })
}

struct CompletionWords {
    head: Head,
    answers: Vec<Answer>,
    /// Characters that each reply has so far.
    texts: Vec<usize>,
    wants_usage: bool,
    wants_logprobs: bool,
}

impl CompletionWords {
    fn chunk(&mut self, reply_idx: usize, event: Event) -> Result<Option<Value>, ApiError> {
        if self.answers.len() <= reply_idx {
            self.answers.resize_with(reply_idx + 1, Answer::default);
            self.texts.resize(reply_idx + 1, 0);
        }
        let said = match &event {
            Event::Text { text, logprobs } => {
                let first_offset = self.texts[reply_idx];
                self.texts[reply_idx] += text.chars().count();
                let logprobs = self.wants_logprobs.then(|| logprobs_object(logprobs, first_offset));
                Some((text.clone(), logprobs))
            }
            _ => None,
        };
        let is_end = matches!(event, Event::Finished(_));
        let answer = &mut self.answers[reply_idx];
        answer.take(event)?;
        let choice = match said {
            Some((text, logprobs)) => choice(reply_idx, &text, logprobs.as_ref(), None),
            None if is_end => choice(reply_idx, "", None, Some(finish_reason(answer))),
            None => return Ok(None),
        };
        let mut chunk = self.head.object("text_completion", &[choice]);
        if is_end {
            chunk["rapport"] = answer.details();
        }
        Ok(Some(chunk))
    }
}

impl Wording for CompletionWords {
    async fn take(&mut self, reply_idx: usize, event: Event) -> Vec<Frame> {
        match self.chunk(reply_idx, event) {
            Ok(chunk) => chunk.iter().map(Frame::data).collect(),
            Err(error) => vec![Frame::named("error", &error.body())],
        }
    }

    fn end(&mut self) -> Vec<Frame> {
        let usage = self.wants_usage.then(|| {
            let mut chunk = self.head.object("text_completion", &[]);
            chunk["usage"] = usage_object(total(&self.answers));
            Frame::data(&chunk)
        });
        usage.into_iter().chain([Frame::done()]).collect()
    }
}
