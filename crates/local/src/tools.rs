//! Tools: how a model is told of them, and how its calls are read.
//!
//! Where a model's template knows of tools, the template tells. Elsewhere a block of the system
//! message describes them, and calls and results go as text. Either way a call is written
//! `<tool_call>{"name": …, "arguments": …}</tool_call>`, and a grammar keeps every call to a tool
//! that was offered and to its schema, so that there is no call to repair or to guess.
//!
//! Start reading at [`grammar`], then [`CallReader`].

use std::fmt::Write;

use rapport_model::tokenizer::{TokenKind, Tokenizer};
use rapport_types::{
    CallCount, FormatError, FormatKind, GenerateError, Message, OutputFormat, Role, Tool, ToolCall,
    ToolChoice, Tools,
};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::constrain::{MAX_SOURCE_BYTES, on_one_line, read_schema};

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";

/// Calls in one answer: a small model may not find the end by itself.
const MAX_CALLS: u32 = 8;

/// The conversation for a template that knows no tools: they are described, and calls and results
/// become text.
pub(crate) fn described(messages: &[Message], tools: &Tools) -> Vec<Message> {
    let mut told: Vec<Message> = Vec::with_capacity(messages.len() + 1);
    let mut results: Option<String> = None;
    for message in messages {
        if message.role == Role::Tool {
            let results = results.get_or_insert_default();
            let _ = write!(results, "<tool_response>\n{}\n</tool_response>\n", message.content);
            continue;
        }
        told.extend(results.take().map(|text| Message::user(text.trim_end())));
        let mut content = message.content.clone();
        for call in &message.tool_calls {
            if !content.is_empty() {
                content.push('\n');
            }
            let name = json!(call.name);
            let arguments = &call.arguments;
            let _ = write!(
                content,
                "{OPEN}\n{{\"name\": {name}, \"arguments\": {arguments}}}\n{CLOSE}"
            );
        }
        let thought = message.thought.clone();
        told.push(Message { thought, ..Message::new(message.role, content) });
    }
    told.extend(results.map(|text| Message::user(text.trim_end())));
    if !tools.is_callable() {
        return told;
    }
    let block = description(tools);
    match told.first_mut() {
        Some(first) if first.role == Role::System => {
            first.content = format!("{}\n\n{block}", first.content);
        }
        _ => told.insert(0, Message::system(block)),
    }
    told
}

fn description(tools: &Tools) -> String {
    let mut text = String::from("You can call these functions, one described on each line:\n");
    for tool in tools.callable() {
        let parameters: Value = serde_json::from_str(&tool.parameters).unwrap_or_default();
        let description = &tool.description;
        let line =
            json!({ "name": tool.name, "description": description, "parameters": parameters });
        let _ = writeln!(text, "{line}");
    }
    let _ = write!(
        text,
        "To call one, write:\n{OPEN}\n{{\"name\": \"NAME\", \"arguments\": {{}}}}\n{CLOSE}\n\
         Its result comes back within <tool_response>. When no function helps, answer in words."
    );
    text
}

/// The grammar of an answer that may, or must, call tools.
///
/// # Errors
/// A tool's schema cannot be read, the tools are too many or the one that must be called is not
/// offered, or the form of the words beside them cannot be combined with calls.
pub(crate) fn grammar(
    tokenizer: &Tokenizer,
    format: &OutputFormat,
    tools: &Tools,
) -> Result<String, GenerateError> {
    let mut rules = String::new();
    let mut bodies = Vec::new();
    for (tool_idx, tool) in tools.callable().enumerate() {
        let schema = on_one_line(arguments_schema(tool)?);
        let head = json!(format!("{{\"name\": {}, \"arguments\": ", json!(tool.name)));
        let _ = writeln!(rules, "body_{tool_idx}: {head} arguments_{tool_idx} \"}}\"");
        let _ = writeln!(rules, "arguments_{tool_idx}: %json {schema}");
        bodies.push(format!("body_{tool_idx}"));
    }
    let found_bytes = rules.len();
    if found_bytes > MAX_SOURCE_BYTES {
        let (kind, limit_bytes) = (FormatKind::JsonSchema, MAX_SOURCE_BYTES);
        return Err(FormatError::TooLong { kind, found_bytes, limit_bytes }.into());
    }
    let (open, close) = (tag(tokenizer, OPEN), tag(tokenizer, CLOSE));
    let more = match tools.calls {
        CallCount::One => String::new(),
        CallCount::Several => format!(" (\"\\n\" {} rest){{0,{}}}", open.rule, MAX_CALLS - 1),
    };
    let _ = writeln!(rules, "calls: rest{more}");
    let _ = writeln!(rules, "rest: \"\\n\" ({}) \"\\n\" {}", bodies.join(" | "), close.rule);
    let calls = format!("{} calls", open.rule);
    let start = match (&tools.choice, format) {
        (ToolChoice::Required | ToolChoice::Named(_), _) => format!("start: {calls}\n"),
        (_, OutputFormat::Text) if open.is_token => {
            format!("start: words? | words? {calls}\nwords: /(?s:.+)/\n")
        }
        (_, OutputFormat::Text) => format!(
            "start: WORDS? | to_calls calls\n\
             WORDS: /(?s:.+)/ & ~/(?s:.*){OPEN}(?s:.*)/\n\
             to_calls[suffix={}]: /(?s:.*)/\n",
            json!(OPEN)
        ),
        (_, OutputFormat::JsonObject) => {
            let schema = on_one_line(json!({ "type": "object" }));
            format!("start: words | {calls}\nwords: %json {schema}\n")
        }
        (_, OutputFormat::JsonSchema(source)) => {
            let schema = on_one_line(read_schema(source)?);
            format!("start: words | {calls}\nwords: %json {schema}\n")
        }
        (_, OutputFormat::Regex(_) | OutputFormat::Lark(_)) => {
            let reason = "an expression or a grammar cannot be combined with tools".to_owned();
            return Err(GenerateError::InvalidRequest { field: "tools", reason });
        }
    };
    Ok(start + &rules)
}

