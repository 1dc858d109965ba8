//! What a response is asked for.

use rapport_types::{
    Caller, Message, OutputFormat, PromptForm, Request, Role, Tool, ToolCall, ToolChoice,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::error::ApiError;
use crate::models::Offered;
use crate::openai::request::{call_count, choice_word};
use crate::replies::fresh_id;
use crate::wanted::{self, DEFAULT_MAX_TOKENS, WantedSampling};

#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct ResponseRequest {
    model: String,
    input: Input,
    instructions: Option<String>,
    previous_response_id: Option<String>,
    store: Option<bool>,
    stream: Option<bool>,
    background: Option<bool>,
    max_output_tokens: Option<u32>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_logprobs: Option<u32>,
    include: Option<Vec<String>>,
    reasoning: Option<Reasoning>,
    text: Option<TextOptions>,
    tools: Option<Vec<FlatTool>>,
    tool_choice: Option<FlatToolChoice>,
    parallel_tool_calls: Option<bool>,
    metadata: Option<Map<String, Value>>,
    user: Option<String>,
    prompt_cache_key: Option<String>,
    conversation: Option<Value>,
    prompt: Option<Value>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "text, or a list of items")]
enum Input {
    Text(String),
    Items(Vec<Item>),
}

/// One item of an input; which fields count depends on its type.
#[derive(Debug, Deserialize, JsonSchema)]
struct Item {
    /// `message` (also without it), `function_call`, `function_call_output` or `reasoning`.
    #[serde(rename = "type")]
    kind: Option<String>,
    id: Option<String>,
    role: Option<String>,
    content: Option<ItemText>,
    summary: Option<ItemText>,
    call_id: Option<String>,
    name: Option<String>,
    arguments: Option<String>,
    output: Option<ItemText>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "text, or a list of parts")]
enum ItemText {
    Text(String),
    Parts(Vec<ItemPart>),
}

