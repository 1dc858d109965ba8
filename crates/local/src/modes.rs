//! Which mode answers, and how much it may think.

use rapport_types::{Message, Mode, ModeChoice, Role, ThinkingBudget};

/// Tokens a thought may take, from the level and whether the model thinks in free text.
pub(crate) fn budget_tokens(budget: ThinkingBudget, is_native: bool) -> u32 {
    match (budget, is_native) {
        (ThinkingBudget::None, _) => 0,
        (ThinkingBudget::Tokens(n_tokens), _) => n_tokens,
        (ThinkingBudget::Low, true) => 256,
        (ThinkingBudget::Medium, true) => 1024,
        (ThinkingBudget::High, true) => 4096,
        (ThinkingBudget::Low, false) => 24,
        (ThinkingBudget::Medium, false) => 48,
        (ThinkingBudget::High, false) => 96,
    }
}

/// Words that say how somebody feels, or that several things must be held together.
const FEELING: &[&str] = &[
    "feel",
    "sad",
    "angry",
    "afraid",
    "anxious",
    "worried",
    "lonely",
    "grief",
    "miss",
    "died",
    "lost",
    "hurt",
    "cry",
    "upset",
    "ashamed",
    "jealous",
    "stressed",
    "overwhelmed",
    "heartbroken",
    "scared",
    "happy",
    "excited",
    "proud",
];
const REASONING: &[&str] = &[
    "why",
    "how many",
    "compare",
    "prove",
    "step by step",
    "explain",
    "plan",
    "decide",
    "should i",
    "difference between",
    "pros and cons",
    "calculate",
];

/// What decides between fast and thinking for [`Mode::Auto`].
pub trait AutoMode: std::fmt::Debug + Send + Sync {
    /// The choice for the last message of a person.
    fn choose(&self, message: &str) -> ModeChoice;
}

/// The rule by words: think where a feeling is named, where the question asks for reasons, or where
/// the message is long; else answer at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct WordRule;

impl AutoMode for WordRule {
    fn choose(&self, message: &str) -> ModeChoice {
        match says(&message.to_lowercase(), FEELING) {
            Some(word) => {
                choice(Mode::Thinking, &format!("your message speaks of a feeling (\"{word}\")"))
            }
            None => Self::by_reasons(message),
        }
    }
}

impl WordRule {
    /// The choice for a message whose feelings were looked for already: what it asks, and how long it
    /// is.
    pub fn by_reasons(message: &str) -> ModeChoice {
        if let Some(word) = says(&message.to_lowercase(), REASONING) {
            choice(Mode::Thinking, &format!("the question asks for reasons (\"{word}\")"))
        } else if message.split_whitespace().count() > 60 {
            choice(Mode::Thinking, "the message is long")
        } else {
            choice(Mode::Fast, "a short, plain message")
        }
    }
}

fn choice(mode: Mode, reason: &str) -> ModeChoice {
    ModeChoice { mode, reason: reason.to_owned() }
}

/// The first of the phrases that the text says as whole words.
fn says(text: &str, phrases: &'static [&'static str]) -> Option<&'static str> {
    phrases.iter().copied().find(|phrase| {
        text.match_indices(phrase).any(|(at, found)| {
            let before = text[..at].chars().next_back();
            let after = text[at + found.len()..].chars().next();
            !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
        })
    })
}

/// The mode of a reply: as it was asked for, within what the budget allows; by `auto` where that is
/// left open.
pub(crate) fn choose(
    mode: Mode,
    budget: ThinkingBudget,
    messages: &[Message],
    auto: &dyn AutoMode,
) -> ModeChoice {
    match mode {
        Mode::Fast => choice(Mode::Fast, "you asked for fast"),
        Mode::Thinking | Mode::Auto
            if matches!(budget, ThinkingBudget::None | ThinkingBudget::Tokens(0)) =>
        {
            choice(Mode::Fast, "the thinking budget is none")
        }
        Mode::Thinking => choice(Mode::Thinking, "you asked for thinking"),
        Mode::Auto => {
            let last = messages.iter().rev().find(|message| message.role == Role::User);
            auto.choose(last.map_or("", |message| &message.content))
        }
    }
}

/// The choice for a text that is gone on with, and no conversation.
pub(crate) fn plain() -> ModeChoice {
    let reason = "a text that is gone on with has no thoughts".to_owned();
    ModeChoice { mode: Mode::Fast, reason }
}

/// The choice for a reply that was begun already.
pub(crate) fn prefilled() -> ModeChoice {
    let reason = "a reply that goes on has had its thoughts".to_owned();
    ModeChoice { mode: Mode::Fast, reason }
}

/// The choice where a thought was wanted and the budget has no room for one.
pub(crate) fn without_room(budget_tokens: u32, least_tokens: Option<u32>) -> ModeChoice {
    let reason = match least_tokens {
        Some(least_tokens) => format!(
            "a thinking budget of {budget_tokens} tokens has no room for a thought, which takes {least_tokens}"
        ),
        None => "the model's vocabulary cannot write a thought".to_owned(),
    };
    ModeChoice { mode: Mode::Fast, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_says_which_and_why() {
        let choose = |text: &str| {
            choose(Mode::Auto, ThinkingBudget::Medium, &[Message::user(text)], &WordRule)
        };
        assert_eq!(choose("hi").mode, Mode::Fast);
        assert_eq!(choose("I feel so alone since she left").mode, Mode::Thinking);
        assert!(choose("I feel alone").reason.contains("feel"));
        assert_eq!(choose("Explain how tides work").mode, Mode::Thinking);
        assert_eq!(choose("unfeeling whys").mode, Mode::Fast, "whole words only");
        assert_eq!(choose(&"word ".repeat(80)).mode, Mode::Thinking);
    }

    #[test]
    fn no_budget_means_no_thought() {
        for budget in [ThinkingBudget::None, ThinkingBudget::Tokens(0)] {
            for mode in Mode::ALL {
                let messages = [Message::user("I feel sad. Why?")];
                assert_eq!(choose(mode, budget, &messages, &WordRule).mode, Mode::Fast);
            }
        }
    }
}