/// The schema of a tool's arguments: always an object.
fn arguments_schema(tool: &Tool) -> Result<Value, GenerateError> {
    let mut schema = read_schema(&tool.parameters)?;
    let Value::Object(entries) = &mut schema else {
        let reason = format!("the parameters of `{}` are no JSON schema of an object", tool.name);
        return Err(GenerateError::InvalidRequest { field: "tools", reason });
    };
    if !entries.contains_key("type") && !entries.contains_key("$ref") {
        entries.insert("type".to_owned(), json!("object"));
    }
    Ok(schema)
}

/// A tag in a grammar.
struct Tag {
    rule: String,
    /// One token of its own to the model, which no other text can spell.
    is_token: bool,
}

fn tag(tokenizer: &Tokenizer, text: &str) -> Tag {
    let is_token = tokenizer.special_id(text).is_some_and(|token| {
        tokenizer.needs_trust(token) && tokenizer.kind(token) != Some(TokenKind::Control)
    });
    let rule = if is_token { text.to_owned() } else { json!(text).to_string() };
    Tag { rule, is_token }
}

/// Takes calls out of an answer while it arrives.
#[derive(Debug)]
pub(crate) struct CallReader {
    names: Vec<String>,
    /// Text that may be the start of a tag, or what a call has so far.
    held: String,
    is_in_call: bool,
    /// White space behind a call is nobody's words.
    trim_start: bool,
    read: Vec<ToolCall>,
}

#[derive(Deserialize)]
struct WrittenCall<'c> {
    name: String,
    #[serde(borrow)]
    arguments: &'c RawValue,
}

impl CallReader {
    pub(crate) fn new(tools: &Tools) -> Self {
        let names = tools.callable().map(|tool| tool.name.clone()).collect();
        let (held, read) = (String::new(), Vec::new());
        Self { names, held, is_in_call: false, trim_start: false, read }
    }

    /// The words of `text`; calls are kept for [`CallReader::take_calls`].
    pub(crate) fn push(&mut self, text: &str) -> String {
        self.held.push_str(text);
        let mut words = String::new();
        loop {
            let goes_on = if self.is_in_call {
                self.read_call(&mut words)
            } else {
                self.find_call(&mut words)
            };
            if !goes_on {
                break;
            }
        }
        words
    }

    /// The calls that are whole since the last time.
    pub(crate) fn take_calls(&mut self) -> Vec<ToolCall> {
        std::mem::take(&mut self.read)
    }

    /// The words that were held back. A call that was cut is no call, and no words either.
    pub(crate) fn finish(&mut self) -> String {
        let held = std::mem::take(&mut self.held);
        if self.is_in_call { String::new() } else { held }
    }

    fn find_call(&mut self, words: &mut String) -> bool {
        if let Some(at) = self.held.find(OPEN) {
            let before = self.held[..at].to_owned();
            self.say(&before, words);
            self.held.drain(..at + OPEN.len());
            self.is_in_call = true;
            return true;
        }
        let mut places = self.held.char_indices().map(|(at, _)| at);
        let keep_from = places.find(|&at| OPEN.starts_with(&self.held[at..]));
        let kept = self.held.split_off(keep_from.unwrap_or(self.held.len()));
        let before = std::mem::replace(&mut self.held, kept);
        self.say(&before, words);
        false
    }

