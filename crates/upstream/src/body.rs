//! A request in the engine's words. What the engine cannot do is refused, never left out.

use hyper::body::Bytes;
use hyper::header::HeaderValue;
use rapport_types::{
    CallCount, Caller, FormatError, FormatKind, GenerateError, Message, Mode, OutputFormat,
    PromptForm, Request, Role, ThinkingBudget, ToolChoice,
};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::config::Dialect;
use crate::{Shared, hex};

/// What is sent.
pub(crate) struct Wire {
    pub(crate) path: &'static str,
    pub(crate) headers: Vec<(&'static str, HeaderValue)>,
    pub(crate) body: Bytes,
    pub(crate) seed: u64,
    /// Names the conversation among all others, without telling of it.
    pub(crate) conversation: [u8; 32],
}

pub(crate) fn build(shared: &Shared, request: &Request) -> Result<Wire, GenerateError> {
    if request.messages.is_empty() {
        return Err(GenerateError::NoMessages);
    }
    let dialect = shared.dialect;
    let mut body = Map::new();
    body.insert("stream".to_owned(), json!(true));
    let mut stream_options = json!({ "include_usage": true });
    if dialect == Dialect::Vllm {
        // So that a reply that is stopped is counted as well.
        stream_options["continuous_usage_stats"] = json!(true);
    }
    body.insert("stream_options".to_owned(), stream_options);
    let seed = add_sampling(&mut body, dialect, request)?;
    add_length(&mut body, dialect, request)?;
    if !request.stop.is_empty() {
        body.insert("stop".to_owned(), json!(request.stop));
    }
    add_format(&mut body, dialect, &request.format)?;
    let is_plain = request.prompt_form == PromptForm::Plain;
    let path = if is_plain {
        add_plain(&mut body, dialect, request)?;
        "/completions"
    } else {
        add_conversation(&mut body, dialect, request)?;
        "/chat/completions"
    };
    body.insert("model".to_owned(), json!(shared.model));
    if !is_plain {
        match shared.modes.of(request.mode) {
            Some(fields) => body.extend(fields.clone()),
            None => add_mode(&mut body, dialect, request),
        }
    }
    let conversation = conversation(request);
    add_salt(&mut body, shared, request.caller);
    let mut headers = Vec::new();
    let session = match dialect {
        Dialect::Xai => Some("x-grok-conv-id"),
        Dialect::Vllm | Dialect::Sglang => Some("x-session-id"),
        Dialect::Openai | Dialect::LlamaServer | Dialect::Rapport => None,
    };
    if let Some(name) = session
        && let Ok(value) = HeaderValue::try_from(hex(&conversation[..16]))
    {
        headers.push((name, value));
    }
    if dialect == Dialect::LlamaServer {
        // Tells how long the prompt is before the first token.
        body.insert("return_progress".to_owned(), json!(true));
    }
    let body = Bytes::from(Value::Object(body).to_string());
    Ok(Wire { path, headers, body, seed, conversation })
}

fn cannot(field: &'static str) -> GenerateError {
    let reason = "the engine behind this server cannot honour it: leave it out".to_owned();
    GenerateError::InvalidRequest { field, reason }
}

/// As it was written, and not as the nearest double of the nearest float.
fn number(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, |value| json!(value))
}

fn add_sampling(
    body: &mut Map<String, Value>,
    dialect: Dialect,
    request: &Request,
) -> Result<u64, GenerateError> {
    let sampling = &request.sampling;
    let mut add = |name: &str, value: Value| body.insert(name.to_owned(), value);
    add("temperature", number(sampling.temperature));
    add("top_p", number(sampling.top_p));
    match dialect {
        Dialect::Openai | Dialect::Xai => {
            if sampling.top_k != 0 {
                return Err(cannot("top_k"));
            }
            if sampling.min_p != 0.0 {
                return Err(cannot("min_p"));
            }
            if (sampling.repetition_penalty - 1.0).abs() > f32::EPSILON {
                return Err(cannot("repetition_penalty"));
            }
        }
        Dialect::Vllm | Dialect::Sglang | Dialect::LlamaServer | Dialect::Rapport => {
            // Said even where it is off, because the engine's own default may not be.
            let all = matches!(dialect, Dialect::Vllm | Dialect::Sglang) && sampling.top_k == 0;
            add("top_k", if all { json!(-1) } else { json!(sampling.top_k) });
            add("min_p", number(sampling.min_p));
            let is_llama = dialect == Dialect::LlamaServer;
            let name = if is_llama { "repeat_penalty" } else { "repetition_penalty" };
            add(name, number(sampling.repetition_penalty));
        }
    }
    if sampling.presence_penalty != 0.0 {
        add("presence_penalty", number(sampling.presence_penalty));
    }
    if sampling.frequency_penalty != 0.0 {
        add("frequency_penalty", number(sampling.frequency_penalty));
    }
    if !sampling.logit_bias.is_empty() {
        let biases = sampling.logit_bias.iter();
        let biases: Map<_, _> =
            biases.map(|entry| (entry.token.to_string(), number(entry.bias))).collect();
        add("logit_bias", Value::Object(biases));
    }
    // Of a seed as much as every engine takes.
    let mask =
        if dialect == Dialect::LlamaServer { u64::from(u32::MAX >> 1) } else { u64::MAX >> 1 };
    let seed = sampling.seed.unwrap_or_else(fresh_seed) & mask;
    add("seed", json!(seed));
    if let Some(n_top) = sampling.top_logprobs {
        if request.prompt_form == PromptForm::Plain {
            add("logprobs", json!(n_top));
        } else {
            add("logprobs", json!(true));
            add("top_logprobs", json!(n_top));
        }
    }
    Ok(seed)
}

