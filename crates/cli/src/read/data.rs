//! Labelled texts from files.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use rapport_persona::TONES;
use rapport_persona::reading::fit::Example;
use rapport_persona::reading::labels::{FEELINGS, NEEDS};
use serde::Deserialize;

/// The text of `name` in `folder`, or of the same with `.gz`, by the system's gzip.
pub(super) fn text(folder: &Path, name: &str) -> anyhow::Result<String> {
    let plain = folder.join(name);
    if plain.is_file() {
        return std::fs::read_to_string(&plain).with_context(|| plain.display().to_string());
    }
    let packed = folder.join(format!("{name}.gz"));
    ensure!(packed.is_file(), "there is neither {} nor {}", plain.display(), packed.display());
    let unpacked =
        Command::new("gzip")
            .arg("-dc")
            .arg(&packed)
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("gzip cannot be run: unpack {} yourself", packed.display()))?;
    ensure!(unpacked.status.success(), "{} cannot be unpacked", packed.display());
    String::from_utf8(unpacked.stdout).with_context(|| packed.display().to_string())
}

/// One split of GoEmotions: `text TAB ids TAB comment`.
pub(super) fn goemotions(folder: &Path, split: &str) -> anyhow::Result<Vec<Example>> {
    let name = format!("{split}.tsv");
    let mut examples = Vec::new();
    for (at, line) in text(folder, &name)?.lines().enumerate() {
        let mut cells = line.split('\t');
        let (Some(text), Some(ids)) = (cells.next(), cells.next()) else {
            bail!("{name}:{}: expected a text, a tab and label ids", at + 1);
        };
        let mut labels = 0;
        for id in ids.split(',') {
            let id: usize = id.parse().with_context(|| format!("{name}:{}: {id:?}", at + 1))?;
            ensure!(id < FEELINGS.len(), "{name}:{}: there is no label {id}", at + 1);
            labels |= 1 << id;
        }
        examples.push(Example { text: text.to_owned(), labels, group: at as u64 });
    }
    Ok(examples)
}

#[derive(Deserialize)]
struct Tags {
    need: String,
    register: String,
    kind: String,
}

#[derive(Deserialize)]
struct Said {
    #[serde(default)]
    role: String,
    content: String,
    thought: Option<String>,
}

/// A conversation, or a pair of which only the better reply is looked at.
#[derive(Deserialize)]
struct Item {
    tags: Tags,
    #[serde(default)]
    messages: Vec<Said>,
    #[serde(default)]
    prompt: Vec<Said>,
    chosen: Option<Said>,
}

#[derive(Deserialize)]
struct RiskLine {
    text: String,
    risk: bool,
}

/// Examples for all heads but that of feelings.
#[derive(Default)]
pub(super) struct Own {
    pub(super) need: Vec<Example>,
    pub(super) risk: Vec<Example>,
    pub(super) formal: Vec<Example>,
    pub(super) tone: Vec<Example>,
}

/// Registers that are written with care; the others are casual.
const FORMAL_REGISTERS: &[&str] = &["polite", "elderly", "plain", "learner"];

/// A number for what belongs together: the first words of a conversation.
pub(super) fn group(text: &str) -> u64 {
    text.to_lowercase()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, b| (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

fn slot<'a>(thought: &'a str, name: &str) -> Option<&'a str> {
    thought.split(" | ").find_map(|slot| slot.strip_prefix(name))
}

fn bit(words: &[&str], word: &str) -> Option<u64> {
    words.iter().position(|known| *known == word).map(|at| 1 << at)
}

fn lines<T: serde::de::DeserializeOwned>(file: &Path) -> anyhow::Result<Vec<T>> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    text.lines()
        .enumerate()
        .map(|(at, line)| {
            serde_json::from_str(line).with_context(|| format!("{}:{}", file.display(), at + 1))
        })
        .collect()
}

/// The `.jsonl` files of folders, and files, in order.
fn files(places: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for place in places {
        if place.is_file() {
            files.push(place.clone());
            continue;
        }
        let folder = std::fs::read_dir(place).with_context(|| place.display().to_string())?;
        let mut found: Vec<PathBuf> =
            folder.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
        found.retain(|file| file.extension().is_some_and(|end| end == "jsonl"));
        ensure!(!found.is_empty(), "{} has no .jsonl file", place.display());
        found.sort();
        files.extend(found);
    }
    Ok(files)
}

pub(super) fn own(conversations: &[PathBuf], risk: &[PathBuf]) -> anyhow::Result<Own> {
    let mut own = Own::default();
    for file in files(risk)? {
        own.risk.extend(lines::<RiskLine>(&file)?.into_iter().map(|line| Example {
            labels: u64::from(line.risk),
            group: group(&line.text),
            text: line.text,
        }));
    }
    for file in files(conversations)? {
        for mut item in lines::<Item>(&file)? {
            let mut messages = std::mem::take(&mut item.messages);
            messages.append(&mut item.prompt);
            messages.extend(
                item.chosen.take().map(|said| Said { role: "assistant".to_owned(), ..said }),
            );
            own.add(&item.tags, &messages);
        }
    }
    Ok(own)
}

impl Own {
    fn add(&mut self, tags: &Tags, messages: &[Said]) {
        let Some(first) = messages.iter().find(|said| said.role == "user") else { return };
        let group = group(&first.content);
        let example = |text: &str, labels| Example { text: text.to_owned(), labels, group };
        // A line of its own says better than a tag what a message is.
        if !self.risk.iter().any(|line| line.group == group) {
            self.risk.push(example(&first.content, u64::from(tags.kind == "crisis")));
        }
        for (at, said) in messages.iter().enumerate() {
            if said.role == "user" {
                let formal = FORMAL_REGISTERS.contains(&tags.register.as_str());
                self.formal.push(example(&said.content, u64::from(formal)));
                // The thought is of this turn; the tag is of the conversation, and of its first turn.
                let thought = messages.get(at + 1).and_then(|reply| reply.thought.as_deref());
                let need = thought
                    .and_then(|thought| slot(thought, "need: "))
                    .or((at == 0).then_some(tags.need.as_str()));
                if let Some(bit) = need.and_then(|need| bit(&NEEDS, need)) {
                    self.need.push(example(&said.content, bit));
                }
            } else if let Some(tone) = said.thought.as_deref().and_then(|t| slot(t, "tone: "))
                && let Some(bit) = bit(TONES, tone)
            {
                self.tone.push(example(&said.content, bit));
            }
        }
    }
}

/// A development prompt: its kind and the last message of the person.
pub(super) struct Prompt {
    pub(super) kind: String,
    pub(super) text: String,
}

#[derive(Deserialize)]
struct PromptLine {
    kind: String,
    messages: Vec<Said>,
}

pub(super) fn prompts(file: &Path) -> anyhow::Result<Vec<Prompt>> {
    let lines: Vec<PromptLine> = lines(file)?;
    Ok(lines
        .into_iter()
        .filter_map(|line| {
            let text = line.messages.into_iter().rfind(|said| said.role == "user")?.content;
            Some(Prompt { kind: line.kind, text })
        })
        .collect())
}
