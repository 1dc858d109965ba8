//! What an administrator can set for everybody.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// The settings, each with its default where it was never put.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(super) instance_name: String,
    /// Whether strangers may make accounts.
    pub(super) sign_up: bool,
    /// Conversations without a message for so long are deleted, unless pinned.
    pub(crate) retention_days: Option<u32>,
    pub(super) default_persona: Option<String>,
    pub(super) default_plan: String,
    /// About one turn in this many has two replies to choose from; 0 is never.
    pub(super) choice_every: u32,
}

impl Settings {
    pub(super) fn read(all: &BTreeMap<String, Value>, retention_days: Option<u32>) -> Self {
        let text = |key: &str| all.get(key).and_then(Value::as_str).map(str::to_owned);
        let number = |key: &str| all.get(key).and_then(Value::as_u64).map(|found| found as u32);
        Self {
            instance_name: text("instance_name").unwrap_or_else(|| "Rapport".to_owned()),
            sign_up: all.get("sign_up").and_then(Value::as_bool).unwrap_or(false),
            retention_days: number("retention_days").or(retention_days),
            default_persona: text("default_persona"),
            default_plan: text("default_plan").unwrap_or_else(|| "free".to_owned()),
            choice_every: number("choice_every").unwrap_or(25),
        }
    }

    pub(super) fn form(&self) -> Value {
        json!({
            "instance_name": self.instance_name,
            "sign_up": self.sign_up,
            "retention_days": self.retention_days,
            "default_persona": self.default_persona,
            "default_plan": self.default_plan,
            "choice_every": self.choice_every,
        })
    }
}
