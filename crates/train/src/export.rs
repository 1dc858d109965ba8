//! Training data as other trainers read it: for models that one machine cannot train.
//!
//! A folder gets a file of JSON lines for each kind of row: `sft.jsonl`, `preference.jsonl`,
//! `unpaired.jsonl`, `prompts.jsonl`. Forms as in TRL 1.16, OpenRLHF 0.11 and verl 0.9:
//!
//! | | TRL | OpenRLHF | verl |
//! | --- | --- | --- | --- |
//! | sft | `messages` | `messages` (`--data.input_key messages --data.multiturn`) | `messages` |
//! | preference | `prompt`, `chosen`, `rejected` as messages, `margin` | the same (`--data.prompt_key prompt`) | |
//! | unpaired | `prompt`, `completion`, `label` | | |
//! | prompts | `prompt` | `input`, `label` | `data_source`, `prompt`, `reward_model`, ... |
//!
//! What a row says about its conversation goes along as `rapport reward serve` and its clients take it:
//! columns `feeling`, `need`, `kind`, `answers` for TRL, a JSON object in `label` for OpenRLHF,
//! `extra_info.labels` beside `extra_info.prompt` for verl.
//!
//! Where a cell is empty, that trainer has no loss for such rows, and only their prompts are written.
//! verl reads rows to imitate as Parquet alone: `pandas.read_json("sft.jsonl",
//! lines=True).to_parquet("sft.parquet")`.
//!
//! A thought stands before its answer, between `<think>` and `</think>`, as the engine writes it. An
//! earlier reply's thought is not shown to a model again, so a conversation becomes a row for each
//! reply that thinks and a last one.
//!
//! What is not here: rewards (`rapport reward serve` answers those trainers), running them.

use std::collections::HashSet;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use rapport_types::{Message, Role};
use serde_json::{Value, json};

use crate::data::{ConversationRow, DataError, Files, LabelRow, PairRow, PromptRow, Row};
use crate::rollout::Labels;
use crate::text::Reply;

/// Whose form data gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFormat {
    Trl,
    OpenRlhf,
    Verl,
}

/// Why data cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error(transparent)]
    Data(#[from] DataError),
    #[error("{}: {source}", file.display())]
    Io { file: PathBuf, source: io::Error },
}

/// A file that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    pub file: PathBuf,
    pub n_rows: usize,
}

/// Rows of the four files.
#[derive(Default)]
struct Sheets {
    sft: Vec<Value>,
    preference: Vec<Value>,
    unpaired: Vec<Value>,
    prompts: Vec<Value>,
    /// Prompts that are there already: pairs often share theirs.
    seen: HashSet<String>,
}

/// Writes the rows of files, and of folders of `.jsonl` files, into a folder.
///
/// # Errors
/// A file cannot be read or written, or a line is a row of no form.
pub fn export(
    format: ExportFormat,
    data: &[PathBuf],
    out: &Path,
) -> Result<Vec<Exported>, ExportError> {
    let mut sheets = Sheets::default();
    for row in Files::read(data)?.rows::<AnyRow>()? {
        sheets.add(format, &row);
    }
    fs::create_dir_all(out).map_err(|source| ExportError::Io { file: out.to_owned(), source })?;
    let files = [
        ("sft.jsonl", sheets.sft),
        ("preference.jsonl", sheets.preference),
        ("unpaired.jsonl", sheets.unpaired),
        ("prompts.jsonl", sheets.prompts),
    ];
    let mut exported = Vec::new();
    for (name, rows) in files.into_iter().filter(|(_, rows)| !rows.is_empty()) {
        let file = out.join(name);
        let write = || {
            let mut writer = BufWriter::new(fs::File::create(&file)?);
            rows.iter().try_for_each(|row| writeln!(writer, "{row}"))?;
            writer.flush()
        };
        write().map_err(|source| ExportError::Io { file: file.clone(), source })?;
        exported.push(Exported { file, n_rows: rows.len() });
    }
    Ok(exported)
}

