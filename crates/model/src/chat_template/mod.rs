//! Chat templates: the small Jinja programs that come with models and turn a conversation into the
//! text the model was trained to continue.
//!
//! They are run here by an interpreter of our own, for two reasons no general template engine
//! serves. First, a template comes with a file from a stranger, so all it does is paid for from a
//! budget before it happens. Second, what a person wrote must never act as a control token: every
//! byte of every string remembers whether the template or a message wrote it, through every
//! operation, and [`Rendered`] says so. The text is the same as Jinja2's, as Python's
//! `transformers` sets it up; `tests/chat_template.rs` compares the two on models' own templates.
//!
//! What this is not: a general template engine. There are no files, no inheritance, no changing of
//! lists and dicts, no recursive loops. Nor does it know tokens; the tokenizer reads the segments.
//!
//! Start reading at [`ChatTemplate::render`]; then `interpreter` and, for the origins, `text`.

mod budget;
mod clock;
mod fault;
mod filters;
mod format;
mod interpreter;
mod lexer;
mod methods;
mod parser;
mod predicates;
mod syntax;
mod text;
mod thinking;
mod tools;
mod value;

use std::collections::HashMap;
use std::rc::Rc;

use rapport_types::{Message, Tool};

use budget::Budget;
use interpreter::Interpreter;
use syntax::Node;
use text::{Origin, Text};
use value::Value;

pub use clock::CivilTime;
pub use fault::{TemplateError, TemplateLimit};
pub(crate) use thinking::THOUGHT_TAGS;
pub use thinking::ThinkingStyle;

/// The longest template read; the longest of well-known models has about 30 kB.
const MAX_SOURCE_BYTES: usize = 1 << 20;

/// A prompt is at most this long, and this many times its messages.
const MAX_OUTPUT_BYTES: usize = 1 << 20;
const MAX_OUTPUT_FACTOR: usize = 8;

/// A chat template, read and ready to render.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    nodes: Vec<Node>,
    tokens: TemplateTokens,
    thinking: Option<ThinkingStyle>,
    tells_tools: bool,
}

/// The text of the model's tokens that templates print, where the model has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TemplateTokens {
    pub bos: Option<String>,
    pub eos: Option<String>,
}

/// What a template renders.
#[derive(Clone, Copy, Debug)]
pub struct Conversation<'m> {
    /// Oldest first.
    pub messages: &'m [Message],
    /// What the assistant may call, told by templates that know of tools.
    pub tools: &'m [Tool],
    /// Whether to go on to where the assistant's next message begins.
    pub add_generation_prompt: bool,
    /// What the template reads as `enable_thinking`; `None` leaves it undefined, which most
    /// templates take as yes.
    pub enable_thinking: Option<bool>,
    /// What the template takes for now, should it ask.
    pub now: CivilTime,
}

/// A rendered prompt. Its text is the segments one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    /// None is empty, and neighbours differ in trust.
    pub segments: Vec<Segment>,
}

/// A piece of a prompt with one origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    pub text: String,
    /// Whether the template or the model's own tokens wrote it. Only a token that lies in trusted
    /// segments as a whole may be a control token; the content of a message is never trusted.
    pub trusted: bool,
}

impl Rendered {
    pub fn text(&self) -> String {
        self.segments.iter().map(|segment| segment.text.as_str()).collect()
    }
}

impl ChatTemplate {
    /// Reads a template.
    ///
    /// # Errors
    /// It is not a Jinja template, or uses a part of Jinja that chat templates have no need of.
    pub fn parse(source: &str, tokens: TemplateTokens) -> Result<Self, TemplateError> {
        if source.len() > MAX_SOURCE_BYTES {
            return Err(TemplateError::TooLong {
                found_bytes: source.len(),
                limit_bytes: MAX_SOURCE_BYTES,
            });
        }
        let nodes = parser::parse(source)?;
        let mut template = Self { nodes, tokens, thinking: None, tells_tools: false };
        template.thinking = ThinkingStyle::detect(&template, source);
        template.tells_tools = tools::tells_tools(&template, source);
        Ok(template)
    }

    /// Renders a conversation.
    ///
    /// # Errors
    /// The template refuses the conversation ([`TemplateError::Refused`]), is wrong, or does more
    /// than a template may.
    pub fn render(&self, conversation: &Conversation<'_>) -> Result<Rendered, TemplateError> {
        let content_bytes = conversation
            .messages
            .iter()
            .map(|message| message.content.len() + message.thought.as_ref().map_or(0, String::len))
            .sum::<usize>()
            + tools::n_bytes(conversation);
        let mut budget = Budget::for_conversation(conversation.messages.len(), content_bytes);
        let globals = self.globals(conversation, &mut budget).map_err(|fault| fault.at_line(1))?;
        let max_output_bytes = MAX_OUTPUT_BYTES + MAX_OUTPUT_FACTOR * content_bytes;
        let interpreter = Interpreter::new(globals, conversation.now, budget, max_output_bytes);
        let text = interpreter.run(&self.nodes)?;
        let segments = text
            .pieces(0..text.len())
            .map(|(piece, origin)| Segment {
                text: piece.to_owned(),
                trusted: origin == Origin::Template,
            })
            .collect();
        Ok(Rendered { segments })
    }

    /// How the model thinks before it answers, if its template knows of it.
    pub fn thinking(&self) -> Option<ThinkingStyle> {
        self.thinking
    }

    /// Whether the template tells the model of tools, and reads and writes calls as
    /// `<tool_call>{"name": …, "arguments": …}</tool_call>`, the form that most models use.
    pub fn tells_tools(&self) -> bool {
        self.tells_tools
    }

    fn globals(
        &self,
        conversation: &Conversation<'_>,
        budget: &mut Budget,
    ) -> Result<HashMap<&'static str, Value>, fault::Fault> {
        let mut messages = Vec::with_capacity(conversation.messages.len());
        for message in conversation.messages {
            let key = |name: &str| Value::text(Text::new(name, Origin::Template));
            let written = |content: &str| Value::Text(Rc::new(Text::new(content, Origin::Message)));
            let mut entries = vec![
                (key("role"), Value::text(Text::new(message.role.as_str(), Origin::Template))),
                (key("content"), written(&message.content)),
            ];
            if let Some(thought) = &message.thought {
                entries.push((key("reasoning_content"), written(thought)));
            }
            if !message.tool_calls.is_empty() {
                entries.push((key("tool_calls"), tools::calls(&message.tool_calls, budget)?));
            }
            if let Some(id) = &message.tool_call_id {
                entries.push((key("tool_call_id"), written(id)));
            }
            messages.push(Value::dict(entries, budget)?);
        }
        let mut globals = HashMap::from([
            ("messages", Value::list(messages, budget)?),
            ("add_generation_prompt", Value::Bool(conversation.add_generation_prompt)),
            // Python's `transformers` always passes these two.
            ("tools", tools::offered(conversation.tools, budget)?),
            ("documents", Value::None),
        ]);
        let text_or_bool = [
            ("bos_token", self.tokens.bos.as_deref().map(|bos| Text::new(bos, Origin::Template))),
            ("eos_token", self.tokens.eos.as_deref().map(|eos| Text::new(eos, Origin::Template))),
        ];
        globals.extend(
            text_or_bool
                .into_iter()
                .filter_map(|(name, token)| token.map(|token| (name, Value::text(token)))),
        );
        if let Some(enable_thinking) = conversation.enable_thinking {
            globals.insert("enable_thinking", Value::Bool(enable_thinking));
        }
        Ok(globals)
    }
}
