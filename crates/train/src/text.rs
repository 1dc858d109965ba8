//! Conversations as the tokens that the engine would see and write.
//!
//! A model must be trained on exactly the tokens it meets later: the prompt comes from the model's
//! own template, a thought is written as the engine's form makes it, and an earlier thought is not
//! shown again unless the template shows it. So every reply is rendered as a continuation of its own
//! prompt. Replies of one conversation share a sequence where the later prompt begins with the
//! earlier tokens; a reply with a thought, which later prompts lack, ends its sequence.
//!
//! What is not here: reading files (`data.rs`), weighing (`objective.rs`).

use rapport_local::ThoughtForm;
use rapport_model::chat_template::{
    ChatTemplate, CivilTime, Conversation, TemplateError, TemplateTokens, ThinkingStyle,
};
use rapport_model::gguf::{Gguf, GgufError};
use rapport_model::tokenizer::{Segment, Tokenizer, TokenizerError, Trust, Vocabulary};
use rapport_types::{Message, Role};

use crate::network::Target;

/// Why text cannot be turned into training data.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    #[error(transparent)]
    File(#[from] GgufError),
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error("the model file has no chat template, so there is no way to show it conversations")]
    NoTemplate,
    #[error(
        "the thought `{found}` is not one the model can write: it has the form `feel: ... | need: \
         ... | tone: ... | do: ...` with the choices that the thinking mode knows"
    )]
    Thought { found: String },
    #[error("the template does not end a reply with a token that ends replies")]
    NoEnd,
    #[error("the conversation has no reply to learn from")]
    NoReply,
}

/// How a model reads and writes.
pub struct Language {
    tokenizer: Tokenizer,
    template: ChatTemplate,
    thoughts: ThoughtForm,
}

/// One reply to learn.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reply {
    pub content: String,
    pub thought: Option<String>,
}

/// Tokens and which of them are learned.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sequence {
    pub tokens: Vec<u32>,
    /// In order; rows count from this sequence's first token.
    pub targets: Vec<Target>,
    /// One a target: whether it belongs to a thought.
    pub in_thought: Vec<bool>,
    /// Whether the last reply has a thought.
    pub(crate) ends_with_thought: bool,
}

impl Sequence {
    fn start(prompt: Vec<u32>) -> Self {
        Self { tokens: prompt, ..Self::default() }
    }

    fn learn(&mut self, tokens: &[u32], in_thought: bool) {
        for &token in tokens {
            self.targets.push(Target { row: self.tokens.len() - 1, token });
            self.in_thought.push(in_thought);
            self.tokens.push(token);
        }
    }
}

/// A reply's parts in tokens.
struct RenderedReply {
    prompt: Vec<u32>,
    /// Given to the model after the prompt.
    opening: Vec<u32>,
    thought: Vec<u32>,
    /// With the token that ends it.
    answer: Vec<u32>,
}

impl Language {
    /// Reads a model file's tokenizer and template.
    ///
    /// # Errors
    /// They are missing or cannot be used.
    pub fn load(gguf: &Gguf) -> Result<Self, TextError> {
        let source = gguf.metadata().optional_string("tokenizer.chat_template")?;
        let source = source.ok_or(TextError::NoTemplate)?;
        let tokenizer = Tokenizer::new(&Vocabulary::from_gguf(gguf)?)?;
        let ids = tokenizer.special_ids();
        let text = |id| tokenizer.token_text_lossy(id).map(std::borrow::Cow::into_owned);
        let tokens = TemplateTokens { bos: ids.bos.and_then(text), eos: ids.eos.and_then(text) };
        let template = ChatTemplate::parse(source, tokens)?;
        Ok(Self { thoughts: ThoughtForm::new(&tokenizer), tokenizer, template })
    }

    /// All replies of a conversation, in as few sequences as show each as the engine would.
    ///
    /// # Errors
    /// The template refuses the conversation, a thought is malformed, or there is no reply.
    pub fn conversation(&self, messages: &[Message]) -> Result<Vec<Sequence>, TextError> {
        let mut sequences: Vec<Sequence> = Vec::new();
        for (message_idx, message) in messages.iter().enumerate() {
            if message.role != Role::Assistant {
                continue;
            }
            let reply =
                Reply { content: message.content.clone(), thought: message.thought.clone() };
            let rendered = self.reply(&messages[..message_idx], &reply)?;
            let goes_on = sequences.last_mut().filter(|last| {
                !last.ends_with_thought && rendered.prompt.starts_with(&last.tokens)
            });
            if let Some(last) = goes_on {
                last.tokens.clone_from(&rendered.prompt);
                add(last, &rendered);
            } else {
                sequences.push(sequence(&rendered));
            }
        }
        if sequences.is_empty() { Err(TextError::NoReply) } else { Ok(sequences) }
    }

