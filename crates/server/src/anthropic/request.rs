//! What a message is asked for.

use rapport_types::{
    CallCount, Caller, Message, Mode, OutputFormat, PromptForm, Request, Role, ThinkingBudget,
    ToolCall, ToolChoice, Tools,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::error::ApiError;
use crate::models::Offered;
use crate::wanted::{self, WantedSampling};

#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct MessagesRequest {
    model: String,
    messages: Vec<Turn>,
    system: Option<Content>,
    /// Of thought and answer together where `thinking` has a budget, else of the answer.
    max_tokens: Option<u32>,
    stop_sequences: Option<Vec<String>>,
    stream: Option<bool>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<u32>,
    tools: Option<Vec<OfferedTool>>,
    tool_choice: Option<Choice>,
    thinking: Option<Thinking>,
    output_config: Option<OutputConfig>,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct Turn {
    /// `user` or `assistant`.
    role: String,
    content: Content,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "text, or a list of blocks")]
enum Content {
    Text(String),
    Blocks(Vec<Block>),
}

/// A block of a turn; which fields count depends on its type.
#[derive(Debug, Deserialize, JsonSchema)]
struct Block {
    /// `text`, `thinking`, `redacted_thinking`, `tool_use` or `tool_result`.
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
    thinking: Option<String>,
    id: Option<String>,
    name: Option<String>,
    input: Option<Value>,
    tool_use_id: Option<String>,
    content: Option<ResultContent>,
    is_error: Option<bool>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "text, or a list of text blocks")]
enum ResultContent {
    Text(String),
    Blocks(Vec<ResultBlock>),
}