/// A row of any form, told apart by its keys.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum AnyRow {
    Pair(PairRow),
    Label(LabelRow),
    Conversation(ConversationRow),
    Prompt(PromptRow),
}

impl Row for AnyRow {
    fn id(&self) -> &str {
        match self {
            Self::Pair(row) => row.id(),
            Self::Label(row) => row.id(),
            Self::Conversation(row) => row.id(),
            Self::Prompt(row) => row.id(),
        }
    }
}

impl Sheets {
    fn add(&mut self, format: ExportFormat, row: &AnyRow) {
        match row {
            AnyRow::Conversation(row) => {
                let messages = row.messages();
                for end in ends_of_rows(&messages) {
                    let row: Vec<Value> = messages[..end]
                        .iter()
                        .enumerate()
                        .map(|(idx, message)| {
                            let thought = message.thought.as_deref().filter(|_| idx + 1 == end);
                            written(message.role, &with_thought(thought, &message.content))
                        })
                        .collect();
                    self.sft.push(json!({ "messages": row }));
                }
            }
            AnyRow::Pair(row) => {
                let prompt = prompt(&row.prompt());
                if format != ExportFormat::Verl {
                    self.preference.push(json!({
                        "prompt": prompt,
                        "chosen": [reply(&row.chosen())],
                        "rejected": [reply(&row.rejected())],
                        "margin": row.margin,
                    }));
                }
                self.prompt(format, &row.id, &row.labels(), &prompt);
            }
            AnyRow::Label(row) => {
                let prompt = prompt(&row.prompt());
                if format == ExportFormat::Trl {
                    self.unpaired.push(json!({
                        "prompt": prompt,
                        "completion": [reply(&row.completion())],
                        "label": row.label,
                    }));
                }
                self.prompt(format, &row.id, &row.labels(), &prompt);
            }
            AnyRow::Prompt(row) => {
                self.prompt(format, &row.id, &row.labels(), &prompt(&row.prompt()));
            }
        }
    }

    fn prompt(&mut self, format: ExportFormat, id: &str, labels: &Labels, prompt: &Value) {
        if !self.seen.insert(prompt.to_string()) {
            return;
        }
        let index = self.prompts.len();
        self.prompts.push(match format {
            ExportFormat::Trl => json!({
                "prompt": prompt,
                "id": id,
                "feeling": labels.feeling,
                "need": labels.need,
                "kind": labels.kind,
                "answers": labels.answers,
            }),
            ExportFormat::OpenRlhf => {
                json!({ "input": prompt, "label": labels_json(labels).to_string() })
            }
            ExportFormat::Verl => json!({
                "data_source": "rapport",
                "prompt": prompt,
                "ability": "conversation",
                "reward_model": { "style": "rule", "ground_truth": "" },
                "extra_info": {
                    "index": index, "id": id, "prompt": prompt, "labels": labels_json(labels),
                },
            }),
        });
    }
}

fn labels_json(labels: &Labels) -> Value {
    let Labels { feeling, need, kind, answers } = labels;
    json!({ "feeling": feeling, "need": need, "kind": kind, "answers": answers })
}

/// How many messages each row of a conversation has: up to each reply that thinks, and all.
fn ends_of_rows(messages: &[Message]) -> Vec<usize> {
    let replies = || {
        let is_reply = |(_, message): &(usize, &Message)| message.role == Role::Assistant;
        messages.iter().enumerate().filter(is_reply)
    };
    let thinking = replies().filter(|(_, message)| message.thought.is_some());
    let mut ends: Vec<usize> = thinking.map(|(idx, _)| idx + 1).collect();
    if let Some((last, _)) = replies().next_back()
        && !ends.contains(&(last + 1))
    {
        ends.push(last + 1);
    }
    ends
}

fn with_thought(thought: Option<&str>, content: &str) -> String {
    match thought {
        Some(thought) => format!("<think>{thought}</think>\n\n{content}"),
        None => content.to_owned(),
    }
}

fn written(role: Role, content: &str) -> Value {
    json!({ "role": role.as_str(), "content": content })
}

fn prompt(messages: &[Message]) -> Value {
    messages.iter().map(|message| written(message.role, &message.content)).collect()
}

