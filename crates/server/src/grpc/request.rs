//! What a call of `xai_api.Chat` asks for, turned into [`Request`]s.

use rapport_types::{
    CallCount, Caller, Message, OutputFormat, PromptForm, Request, Role, ToolCall, Tools,
};
use serde_json::Value;

use super::wire::{
    ChatMessage, ContentKind, FormatType, FunctionCall, GetCompletionsRequest, MessageRole,
    ReasoningEffort, SearchMode, ToolChoiceKind, ToolMode,
};
use crate::error::ApiError;
use crate::models::Offered;
use crate::wanted::{self, DEFAULT_MAX_TOKENS, WantedSampling};

impl GetCompletionsRequest {
    /// One request for each of `n` replies.
    pub(super) fn requests(
        &self,
        model: &Offered,
        caller: Caller,
    ) -> Result<Vec<Request>, ApiError> {
        self.refuse_what_is_not_there()?;
        let n = wanted::n_replies(self.n.map(|n| count(n, "n")).transpose()?)?;
        let effort = self.reasoning_effort.map(|_| match self.reasoning_effort() {
            ReasoningEffort::None => "none",
            ReasoningEffort::Low => "low",
            ReasoningEffort::Medium | ReasoningEffort::Invalid => "medium",
            ReasoningEffort::High | ReasoningEffort::Xhigh => "high",
        });
        let (mode, thinking_budget) = wanted::thinking(effort, model.mode, "reasoning_effort")?;
        let top_logprobs =
            self.top_logprobs.map(|top| count(top, "top_logprobs")).transpose()?.unwrap_or(0);
        if top_logprobs > 0 && !self.logprobs {
            let message = "`top_logprobs` needs `logprobs` to be true";
            return Err(ApiError::invalid("top_logprobs", message));
        }
        let sampling = WantedSampling {
            temperature: self.temperature,
            top_p: self.top_p,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            seed: self.seed.map(i64::from),
            top_logprobs: self.logprobs.then_some(top_logprobs),
            ..WantedSampling::default()
        };
        let max_tokens = self.max_tokens.map(|max| count(max, "max_tokens")).transpose()?;
        let messages = self.read_messages()?;
        let stop = wanted::stop_strings(self.stop.clone(), "stop")?;
        let (format, tools) = (self.format()?, self.read_tools()?);
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
        if self.search_parameters.is_some_and(|search| search.mode() == SearchMode::On) {
            let message = "this server cannot search: use `auto` or `off`";
            return Err(ApiError::invalid("search_parameters", message));
        }
        let is_stored = self.previous_response_id.as_ref().is_some_and(|id| !id.is_empty());
        if self.store_messages || is_stored {
            let message = "completions of gRPC are not kept: send the whole conversation";
            return Err(ApiError::invalid("store_messages", message));
        }
        Ok(())
    }

    fn read_messages(&self) -> Result<Vec<Message>, ApiError> {
        let mut messages: Vec<Message> = Vec::with_capacity(self.messages.len());
        for (idx, message) in self.messages.iter().enumerate() {
            let mut message = message.read(idx)?;
            if message.role == Role::Tool && message.tool_call_id.is_none() {
                message.tool_call_id = Some(unanswered_call(&messages).ok_or_else(|| {
                    let param = format!("messages[{idx}].tool_call_id");
                    ApiError::invalid(param, "this is the result of no call before it")
                })?);
            }
            messages.push(message);
        }
        Ok(messages)
    }

    fn format(&self) -> Result<OutputFormat, ApiError> {
        let Some(format) = &self.response_format else { return Ok(OutputFormat::Text) };
        let kind = match format.format_type() {
            FormatType::Invalid | FormatType::Text => "text",
            FormatType::JsonObject => "json_object",
            FormatType::JsonSchema => "json_schema",
        };
        let schema = format.schema.as_ref().map(|schema| json(schema, "response_format"));
        wanted::format(kind, schema.transpose()?.as_ref(), "response_format")
    }

