//! Conversations in files: JSON lines, one message a line, oldest first.
//!
//! ```json
//! {"role":"system","content":"Be kind."}
//! {"role":"user","content":"Hello"}
//! {"role":"assistant","content":"Hello!","thought":"a greeting"}
//! ```
//!
//! `role` is `system` (first line only), `user`, `assistant` or `tool`; `thought` is optional and
//! an assistant's. Blank lines are skipped, other keys are refused. Files are written whole or not
//! at all, and are readable by their owner only.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rapport_types::{Message, Role};
use serde::{Deserialize, Serialize};

use super::command::IfExists;

/// A conversation longer than this does not come from a person.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// Why a conversation was not saved or loaded.
#[derive(Debug, thiserror::Error)]
pub(super) enum TranscriptError {
    #[error("{} is already there: /save! replaces it", path.display())]
    Exists { path: PathBuf },
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is larger than {} MiB: it is not a conversation", path.display(), MAX_FILE_BYTES >> 20)]
    TooLarge { path: PathBuf },
    #[error("{} has no messages: it needs one JSON object a line", path.display())]
    Empty { path: PathBuf },
    #[error("{} line {line}: {problem}", path.display())]
    Line { path: PathBuf, line: usize, problem: LineProblem },
}

/// What is wrong with one line.
#[derive(Debug, thiserror::Error)]
pub(super) enum LineProblem {
    #[error("not UTF-8 text")]
    NotText,
    #[error("not a message at column {}: {}", source.column(), without_position(source))]
    NotAMessage { source: serde_json::Error },
    #[error("unknown role `{found}`: use system, user, assistant or tool")]
    UnknownRole { found: String },
    #[error("a system message can only be the first")]
    SystemNotFirst,
    #[error("only an assistant has a `thought`, found one of role `{}`", role.as_str())]
    ThoughtOf { role: Role },
}

/// The parser counts lines of what it was given, which is always one: its own position is dropped.
fn without_position(error: &serde_json::Error) -> String {
    let message = error.to_string();
    message.rsplit_once(" at line ").map_or(message.clone(), |(reason, _)| reason.to_owned())
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    role: String,
    content: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    thought: Option<String>,
}

/// Writes a conversation: the whole file or nothing.
///
/// # Errors
/// The file exists and should stay, or cannot be written.
pub(super) fn save(
    path: &Path,
    conversation: &[Message],
    if_exists: IfExists,
) -> Result<(), TranscriptError> {
    let failed = |source: io::Error| {
        let path = path.to_owned();
        if source.kind() == io::ErrorKind::AlreadyExists {
            TranscriptError::Exists { path }
        } else {
            TranscriptError::Write { path, source }
        }
    };
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    file.write_all(&to_lines(conversation)).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    let persisted = match if_exists {
        IfExists::Refuse => file.persist_noclobber(path),
        IfExists::Replace => file.persist(path),
    };
    persisted.map(drop).map_err(|error| failed(error.error))
}

fn to_lines(conversation: &[Message]) -> Vec<u8> {
    let mut lines = Vec::new();
    for message in conversation {
        let line = Line {
            role: message.role.as_str().to_owned(),
            content: message.content.clone(),
            thought: message.thought.clone(),
        };
        serde_json::to_writer(&mut lines, &line).expect("strings always serialise");
        lines.push(b'\n');
    }
    lines
}

/// Reads a conversation.
///
/// # Errors
/// The file cannot be read, or a line of it is not a message.
pub(super) fn load(path: &Path) -> Result<Vec<Message>, TranscriptError> {
    let failed = |source| TranscriptError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(TranscriptError::TooLarge { path: path.to_owned() });
    }

    let mut messages = Vec::new();
    for (line_idx, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let message = parse_line(line, messages.is_empty()).map_err(|problem| {
            TranscriptError::Line { path: path.to_owned(), line: line_idx + 1, problem }
        })?;
        messages.push(message);
    }
    if messages.is_empty() {
        return Err(TranscriptError::Empty { path: path.to_owned() });
    }
    Ok(messages)
}