    fn say(&mut self, piece: &str, words: &mut String) {
        let piece = if self.trim_start { piece.trim_start() } else { piece };
        self.trim_start &= piece.is_empty();
        words.push_str(piece);
    }

    fn read_call(&mut self, words: &mut String) -> bool {
        // An argument may contain the closing tag: the first that ends whole JSON closes.
        let ends: Vec<usize> = self.held.match_indices(CLOSE).map(|(at, _)| at).collect();
        for at in ends {
            let Ok(call) = serde_json::from_str::<WrittenCall<'_>>(&self.held[..at]) else {
                continue;
            };
            let is_offered = self.names.contains(&call.name);
            if is_offered {
                let arguments = call.arguments.get().to_owned();
                self.read.push(ToolCall { id: fresh_call_id(), name: call.name, arguments });
                self.trim_start = true;
            } else {
                let _ = write!(words, "{OPEN}{}{CLOSE}", &self.held[..at]);
            }
            self.held.drain(..at + CLOSE.len());
            self.is_in_call = false;
            return true;
        }
        false
    }
}

/// Names a call within its conversation; not a secret.
fn fresh_call_id() -> String {
    use std::hash::{BuildHasher, RandomState};
    format!("call_{:016x}", RandomState::new().hash_one(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools() -> Tools {
        let parameters = r#"{"type":"object"}"#.to_owned();
        let tool = Tool { name: "look".to_owned(), description: "Looks.".to_owned(), parameters };
        Tools { offered: vec![tool], ..Tools::default() }
    }

    fn read(text: &str, portion_bytes: usize) -> (String, Vec<(String, String)>) {
        let mut reader = CallReader::new(&tools());
        let mut words = String::new();
        for portion in text.as_bytes().chunks(portion_bytes) {
            words += &reader.push(str::from_utf8(portion).unwrap());
        }
        words += &reader.finish();
        let calls = reader.take_calls().into_iter().map(|call| (call.name, call.arguments));
        (words, calls.collect())
    }

    #[test]
    fn calls_are_taken_out_however_the_text_is_cut() {
        let call = "<tool_call>\n{\"name\": \"look\", \"arguments\": {\"b\": 1, \"a\": \"</tool_call>\"}}\n</tool_call>";
        let text = format!("Let me <see>. {call}\n{call} Done <tool");
        for portion_bytes in [1, 2, 7, text.len()] {
            let (words, calls) = read(&text, portion_bytes);
            assert_eq!(words, "Let me <see>. Done <tool");
            let arguments = "{\"b\": 1, \"a\": \"</tool_call>\"}".to_owned();
            assert_eq!(calls, vec![("look".to_owned(), arguments); 2]);
        }
    }

    #[test]
    fn f19_a_call_that_is_cut_or_of_another_tool_is_no_call() {
        let (words, calls) = read("<tool_call>\n{\"name\": \"look\", \"argu", 3);
        assert_eq!((words.as_str(), calls.len()), ("", 0));
        let other = "<tool_call>{\"name\": \"delete\", \"arguments\": {}}</tool_call>";
        assert_eq!(read(other, 5), (other.to_owned(), Vec::new()));
    }

    #[test]
    fn a_template_without_tools_gets_them_described() {
        let call = ToolCall {
            id: "1".to_owned(),
            name: "look".to_owned(),
            arguments: "{\"at\": 2}".to_owned(),
        };
        let result = |text: &str| Message {
            tool_call_id: Some("1".to_owned()),
            ..Message::new(Role::Tool, text)
        };
        let messages = [
            Message::system("Be kind."),
            Message::user("Look!"),
            Message { tool_calls: vec![call], ..Message::assistant("") },
            result("a cat"),
            result("a dog"),
        ];
        let told = described(&messages, &tools());
        let roles: Vec<Role> = told.iter().map(|message| message.role).collect();
        assert_eq!(roles, [Role::System, Role::User, Role::Assistant, Role::User]);
        assert!(told[0].content.starts_with("Be kind.\n\nYou can call"), "{}", told[0].content);
        assert!(told[0].content.contains("\"description\":\"Looks.\""));
        assert!(told[2].content.contains("{\"name\": \"look\", \"arguments\": {\"at\": 2}}"));
        assert_eq!(told[3].content.matches("<tool_response>").count(), 2);
    }
}
