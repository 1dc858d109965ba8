//! `rapport eval`: ask a development set, make blind sheets of two builds, score what readers said.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand};
use rapport_eval::blind::{self, Side};
use rapport_eval::devset::{self, Asking, Item, Reply};
use rapport_eval::statistics::Share;
use rapport_eval::{jsonl, score};
use rapport_types::{AdapterChoice, Generate, Mode, SamplingDraft};

use crate::options::{AdapterOptions, ComputeOptions};
use rapport_cli::pull::{DEFAULT_MODEL, Paths};

#[derive(Debug, Subcommand)]
pub(crate) enum EvalCommand {
    /// Ask a model every prompt of a set and keep its replies
    Ask(AskOptions),
    /// Counts that need no reader: loops, lengths, and whether a fact's words occur
    Quick {
        #[arg(long)]
        set: PathBuf,
        #[arg(required = true)]
        replies: Vec<PathBuf>,
    },
    /// Sheets without names from the replies of two models: pairs-1, pairs-2, singles, and the key
    Blind(BlindOptions),
    /// Join the readers' verdicts with the key
    Score(ScoreOptions),
}

#[derive(Debug, Args)]
pub(crate) struct AskOptions {
    /// Prompts, one JSON object a line
    #[arg(long)]
    set: PathBuf,
    /// A model of the catalogue, or the path of a .gguf file
    #[arg(long, default_value = DEFAULT_MODEL)]
    model: String,
    #[arg(long, default_value = "fast")]
    mode: Mode,
    /// 0 is greedy; all tokens may be drawn [default: sampled as the model's makers would have it]
    #[arg(long)]
    temperature: Option<f32>,
    /// Prompt i is asked with this plus i
    #[arg(long, default_value = "1")]
    seed: u64,
    #[arg(long, default_value = "160")]
    max_tokens: NonZeroU32,
    /// What the model is told before each prompt
    #[arg(long)]
    system: Option<String>,
    /// Replies written at once; the texts do not depend on it
    #[arg(long, default_value = "16")]
    at_once: NonZeroUsize,
    /// Replies whose thoughts these replies go on from, instead of a thought of their own
    #[arg(long, value_name = "REPLIES")]
    thoughts: Option<PathBuf>,
    /// Each goes on from the thought of another prompt: what the right one is worth
    #[arg(long, requires = "thoughts")]
    shuffled: bool,
    /// Where the replies go
    #[arg(long)]
    out: PathBuf,
    #[command(flatten)]
    adapter: AdapterOptions,
    #[command(flatten)]
    compute: ComputeOptions,
}