fn parse_line(line: &[u8], is_first: bool) -> Result<Message, LineProblem> {
    let text = str::from_utf8(line).map_err(|_| LineProblem::NotText)?;
    let line: Line =
        serde_json::from_str(text).map_err(|source| LineProblem::NotAMessage { source })?;
    let role = Role::parse(&line.role).ok_or(LineProblem::UnknownRole { found: line.role })?;
    if role == Role::System && !is_first {
        return Err(LineProblem::SystemNotFirst);
    }
    if line.thought.is_some() && role != Role::Assistant {
        return Err(LineProblem::ThoughtOf { role });
    }
    Ok(Message { thought: line.thought, ..Message::new(role, line.content) })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    fn conversation() -> Vec<Message> {
        let thought = Some("a greeting\nin \"Japanese\"".to_owned());
        vec![
            Message::system("Be kind."),
            Message::user("こんにちは\n\u{1b}[31m"),
            Message { thought, ..Message::assistant("👩\u{200d}👧 Hello") },
        ]
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chat.jsonl");
        save(&path, &conversation(), IfExists::Refuse).unwrap();
        assert_eq!(load(&path).unwrap(), conversation());
        let first = fs::read_to_string(&path).unwrap().lines().next().unwrap().to_owned();
        assert_eq!(first, r#"{"role":"system","content":"Be kind."}"#);
    }

    #[test]
    fn a_file_that_is_there_is_replaced_only_on_demand() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chat.jsonl");
        fs::write(&path, "precious").unwrap();
        let refused = save(&path, &conversation(), IfExists::Refuse).unwrap_err();
        assert!(matches!(&refused, TranscriptError::Exists { .. }), "{refused}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        save(&path, &conversation(), IfExists::Replace).unwrap();
        assert_eq!(load(&path).unwrap(), conversation());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn problems_name_file_line_and_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chat.jsonl");
        let good = r#"{"role":"user","content":"hi"}"#;
        let cases: [(&[u8], &str); 8] = [
            (b"", " has no messages: it needs one JSON object a line"),
            (b"\n\xff\n", " line 2: not UTF-8 text"),
            (
                b"{\"role\":\"user\"}",
                " line 1: not a message at column 15: missing field `content`",
            ),
            (b"hello", " line 1: not a message at column 1: expected value"),
            (
                br#"{"role":"user","content":"hi","name":"x"}"#,
                " line 1: not a message at column 36: unknown field `name`, expected one of `role`, `content`, `thought`",
            ),
            (
                br#"{"role":"human","content":"hi"}"#,
                " line 1: unknown role `human`: use system, user, assistant or tool",
            ),
            (
                br#"{"role":"user","content":"hi","thought":"x"}"#,
                " line 1: only an assistant has a `thought`, found one of role `user`",
            ),
            (
                &[good.as_bytes(), b"\r\n\n", br#"{"role":"system","content":"late"}"#].concat(),
                " line 3: a system message can only be the first",
            ),
        ];
        for (bytes, expected) in cases {
            fs::write(&path, bytes).unwrap();
            let message = load(&path).unwrap_err().to_string();
            assert_eq!(message, format!("{}{expected}", path.display()));
        }
    }

    #[test]
    fn missing_files_and_folders_are_said() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing").join("chat.jsonl");
        assert!(matches!(load(&missing), Err(TranscriptError::Read { .. })));
        assert!(matches!(load(folder.path()), Err(TranscriptError::Read { .. })));
        let unsaved = save(&missing, &conversation(), IfExists::Replace);
        assert!(matches!(unsaved, Err(TranscriptError::Write { .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_text_survives_a_file(content: String, thought: Option<String>) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("chat.jsonl");
            let messages = [Message::user(&content), Message { thought, ..Message::assistant(content) }];
            save(&path, &messages, IfExists::Refuse).unwrap();
            prop_assert_eq!(load(&path).unwrap(), messages);
        }
    }
}
