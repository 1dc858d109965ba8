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

/// The rule behind [`Mode::Auto`]: think where a feeling is named, where the question asks for
/// reasons, or where the message is long; else answer at once.
pub(crate) fn choose(mode: Mode, budget: ThinkingBudget, messages: &[Message]) -> ModeChoice {
    let choice = |mode, reason: &str| ModeChoice { mode, reason: reason.to_owned() };
    match mode {
        Mode::Fast => return choice(Mode::Fast, "you asked for fast"),
        Mode::Thinking | Mode::Auto
            if matches!(budget, ThinkingBudget::None | ThinkingBudget::Tokens(0)) =>
        {
            return choice(Mode::Fast, "the thinking budget is none");
        }
        Mode::Thinking => return choice(Mode::Thinking, "you asked for thinking"),
        Mode::Auto => {}
    }
    let last = messages.iter().rev().find(|message| message.role == Role::User);
    let text = last.map_or(String::new(), |message| message.content.to_lowercase());
    let says = |phrases: &[&str]| {
        phrases
            .iter()
            .find(|phrase| {
                text.match_indices(**phrase).any(|(at, found)| {
                    let before = text[..at].chars().next_back();
                    let after = text[at + found.len()..].chars().next();
                    !before.is_some_and(char::is_alphanumeric)
                        && !after.is_some_and(char::is_alphanumeric)
                })
            })
            .map(|phrase| (*phrase).to_owned())
    };
    if let Some(word) = says(FEELING) {
        choice(Mode::Thinking, &format!("your message speaks of a feeling (\"{word}\")"))
    } else if let Some(word) = says(REASONING) {
        choice(Mode::Thinking, &format!("the question asks for reasons (\"{word}\")"))
    } else if text.split_whitespace().count() > 60 {
        choice(Mode::Thinking, "the message is long")
    } else {
        choice(Mode::Fast, "a short, plain message")
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
        let choose =
            |text: &str| choose(Mode::Auto, ThinkingBudget::Medium, &[Message::user(text)]);
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
                assert_eq!(choose(mode, budget, &messages).mode, Mode::Fast);
            }
        }
    }
}
