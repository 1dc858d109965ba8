//! What a chat completion asks for, turned into [`Request`]s.
//!
//! Fields that are not known are ignored, as clients of later versions send them; a field that is
//! known and cannot be honoured is refused.

use std::collections::BTreeMap;

use rapport_types::{
    Caller, LogitBias, Message, Mode, OutputFormat, PromptForm, Request, Role, SamplingDraft,
    ThinkingBudget, Tools,
};
use serde::Deserialize;
use serde_json::Value;

use super::models::mode_of;
use crate::Shared;
use crate::error::ApiError;

/// The most replies to one request.
const MAX_N: u32 = 16;
/// Tokens of an answer where the request does not say.
const DEFAULT_MAX_TOKENS: u32 = 1024;

#[derive(Debug, Deserialize)]
pub(super) struct ChatRequest {
    pub(super) model: String,
    messages: Vec<ChatMessage>,
    #[serde(default)]
    pub(super) stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
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
    logprobs: Option<bool>,
    top_logprobs: Option<u32>,
    logit_bias: Option<BTreeMap<String, f32>>,
    response_format: Option<ResponseFormat>,
    reasoning_effort: Option<String>,
    tools: Option<Vec<Value>>,
    functions: Option<Vec<Value>>,
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct ChatMessage {
    role: String,
    content: Option<Content>,
    reasoning_content: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "text, or a list of parts")]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a text, or a list of texts")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Debug, Deserialize)]
struct ResponseFormat {
    #[serde(rename = "type")]
    kind: String,
    json_schema: Option<JsonSchema>,
}

#[derive(Debug, Deserialize)]
struct JsonSchema {
    schema: Option<Value>,
}