    /// One reply to a prompt.
    ///
    /// # Errors
    /// As [`Language::conversation`].
    pub fn completion(&self, prompt: &[Message], reply: &Reply) -> Result<Sequence, TextError> {
        Ok(sequence(&self.reply(prompt, reply)?))
    }

    /// A reply that the model wrote; `is_whole` says whether it came to its end, which else is not
    /// learned.
    ///
    /// # Errors
    /// As [`Language::conversation`].
    pub fn written(
        &self,
        prompt: &[Message],
        reply: &Reply,
        is_whole: bool,
    ) -> Result<Sequence, TextError> {
        let mut sequence = self.completion(prompt, reply)?;
        if !is_whole {
            sequence.targets.pop();
            sequence.in_thought.pop();
            sequence.tokens.pop();
        }
        Ok(sequence)
    }

    /// The text of tokens, for people.
    pub fn text(&self, tokens: &[u32]) -> String {
        let text = |token: &u32| self.tokenizer.token_text_lossy(*token).unwrap_or_default();
        tokens.iter().map(text).collect()
    }

    fn reply(&self, before: &[Message], reply: &Reply) -> Result<RenderedReply, TextError> {
        // Earlier thoughts are gone by the time the model reads a conversation again.
        let mut messages: Vec<Message> =
            before.iter().map(|message| Message { thought: None, ..message.clone() }).collect();
        let thinks = reply.thought.is_some();
        let mut prompt = self.render(&messages, thinks, true)?;
        messages.push(Message::assistant(reply.content.clone()));
        let whole = self.render(&messages, thinks, false)?;
        let answer = if let Some(answer) = whole.strip_prefix(&prompt[..]) {
            answer.to_vec()
        } else {
            // The template shows an old reply otherwise than a new one.
            let mut answer = self.tokenizer.encode(&reply.content, Trust::Content);
            answer.extend(self.tokenizer.end_ids().first());
            answer
        };
        let end = answer.iter().position(|token| self.tokenizer.is_end(*token));
        let answer = answer[..=end.ok_or(TextError::NoEnd)?].to_vec();
        let structure = |text: &str| self.tokenizer.encode(text, Trust::Template);
        let (opening, thought) = match (&reply.thought, self.template.thinking()) {
            (None, Some(ThinkingStyle { open, close, prompt_opens, has_switch: false })) => {
                let open = if prompt_opens { "" } else { open };
                prompt.extend(structure(&format!("{open}\n\n{close}\n\n")));
                (Vec::new(), Vec::new())
            }
            (None, _) => (Vec::new(), Vec::new()),
            (Some(thought), Some(style)) => {
                let opening =
                    if style.prompt_opens { String::new() } else { format!("{}\n", style.open) };
                let mut tokens = self.tokenizer.encode(thought, Trust::Content);
                tokens.extend(structure(&format!("\n{}\n\n", style.close)));
                (structure(&opening), tokens)
            }
            (Some(thought), None) => {
                let tokens = self.thoughts.encode(thought);
                let tokens = tokens.ok_or_else(|| TextError::Thought { found: thought.clone() })?;
                (self.thoughts.opening().to_vec(), tokens)
            }
        };
        Ok(RenderedReply { prompt, opening, thought, answer })
    }

    fn render(
        &self,
        messages: &[Message],
        thinks: bool,
        add_generation_prompt: bool,
    ) -> Result<Vec<u32>, TextError> {
        let rendered = self.template.render(&Conversation {
            messages,
            tools: &[],
            add_generation_prompt,
            enable_thinking: Some(thinks),
            now: CivilTime::from_unix_seconds(0),
        })?;
        let segments: Vec<Segment<'_>> = rendered
            .segments
            .iter()
            .map(|segment| Segment {
                text: &segment.text,
                trust: if segment.trusted { Trust::Template } else { Trust::Content },
            })
            .collect();
        Ok(self.tokenizer.encode_prompt(&segments))
    }
}

fn sequence(rendered: &RenderedReply) -> Sequence {
    let mut sequence = Sequence::start(rendered.prompt.clone());
    add(&mut sequence, rendered);
    sequence
}

/// Adds what follows the prompt.
fn add(sequence: &mut Sequence, rendered: &RenderedReply) {
    sequence.tokens.extend_from_slice(&rendered.opening);
    sequence.learn(&rendered.thought, true);
    sequence.learn(&rendered.answer, false);
    sequence.ends_with_thought = !rendered.thought.is_empty();
}