fn reply(reply: &Reply) -> Value {
    written(Role::Assistant, &with_thought(reply.thought.as_deref(), &reply.content))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: &str = r#"{"id":"c","messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b","thought":"t"},{"role":"user","content":"c"},{"role":"assistant","content":"d"}]}
{"id":"p","tags":["x"],"prompt":[{"role":"user","content":"q"}],"chosen":{"content":"good","thought":"t"},"rejected":"bad","margin":0.5}
{"id":"k","prompt":[{"role":"user","content":"q"}],"completion":"good","label":true}
{"id":"q","tags":{"need":"facts","kind":"fact_real"},"answers":["a"],"prompt":[{"role":"system","content":"s"},{"role":"user","content":"r"}]}
"#;

    fn exported(format: ExportFormat) -> Vec<(String, Vec<Value>)> {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data.jsonl");
        fs::write(&data, ROWS).unwrap();
        let files = export(format, &[data], &folder.path().join("out")).unwrap();
        files
            .iter()
            .map(|exported| {
                let text = fs::read_to_string(&exported.file).unwrap();
                let rows: Vec<Value> =
                    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
                assert_eq!(rows.len(), exported.n_rows);
                let name = exported.file.file_name().unwrap().to_string_lossy().into_owned();
                (name, rows)
            })
            .collect()
    }

    fn said(role: &str, content: &str) -> Value {
        json!({ "role": role, "content": content })
    }

    #[test]
    fn trl_gets_every_form() {
        let files = exported(ExportFormat::Trl);
        let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["sft.jsonl", "preference.jsonl", "unpaired.jsonl", "prompts.jsonl"]);
        let (user, thinking) = (said("user", "a"), said("assistant", "<think>t</think>\n\nb"));
        assert_eq!(
            files[0].1,
            [
                json!({ "messages": [user, thinking] }),
                // The thought of an earlier reply is gone.
                json!({ "messages": [
                    said("user", "a"), said("assistant", "b"), said("user", "c"), said("assistant", "d"),
                ] }),
            ]
        );
        assert_eq!(
            files[1].1,
            [json!({
                "prompt": [said("user", "q")],
                "chosen": [said("assistant", "<think>t</think>\n\ngood")],
                "rejected": [said("assistant", "<think>t</think>\n\nbad")],
                "margin": 0.5,
            })]
        );
        assert_eq!(
            files[2].1,
            [json!({
                "prompt": [said("user", "q")], "completion": [said("assistant", "good")], "label": true,
            })]
        );
        // Two rows share a prompt.
        assert_eq!(files[3].1.len(), 2);
        assert_eq!(
            files[3].1[1],
            json!({
                "prompt": [said("system", "s"), said("user", "r")],
                "id": "q",
                "feeling": null,
                "need": "facts",
                "kind": "fact_real",
                "answers": ["a"],
            })
        );
    }

    #[test]
    fn the_others_get_what_they_can_use() {
        let files = exported(ExportFormat::OpenRlhf);
        let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["sft.jsonl", "preference.jsonl", "prompts.jsonl"]);
        // No text by itself, which would be taken for a right answer.
        let label: Value = serde_json::from_str(files[2].1[1]["label"].as_str().unwrap()).unwrap();
        let none: Option<&str> = None;
        let facts =
            json!({ "feeling": none, "need": "facts", "kind": "fact_real", "answers": ["a"] });
        assert_eq!((&files[2].1[0]["input"], &label), (&json!([said("user", "q")]), &facts));
        let none = json!({ "feeling": none, "need": none, "kind": none, "answers": [] });

        let files = exported(ExportFormat::Verl);
        let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["sft.jsonl", "prompts.jsonl"]);
        assert_eq!(
            files[1].1[0],
            json!({
                "data_source": "rapport",
                "prompt": [said("user", "q")],
                "ability": "conversation",
                "reward_model": { "style": "rule", "ground_truth": "" },
                "extra_info": { "index": 0, "id": "p", "prompt": [said("user", "q")], "labels": none },
            })
        );
    }
}