#[derive(Debug, Deserialize, JsonSchema)]
struct ItemPart {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
    refusal: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct Reasoning {
    effort: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct TextOptions {
    format: Option<TextFormat>,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct TextFormat {
    /// `text`, `json_object` or `json_schema`.
    #[serde(rename = "type")]
    kind: String,
    name: Option<String>,
    schema: Option<Value>,
    strict: Option<bool>,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct FlatTool {
    /// Only `function`.
    #[serde(rename = "type")]
    kind: String,
    name: Option<String>,
    description: Option<String>,
    parameters: Option<Value>,
    strict: Option<bool>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "none, auto, required, or the function to call")]
enum FlatToolChoice {
    Word(String),
    One { name: String },
}

/// An input, as it is kept and as the conversation goes on with it.
pub(super) struct ReadInput {
    pub(super) items: Vec<Value>,
    pub(super) messages: Vec<Message>,
}

impl ItemText {
    fn text(&self, param: &str) -> Result<String, ApiError> {
        match self {
            Self::Text(text) => Ok(text.clone()),
            Self::Parts(parts) => {
                let texts =
                    parts.iter().map(|part| match (&*part.kind, &part.text, &part.refusal) {
                        (
                            "input_text" | "output_text" | "text" | "reasoning_text"
                            | "summary_text",
                            Some(text),
                            _,
                        )
                        | ("refusal", _, Some(text)) => Ok(text.as_str()),
                        (kind, ..) => {
                            let message =
                                format!("a part of type `{kind}` cannot be read: use text");
                            Err(ApiError::invalid(param, message))
                        }
                    });
                texts.collect()
            }
        }
    }
}

impl ResponseRequest {
    pub(super) fn model(&self) -> &str {
        &self.model
    }

    pub(super) fn previous_response_id(&self) -> Option<&str> {
        self.previous_response_id.as_deref()
    }

    pub(super) fn is_stored(&self) -> bool {
        self.store.unwrap_or(true)
    }

    pub(super) fn is_stream(&self) -> bool {
        self.stream.unwrap_or(false)
    }

    pub(super) fn input(&self) -> Result<ReadInput, ApiError> {
        let mut read = ReadInput { items: Vec::new(), messages: Vec::new() };
        let items = match &self.input {
            Input::Text(text) => {
                read.items.push(json!({
                    "id": fresh_id("msg_"), "type": "message", "role": "user", "status": "completed",
                    "content": [{ "type": "input_text", "text": text }],
                }));
                read.messages.push(Message::user(text));
                return Ok(read);
            }
            Input::Items(items) => items,
        };
        let mut thought = None;
        for (idx, item) in items.iter().enumerate() {
            item.read(idx, &mut read, &mut thought)?;
        }
        Ok(read)
    }

    pub(super) fn ask(
        &self,
        model: &Offered,
        messages: &[Message],
        caller: Caller,
    ) -> Result<Request, ApiError> {
        let refused = [
            ("background", self.background.unwrap_or(false)),
            ("conversation", self.conversation.as_ref().is_some_and(|value| !value.is_null())),
            ("prompt", self.prompt.as_ref().is_some_and(|value| !value.is_null())),
        ];
        if let Some((param, _)) = refused.iter().find(|(_, is_asked)| *is_asked) {
            return Err(ApiError::invalid(*param, "this server cannot do that: leave it out"));
        }
        let instructions = self.instructions.iter().map(Message::system);
        let messages: Vec<Message> = instructions.chain(messages.iter().cloned()).collect();
        let effort = self.reasoning.as_ref().and_then(|reasoning| reasoning.effort.as_deref());
        let (mode, thinking_budget) = wanted::thinking(effort, model.mode, "reasoning.effort")?;
        let format = self.text.as_ref().and_then(|text| text.format.as_ref());
        let format = match format {
            None => OutputFormat::Text,
            Some(format) => wanted::format(&format.kind, format.schema.as_ref(), "text.format")?,
        };
        let wants_logprobs = self
            .include
            .iter()
            .flatten()
            .any(|included| included == "message.output_text.logprobs");
        let sampling = WantedSampling {
            temperature: self.temperature,
            top_p: self.top_p,
            top_logprobs: self.top_logprobs.or(wants_logprobs.then_some(0)),
            ..WantedSampling::default()
        };
        let offered: Vec<Tool> = self
            .tools
            .iter()
            .flatten()
            .map(|tool| match (tool.kind.as_str(), &tool.name) {
                ("function", Some(name)) => Ok(wanted::tool(
                    name.clone(),
                    tool.description.clone(),
                    tool.parameters.as_ref(),
                )),
                ("function", None) => {
                    Err(ApiError::invalid("tools", "a tool of type `function` needs its `name`"))
                }
                (other, _) => {
                    let message = format!("this server has no tool `{other}`: use function");
                    Err(ApiError::invalid("tools", message))
                }
            })
            .collect::<Result<_, _>>()?;
        let choice = match &self.tool_choice {
            None => ToolChoice::Auto,
            Some(FlatToolChoice::Word(word)) => choice_word(word)?,
            Some(FlatToolChoice::One { name }) => ToolChoice::Named(name.clone()),
        };
        Ok(Request {
            messages,
            prompt_form: PromptForm::Conversation,
            mode,
            thinking_budget,
            sampling: sampling.for_reply(0, model)?,
            max_tokens: self.max_output_tokens.unwrap_or(DEFAULT_MAX_TOKENS),
            stop: Vec::new(),
            format,
            tools: wanted::tools(offered, choice, call_count(self.parallel_tool_calls))?,
            adapter: model.adapter.clone(),
            caller,
        })
    }

    /// The fields of a response that say again what was asked.
    pub(super) fn echo(&self, model: &Offered) -> Value {
        let tools: Vec<Value> = self
            .tools
            .iter()
            .flatten()
            .map(|tool| {
                json!({
                    "type": tool.kind, "name": tool.name, "description": tool.description,
                    "parameters": tool.parameters, "strict": tool.strict.unwrap_or(true),
                })
            })
            .collect();
        let tool_choice = match &self.tool_choice {
            None => json!("auto"),
            Some(FlatToolChoice::Word(word)) => json!(word),
            Some(FlatToolChoice::One { name }) => json!({ "type": "function", "name": name }),
        };
        let format = self.text.as_ref().and_then(|text| text.format.as_ref());
        let format = match format {
            Some(TextFormat { kind, name, schema: Some(schema), strict }) => {
                json!({ "type": kind, "name": name, "schema": schema, "strict": strict })
            }
            Some(TextFormat { kind, .. }) => json!({ "type": kind }),
            None => json!({ "type": "text" }),
        };
        let defaults = model.sampling();
        let effort = self.reasoning.as_ref().and_then(|reasoning| reasoning.effort.as_deref());
        json!({
            "model": self.model,
            "instructions": self.instructions,
            "previous_response_id": self.previous_response_id,
            "store": self.is_stored(),
            "background": false,
            "max_output_tokens": self.max_output_tokens,
            "temperature": wanted::decimal(self.temperature.unwrap_or(defaults.temperature)),
            "top_p": wanted::decimal(self.top_p.unwrap_or(defaults.top_p)),
            "reasoning": { "effort": effort, "summary": null },
            "text": { "format": format },
            "tools": tools,
            "tool_choice": tool_choice,
            "parallel_tool_calls": self.parallel_tool_calls.unwrap_or(true),
            "metadata": self.metadata.clone().unwrap_or_default(),
            "user": self.user,
            "prompt_cache_key": self.prompt_cache_key,
            "service_tier": "default",
            "truncation": "disabled",
        })
    }
}

impl Item {
    /// Adds the item to what was read. A thought waits for the message that it was thought before.
    fn read(
        &self,
        idx: usize,
        read: &mut ReadInput,
        thought: &mut Option<String>,
    ) -> Result<(), ApiError> {
        let param = |field: &str| format!("input[{idx}].{field}");
        let text = |text: &Option<ItemText>, field: &str| match text {
            Some(text) => text.text(&param(field)),
            None => Ok(String::new()),
        };
        let required = |value: &Option<String>, field: &str| {
            value.clone().ok_or_else(|| ApiError::invalid(param(field), "it is needed here"))
        };
        let id = |prefix: &str| self.id.clone().unwrap_or_else(|| fresh_id(prefix));
        match self.kind.as_deref().unwrap_or("message") {
            "message" => {
                let role = match self.role.as_deref() {
                    Some("developer" | "system") => Role::System,
                    Some("user") => Role::User,
                    Some("assistant") => Role::Assistant,
                    _ => {
                        let message = "use user, assistant, system or developer";
                        return Err(ApiError::invalid(param("role"), message));
                    }
                };
                let content = text(&self.content, "content")?;
                let is_assistant = role == Role::Assistant;
                let kind = if is_assistant { "output_text" } else { "input_text" };
                read.items.push(json!({
                    "id": id("msg_"), "type": "message", "role": self.role, "status": "completed",
                    "content": [{ "type": kind, "text": content, "annotations": [] }],
                }));
                let thought = if is_assistant { thought.take() } else { None };
                read.messages.push(Message { thought, ..Message::new(role, content) });
            }
            "function_call" => {
                let call_id = required(&self.call_id, "call_id")?;
                let name = required(&self.name, "name")?;
                let arguments = required(&self.arguments, "arguments")?;
                let arguments = wanted::call_arguments(&arguments, param("arguments"))?;
                read.items.push(json!({
                    "id": id("fc_"), "type": "function_call", "call_id": call_id, "name": name,
                    "arguments": arguments, "status": "completed",
                }));
                let call = ToolCall { id: call_id, name, arguments };
                add_call(&mut read.messages, call, thought);
            }
            "function_call_output" => {
                let call_id = required(&self.call_id, "call_id")?;
                let output = text(&self.output, "output")?;
                read.items.push(json!({
                    "id": id("fco_"), "type": "function_call_output", "call_id": call_id,
                    "output": output, "status": "completed",
                }));
                let tool_call_id = Some(call_id);
                read.messages.push(Message { tool_call_id, ..Message::new(Role::Tool, output) });
            }
            "reasoning" => {
                let words = text(&self.content, "content")? + &text(&self.summary, "summary")?;
                *thought = (!words.is_empty()).then_some(words);
            }
            other => {
                let message = format!(
                    "an item of type `{other}` cannot be read: use message, function_call, \
                     function_call_output or reasoning"
                );
                return Err(ApiError::invalid(param("type"), message));
            }
        }
        Ok(())
    }
}

/// Calls that follow each other or the assistant's words are one turn.
pub(super) fn add_call(messages: &mut Vec<Message>, call: ToolCall, thought: &mut Option<String>) {
    match messages.last_mut() {
        Some(last) if last.role == Role::Assistant => last.tool_calls.push(call),
        _ => messages.push(Message {
            thought: thought.take(),
            tool_calls: vec![call],
            ..Message::assistant("")
        }),
    }
}