/// A seed nobody chose; small enough for every engine.
fn fresh_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish() >> 33
}

/// The tokens that a thought may take.
fn budget_tokens(request: &Request) -> u32 {
    match request.thinking_budget {
        _ if request.mode == Mode::Fast => 0,
        ThinkingBudget::None => 0,
        ThinkingBudget::Low => 256,
        ThinkingBudget::Medium => 1024,
        ThinkingBudget::High => 4096,
        ThinkingBudget::Tokens(n_tokens) => n_tokens,
    }
}

fn add_length(
    body: &mut Map<String, Value>,
    dialect: Dialect,
    request: &Request,
) -> Result<(), GenerateError> {
    if request.max_tokens == 0 {
        let reason = "it is 0; ask for at least one token".to_owned();
        return Err(GenerateError::InvalidRequest { field: "max_tokens", reason });
    }
    let is_plain = request.prompt_form == PromptForm::Plain;
    let (name, n_tokens) = match dialect {
        // Only there a thought is counted apart.
        Dialect::Rapport => ("max_tokens", request.max_tokens),
        // Older names are refused by newer models.
        Dialect::Openai | Dialect::Xai if !is_plain => {
            ("max_completion_tokens", request.max_tokens.saturating_add(budget_tokens(request)))
        }
        _ if is_plain => ("max_tokens", request.max_tokens),
        _ => ("max_tokens", request.max_tokens.saturating_add(budget_tokens(request))),
    };
    body.insert(name.to_owned(), json!(n_tokens));
    Ok(())
}

fn add_format(
    body: &mut Map<String, Value>,
    dialect: Dialect,
    format: &OutputFormat,
) -> Result<(), GenerateError> {
    let unusable = |kind, reason: &str| {
        GenerateError::Format(FormatError::Unusable { kind, reason: reason.to_owned() })
    };
    let no_engine = "the engine behind this server keeps no answer to one";
    let mut add = |name: &str, value: Value| body.insert(name.to_owned(), value);
    match (format, dialect) {
        (OutputFormat::Text, _) => {}
        (OutputFormat::JsonObject, _) => {
            add("response_format", json!({ "type": "json_object" }));
        }
        (OutputFormat::JsonSchema(text), _) => {
            let schema: Value = serde_json::from_str(text)
                .map_err(|error| FormatError::NotJson { reason: error.to_string() })?;
            let named = json!({ "name": "answer", "schema": schema, "strict": true });
            add("response_format", json!({ "type": "json_schema", "json_schema": named }));
        }
        (OutputFormat::Regex(regex), Dialect::Vllm) => {
            add("structured_outputs", json!({ "regex": regex }));
        }
        (OutputFormat::Regex(regex), Dialect::Sglang) => {
            add("regex", json!(regex));
        }
        (OutputFormat::Lark(grammar), Dialect::Vllm) => {
            add("structured_outputs", json!({ "grammar": grammar }));
        }
        (OutputFormat::Regex(_), _) => return Err(unusable(FormatKind::Regex, no_engine)),
        (OutputFormat::Lark(_), _) => return Err(unusable(FormatKind::Lark, no_engine)),
    }
    Ok(())
}

fn add_plain(
    body: &mut Map<String, Value>,
    dialect: Dialect,
    request: &Request,
) -> Result<(), GenerateError> {
    if dialect == Dialect::Xai {
        return Err(cannot("prompt"));
    }
    let prompt: String = request.messages.iter().map(|message| message.content.as_str()).collect();
    body.insert("prompt".to_owned(), json!(prompt));
    Ok(())
}

