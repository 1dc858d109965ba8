//! Whether and how a model thinks before it answers, found out from its template.

use rapport_types::Message;

use super::clock::CivilTime;
use super::{ChatTemplate, Conversation};

/// How a model's template treats thoughts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThinkingStyle {
    /// What opens a thought.
    pub open: &'static str,
    /// What closes it.
    pub close: &'static str,
    /// The template's generation prompt with thinking on ends inside a thought: the model writes no
    /// opening tag.
    pub prompt_opens: bool,
    /// The generation prompt with thinking off differs from the one with thinking on. Otherwise
    /// the model thinks unless an empty thought is put before its answer.
    pub has_switch: bool,
}

/// The tags of models that think, most usual first.
pub(crate) const THOUGHT_TAGS: [(&str, &str); 7] = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
];

impl ThinkingStyle {
    /// A template thinks if it knows a thought's closing tag or the variable that turns thoughts on.
    pub(super) fn detect(template: &ChatTemplate, source: &str) -> Option<Self> {
        let (open, close) = THOUGHT_TAGS.into_iter().find(|(_, close)| source.contains(close))?;
        let on = generation_prompt(template, Some(true))?;
        let off = generation_prompt(template, Some(false))?;
        Some(Self { open, close, prompt_opens: is_open(&on, open, close), has_switch: on != off })
    }
}

/// Whether the last thought that `prompt` opens is still open at its end.
fn is_open(prompt: &str, open: &str, close: &str) -> bool {
    match (prompt.rfind(open), prompt.rfind(close)) {
        (Some(opened), Some(closed)) => opened > closed,
        (opened, _) => opened.is_some(),
    }
}

/// What the template adds for the assistant's next message.
fn generation_prompt(template: &ChatTemplate, enable_thinking: Option<bool>) -> Option<String> {
    let messages = [Message::user("Hello.")];
    let render = |add_generation_prompt| {
        let conversation = Conversation {
            messages: &messages,
            tools: &[],
            add_generation_prompt,
            enable_thinking,
            now: CivilTime::from_unix_seconds(0),
        };
        template.render(&conversation).ok().map(|rendered| rendered.text())
    };
    let whole = render(true)?;
    let before = render(false)?;
    // A switch may be a word in the system message, so the whole prompt counts where the two do
    // not only differ at the end.
    Some(whole.strip_prefix(&before).map_or(whole.clone(), str::to_owned))
}
