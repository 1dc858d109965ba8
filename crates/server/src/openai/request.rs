//! What a chat completion asks for, turned into [`Request`]s.
//!
//! Fields that are not known are ignored, as clients of later versions send them; a field that is
//! known and cannot be honoured is refused.

use std::collections::BTreeMap;

use rapport_types::{
    CallCount, Caller, Message, PromptForm, Request, Role, Tool, ToolCall, ToolChoice, Tools,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::error::ApiError;
use crate::models::Offered;
use crate::wanted::{self, DEFAULT_MAX_TOKENS, WantedSampling};

#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct ChatRequest {
    /// `rapport`, `rapport-fast` or `rapport-thinking`, or another of `/v1/models`.
    pub(super) model: String,
    messages: Vec<ChatMessage>,
    pub(super) stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    /// Answer later: the reply is a `request_id`.
    pub(super) deferred: Option<bool>,
    max_tokens: Option<u32>,
    /// Of the answer; thoughts are not counted.
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
    /// `none`, `minimal`, `low`, `medium`, `high` or `xhigh`.
    reasoning_effort: Option<String>,
    tools: Option<Vec<ChatTool>>,
    tool_choice: Option<ChatToolChoice>,
    parallel_tool_calls: Option<bool>,
    functions: Option<Vec<Value>>,
    search_parameters: Option<SearchParameters>,
    /// Requests with another salt share no cached computation, as in vLLM.
    cache_salt: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct StreamOptions {
    pub(super) include_usage: Option<bool>,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct SearchParameters {
    mode: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct ChatMessage {
    /// `system`, `developer`, `user`, `assistant` or `tool`.
    role: String,
    content: Option<Content>,
    reasoning_content: Option<String>,
    tool_calls: Option<Vec<ChatToolCall>>,
    tool_call_id: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "text, or a list of parts")]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Deserialize, JsonSchema)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
    refusal: Option<String>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a text, or a list of texts")]
pub(super) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    pub(super) fn into_texts(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        }
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
struct ResponseFormat {
    /// `text`, `json_object` or `json_schema`.
    #[serde(rename = "type")]
    kind: String,
    json_schema: Option<NamedSchema>,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct NamedSchema {
    schema: Option<Value>,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct ChatTool {
    /// Only `function`.
    #[serde(rename = "type")]
    kind: String,
    function: Option<Function>,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct Function {
    name: String,
    description: Option<String>,
    /// A JSON schema of an object.
    parameters: Option<Value>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "none, auto, required, or the function to call")]
enum ChatToolChoice {
    Word(String),
    One { function: FunctionName },
}

#[derive(Debug, Deserialize, JsonSchema)]
struct FunctionName {
    name: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct ChatToolCall {
    id: String,
    function: CalledFunction,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct CalledFunction {
    name: String,
    /// A JSON object, as text.
    arguments: String,
}

/// The choice that a word stands for.
pub(super) fn choice_word(word: &str) -> Result<ToolChoice, ApiError> {
    match word {
        "none" => Ok(ToolChoice::None),
        "auto" => Ok(ToolChoice::Auto),
        "required" => Ok(ToolChoice::Required),
        other => {
            let message = format!("`{other}`: use none, auto, required, or a function's name");
            Err(ApiError::invalid("tool_choice", message))
        }
    }
}

/// How many calls an answer may have.
pub(super) fn call_count(parallel: Option<bool>) -> CallCount {
    if parallel.unwrap_or(true) { CallCount::Several } else { CallCount::One }
}

impl ChatRequest {
    pub(super) fn wants_stream(&self) -> bool {
        self.stream.unwrap_or(false)
    }

    pub(super) fn wants_usage_in_stream(&self) -> bool {
        self.stream_options.as_ref().and_then(|options| options.include_usage).unwrap_or(false)
    }

    pub(super) fn wants_logprobs(&self) -> bool {
        self.logprobs.unwrap_or(false)
    }

    /// One request for each of `n` replies.
    pub(super) fn requests(
        &self,
        model: &Offered,
        caller: Caller,
    ) -> Result<Vec<Request>, ApiError> {
        self.refuse_what_is_not_there()?;
        let n = wanted::n_replies(self.n)?;
        let messages = self.messages.iter().enumerate();
        let messages: Vec<Message> =
            messages.map(|(idx, message)| message.read(idx)).collect::<Result<_, _>>()?;
        let effort = self.reasoning_effort.as_deref();
        let (mode, thinking_budget) = wanted::thinking(effort, model.mode, "reasoning_effort")?;
        let stops = self.stop.clone().map(OneOrMany::into_texts).unwrap_or_default();
        let stop = wanted::stop_strings(stops, "stop")?;
        let top_logprobs = self.top_logprobs.unwrap_or(0);
        if top_logprobs > 0 && !self.wants_logprobs() {
            let message = "`top_logprobs` needs `logprobs` to be true";
            return Err(ApiError::invalid("top_logprobs", message));
        }
        let format = match &self.response_format {
            None => rapport_types::OutputFormat::Text,
            Some(format) => {
                let schema = format.json_schema.as_ref().and_then(|named| named.schema.as_ref());
                wanted::format(&format.kind, schema, "response_format")?
            }
        };
        let max_tokens = self.max_completion_tokens.or(self.max_tokens);
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
            top_logprobs: self.wants_logprobs().then_some(top_logprobs),
        };
        let tools = self.tools()?;
        let caller = match &self.cache_salt {
            Some(salt) => wanted::salted(caller, salt),
            None => caller,
        };
        (0..n)
            .map(|reply_idx| {
                Ok(Request {
                    messages: messages.clone(),
                    prompt_form: PromptForm::Conversation,
                    mode,
                    thinking_budget,
                    sampling: sampling.for_reply(reply_idx, model)?,
                    max_tokens: max_tokens.unwrap_or(DEFAULT_MAX_TOKENS),
                    stop: stop.clone(),
                    format: format.clone(),
                    tools: tools.clone(),
                    adapter: model.adapter.clone(),
                    caller,
                })
            })
            .collect()
    }

    fn refuse_what_is_not_there(&self) -> Result<(), ApiError> {
        if self.functions.as_ref().is_some_and(|functions| !functions.is_empty()) {
            return Err(ApiError::invalid("functions", "`functions` are old: use `tools`"));
        }
        let search = self.search_parameters.as_ref().and_then(|search| search.mode.as_deref());
        if search == Some("on") {
            let message = "this server cannot search: use `auto` or `off`";
            return Err(ApiError::invalid("search_parameters", message));
        }
        Ok(())
    }

    fn tools(&self) -> Result<Tools, ApiError> {
        let offered: Vec<Tool> = self
            .tools
            .iter()
            .flatten()
            .map(|tool| match (tool.kind.as_str(), &tool.function) {
                ("function", Some(Function { name, description, parameters })) => {
                    Ok(wanted::tool(name.clone(), description.clone(), parameters.as_ref()))
                }
                ("function", None) => Err(ApiError::invalid(
                    "tools",
                    "a tool of type `function` needs its `function`",
                )),
                (other, _) => {
                    let message = format!("this server has no tool `{other}`: use function");
                    Err(ApiError::invalid("tools", message))
                }
            })
            .collect::<Result<_, _>>()?;
        let choice = match &self.tool_choice {
            None => ToolChoice::Auto,
            Some(ChatToolChoice::Word(word)) => choice_word(word)?,
            Some(ChatToolChoice::One { function }) => ToolChoice::Named(function.name.clone()),
        };
        wanted::tools(offered, choice, call_count(self.parallel_tool_calls))
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
                let texts =
                    parts.iter().map(|part| match (&*part.kind, &part.text, &part.refusal) {
                        ("text", Some(text), _) | ("refusal", _, Some(text)) => Ok(text.as_str()),
                        (kind, ..) => Err(ApiError::invalid(
                            format!("messages[{idx}].content"),
                            format!("a part of type `{kind}` cannot be read: use text"),
                        )),
                    });
                texts.collect::<Result<_, _>>()?
            }
        };
        let is_assistant = role == Role::Assistant;
        let calls = self.tool_calls.iter().flatten().filter(|_| is_assistant).enumerate();
        let tool_calls = calls.map(|(call_idx, call)| {
            let CalledFunction { name, arguments } = &call.function;
            let param = format!("messages[{idx}].tool_calls[{call_idx}].function.arguments");
            let arguments = wanted::call_arguments(arguments, param)?;
            Ok(ToolCall { id: call.id.clone(), name: name.clone(), arguments })
        });
        if role == Role::Tool && self.tool_call_id.is_none() {
            let param = format!("messages[{idx}].tool_call_id");
            return Err(ApiError::invalid(param, "the result of a tool needs the call's id"));
        }
        Ok(Message {
            thought: self.reasoning_content.clone().filter(|_| is_assistant),
            tool_calls: tool_calls.collect::<Result<_, ApiError>>()?,
            tool_call_id: self.tool_call_id.clone().filter(|_| role == Role::Tool),
            ..Message::new(role, content)
        })
    }
}
