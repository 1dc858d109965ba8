//! Training data: JSON lines, as people write them, and the rows made of them.
//!
//! Four forms, one object a line; keys that are not named here are let pass (they are for people
//! and other tools):
//!
//! ```json
//! {"id": "a-1", "messages": [{"role": "user", "content": "..."},
//!                            {"role": "assistant", "content": "...", "thought": "..."}]}
//! {"id": "p-1", "prompt": [{"role": "user", "content": "..."}],
//!  "chosen": {"content": "...", "thought": "..."}, "rejected": {"content": "..."}, "margin": 0.5}
//! {"id": "k-1", "prompt": [...], "completion": {"content": "..."}, "label": true}
//! {"id": "q-1", "prompt": [...], "tags": {"feeling": "grief", "need": "comfort", "kind": "..."},
//!  "answers": ["..."]}
//! ```
//!
//! A reply may stand as its text alone. Where only prompts are asked for, rows of the other forms
//! give theirs: a conversation what comes before its last reply. Their `tags` and `answers`, of use to
//! rewards alone, may stand in rows of all forms. Start reading at [`Files::read`].

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rapport_types::{Message, Role};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::rollout::Labels;
use crate::text::Reply;

/// Why data cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error("{}: {source}", file.display())]
    Io { file: PathBuf, source: io::Error },
    #[error("{}: no .jsonl file in this folder", folder.display())]
    EmptyFolder { folder: PathBuf },
    #[error("{}:{line}: {source}", file.display())]
    Row { file: PathBuf, line: usize, source: serde_json::Error },
    #[error("{}:{line}: `{id}` is the id of two rows; ids say what is held out, so each is one row's", file.display())]
    DuplicateId { file: PathBuf, line: usize, id: String },
}

/// The content of data files.
pub(crate) struct Files {
    files: Vec<(PathBuf, String)>,
    /// SHA-256 of all of them, in hexadecimal.
    pub(crate) sha256: String,
}

impl Files {
    /// Reads files, and all `.jsonl` files of folders, in the order of names.
    ///
    /// # Errors
    /// A file cannot be read, or a folder has none.
    pub(crate) fn read(paths: &[PathBuf]) -> Result<Self, DataError> {
        let mut files = Vec::new();
        let mut hash = Sha256::new();
        for path in paths {
            for file in files_of(path)? {
                let text = fs::read_to_string(&file)
                    .map_err(|source| DataError::Io { file: file.clone(), source })?;
                hash.update((text.len() as u64).to_le_bytes());
                hash.update(&text);
                files.push((file, text));
            }
        }
        Ok(Self { files, sha256: hexadecimal(&hash.finalize()) })
    }

    /// The rows of all files; empty lines are skipped.
    ///
    /// # Errors
    /// A line is not a row of this form, or two rows have the same id.
    pub(crate) fn rows<T: DeserializeOwned + Row>(&self) -> Result<Vec<T>, DataError> {
        let mut rows = Vec::new();
        let mut ids = std::collections::HashSet::new();
        for (file, text) in &self.files {
            for (line, text) in (1..).zip(text.lines()) {
                if text.trim().is_empty() {
                    continue;
                }
                let row: T = serde_json::from_str(text).map_err(|source| DataError::Row {
                    file: file.clone(),
                    line,
                    source,
                })?;
                if !ids.insert(row.id().to_owned()) {
                    let id = row.id().to_owned();
                    return Err(DataError::DuplicateId { file: file.clone(), line, id });
                }
                rows.push(row);
            }
        }
        Ok(rows)
    }
}

fn files_of(path: &Path) -> Result<Vec<PathBuf>, DataError> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let failed = |source| DataError::Io { file: path.to_owned(), source };
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        if file.extension().is_some_and(|extension| extension == "jsonl") {
            files.push(file);
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(DataError::EmptyFolder { folder: path.to_owned() });
    }
    Ok(files)
}

pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What every row has.
pub(crate) trait Row {
    fn id(&self) -> &str;
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ConversationRow {
    pub(crate) id: String,
    messages: Vec<MessageRow>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct PairRow {
    pub(crate) id: String,
    prompt: Vec<MessageRow>,
    #[serde(flatten)]
    labels: LabelsRow,
    chosen: ReplyRow,
    rejected: ReplyRow,
    /// How much better the chosen one is, in the units of the loss's margin.
    #[serde(default)]
    pub(crate) margin: f64,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct LabelRow {
    pub(crate) id: String,
    prompt: Vec<MessageRow>,
    #[serde(flatten)]
    labels: LabelsRow,
    completion: ReplyRow,
    /// Whether people liked it.
    pub(crate) label: bool,
}

/// What a reply is asked for.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct PromptRow {
    pub(crate) id: String,
    #[serde(alias = "messages")]
    prompt: Vec<MessageRow>,
    #[serde(flatten)]
    labels: LabelsRow,
}

/// What a row may say about its conversation; other forms of these keys are somebody else's.
#[derive(Clone, Debug, Default, Deserialize)]
struct LabelsRow {
    #[serde(default)]
    tags: Value,
    #[serde(default)]
    answers: Value,
}

impl LabelsRow {
    fn labels(&self) -> Labels {
        let tag = |key: &str| self.tags.get(key).and_then(Value::as_str).map(str::to_owned);
        let answers = self.answers.as_array().into_iter().flatten();
        Labels {
            feeling: tag("feeling"),
            need: tag("need"),
            kind: tag("kind"),
            answers: answers.filter_map(Value::as_str).map(str::to_owned).collect(),
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
struct MessageRow {
    role: RoleRow,
    content: String,
    #[serde(default)]
    thought: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RoleRow {
    System,
    User,
    Assistant,
    Tool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum ReplyRow {
    Text(String),
    Reply {
        content: String,
        #[serde(default)]
        thought: Option<String>,
    },
}

impl ReplyRow {
    fn reply(&self) -> Reply {
        match self.clone() {
            Self::Text(content) => Reply { content, thought: None },
            Self::Reply { content, thought } => Reply { content, thought },
        }
    }
}

fn messages(rows: &[MessageRow]) -> Vec<Message> {
    let role = |role| match role {
        RoleRow::System => Role::System,
        RoleRow::User => Role::User,
        RoleRow::Assistant => Role::Assistant,
        RoleRow::Tool => Role::Tool,
    };
    rows.iter()
        .map(|row| Message {
            thought: row.thought.clone(),
            ..Message::new(role(row.role), row.content.clone())
        })
        .collect()
}

impl ConversationRow {
    pub(crate) fn messages(&self) -> Vec<Message> {
        messages(&self.messages)
    }
}

impl PairRow {
    pub(crate) fn prompt(&self) -> Vec<Message> {
        messages(&self.prompt)
    }

    pub(crate) fn chosen(&self) -> Reply {
        self.chosen.reply()
    }

    /// Without a thought of its own, after that of the chosen one: a pair compares two answers to the
    /// same thing, and not one that thinks with one that does not.
    pub(crate) fn rejected(&self) -> Reply {
        let rejected = self.rejected.reply();
        Reply { thought: rejected.thought.or_else(|| self.chosen().thought), ..rejected }
    }

    pub(crate) fn labels(&self) -> Labels {
        self.labels.labels()
    }
}

impl LabelRow {
    pub(crate) fn prompt(&self) -> Vec<Message> {
        messages(&self.prompt)
    }

    pub(crate) fn completion(&self) -> Reply {
        self.completion.reply()
    }

    pub(crate) fn labels(&self) -> Labels {
        self.labels.labels()
    }
}

impl PromptRow {
    /// Up to the last thing that was said to the model.
    pub(crate) fn prompt(&self) -> Vec<Message> {
        let mut messages = messages(&self.prompt);
        while messages.pop_if(|message| message.role == Role::Assistant).is_some() {}
        messages.into_iter().map(|message| Message { thought: None, ..message }).collect()
    }

    pub(crate) fn labels(&self) -> Labels {
        self.labels.labels()
    }
}

impl Row for PromptRow {
    fn id(&self) -> &str {
        &self.id
    }
}

impl Row for ConversationRow {
    fn id(&self) -> &str {
        &self.id
    }
}

impl Row for PairRow {
    fn id(&self) -> &str {
        &self.id
    }
}

impl Row for LabelRow {
    fn id(&self) -> &str {
        &self.id
    }
}

/// A number from 0 up to 1 that a text always has: which rows are held out, and which of several
/// system prompts a row gets, must not change when other rows come or go.
pub(crate) fn share_of(text: &str, purpose: &str) -> f64 {
    let mut hash = Sha256::new();
    hash.update(purpose);
    hash.update([0]);
    hash.update(text);
    let digest = hash.finalize();
    let word = u64::from_le_bytes(*digest.first_chunk().expect("a hash has 32 bytes"));
    (word >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows<T: DeserializeOwned + Row>(text: &str) -> Result<Vec<T>, DataError> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("b.jsonl"), text).unwrap();
        fs::write(folder.path().join("a.txt"), "not data").unwrap();
        Files::read(&[folder.path().to_owned()])?.rows()
    }

    #[test]
    fn rows_of_all_forms_are_read() {
        let text = concat!(
            r#"{"id":"1","tags":{"x":1},"messages":[{"role":"system","content":"s"},{"role":"user","content":"u"},"#,
            r#"{"role":"assistant","content":"a","thought":"t"}]}"#,
            "\n\n",
        );
        let read: Vec<ConversationRow> = rows(text).unwrap();
        let expected = Message { thought: Some("t".to_owned()), ..Message::assistant("a") };
        assert_eq!(read[0].messages(), [Message::system("s"), Message::user("u"), expected]);

        let text = r#"{"id":"1","prompt":[{"role":"user","content":"u"}],"chosen":{"content":"c"},"rejected":"r"}"#;
        let read: Vec<PairRow> = rows(text).unwrap();
        assert_eq!(read[0].chosen().content, "c");
        assert_eq!(read[0].rejected(), Reply { content: "r".to_owned(), thought: None });
        assert!(read[0].margin.abs() < f64::EPSILON);

        let text = r#"{"id":"1","prompt":[],"chosen":{"content":"c","thought":"t"},"rejected":{"content":"r"}}"#;
        let rejected = rows::<PairRow>(text).unwrap()[0].rejected();
        assert_eq!(rejected, Reply { content: "r".to_owned(), thought: Some("t".to_owned()) });

        let text =
            r#"{"id":"1","prompt":[{"role":"user","content":"u"}],"completion":"c","label":false}"#;
        assert!(!rows::<LabelRow>(text).unwrap()[0].label);
        assert_eq!(rows::<PromptRow>(text).unwrap()[0].prompt(), [Message::user("u")]);

        let text = concat!(
            r#"{"id":"1","messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b","#,
            r#""thought":"t"},{"role":"user","content":"c"},{"role":"assistant","content":"d"}]}"#,
        );
        let expected = [Message::user("a"), Message::assistant("b"), Message::user("c")];
        assert_eq!(rows::<PromptRow>(text).unwrap()[0].prompt(), expected);
    }

    #[test]
    fn labels_come_along_and_other_forms_of_their_keys_are_let_pass() {
        let row = |more: &str| {
            let text = format!(r#"{{"id":"1","prompt":[{{"role":"user","content":"u"}}]{more}}}"#);
            rows::<PromptRow>(&text).unwrap()[0].labels()
        };
        let tags = r#","tags":{"feeling":"grief","need":"comfort","kind":"empathy","mode":"fast"}"#;
        let labels = row(&format!(r#"{tags},"answers":["Kyiv","Kiev"]"#));
        let told = (labels.feeling.as_deref(), labels.need.as_deref(), labels.kind.as_deref());
        assert_eq!(told, (Some("grief"), Some("comfort"), Some("empathy")));
        assert_eq!(labels.answers, ["Kyiv", "Kiev"]);
        assert_eq!(row(""), Labels::default());
        assert_eq!(row(r#","tags":["x"],"answers":"Kyiv""#), Labels::default());
        let pair = r#"{"id":"1","tags":{"kind":"joy"},"prompt":[],"chosen":"c","rejected":"r"}"#;
        assert_eq!(rows::<PairRow>(pair).unwrap()[0].labels().kind.as_deref(), Some("joy"));
    }

    #[test]
    fn a_wrong_row_is_named_by_file_and_line() {
        let good = r#"{"id":"1","messages":[]}"#;
        let error = rows::<ConversationRow>(&format!("{good}\n\n{{\"id\":1}}\n")).unwrap_err();
        assert!(matches!(error, DataError::Row { line: 3, .. }), "{error}");
        let error = rows::<ConversationRow>(&format!("{good}\n{good}\n")).unwrap_err();
        assert!(matches!(error, DataError::DuplicateId { line: 2, .. }), "{error}");
        let folder = tempfile::tempdir().unwrap();
        let error = Files::read(&[folder.path().to_owned()]).err().unwrap();
        assert!(matches!(error, DataError::EmptyFolder { .. }), "{error}");
        let error = Files::read(&[folder.path().join("none.jsonl")]).err().unwrap();
        assert!(matches!(error, DataError::Io { .. }), "{error}");
    }

    #[test]
    fn shares_are_spread_evenly_and_stay() {
        let below = (0..4000).filter(|i| share_of(&format!("row-{i}"), "held out") < 0.25).count();
        assert!((900..1100).contains(&below), "{below}");
        assert!((share_of("a-1", "x") - share_of("a-1", "x")).abs() < f64::EPSILON);
        assert!((share_of("a-1", "x") - share_of("a-1", "y")).abs() > 1e-6);
    }
}
