//! A model as a judge of two replies.
//!
//! Each pair is judged twice with the sides exchanged; only a verdict that survives the exchange
//! counts, everything else is a tie. What a model said is kept on disk under the hash of all that it
//! depends on (model, build, rubric, prompt), so that a judgement is paid for once and can be shown.
//!
//! A judge is any [`Generate`]: a model in this process or an engine behind HTTP. What is not here:
//! how it is reached. Start reading at [`Judge::compare`].

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use rapport_types::{
    AdapterChoice, Caller, Event, Generate, GenerateError, Message, Mode, OutputFormat, PromptForm,
    Reader, Request, Sampling, ThinkingBudget, Tools,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::devset::Turn;
use crate::jsonl::{self, JsonlError};

/// What judges are told unless another rubric is given.
pub const RUBRIC: &str = include_str!("rubric.txt");

const SCHEMA: &str = r#"{"type":"object","properties":{"verdict":{"enum":["A","B","tie"]}},"required":["verdict"],"additionalProperties":false}"#;

/// What a judge says of two replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    First,
    Second,
    Tie,
}

impl Verdict {
    fn swapped(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
            Self::Tie => Self::Tie,
        }
    }
}

/// Both readings of a pair, in the order of the replies as they were given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    pub shown_first: Verdict,
    /// With the sides exchanged, and turned back.
    pub shown_second: Verdict,
}

impl Judgement {
    /// What both readings say; a tie where they differ.
    pub fn verdict(self) -> Verdict {
        if self.shown_first == self.shown_second { self.shown_first } else { Verdict::Tie }
    }

    pub fn agrees(self) -> bool {
        self.shown_first == self.shown_second
    }
}

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
pub enum JudgeError {
    #[error("the judge {model} refuses: {source}")]
    Refused { model: String, source: GenerateError },
    #[error(
        "the judge {model} said nothing for {} s: give it more time or a smaller rubric",
        limit.as_secs_f64()
    )]
    Slow { model: String, limit: Duration },
    #[error(
        "the judge {model} answered `{answer}` where {{\"verdict\": \"A\", \"B\" or \"tie\"}} was \
         asked for: use a model that keeps to a JSON schema"
    )]
    Unclear { model: String, answer: String },
    #[error("`{role}` is no role: use system, user or assistant")]
    Role { role: String },
    #[error(transparent)]
    Cache(#[from] JsonlError),
}

/// One reading as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Kept {
    /// SHA-256 of everything that the verdict depends on.
    key: String,
    model: String,
    build: String,
    /// SHA-256 of the rubric.
    rubric: String,
    verdict: Verdict,
}

/// A model that compares replies.
pub struct Judge<'a> {
    generate: &'a dyn Generate,
    rubric: String,
    limit: Duration,
    cache: HashMap<String, Verdict>,
    file: Option<PathBuf>,
    /// Readings that the model was asked for, those from the cache left out.
    pub n_asked: usize,
}

impl<'a> Judge<'a> {
    /// Verdicts in `cache`, a file that need not exist, are not asked for again.
    ///
    /// # Errors
    /// If the cache is there and cannot be read.
    pub fn open(
        generate: &'a dyn Generate,
        rubric: &str,
        limit: Duration,
        cache: Option<&Path>,
    ) -> Result<Self, JudgeError> {
        let kept: Vec<Kept> = match cache {
            Some(file) if file.exists() => match jsonl::read(file) {
                Err(JsonlError::Empty { .. }) => Vec::new(),
                kept => kept?,
            },
            _ => Vec::new(),
        };
        Ok(Self {
            generate,
            rubric: rubric.trim().to_owned(),
            limit,
            cache: kept.into_iter().map(|kept| (kept.key, kept.verdict)).collect(),
            file: cache.map(Path::to_owned),
            n_asked: 0,
        })
    }

    /// SHA-256 of the rubric, to stand beside every figure that comes of it.
    pub fn rubric_hash(&self) -> String {
        hash(&[&self.rubric])
    }

    /// Reads a pair in both orders.
    ///
    /// # Errors
    /// [`JudgeError`]; nothing is guessed for a judge that does not answer.
    pub fn compare(
        &mut self,
        turns: &[Turn],
        first: &str,
        second: &str,
    ) -> Result<Judgement, JudgeError> {
        let shown_first = self.read(turns, first, second)?;
        let shown_second = self.read(turns, second, first)?.swapped();
        Ok(Judgement { shown_first, shown_second })
    }