fn add_conversation(
    body: &mut Map<String, Value>,
    dialect: Dialect,
    request: &Request,
) -> Result<(), GenerateError> {
    // Others answer anew instead of going on, or refuse thoughts that are not their own.
    let goes_on = matches!(dialect, Dialect::Vllm | Dialect::Sglang | Dialect::LlamaServer);
    if request.prompt_form == PromptForm::Prefilled {
        if !goes_on {
            let reason = "the engine behind this server cannot go on with a reply that was begun: \
                          ask for a new one"
                .to_owned();
            return Err(GenerateError::InvalidRequest { field: "messages", reason });
        }
        if dialect != Dialect::LlamaServer {
            body.insert("continue_final_message".to_owned(), json!(true));
            body.insert("add_generation_prompt".to_owned(), json!(false));
        }
    }
    let shows_thoughts = goes_on || dialect == Dialect::Rapport;
    let messages = request.messages.iter().map(|said| message(said, shows_thoughts));
    body.insert("messages".to_owned(), messages.collect());
    let tools = &request.tools;
    if tools.offered.is_empty() || tools.choice == ToolChoice::None {
        return Ok(());
    }
    let mut offered = Vec::new();
    for tool in &tools.offered {
        let parameters: Value = serde_json::from_str(&tool.parameters).map_err(|error| {
            let reason = format!("the schema of `{}` is not JSON: {error}", tool.name);
            GenerateError::InvalidRequest { field: "tools", reason }
        })?;
        let mut function = json!({ "name": tool.name, "parameters": parameters });
        if !tool.description.is_empty() {
            function["description"] = json!(tool.description);
        }
        offered.push(json!({ "type": "function", "function": function }));
    }
    body.insert("tools".to_owned(), Value::Array(offered));
    let choice = match &tools.choice {
        ToolChoice::None | ToolChoice::Auto => json!("auto"),
        ToolChoice::Required => json!("required"),
        ToolChoice::Named(name) => json!({ "type": "function", "function": { "name": name } }),
    };
    body.insert("tool_choice".to_owned(), choice);
    if tools.calls == CallCount::One {
        body.insert("parallel_tool_calls".to_owned(), json!(false));
    }
    Ok(())
}

fn message(said: &Message, shows_thoughts: bool) -> Value {
    let mut message = json!({ "role": said.role.as_str(), "content": said.content });
    if let Some(thought) = said.thought.as_ref().filter(|_| shows_thoughts) {
        message["reasoning_content"] = json!(thought);
    }
    if !said.tool_calls.is_empty() {
        let calls = said.tool_calls.iter().map(|call| {
            let function = json!({ "name": call.name, "arguments": call.arguments });
            json!({ "id": call.id, "type": "function", "function": function })
        });
        message["tool_calls"] = calls.collect();
    }
    if let Some(id) = &said.tool_call_id {
        message["tool_call_id"] = json!(id);
    }
    message
}

/// The mode in the dialect's words, where nobody has said otherwise.
fn add_mode(body: &mut Map<String, Value>, dialect: Dialect, request: &Request) {
    let effort = match request.thinking_budget {
        ThinkingBudget::None | ThinkingBudget::Tokens(0) => "none",
        ThinkingBudget::Low | ThinkingBudget::Tokens(1..=512) => "low",
        ThinkingBudget::Medium | ThinkingBudget::Tokens(513..=2048) => "medium",
        ThinkingBudget::High | ThinkingBudget::Tokens(_) => "high",
    };
    match (dialect, request.mode) {
        (Dialect::Vllm | Dialect::Sglang | Dialect::LlamaServer, Mode::Fast | Mode::Thinking) => {
            let thinks = request.mode == Mode::Thinking && effort != "none";
            let switch = json!({ "enable_thinking": thinks });
            body.insert("chat_template_kwargs".to_owned(), switch);
        }
        (Dialect::Rapport, mode) => {
            // Its models are a name and a mode.
            let model = body.get("model").and_then(Value::as_str).unwrap_or_default();
            let name = model.trim_end_matches("-fast").trim_end_matches("-thinking");
            let suffix = match mode {
                Mode::Fast => "-fast",
                Mode::Thinking => "-thinking",
                Mode::Auto => "",
            };
            let model = format!("{name}{suffix}");
            body.insert("model".to_owned(), json!(model));
            body.insert("reasoning_effort".to_owned(), json!(effort));
        }
        (Dialect::Openai | Dialect::Xai, Mode::Thinking) if effort != "none" => {
            body.insert("reasoning_effort".to_owned(), json!(effort));
        }
        _ => {}
    }
}

/// Keeps the cached prompts of accounts apart. The person at this machine needs no salt.
fn add_salt(body: &mut Map<String, Value>, shared: &Shared, caller: Caller) {
    if caller.key == [0; 32] && caller.cache_salt == [0; 32] {
        return;
    }
    // The key itself stays here.
    let salt = Sha256::new().chain_update("cache salt").chain_update(caller.key);
    let salt = salt.chain_update(caller.cache_salt).finalize();
    let salt = hex(&salt[..16]);
    match shared.dialect {
        Dialect::Vllm | Dialect::Sglang | Dialect::Rapport => {
            body.insert("cache_salt".to_owned(), json!(salt));
        }
        Dialect::Xai => {
            body.insert("prompt_cache_key".to_owned(), json!(salt));
        }
        Dialect::LlamaServer if !shared.shares_cache => {
            body.insert("cache_prompt".to_owned(), json!(false));
        }
        Dialect::Openai | Dialect::LlamaServer => {}
    }
}

/// What every turn of a conversation begins with, hashed with who has it.
fn conversation(request: &Request) -> [u8; 32] {
    let mut hash = Sha256::new().chain_update(request.caller.key);
    for message in &request.messages {
        hash.update(message.role.as_str());
        hash.update((message.content.len() as u64).to_le_bytes());
        hash.update(&message.content);
        if message.role == Role::User {
            break;
        }
    }
    hash.finalize().into()
}
