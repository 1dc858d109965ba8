//! What every protocol lets a client ask for, checked once: sampling, effort, stop strings, tools.

use std::collections::{BTreeMap, BTreeSet};

use rapport_types::{
    CallCount, Caller, LogitBias, Mode, OutputFormat, Sampling, SamplingDraft, ThinkingBudget,
    Tool, ToolChoice, Tools,
};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::error::ApiError;
use crate::models::Offered;

/// Tokens of an answer where the request does not say.
pub(crate) const DEFAULT_MAX_TOKENS: u32 = 1024;
/// The most replies to one request.
pub(crate) const MAX_N: u32 = 16;
/// Each is looked for in every piece of text.
const MAX_STOP_STRINGS: usize = 64;
const MAX_TOOLS: usize = 128;
const MAX_TOOL_NAME_BYTES: usize = 64;

/// Sampling settings as a client sends them: what is absent has its default.
#[derive(Debug, Default)]
pub(crate) struct WantedSampling<'r> {
    pub(crate) temperature: Option<f32>,
    pub(crate) top_p: Option<f32>,
    pub(crate) top_k: Option<u32>,
    pub(crate) min_p: Option<f32>,
    pub(crate) presence_penalty: Option<f32>,
    pub(crate) frequency_penalty: Option<f32>,
    pub(crate) repetition_penalty: Option<f32>,
    pub(crate) seed: Option<i64>,
    pub(crate) logit_bias: Option<&'r BTreeMap<String, f32>>,
    pub(crate) top_logprobs: Option<u32>,
}

impl WantedSampling<'_> {
    /// The settings of one of several replies.
    ///
    /// What the request leaves open is as the model has it.
    pub(crate) fn for_reply(&self, reply_idx: u32, model: &Offered) -> Result<Sampling, ApiError> {
        let defaults = model.sampling();
        let logit_bias = self
            .logit_bias
            .into_iter()
            .flatten()
            .map(|(token, bias)| {
                let not_a_number = |_| {
                    let message = format!("`{token}` is not the number of a token");
                    ApiError::invalid("logit_bias", message)
                };
                let token = token.parse().map_err(not_a_number)?;
                Ok::<_, ApiError>(LogitBias { token, bias: *bias })
            })
            .collect::<Result<_, _>>()?;
        let draft = SamplingDraft {
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
            top_logprobs: self.top_logprobs,
        };
        draft.validate().map_err(|error| ApiError::invalid(error.field, error.to_string()))
    }
}

/// A setting as it was written: 0.7, where its `f64` would be 0.699999988079071.
pub(crate) fn decimal(setting: f32) -> f64 {
    setting.to_string().parse().unwrap_or_else(|_| f64::from(setting))
}

/// The caller that shares with nobody but requests of the same salt.
pub(crate) fn salted(caller: Caller, salt: &str) -> Caller {
    Caller { cache_salt: Sha256::digest(salt).into(), ..caller }
}

/// The number of replies to one request.
pub(crate) fn n_replies(n: Option<u32>) -> Result<u32, ApiError> {
    let n = n.unwrap_or(1);
    if (1..=MAX_N).contains(&n) {
        return Ok(n);
    }
    Err(ApiError::invalid("n", format!("`n` is {n}: it must be from 1 to {MAX_N}")))
}

/// The mode and the budget that an effort asks for, in a model of this mode.
pub(crate) fn thinking(
    effort: Option<&str>,
    mode: Mode,
    param: &str,
) -> Result<(Mode, ThinkingBudget), ApiError> {
    Ok(match effort {
        None | Some("medium") => (mode, ThinkingBudget::Medium),
        Some("none") => (Mode::Fast, ThinkingBudget::None),
        Some("minimal" | "low") => (mode, ThinkingBudget::Low),
        Some("high" | "xhigh" | "max") => (mode, ThinkingBudget::High),
        Some(other) => {
            let message = format!("`{other}`: use none, minimal, low, medium, high or xhigh");
            return Err(ApiError::invalid(param, message));
        }
    })
}

pub(crate) fn stop_strings(stops: Vec<String>, param: &str) -> Result<Vec<String>, ApiError> {
    let found = stops.len();
    if found > MAX_STOP_STRINGS {
        let message = format!("{found} stop strings: at most {MAX_STOP_STRINGS} are looked for");
        return Err(ApiError::invalid(param, message));
    }
    Ok(stops)
}

/// The form of an answer by its name in OpenAI's protocols.
pub(crate) fn format(
    kind: &str,
    schema: Option<&Value>,
    param: &str,
) -> Result<OutputFormat, ApiError> {
    match (kind, schema) {
        ("text", _) => Ok(OutputFormat::Text),
        ("json_object", _) => Ok(OutputFormat::JsonObject),
        ("json_schema", Some(schema)) => Ok(OutputFormat::JsonSchema(schema.to_string())),
        ("json_schema", None) => Err(ApiError::invalid(param, "`json_schema` needs its `schema`")),
        (other, _) => {
            let message = format!("`{other}`: use text, json_object or json_schema");
            Err(ApiError::invalid(param, message))
        }
    }
}

/// Tools with the choice between them, if they can be offered.
pub(crate) fn tools(
    offered: Vec<Tool>,
    choice: ToolChoice,
    calls: CallCount,
) -> Result<Tools, ApiError> {
    let invalid = |message: String| Err(ApiError::invalid("tools", message));
    if offered.len() > MAX_TOOLS {
        return invalid(format!("{} tools: at most {MAX_TOOLS} are taken", offered.len()));
    }
    let mut names = BTreeSet::new();
    for tool in &offered {
        let name = &tool.name;
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if name.is_empty() || name.len() > MAX_TOOL_NAME_BYTES || !name.bytes().all(is_plain) {
            return invalid(format!(
                "the name `{name}`: use 1 to {MAX_TOOL_NAME_BYTES} letters, digits, `_` and `-`"
            ));
        }
        if !names.insert(name) {
            return invalid(format!("two tools are called `{name}`"));
        }
    }
    let is_met = match &choice {
        ToolChoice::None | ToolChoice::Auto => true,
        ToolChoice::Required => !offered.is_empty(),
        ToolChoice::Named(name) => names.contains(name),
    };
    if !is_met {
        return Err(ApiError::invalid("tool_choice", "it asks for a tool that is not in `tools`"));
    }
    Ok(Tools { offered, choice, calls })
}

/// A tool whose schema is a JSON value; one without a schema takes no arguments.
pub(crate) fn tool(name: String, description: Option<String>, parameters: Option<&Value>) -> Tool {
    let parameters = match parameters {
        None | Some(Value::Null) => r#"{"type":"object","properties":{}}"#.to_owned(),
        Some(schema) => schema.to_string(),
    };
    Tool { name, description: description.unwrap_or_default(), parameters }
}

/// The arguments of a call that a client sends back.
pub(crate) fn call_arguments(text: &str, param: String) -> Result<String, ApiError> {
    let text = if text.trim().is_empty() { "{}" } else { text };
    match serde_json::from_str::<BTreeMap<String, Value>>(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => {
            Err(ApiError::invalid(param, format!("the arguments are no JSON object: {error}")))
        }
    }
}