    fn read_tools(&self) -> Result<Tools, ApiError> {
        let offered = self.tools.iter().map(|tool| {
            let function = tool.function.as_ref().ok_or_else(|| {
                ApiError::invalid(
                    "tools",
                    "this server has only the tools of its clients: use function",
                )
            })?;
            let parameters = match function.parameters.as_str() {
                "" => None,
                schema => Some(json(schema, "tools")?),
            };
            let (name, description) = (function.name.clone(), function.description.clone());
            Ok(wanted::tool(name, Some(description), parameters.as_ref()))
        });
        let offered = offered.collect::<Result<_, ApiError>>()?;
        let choice = match self.tool_choice.as_ref().and_then(|choice| choice.kind.as_ref()) {
            Some(ToolChoiceKind::FunctionName(name)) => {
                rapport_types::ToolChoice::Named(name.clone())
            }
            Some(ToolChoiceKind::Mode(mode)) if *mode == ToolMode::None as i32 => {
                rapport_types::ToolChoice::None
            }
            Some(ToolChoiceKind::Mode(mode)) if *mode == ToolMode::Required as i32 => {
                rapport_types::ToolChoice::Required
            }
            Some(ToolChoiceKind::Mode(_)) | None => rapport_types::ToolChoice::Auto,
        };
        let is_parallel = self.parallel_tool_calls.unwrap_or(true);
        let calls = if is_parallel { CallCount::Several } else { CallCount::One };
        wanted::tools(offered, choice, calls)
    }
}

impl ChatMessage {
    fn read(&self, idx: usize) -> Result<Message, ApiError> {
        let role = match self.role() {
            MessageRole::User => Role::User,
            MessageRole::Assistant => Role::Assistant,
            MessageRole::System | MessageRole::Developer => Role::System,
            MessageRole::Tool | MessageRole::Function => Role::Tool,
            MessageRole::Invalid => {
                let message = "use system, developer, user, assistant or tool";
                return Err(ApiError::invalid(format!("messages[{idx}].role"), message));
            }
        };
        let param = |field: &str| format!("messages[{idx}].{field}");
        if !self.encrypted_content.is_empty() {
            let message = "encrypted content is xAI's own: send the words";
            return Err(ApiError::invalid(param("encrypted_content"), message));
        }
        let texts = self.content.iter().map(|content| match &content.kind {
            Some(ContentKind::Text(text)) => Ok(text.as_str()),
            None => Ok(""),
            Some(ContentKind::ImageUrl(_) | ContentKind::File(_)) => {
                let message = "pictures and files cannot be read: use text";
                Err(ApiError::invalid(param("content"), message))
            }
        });
        let content = texts.collect::<Result<String, _>>()?;
        let is_assistant = role == Role::Assistant;
        let calls = self.tool_calls.iter().filter(|_| is_assistant).map(|call| {
            let FunctionCall { name, arguments } = call.function.clone().unwrap_or_default();
            let arguments = wanted::call_arguments(&arguments, param("tool_calls"))?;
            Ok(ToolCall { id: call.id.clone(), name, arguments })
        });
        let thought =
            self.reasoning_content.clone().filter(|text| is_assistant && !text.is_empty());
        let tool_call_id =
            self.tool_call_id.clone().filter(|id| role == Role::Tool && !id.is_empty());
        Ok(Message {
            thought,
            tool_calls: calls.collect::<Result<_, ApiError>>()?,
            tool_call_id,
            ..Message::new(role, content)
        })
    }
}

/// The first call of the last assistant's message that has no result yet.
fn unanswered_call(messages: &[Message]) -> Option<String> {
    let assistant = messages.iter().rposition(|message| message.role == Role::Assistant)?;
    let is_answered = |call: &&ToolCall| {
        messages[assistant..].iter().any(|message| message.tool_call_id.as_ref() == Some(&call.id))
    };
    messages[assistant]
        .tool_calls
        .iter()
        .find(|call| !is_answered(call))
        .map(|call| call.id.clone())
}

fn count(number: i32, param: &'static str) -> Result<u32, ApiError> {
    u32::try_from(number).map_err(|_| {
        ApiError::invalid(param, format!("`{param}` is {number}: it cannot be negative"))
    })
}

fn json(text: &str, param: &str) -> Result<Value, ApiError> {
    serde_json::from_str(text)
        .map_err(|error| ApiError::invalid(param, format!("the schema is no JSON: {error}")))
}