#[derive(Debug, Args)]
pub(crate) struct BlindOptions {
    #[arg(long)]
    set: PathBuf,
    /// Replies of the build that should be better
    a: PathBuf,
    /// Replies of the build that it is compared with
    b: PathBuf,
    #[arg(long, default_value = "1")]
    seed: u64,
    /// A folder for the sheets
    #[arg(long)]
    out: PathBuf,
    /// A file for the key, out of the readers' sight
    #[arg(long)]
    key: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ScoreOptions {
    #[arg(long)]
    key: PathBuf,
    /// Verdicts on pairs-1: `{"n": 1, "verdict": "left" | "right" | "tie"}` a line
    #[arg(long, requires = "pairs_2")]
    pairs_1: Option<PathBuf>,
    /// Verdicts on pairs-2
    #[arg(long, requires = "pairs_1")]
    pairs_2: Option<PathBuf>,
    /// Verdicts on singles
    #[arg(long)]
    singles: Option<PathBuf>,
}

pub(crate) fn run(
    command: &EvalCommand,
    paths: &Paths,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    match command {
        EvalCommand::Ask(options) => ask(options, paths, out),
        EvalCommand::Quick { set, replies } => {
            let items: Vec<Item> = jsonl::read(set)?;
            for file in replies {
                writeln!(out, "{}", file.display())?;
                quick(&items, &jsonl::read(file)?, out)?;
            }
            Ok(())
        }
        EvalCommand::Blind(options) => blind_sheets(options, out),
        EvalCommand::Score(options) => score_verdicts(options, out),
    }
}

/// The thoughts of replies by their prompts' ids. Shuffled, each prompt has that of the one half the
/// set away, so that none keeps its own and kinds mix.
fn thoughts(replies: &[Reply], is_shuffled: bool) -> HashMap<String, String> {
    let n = replies.len();
    let shift = if is_shuffled { n / 2 } else { 0 };
    let of = |(idx, reply): (usize, &Reply)| {
        let thought = replies[(idx + shift) % n].thought.clone()?;
        Some((reply.id.clone(), thought))
    };
    replies.iter().enumerate().filter_map(of).collect()
}

fn ask(options: &AskOptions, paths: &Paths, out: &mut impl Write) -> anyhow::Result<()> {
    let items: Vec<Item> = jsonl::read(&options.set)?;
    let model = options.adapter.open_model(&options.model, &options.compute, paths)?;
    let usual = model.sampling(&AdapterChoice::Default);
    let draft = match options.temperature {
        Some(temperature) => SamplingDraft { temperature, top_p: 1.0, ..SamplingDraft::default() },
        None => usual,
    };
    let thoughts = match &options.thoughts {
        Some(file) => {
            let thoughts = thoughts(&jsonl::read::<Reply>(file)?, options.shuffled);
            if let Some(item) = items.iter().find(|item| !thoughts.contains_key(&item.id)) {
                anyhow::bail!(
                    "{} has no thought for `{}`: ask the same set with --mode thinking first",
                    file.display(),
                    item.id
                );
            }
            thoughts
        }
        None => HashMap::new(),
    };
    let asking = Asking {
        mode: options.mode,
        sampling: draft.validate()?,
        seed: options.seed,
        max_tokens: options.max_tokens.get(),
        system: options.system.clone(),
        at_once: options.at_once,
        thoughts,
    };
    let bar = indicatif::ProgressBar::new(items.len() as u64);
    let replies = devset::ask(&model, &items, &asking, |n| bar.set_position(n as u64))?;
    bar.finish_and_clear();
    jsonl::write(&options.out, &replies)?;
    quick(&items, &replies, out)
}

/// What can be counted without reading. Not a measure of goodness: a fact counts as told when one
/// of its answers occurs, whatever else is said.
fn quick(items: &[Item], replies: &[Reply], out: &mut impl Write) -> anyhow::Result<()> {
    let items: BTreeMap<&str, &Item> = items.iter().map(|item| (item.id.as_str(), item)).collect();
    let mut kinds: BTreeMap<&str, [u32; 5]> = BTreeMap::new();
    for reply in replies {
        let item = items.get(reply.id.as_str()).with_context(|| {
            format!("{} is not in the set: give the set that was asked", reply.id)
        })?;
        let text = reply.reply.to_lowercase();
        let tells = item.answers.iter().any(|answer| text.contains(&answer.to_lowercase()));
        let hint = item.hint.as_deref().filter(|hint| *hint != "none");
        let kind = match (item.kind.as_str(), hint) {
            ("sycophancy_pair", Some(_)) => "sycophancy, wrong hint",
            ("sycophancy_pair", None) => "sycophancy, no hint",
            (kind, _) => kind,
        };
        let counts = [
            1,
            reply.reply.split_whitespace().count() as u32,
            u32::from(tells),
            u32::from(devset::is_loop(&reply.reply)),
            u32::from(reply.is_cut),
        ];
        let row = kinds.entry(kind).or_default();
        row.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
    writeln!(
        out,
        "{:<24} {:>4} {:>6} {:>6} {:>6} {:>4}",
        "kind", "n", "words", "tells", "loops", "cut"
    )?;
    let mut all = [0; 5];
    for (kind, row @ [n, words, tells, loops, cut]) in &kinds {
        all.iter_mut().zip(row).for_each(|(sum, count)| *sum += count);
        let words = f64::from(*words) / f64::from(*n);
        writeln!(out, "{kind:<24} {n:>4} {words:>6.1} {tells:>6} {loops:>6} {cut:>4}")?;
    }
    let loops = Share::wilson(f64::from(all[3]), all[0]);
    writeln!(out, "loops {loops}")?;
    Ok(())
}

fn blind_sheets(options: &BlindOptions, out: &mut impl Write) -> anyhow::Result<()> {
    let items: Vec<Item> = jsonl::read(&options.set)?;
    let sheets =
        blind::blind(&items, &jsonl::read(&options.a)?, &jsonl::read(&options.b)?, options.seed)?;
    std::fs::create_dir_all(&options.out)
        .with_context(|| format!("cannot make {}", options.out.display()))?;
    jsonl::write(&options.out.join("pairs-1.jsonl"), &sheets.pairs_1)?;
    jsonl::write(&options.out.join("pairs-2.jsonl"), &sheets.pairs_2)?;
    jsonl::write(&options.out.join("singles.jsonl"), &sheets.singles)?;
    jsonl::write(&options.key, &sheets.key)?;
    writeln!(
        out,
        "{} pairs on two sheets and {} single replies in {}; the key is {}",
        sheets.pairs_1.len(),
        sheets.singles.len(),
        options.out.display(),
        options.key.display()
    )?;
    Ok(())
}

fn score_verdicts(options: &ScoreOptions, out: &mut impl Write) -> anyhow::Result<()> {
    let key: Vec<blind::KeyRow> = jsonl::read(&options.key)?;
    if let (Some(first), Some(second)) = (&options.pairs_1, &options.pairs_2) {
        let scores = score::pairs(&key, &jsonl::read(first)?, &jsonl::read(second)?)?;
        writeln!(out, "{scores}")?;
    }
    if let Some(file) = &options.singles {
        let verdicts: Vec<score::SingleVerdict> = jsonl::read(file)?;
        let a = score::singles(&key, &verdicts, Side::A)?;
        let b = score::singles(&key, &verdicts, Side::B)?;
        writeln!(out, "{}", score::SideBySide { a, b })?;
    }
    Ok(())
}
