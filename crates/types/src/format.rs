//! The form of an answer, and why one cannot be asked for.

use std::fmt;

/// The form that an answer must have; a thought before it is free.
///
/// An answer that runs into `max_tokens` may end before the form is complete, and says so by
/// [`FinishReason::Length`](crate::FinishReason::Length).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum OutputFormat {
    /// Any text.
    #[default]
    Text,
    /// A JSON object of any content.
    JsonObject,
    /// JSON that a schema (draft 2020-12 and before) describes. References go within the schema.
    JsonSchema(String),
    /// Text that a regular expression (syntax of Rust's `regex`) matches as a whole.
    Regex(String),
    /// Text of a context-free grammar, in the syntax of Lark; it begins at the rule `start`.
    Lark(String),
}

/// What [`FormatError`] speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormatKind {
    JsonSchema,
    Regex,
    Lark,
}

impl fmt::Display for FormatKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::JsonSchema => "JSON schema",
            Self::Regex => "regular expression",
            Self::Lark => "grammar",
        })
    }
}

/// Why an [`OutputFormat`] cannot be used. There is no answer without the format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("the {kind} has {found_bytes} bytes and at most {limit_bytes} are taken: shorten it")]
    TooLong { kind: FormatKind, found_bytes: usize, limit_bytes: usize },
    #[error("the {kind} is nested more than {limit_levels} levels deep: flatten it")]
    TooDeep { kind: FormatKind, limit_levels: usize },
    #[error("the JSON schema is not JSON: {reason}")]
    NotJson { reason: String },
    /// It is wrong, cannot be met, uses what is not supported, or asks for more work than one
    /// format may.
    #[error("the {kind} cannot be used: {reason}")]
    Unusable { kind: FormatKind, reason: String },
    #[error("the {kind} was not ready after {limit_ms} ms: simplify it")]
    TooSlow { kind: FormatKind, limit_ms: u64 },
}