impl ChatRequest {
    pub(super) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        serde_json::from_slice(body).map_err(|error| ApiError::not_json(&error))
    }

    pub(super) fn wants_usage_in_stream(&self) -> bool {
        self.stream_options.as_ref().and_then(|options| options.include_usage).unwrap_or(false)
    }

    pub(super) fn wants_logprobs(&self) -> bool {
        self.logprobs.unwrap_or(false)
    }

    /// One request for each of `n` replies.
    pub(super) fn requests(&self, app: &Shared) -> Result<Vec<Request>, ApiError> {
        let tools = [("tools", &self.tools), ("functions", &self.functions)];
        for (param, tools) in tools {
            if tools.as_ref().is_some_and(|tools| !tools.is_empty()) {
                return Err(ApiError::invalid(param, "this server has no tools yet: leave it out"));
            }
        }
        let n = self.n.unwrap_or(1);
        if !(1..=MAX_N).contains(&n) {
            return Err(ApiError::invalid(
                "n",
                format!("`n` is {n}: it must be from 1 to {MAX_N}"),
            ));
        }
        let messages = self.messages.iter().enumerate();
        let messages: Vec<Message> =
            messages.map(|(idx, message)| message.read(idx)).collect::<Result<_, _>>()?;
        let (mode, thinking_budget) = self.thinking(mode_of(app, &self.model)?)?;
        let stop = match &self.stop {
            None => Vec::new(),
            Some(OneOrMany::One(text)) => vec![text.clone()],
            Some(OneOrMany::Many(texts)) => texts.clone(),
        };
        let format = self.format()?;
        let max_tokens =
            self.max_completion_tokens.or(self.max_tokens).unwrap_or(DEFAULT_MAX_TOKENS);
        (0..n)
            .map(|reply_idx| {
                let sampling = self.sampling(reply_idx)?.validate().map_err(|error| {
                    let param = error.field;
                    ApiError::invalid(param, error.to_string())
                })?;
                Ok(Request {
                    messages: messages.clone(),
                    mode,
                    thinking_budget,
                    sampling,
                    max_tokens,
                    stop: stop.clone(),
                    format: format.clone(),
                    tools: Tools::default(),
                    prompt_form: PromptForm::default(),
                    caller: Caller::default(),
                })
            })
            .collect()
    }

    fn thinking(&self, mode: Mode) -> Result<(Mode, ThinkingBudget), ApiError> {
        let Some(effort) = &self.reasoning_effort else {
            return Ok((mode, ThinkingBudget::Medium));
        };
        Ok(match effort.as_str() {
            "none" => (Mode::Fast, ThinkingBudget::None),
            "minimal" | "low" => (mode, ThinkingBudget::Low),
            "medium" => (mode, ThinkingBudget::Medium),
            "high" | "xhigh" => (mode, ThinkingBudget::High),
            other => {
                let message = format!("`{other}`: use none, minimal, low, medium, high or xhigh");
                return Err(ApiError::invalid("reasoning_effort", message));
            }
        })
    }

    fn sampling(&self, reply_idx: u32) -> Result<SamplingDraft, ApiError> {
        let defaults = SamplingDraft::default();
        let biases = self.logit_bias.iter().flatten();
        let logit_bias = biases
            .map(|(token, bias)| {
                let not_a_number = |_| {
                    let message = format!("`{token}` is not the number of a token");
                    ApiError::invalid("logit_bias", message)
                };
                Ok::<_, ApiError>(LogitBias {
                    token: token.parse().map_err(not_a_number)?,
                    bias: *bias,
                })
            })
            .collect::<Result<_, _>>()?;
        let top_logprobs = self.top_logprobs.unwrap_or(0);
        if top_logprobs > 0 && !self.wants_logprobs() {
            let message = "`top_logprobs` needs `logprobs` to be true";
            return Err(ApiError::invalid("top_logprobs", message));
        }
        Ok(SamplingDraft {
            temperature: self.temperature.unwrap_or(defaults.temperature),
            top_k: self.top_k.unwrap_or(defaults.top_k),
            top_p: self.top_p.unwrap_or(defaults.top_p),
            min_p: self.min_p.unwrap_or(defaults.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(defaults.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(defaults.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(defaults.frequency_penalty),
            logit_bias,
            // Several replies of one seed differ from each other, and each can be had again.
            seed: self.seed.map(|seed| seed.cast_unsigned().wrapping_add(u64::from(reply_idx))),
            top_logprobs: self.wants_logprobs().then_some(top_logprobs),
        })
    }

    fn format(&self) -> Result<OutputFormat, ApiError> {
        let Some(format) = &self.response_format else { return Ok(OutputFormat::Text) };
        let schema =
            format.json_schema.as_ref().and_then(|json_schema| json_schema.schema.as_ref());
        match (format.kind.as_str(), schema) {
            ("text", _) => Ok(OutputFormat::Text),
            ("json_object", _) => Ok(OutputFormat::JsonObject),
            ("json_schema", Some(schema)) => Ok(OutputFormat::JsonSchema(schema.to_string())),
            ("json_schema", None) => {
                Err(ApiError::invalid("response_format", "`json_schema` needs its `schema`"))
            }
            (other, _) => Err(ApiError::invalid(
                "response_format",
                format!("`{other}`: use text, json_object or json_schema"),
            )),
        }
    }
}

impl ChatMessage {
    fn read(&self, idx: usize) -> Result<Message, ApiError> {
        let role = match self.role.as_str() {
            // What later models call the system's words.
            "developer" => Some(Role::System),
            name => Role::parse(name),
        };
        let role = role.ok_or_else(|| {
            let message = format!("`{}`: use system, user, assistant or tool", self.role);
            ApiError::invalid(format!("messages[{idx}].role"), message)
        })?;
        let content = match &self.content {
            None => String::new(),
            Some(Content::Text(text)) => text.clone(),
            Some(Content::Parts(parts)) => {
                let texts = parts.iter().map(|part| match (&*part.kind, &part.text) {
                    ("text", Some(text)) => Ok(text.as_str()),
                    (kind, _) => Err(ApiError::invalid(
                        format!("messages[{idx}].content"),
                        format!("a part of type `{kind}` cannot be read: use text"),
                    )),
                });
                texts.collect::<Result<_, _>>()?
            }
        };
        let thought = match role {
            Role::Assistant => self.reasoning_content.clone(),
            _ => None,
        };
        Ok(Message { thought, ..Message::new(role, content) })
    }
}