#[derive(Debug, Deserialize, JsonSchema)]
struct ResultBlock {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct OfferedTool {
    /// `custom`, also without it.
    #[serde(rename = "type")]
    kind: Option<String>,
    name: String,
    description: Option<String>,
    input_schema: Option<Value>,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct Choice {
    /// `auto`, `any`, `tool` or `none`.
    #[serde(rename = "type")]
    kind: String,
    name: Option<String>,
    disable_parallel_tool_use: Option<bool>,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct Thinking {
    /// `enabled`, `adaptive` or `disabled`.
    #[serde(rename = "type")]
    kind: String,
    budget_tokens: Option<u32>,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct OutputConfig {
    effort: Option<String>,
    format: Option<OutputFormatConfig>,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct OutputFormatConfig {
    /// Only `json_schema`.
    #[serde(rename = "type")]
    kind: String,
    schema: Option<Value>,
}

impl MessagesRequest {
    pub(super) fn model(&self) -> &str {
        &self.model
    }

    pub(super) fn is_stream(&self) -> bool {
        self.stream.unwrap_or(false)
    }

    pub(super) fn max_tokens(&self) -> Result<u32, ApiError> {
        self.max_tokens.ok_or_else(|| ApiError::invalid("max_tokens", "it is needed here"))
    }

    pub(super) fn ask(
        &self,
        model: &Offered,
        max_tokens: u32,
        caller: Caller,
    ) -> Result<Request, ApiError> {
        let (mode, thinking_budget, max_tokens) = self.thinking(model.mode, max_tokens)?;
        let stops = self.stop_sequences.clone().unwrap_or_default();
        let sampling = WantedSampling {
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            ..WantedSampling::default()
        };
        let format = self.output_config.as_ref().and_then(|config| config.format.as_ref());
        let format = match format {
            None => OutputFormat::Text,
            Some(format) => {
                let schema = format.schema.as_ref();
                wanted::format(&format.kind, schema, "output_config.format")?
            }
        };
        Ok(Request {
            messages: self.read_messages()?,
            prompt_form: PromptForm::Conversation,
            mode,
            thinking_budget,
            sampling: sampling.for_reply(0, model)?,
            max_tokens,
            stop: wanted::stop_strings(stops, "stop_sequences")?,
            format,
            tools: self.tools()?,
            adapter: model.adapter.clone(),
            caller,
        })
    }

    /// The mode, the budget, and what is left of `max_tokens` for the answer.
    fn thinking(
        &self,
        mode: Mode,
        max_tokens: u32,
    ) -> Result<(Mode, ThinkingBudget, u32), ApiError> {
        let effort = self.output_config.as_ref().and_then(|config| config.effort.as_deref());
        let (mode, budget) = wanted::thinking(effort, mode, "output_config.effort")?;
        let Some(thinking) = &self.thinking else { return Ok((mode, budget, max_tokens)) };
        match (thinking.kind.as_str(), thinking.budget_tokens) {
            ("disabled", _) => Ok((Mode::Fast, ThinkingBudget::None, max_tokens)),
            ("adaptive", _) => Ok((mode, budget, max_tokens)),
            ("enabled", Some(budget_tokens)) if (1..max_tokens).contains(&budget_tokens) => {
                let budget = ThinkingBudget::Tokens(budget_tokens);
                Ok((Mode::Thinking, budget, max_tokens - budget_tokens))
            }
            ("enabled", _) => {
                let message = "it must be at least 1 and less than `max_tokens`";
                Err(ApiError::invalid("thinking.budget_tokens", message))
            }
            (other, _) => {
                let message = format!("`{other}`: use enabled, adaptive or disabled");
                Err(ApiError::invalid("thinking.type", message))
            }
        }
    }

    fn read_messages(&self) -> Result<Vec<Message>, ApiError> {
        let mut messages = Vec::with_capacity(self.messages.len() + 1);
        match &self.system {
            None => {}
            Some(Content::Text(text)) => messages.push(Message::system(text)),
            Some(Content::Blocks(blocks)) => {
                let texts: Vec<&str> =
                    blocks.iter().map(|block| block.words("system")).collect::<Result<_, _>>()?;
                messages.push(Message::system(texts.join("\n\n")));
            }
        }
        for (idx, turn) in self.messages.iter().enumerate() {
            turn.read(idx, &mut messages)?;
        }
        if self.messages.last().is_some_and(|turn| turn.role == "assistant") {
            let message =
                "the last message must be the user's: beginnings of answers are not taken";
            return Err(ApiError::invalid("messages", message));
        }
        Ok(messages)
    }

    fn tools(&self) -> Result<Tools, ApiError> {
        let offered = self
            .tools
            .iter()
            .flatten()
            .map(|tool| match tool.kind.as_deref() {
                None | Some("custom") => Ok(wanted::tool(
                    tool.name.clone(),
                    tool.description.clone(),
                    tool.input_schema.as_ref(),
                )),
                Some(other) => {
                    let message = format!("this server has no tool `{other}`: use custom");
                    Err(ApiError::invalid("tools", message))
                }
            })
            .collect::<Result<_, _>>()?;
        let Some(choice) = &self.tool_choice else {
            return wanted::tools(offered, ToolChoice::Auto, CallCount::Several);
        };
        let calls = match choice.disable_parallel_tool_use {
            Some(true) => CallCount::One,
            _ => CallCount::Several,
        };
        let choice = match (choice.kind.as_str(), &choice.name) {
            ("auto", _) => ToolChoice::Auto,
            ("any", _) => ToolChoice::Required,
            ("none", _) => ToolChoice::None,
            ("tool", Some(name)) => ToolChoice::Named(name.clone()),
            (other, _) => {
                let message = format!("`{other}`: use auto, any, none, or tool with its name");
                return Err(ApiError::invalid("tool_choice", message));
            }
        };
        wanted::tools(offered, choice, calls)
    }
}

impl Turn {
    fn read(&self, idx: usize, messages: &mut Vec<Message>) -> Result<(), ApiError> {
        let role = match self.role.as_str() {
            "user" => Role::User,
            "assistant" => Role::Assistant,
            other => {
                let message = format!("`{other}`: use user or assistant");
                return Err(ApiError::invalid(format!("messages[{idx}].role"), message));
            }
        };
        let blocks = match &self.content {
            Content::Text(text) => {
                messages.push(Message::new(role, text));
                return Ok(());
            }
            Content::Blocks(blocks) => blocks,
        };
        let param = format!("messages[{idx}].content");
        if role == Role::Assistant {
            messages.push(read_assistant(blocks, &param)?);
            return Ok(());
        }
        let mut words = String::new();
        let mut has_words = false;
        for block in blocks {
            if block.kind != "tool_result" {
                words += block.words(&param)?;
                has_words = true;
                continue;
            }
            if has_words {
                messages.push(Message::user(std::mem::take(&mut words)));
                has_words = false;
            }
            messages.push(block.tool_result(&param)?);
        }
        if has_words || blocks.is_empty() {
            messages.push(Message::user(words));
        }
        Ok(())
    }
}

fn read_assistant(blocks: &[Block], param: &str) -> Result<Message, ApiError> {
    let mut message = Message::assistant("");
    for block in blocks {
        match (block.kind.as_str(), &block.id, &block.name) {
            ("thinking", ..) => {
                let thought = message.thought.get_or_insert_default();
                thought.push_str(block.thinking.as_deref().unwrap_or_default());
            }
            // Nobody can read it.
            ("redacted_thinking", ..) => {}
            ("tool_use", Some(id), Some(name)) => {
                let input = block.input.as_ref().map_or_else(|| "{}".to_owned(), Value::to_string);
                let arguments = wanted::call_arguments(&input, param.to_owned())?;
                message.tool_calls.push(ToolCall { id: id.clone(), name: name.clone(), arguments });
            }
            ("tool_use", ..) => {
                return Err(ApiError::invalid(param, "a tool_use block needs `id` and `name`"));
            }
            _ => message.content += block.words(param)?,
        }
    }
    Ok(message)
}

impl Block {
    fn words(&self, param: &str) -> Result<&str, ApiError> {
        match (self.kind.as_str(), &self.text) {
            ("text", Some(text)) => Ok(text),
            (kind, _) => {
                let message = format!("a block of type `{kind}` cannot be read here: use text");
                Err(ApiError::invalid(param, message))
            }
        }
    }

    fn tool_result(&self, param: &str) -> Result<Message, ApiError> {
        let Some(id) = &self.tool_use_id else {
            return Err(ApiError::invalid(param, "a tool_result block needs `tool_use_id`"));
        };
        let text = match &self.content {
            None => String::new(),
            Some(ResultContent::Text(text)) => text.clone(),
            Some(ResultContent::Blocks(blocks)) => {
                let texts = blocks.iter().map(|block| match (&*block.kind, &block.text) {
                    ("text", Some(text)) => Ok(text.as_str()),
                    (kind, _) => {
                        let message = format!("a block of type `{kind}` cannot be read: use text");
                        Err(ApiError::invalid(param, message))
                    }
                });
                texts.collect::<Result<_, _>>()?
            }
        };
        let text = if self.is_error.unwrap_or(false) { format!("Error: {text}") } else { text };
        Ok(Message { tool_call_id: Some(id.clone()), ..Message::new(Role::Tool, text) })
    }
}
