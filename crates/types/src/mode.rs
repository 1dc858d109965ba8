use std::fmt;
use std::str::FromStr;

/// How a reply is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Answer at once: no thinking tokens, ever.
    Fast,
    /// Show the steps first, then answer.
    Thinking,
    /// Let Rapport choose, and say which and why.
    Auto,
}

impl Mode {
    pub const ALL: [Self; 3] = [Self::Fast, Self::Thinking, Self::Auto];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Thinking => "thinking",
            Self::Auto => "auto",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A mode name that is not one of `fast`, `thinking`, `auto`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown mode `{found}`: use fast, thinking or auto")]
pub struct InvalidMode {
    pub found: String,
}

impl FromStr for Mode {
    type Err = InvalidMode;

    fn from_str(name: &str) -> Result<Self, InvalidMode> {
        Self::ALL
            .into_iter()
            .find(|mode| mode.as_str() == name)
            .ok_or_else(|| InvalidMode { found: name.to_owned() })
    }
}

/// The mode a reply is really made in, and why: `mode` is never [`Mode::Auto`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModeChoice {
    pub mode: Mode,
    /// One sentence for the person who asked.
    pub reason: String,
}

/// How much a reply may think before it answers.
///
/// The levels are relative to the model: a model whose thought is a short form spends tens of
/// tokens where one with free-text thinking spends thousands. Whoever runs the model resolves them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ThinkingBudget {
    None,
    Low,
    Medium,
    High,
    /// At most this many tokens between the opening and the closing tag.
    Tokens(u32),
}

/// A thinking budget that is neither a level nor a number of tokens.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown thinking budget `{found}`: use none, low, medium, high or a number of tokens")]
pub struct InvalidThinkingBudget {
    pub found: String,
}

impl FromStr for ThinkingBudget {
    type Err = InvalidThinkingBudget;

    fn from_str(text: &str) -> Result<Self, InvalidThinkingBudget> {
        Ok(match text {
            "none" => Self::None,
            "low" => Self::Low,
            "medium" => Self::Medium,
            "high" => Self::High,
            other => Self::Tokens(
                other.parse().map_err(|_| InvalidThinkingBudget { found: text.to_owned() })?,
            ),
        })
    }
}

impl fmt::Display for ThinkingBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Low => f.write_str("low"),
            Self::Medium => f.write_str("medium"),
            Self::High => f.write_str("high"),
            Self::Tokens(n_tokens) => write!(f, "{n_tokens}"),
        }
    }
}
