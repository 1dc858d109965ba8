//! What is said of an engine, by flags or in TOML.

use std::fmt;
use std::time::Duration;

use rapport_types::Mode;
use serde::Deserialize;
use serde_json::{Map, Value};

/// Replicas of one model, and how to speak to them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamConfig {
    pub replicas: Vec<ReplicaConfig>,
    /// As the engine calls it; absent is the first that it has.
    #[serde(default)]
    pub model: Option<String>,
    /// What it is called here; absent is as the engine calls it.
    #[serde(default)]
    pub name: Option<String>,
    /// Absent is as the engine's list of models tells.
    #[serde(default)]
    pub dialect: Option<Dialect>,
    /// Absent is what the engine says.
    #[serde(default)]
    pub context_tokens: Option<u32>,
    /// Whether accounts may share cached prompts on an engine that cannot keep them apart. One could
    /// then find out by the time it takes what another has said.
    #[serde(default)]
    pub shares_cache: bool,
    #[serde(default)]
    pub modes: ModeFields,
    #[serde(default)]
    pub limits: Limits,
}

impl UpstreamConfig {
    /// One engine, with everything else as it says itself.
    pub fn new(url: &str) -> Self {
        Self {
            replicas: vec![ReplicaConfig { url: url.to_owned(), key_env: None, key: None }],
            model: None,
            name: None,
            dialect: None,
            context_tokens: None,
            shares_cache: false,
            modes: ModeFields::default(),
            limits: Limits::default(),
        }
    }
}

/// One server of an engine.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicaConfig {
    /// Such as `http://127.0.0.1:8000/v1`; `/v1` is what an address without a path means.
    pub url: String,
    /// The variable of the environment that its key is in.
    #[serde(default)]
    pub key_env: Option<String>,
    /// Its key, put here by whoever may read the environment.
    #[serde(skip)]
    pub key: Option<Secret>,
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: String) -> Self {
        Self(text)
    }

    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// What an engine adds to OpenAI's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dialect {
    /// Nothing: only what OpenAI describes is sent.
    Openai,
    Vllm,
    Sglang,
    LlamaServer,
    Xai,
    /// Another server of this kind.
    Rapport,
}

impl Dialect {
    /// By who owns the models in an engine's list.
    pub(crate) fn of_owner(owner: &str) -> Self {
        match owner {
            "vllm" => Self::Vllm,
            "sglang" => Self::Sglang,
            "llamacpp" => Self::LlamaServer,
            "xai" => Self::Xai,
            "rapport" => Self::Rapport,
            _ => Self::Openai,
        }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Openai => "openai",
            Self::Vllm => "vllm",
            Self::Sglang => "sglang",
            Self::LlamaServer => "llama-server",
            Self::Xai => "xai",
            Self::Rapport => "rapport",
        })
    }
}

/// Fields that are added to the body in each mode, instead of what the dialect would add.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModeFields {
    #[serde(default)]
    pub fast: Option<Map<String, Value>>,
    #[serde(default)]
    pub thinking: Option<Map<String, Value>>,
    #[serde(default)]
    pub auto: Option<Map<String, Value>>,
}

impl ModeFields {
    pub(crate) fn of(&self, mode: Mode) -> Option<&Map<String, Value>> {
        match mode {
            Mode::Fast => self.fast.as_ref(),
            Mode::Thinking => self.thinking.as_ref(),
            Mode::Auto => self.auto.as_ref(),
        }
    }
}

/// How long things may take, and how often they are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Until a connection stands, and for a question after the engine's health.
    pub connect_ms: u64,
    /// From the request to the first byte of the reply: the engine's queue and the prompt.
    pub first_byte_ms: u64,
    /// Between two pieces of a reply.
    pub idle_ms: u64,
    /// For a whole reply, tries included.
    pub total_ms: u64,
    /// How often a reply that was not begun is tried, at most.
    pub max_tries: u32,
    /// Failures after one another with which a replica is left alone.
    pub max_failures: u32,
    /// For so long at first; twice as long each time that it fails again.
    pub open_ms: u64,
    pub max_open_ms: u64,
    /// How often each replica is asked for its health.
    pub health_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect_ms: 5_000,
            first_byte_ms: 120_000,
            idle_ms: 60_000,
            total_ms: 1_800_000,
            max_tries: 3,
            max_failures: 3,
            open_ms: 1_000,
            max_open_ms: 30_000,
            health_ms: 5_000,
        }
    }
}

impl Limits {
    pub(crate) fn connect(&self) -> Duration {
        Duration::from_millis(self.connect_ms)
    }

    pub(crate) fn first_byte(&self) -> Duration {
        Duration::from_millis(self.first_byte_ms)
    }

    pub(crate) fn idle(&self) -> Duration {
        Duration::from_millis(self.idle_ms)
    }

    pub(crate) fn total(&self) -> Duration {
        Duration::from_millis(self.total_ms)
    }

    pub(crate) fn health(&self) -> Duration {
        Duration::from_millis(self.health_ms.max(10))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_names_replicas_modes_and_limits() {
        let config: UpstreamConfig = toml::from_str(
            r#"
            model = "big"
            dialect = "llama-server"
            [[replicas]]
            url = "http://127.0.0.1:8000/v1"
            [[replicas]]
            url = "https://example.org/v1"
            key_env = "ENGINE_KEY"
            [modes.fast]
            chat_template_kwargs = { enable_thinking = false }
            [limits]
            idle_ms = 10
            "#,
        )
        .unwrap();
        assert_eq!((config.replicas.len(), config.dialect), (2, Some(Dialect::LlamaServer)));
        assert_eq!(config.replicas[1].key_env.as_deref(), Some("ENGINE_KEY"));
        let fast = config.modes.of(Mode::Fast).unwrap();
        assert_eq!(fast["chat_template_kwargs"]["enable_thinking"], false);
        let limits = Limits { idle_ms: 10, ..Limits::default() };
        assert_eq!(config.limits, limits);
        let unknown = "replicas = []\nmodle = \"x\"";
        assert!(
            toml::from_str::<UpstreamConfig>(unknown).unwrap_err().to_string().contains("modle")
        );
    }

    #[test]
    fn keys_are_never_shown() {
        let key = Some(Secret::new("hush".to_owned()));
        let replica = ReplicaConfig { url: String::new(), key_env: None, key };
        assert!(!format!("{replica:?}").contains("hush"));
    }
}