    fn read(&mut self, turns: &[Turn], a: &str, b: &str) -> Result<Verdict, JudgeError> {
        let prompt = sheet(turns, a, b)?;
        let info = self.generate.model();
        let build = info.build.to_string();
        let key = hash(&[&info.name, &build, &self.rubric, SCHEMA, &prompt]);
        if let Some(verdict) = self.cache.get(&key) {
            return Ok(*verdict);
        }
        let verdict = self.ask(&info.name, prompt)?;
        self.n_asked += 1;
        if let Some(file) = &self.file {
            let kept = Kept {
                key: key.clone(),
                model: info.name,
                build,
                rubric: self.rubric_hash(),
                verdict,
            };
            append(file, &kept)?;
        }
        self.cache.insert(key, verdict);
        Ok(verdict)
    }

    fn ask(&self, model: &str, prompt: String) -> Result<Verdict, JudgeError> {
        let request = Request {
            adapter: AdapterChoice::Default,
            messages: vec![Message::system(self.rubric.as_str()), Message::user(prompt)],
            prompt_form: PromptForm::Conversation,
            mode: Mode::Fast,
            thinking_budget: ThinkingBudget::Medium,
            sampling: Sampling::greedy(),
            max_tokens: 64,
            stop: Vec::new(),
            format: OutputFormat::JsonSchema(SCHEMA.to_owned()),
            tools: Tools::default(),
            caller: Caller::default(),
        };
        let refused = |source| JudgeError::Refused { model: model.to_owned(), source };
        let (sender, events) = mpsc::channel();
        let sink = Box::new(move |event| match sender.send(event) {
            Ok(()) => Reader::Listening,
            Err(_) => Reader::Gone,
        });
        let control = self.generate.start(request, sink).map_err(refused)?;
        let end = Instant::now() + self.limit;
        let mut answer = String::new();
        loop {
            match events.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(Event::Text { text, .. }) => answer.push_str(&text),
                Ok(Event::Finished(_)) => break,
                Ok(Event::Failed(source)) => return Err(refused(source)),
                Ok(Event::Started { .. } | Event::Thought(_) | Event::ToolCall(_)) => {}
                Err(RecvTimeoutError::Timeout) => {
                    control.stop();
                    return Err(JudgeError::Slow { model: model.to_owned(), limit: self.limit });
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(refused(GenerateError::EngineStopped));
                }
            }
        }
        verdict(&answer).ok_or_else(|| JudgeError::Unclear { model: model.to_owned(), answer })
    }
}

fn verdict(answer: &str) -> Option<Verdict> {
    #[derive(Deserialize)]
    struct Said {
        verdict: String,
    }
    let said: Said = serde_json::from_str(answer.trim()).ok()?;
    match said.verdict.as_str() {
        "A" => Some(Verdict::First),
        "B" => Some(Verdict::Second),
        "tie" => Some(Verdict::Tie),
        _ => None,
    }
}

/// What a judge reads: the conversation, and the two replies without names. Lines that a reply could
/// pass off as ours are indented away.
fn sheet(turns: &[Turn], a: &str, b: &str) -> Result<String, JudgeError> {
    let mut sheet = String::from("CONVERSATION\n");
    let mut add = |title: &str, text: &str| {
        let text = text.trim().replace('\n', "\n    ");
        // Writing to a string does not fail.
        let _ = writeln!(sheet, "{title}:\n    {text}");
    };
    for turn in turns {
        match turn.role.as_str() {
            "user" => add("Person", &turn.content),
            "assistant" => add("Assistant", &turn.content),
            "system" => {}
            role => return Err(JudgeError::Role { role: role.to_owned() }),
        }
    }
    add("REPLY A", a);
    add("REPLY B", b);
    sheet.push_str("Which reply would this person rather have received? {\"verdict\": ...}");
    Ok(sheet)
}

fn append(file: &Path, kept: &Kept) -> Result<(), JsonlError> {
    let failed = |source| JsonlError::Io { file: file.to_owned(), source };
    let mut line = serde_json::to_string(kept).map_err(|source| JsonlError::Line {
        file: file.to_owned(),
        line: 0,
        source,
    })?;
    line.push('\n');
    let mut file = OpenOptions::new().create(true).append(true).open(file).map_err(failed)?;
    file.write_all(line.as_bytes()).map_err(failed)
}

/// SHA-256 of the parts, each with its length before it.
fn hash(parts: &[&str]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part.as_bytes());
    }
    digest.finalize().iter().fold(String::new(), |mut hex, byte| {
        // Writing to a string does not fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
