//! `rapport read`: what a message says of its writer; how the reader learns; how right it is.

mod asked;
mod data;
mod eval;
mod mode;
mod train;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, ensure};
use clap::{Args, Subcommand, ValueEnum};
use rapport_local::{AutoMode, WordRule};
use rapport_persona::reading::{
    Basis, Likely, Reader, Reading, crisis_answers, crisis_guidance, language_of,
};
use serde_json::json;

use mode::ReadingMode;

/// Whether messages are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReadingSwitch {
    #[default]
    On,
    Off,
}

impl ReadingSwitch {
    /// What decides where a request leaves its mode open.
    pub(crate) fn auto_mode(self) -> Arc<dyn AutoMode> {
        match self {
            Self::On => Arc::new(ReadingMode(Reader::builtin())),
            Self::Off => Arc::new(WordRule),
        }
    }

    /// What a model is told where a message speaks of danger.
    pub(crate) fn guidance(self, message: &str) -> Option<&'static str> {
        let is_cue = self == Self::On && Reader::builtin().read(message).risk.is_cue;
        is_cue.then(|| crisis_guidance(language_of(message)))
    }
}

/// A model whose file is smaller is not trusted to find words for somebody in danger.
const TRUSTED_BYTES: u64 = 1_000_000_000;

/// Whether words that people wrote are said for a model, where a message speaks of danger; they are
/// where its size cannot be told.
pub(crate) fn needs_written_answers(gguf: &Path) -> bool {
    !gguf.metadata().is_ok_and(|metadata| metadata.len() >= TRUSTED_BYTES)
}

/// An expression for one of the written answers to a message that speaks of danger.
pub(crate) fn written_answers(message: &str) -> String {
    let escaped = crisis_answers(language_of(message)).iter().map(|answer| {
        let escape = |letter: char| {
            let is_special = r"\.+*?()|[]{}^$".contains(letter);
            is_special.then_some('\\').into_iter().chain([letter])
        };
        answer.chars().flat_map(escape).collect::<String>()
    });
    escaped.collect::<Vec<_>>().join("|")
}

impl FromStr for ReadingSwitch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        <Self as ValueEnum>::from_str(text, false)
            .map_err(|_| format!("`{text}` is neither on nor off"))
    }
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct ReadCommand {
    #[command(subcommand)]
    command: Option<ReadSubcommand>,
    /// The message [default: what comes through a pipe]
    text: Option<String>,
    /// It is a reply: read its tone
    #[arg(long)]
    reply: bool,
    /// For programs
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum ReadSubcommand {
    /// Learn from labelled texts, by a recipe
    Train(TrainOptions),
    /// Learn what an input filter refuses, from lines of `{"text": "...", "labels": ["..."]}`
    TrainAsked(TrainAskedOptions),
    /// Measure on labelled texts: feelings, calibration, need, danger, mode, speed
    Eval(EvalOptions),
}

#[derive(Debug, Args)]
struct TrainOptions {
    recipe: PathBuf,
    /// The folder with GoEmotions' train.tsv, dev.tsv and test.tsv, or those as .gz
    #[arg(long, value_name = "DIR")]
    goemotions: PathBuf,
    /// Where reader.bin and card.json go
    #[arg(long, default_value = "models/reader")]
    out: PathBuf,
    /// Compute threads; the file does not depend on them
    #[arg(long, default_value = "1")]
    threads: usize,
}

#[derive(Debug, Args)]
struct TrainAskedOptions {
    /// Lines of JSON; those without labels are what must not be refused
    data: PathBuf,
    /// The file for `rapport serve --input-filter`
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The share of each label that must be found; without it thresholds have the best F1
    #[arg(long)]
    recall: Option<f32>,
    /// Compute threads; the file does not depend on them
    #[arg(long, default_value = "1")]
    threads: usize,
}

#[derive(Debug, Args)]
struct EvalOptions {
    /// A folder of data sets: goemotions/, and if they are there emobank/ and
    /// emotional-persuasion-ja/
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Development prompts of this project
    #[arg(long, default_value = "data/dev/prompts.jsonl")]
    prompts: PathBuf,
    /// A reader's file [default: the one that comes along]
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// The split of GoEmotions: choices are made on dev, test is looked at last
    #[arg(long, default_value = "test")]
    split: String,
}

pub(crate) fn run(command: ReadCommand, out: &mut impl Write) -> anyhow::Result<()> {
    match command.command {
        Some(ReadSubcommand::Train(options)) => train::run(&options, out),
        Some(ReadSubcommand::TrainAsked(options)) => asked::run(&options, out),
        Some(ReadSubcommand::Eval(options)) => eval::run(&options, out),
        None => {
            let text = match command.text {
                Some(text) => text,
                None => from_pipe()?,
            };
            let reader = Reader::builtin();
            if command.reply {
                return show_tone(reader, &text, command.json, out);
            }
            let reading = reader.read(&text);
            if command.json {
                let mut value = serde_json::to_value(&reading)?;
                value["reader"] = json!(reader.version());
                writeln!(out, "{value}")?;
            } else {
                show(&reading, out)?;
            }
            Ok(())
        }
    }
}

fn from_pipe() -> anyhow::Result<String> {
    use std::io::IsTerminal;
    let mut input = std::io::stdin();
    ensure!(!input.is_terminal(), "say what to read: rapport read \"TEXT\"");
    let mut text = String::new();
    input.read_to_string(&mut text).context("the message cannot be read")?;
    Ok(text)
}

fn row(name: &str, likely: &[Likely], out: &mut impl Write) -> std::io::Result<()> {
    let shown: Vec<String> = likely
        .iter()
        .take(4)
        .map(|likely| format!("{} {:.0} %", likely.label, 100.0 * likely.probability))
        .collect();
    writeln!(out, "{name:<10} {}", if shown.is_empty() { "-".to_owned() } else { shown.join(", ") })
}

fn show(reading: &Reading, out: &mut impl Write) -> anyhow::Result<()> {
    match reading.basis {
        Basis::Trained => {}
        Basis::Lexicon => {
            writeln!(out, "read by lists of words alone: what is missing may be there")?;
        }
        Basis::None => {
            writeln!(out, "not read: only English, and Japanese by lists of words")?;
            return Ok(());
        }
    }
    row("feeling", &reading.feelings, out)?;
    writeln!(out, "{:<10} {:.2} of 1", "intensity", reading.intensity)?;
    row("need", &reading.needs, out)?;
    let cue = if reading.risk.is_cue { ": answer this first" } else { "" };
    writeln!(out, "{:<10} {:.0} %{cue}", "danger", 100.0 * reading.risk.probability)?;
    if let Some(formality) = reading.formality {
        writeln!(out, "{:<10} {formality:.2} of 1", "formality")?;
    }
    Ok(())
}

fn show_tone(
    reader: &Reader,
    text: &str,
    is_json: bool,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let tones = reader.tone(text);
    if is_json {
        writeln!(out, "{}", json!({ "tones": tones, "reader": reader.version() }))?;
    } else {
        row("tone", &tones, out)?;
    }
    Ok(())
}
