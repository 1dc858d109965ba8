//! `rapport reward`: what replies are worth, to read, to prove and to train with.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::{Args, Subcommand, ValueEnum};
use rapport_eval::devset::{self, Item};
use rapport_eval::jsonl;
use rapport_eval::judge::{Judge, RUBRIC, Verdict};
use rapport_eval::preference::{Compared, Row, agreement};
use rapport_eval::statistics::Share;
use rapport_persona::reading::Reader;
use rapport_persona::rewards::{Case, Component, Reading, Rewards, Scores, Turn, Weights, gdpo};
use rapport_server::{ReplyScores, RewardServer, Sample, ScoreReplies};
use rapport_types::{Message, Role};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::options::{AdapterOptions, ComputeOptions};
use crate::serve;
use rapport_cli::pull::{DEFAULT_MODEL, Paths};

#[derive(Debug, Subcommand)]
pub(crate) enum RewardCommand {
    /// The components and how much each counts
    List,
    /// What replies are worth, part by part: a table, or JSON
    Score(ScoreOptions),
    /// How often the reward prefers the better reply of preference pairs
    Eval(EvalOptions),
    /// Let a model compare the replies of preference pairs, each in both orders
    Judge(JudgeOptions),
    /// Serve rewards to trainers: OpenRLHF's protocol, and the Python clients' for TRL and verl
    Serve(ServeOptions),
}

/// What counts how much.
#[derive(Clone, Debug, Args)]
pub(crate) struct WeightOptions {
    /// Change a component's weight; 0 leaves it out
    #[arg(long = "weight", value_name = "NAME=NUMBER")]
    weights: Vec<String>,
}

impl WeightOptions {
    fn weights(&self) -> anyhow::Result<Weights> {
        self.weights.iter().try_fold(Weights::default(), |weights, text| {
            let (name, number) =
                text.split_once('=').with_context(|| format!("`{text}`: write NAME=NUMBER"))?;
            let number: f64 =
                number.parse().with_context(|| format!("`{text}`: `{number}` is no number"))?;
            ensure!(number.is_finite() && number >= 0.0, "`{text}`: a weight is 0 or more");
            Ok(weights.with(name.parse()?, number))
        })
    }
}

#[derive(Debug, Args)]
pub(crate) struct ScoreOptions {
    /// One JSON object a line: `messages` and `reply`, and where known `tags` (feeling, need, kind)
    /// and `answers`; or what `rapport eval ask` wrote
    #[arg(long)]
    file: PathBuf,
    /// The prompts of what `rapport eval ask` wrote
    #[arg(long)]
    set: Option<PathBuf>,
    /// For programs: one object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    weights: WeightOptions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Half {
    /// Pairs that the components were written against: the first digit of SHA-256 of the id is even
    Seen,
    /// Pairs that were kept apart while they were: it is odd
    Unseen,
}

/// What is known about the prompts of pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Knows {
    /// The tags of the data
    Tags,
    /// What the reader of messages says
    Read,
    Nothing,
}

#[derive(Debug, Args)]
pub(crate) struct EvalOptions {
    /// Files of pairs, or folders of them
    #[arg(required = true)]
    pairs: Vec<PathBuf>,
    /// Only half of the pairs, by a hash of their ids
    #[arg(long)]
    half: Option<Half>,
    /// What is known about the prompts
    #[arg(long, value_name = "WHAT", default_value = "tags")]
    knows: Knows,
    /// Another reader than the one that comes along, as `rapport read train` writes it
    #[arg(long, value_name = "FILE")]
    reader: Option<PathBuf>,
    /// For programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    weights: WeightOptions,
}

#[derive(Debug, Args)]
pub(crate) struct JudgeOptions {
    /// Files of pairs, or folders of them
    #[arg(required = true)]
    pairs: Vec<PathBuf>,
    /// The judge: a model of the catalogue, or the path of a .gguf file
    #[arg(long, default_value = DEFAULT_MODEL)]
    model: String,
    /// What the judge is told, instead of the rubric that comes along
    #[arg(long)]
    rubric: Option<PathBuf>,
    /// Where verdicts are kept, so that none is asked for twice
    #[arg(long, default_value = "verdicts.jsonl")]
    cache: PathBuf,
    /// Seconds that one reading may take
    #[arg(long, default_value = "120")]
    seconds: u64,
    /// Only so many pairs, spread over the whole
    #[arg(long)]
    most: Option<usize>,
    #[command(flatten)]
    adapter: AdapterOptions,
    #[command(flatten)]
    compute: ComputeOptions,
}

#[derive(Debug, Args)]
pub(crate) struct ServeOptions {
    /// The address to listen on; port 0 takes any that is free. There is no key: whoever reaches it
    /// can ask
    #[arg(long, default_value = "127.0.0.1:8460")]
    listen: SocketAddr,
    #[command(flatten)]
    weights: WeightOptions,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Tags {
    feeling: Option<String>,
    need: Option<String>,
    kind: Option<String>,
}

#[derive(Debug, Deserialize)]
struct PairLine {
    id: String,
    tags: Tags,
    prompt: Vec<devset::Turn>,
    chosen: ReplyText,
    rejected: ReplyText,
    why: String,
}

#[derive(Debug, Deserialize)]
struct ReplyText {
    content: String,
}

/// A line to score, in either form.
#[derive(Debug, Deserialize)]
struct ReplyLine {
    id: Option<String>,
    #[serde(alias = "prompt")]
    messages: Option<Vec<devset::Turn>>,
    reply: String,
    #[serde(default)]
    tags: Tags,
    kind: Option<String>,
    #[serde(default)]
    answers: Vec<String>,
}

pub(crate) fn run(
    command: &RewardCommand,
    paths: &Paths,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    match command {
        RewardCommand::List => {
            let weights = Weights::default();
            writeln!(out, "{:<14} {:>6}", "component", "weight")?;
            for component in Component::ALL {
                writeln!(out, "{component:<14} {:>6.2}", weights.of(component))?;
            }
            writeln!(
                out,
                "behind the gates safety and honesty; docs/rewards.md says what each sees"
            )?;
            Ok(())
        }
        RewardCommand::Score(options) => score(options, out),
        RewardCommand::Eval(options) => eval(options, out),
        RewardCommand::Judge(options) => judge(options, paths, out),
        RewardCommand::Serve(options) => serve(options),
    }
}

fn turns(messages: &[devset::Turn]) -> Vec<Turn> {
    messages
        .iter()
        .filter_map(|message| match message.role.as_str() {
            "user" => Some(Turn::user(message.content.as_str())),
            "assistant" => Some(Turn::assistant(message.content.as_str())),
            _ => None,
        })
        .collect()
}

/// Every component of a reply to a conversation; what labels do not tell is read.
pub(crate) fn scores(messages: &[Message], reply: &str, labels: Reading) -> Scores {
    let turns: Vec<Turn> = messages
        .iter()
        .filter_map(|message| match message.role {
            Role::User => Some(Turn::user(message.content.as_str())),
            Role::Assistant => Some(Turn::assistant(message.content.as_str())),
            Role::System | Role::Tool => None,
        })
        .collect();
    let reading = labels.or_read(Reader::builtin(), &turns);
    Rewards::score(&Case { turns: &turns, reply, reading: &reading })
}

fn labels(tags: &Tags, answers: &[String]) -> Reading {
    Reading {
        answers: answers.to_vec(),
        ..Reading::of_tags(tags.feeling.as_deref(), tags.need.as_deref(), tags.kind.as_deref())
    }
}

/// A reply with its scores, and what it is worth among the other replies to its prompt.
struct Scored {
    id: String,
    scores: Scores,
    advantage: Option<f64>,
}

fn score(options: &ScoreOptions, out: &mut impl Write) -> anyhow::Result<()> {
    let weights = options.weights.weights()?;
    let lines: Vec<ReplyLine> = jsonl::read(&options.file)?;
    let items: Vec<Item> = options.set.as_deref().map(jsonl::read).transpose()?.unwrap_or_default();
    let items: BTreeMap<&str, &Item> = items.iter().map(|item| (item.id.as_str(), item)).collect();
    let mut groups: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    let mut scored = Vec::with_capacity(lines.len());
    for (idx, line) in lines.iter().enumerate() {
        let item = line.id.as_deref().and_then(|id| items.get(id));
        let messages = line.messages.as_deref().or(item.map(|item| item.messages.as_slice()));
        let messages = messages.with_context(|| {
            format!(
                "{}, line {}: there are no `messages`: give them, or the prompts by --set",
                options.file.display(),
                idx + 1
            )
        })?;
        let kind = line.tags.kind.clone().or(line.kind.clone());
        let tags = Tags { kind, ..line.tags.clone() };
        let answers = item.map_or(line.answers.as_slice(), |item| item.answers.as_slice());
        let turns = turns(messages);
        let reading = labels(&tags, answers).or_read(Reader::builtin(), &turns);
        let case = Case { turns: &turns, reply: &line.reply, reading: &reading };
        let prompt: Vec<_> = messages.iter().map(|turn| (&turn.role, &turn.content)).collect();
        groups.entry(format!("{prompt:?}")).or_default().push(idx);
        let id = line.id.clone().unwrap_or_else(|| format!("line {}", idx + 1));
        scored.push(Scored { id, scores: Rewards::score(&case), advantage: None });
    }
    for group in groups.values().filter(|group| group.len() > 1) {
        let scores: Vec<Scores> = group.iter().map(|idx| scored[*idx].scores.clone()).collect();
        for (idx, advantage) in group.iter().zip(gdpo(&scores, &weights)) {
            scored[*idx].advantage = Some(advantage);
        }
    }
    if options.json {
        for row in &scored {
            writeln!(out, "{}", as_json(row, &weights))?;
        }
        return Ok(());
    }
    table(&scored, &weights, out)
}

fn as_json(row: &Scored, weights: &Weights) -> Value {
    let components: Map<String, Value> = Component::ALL
        .into_iter()
        .map(|component| (component.name().to_owned(), json!(row.scores.raw(component))))
        .collect();
    json!({
        "id": row.id,
        "reward": row.scores.total(weights),
        "failed": row.scores.failed.map(rapport_persona::rewards::Gate::name),
        "advantage": row.advantage,
        "components": components,
    })
}

fn table(rows: &[Scored], weights: &Weights, out: &mut impl Write) -> anyhow::Result<()> {
    let heads = ["reads", "tone", "style", "char", "spec", "rep", "len", "form", "honest", "flat"];
    write!(out, "{:<14} {:>6} {:>8} {:>6}", "id", "reward", "gate", "group")?;
    for head in heads {
        write!(out, " {head:>6}")?;
    }
    writeln!(out)?;
    for row in rows {
        let gate = row.scores.failed.map_or("-", rapport_persona::rewards::Gate::name);
        let advantage = row.advantage.map_or("-".to_owned(), |value| format!("{value:.2}"));
        let total = row.scores.total(weights);
        write!(out, "{:<14} {total:>6.3} {gate:>8} {advantage:>6}", row.id)?;
        for component in Component::ALL {
            match row.scores.raw(component) {
                Some(value) => write!(out, " {value:>6.2}")?,
                None => write!(out, " {:>6}", "-")?,
            }
        }
        writeln!(out)?;
    }
    let total: f64 = rows.iter().map(|row| row.scores.total(weights)).sum();
    writeln!(out, "mean {:.3} of {}", total / rows.len().max(1) as f64, rows.len())?;
    Ok(())
}

/// The pairs of files and of the `.jsonl` files in folders, in the order of their names.
fn read_pairs(paths: &[PathBuf]) -> anyhow::Result<Vec<PairLine>> {
    let mut pairs = Vec::new();
    for path in paths {
        for file in files(path)? {
            pairs.extend(jsonl::read::<PairLine>(&file)?);
        }
    }
    Ok(pairs)
}

fn files(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let folder = std::fs::read_dir(path).with_context(|| path.display().to_string())?;
    let mut files = folder.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    files.retain(|file| file.extension().is_some_and(|end| end == "jsonl"));
    files.sort();
    ensure!(!files.is_empty(), "{} has no .jsonl files", path.display());
    Ok(files)
}

/// By the first hexadecimal digit of a hash of the id, so that it never depends on order or number.
fn is_of(half: Half, id: &str) -> bool {
    let is_seen = (Sha256::digest(id)[0] >> 4).is_multiple_of(2);
    is_seen == (half == Half::Seen)
}

fn n_words(text: &str) -> usize {
    text.split_whitespace().count()
}

fn eval(options: &EvalOptions, out: &mut impl Write) -> anyhow::Result<()> {
    let weights = options.weights.weights()?;
    let mut pairs = read_pairs(&options.pairs)?;
    if let Some(half) = options.half {
        pairs.retain(|pair| is_of(half, &pair.id));
    }
    ensure!(!pairs.is_empty(), "there are no pairs in this half");
    let mut compared = Vec::with_capacity(pairs.len());
    // Of each component: pairs to which it applies on both sides, those it decides, and rightly.
    let mut parts = [[0_u32; 3]; Component::ALL.len()];
    let mut n_gated = [0_u32; 2];
    let other = options.reader.as_deref().map(open_reader).transpose()?;
    let reader = other.as_ref().unwrap_or_else(|| Reader::builtin());
    for pair in &pairs {
        let turns = turns(&pair.prompt);
        let reading = match options.knows {
            Knows::Tags => labels(&pair.tags, &[]),
            Knows::Read => Reading::default().or_read(reader, &turns),
            Knows::Nothing => Reading::default(),
        };
        let scores = [&pair.chosen, &pair.rejected].map(|reply| {
            Rewards::score(&Case { turns: &turns, reply: &reply.content, reading: &reading })
        });
        for (n_gated, scores) in n_gated.iter_mut().zip(&scores) {
            *n_gated += u32::from(scores.failed.is_some());
        }
        for (part, component) in parts.iter_mut().zip(Component::ALL) {
            if let [Some(chosen), Some(rejected)] = [0, 1].map(|side| scores[side].raw(component)) {
                part[0] += 1;
                part[1] += u32::from((chosen - rejected).abs() > 1e-9);
                part[2] += u32::from(chosen - rejected > 1e-9);
            }
        }
        compared.push(Compared {
            fault: pair.why.clone(),
            kind: pair.tags.kind.clone().unwrap_or_default(),
            chosen: scores[0].total(&weights),
            rejected: scores[1].total(&weights),
            chosen_words: n_words(&pair.chosen.content),
            rejected_words: n_words(&pair.rejected.content),
        });
    }
    let rows = agreement(&compared);
    if options.json {
        let rows: Vec<Value> = rows.iter().map(row_json).collect();
        let parts: Map<String, Value> = Component::ALL
            .into_iter()
            .zip(parts)
            .map(|(component, [applies, decides, right])| {
                let counts = json!({ "applies": applies, "decides": decides, "right": right });
                (component.name().to_owned(), counts)
            })
            .collect();
        let gated = json!({ "chosen": n_gated[0], "rejected": n_gated[1] });
        writeln!(out, "{}", json!({ "rows": rows, "components": parts, "gated": gated }))?;
        return Ok(());
    }
    writeln!(out, "the better reply scored higher (ties half, 95 % intervals)")?;
    for Row { name, share, n_ties } in &rows {
        writeln!(out, "{name:<34} {share}, {n_ties} ties")?;
    }
    writeln!(out, "\neach component alone, where it decides")?;
    for (component, [applies, decides, right]) in Component::ALL.into_iter().zip(parts) {
        let share = Share::wilson(f64::from(right), decides);
        writeln!(out, "{component:<14} {share} of {applies} to which it applies")?;
    }
    writeln!(out, "gates closed on {} better and {} worse replies", n_gated[0], n_gated[1])?;
    Ok(())
}

fn open_reader(file: &Path) -> anyhow::Result<Reader> {
    let bytes = std::fs::read(file).with_context(|| file.display().to_string())?;
    Reader::from_bytes(&bytes).with_context(|| file.display().to_string())
}

fn row_json(row: &Row) -> Value {
    json!({
        "name": row.name,
        "n": row.share.n,
        "share": row.share.share(),
        "low": row.share.low,
        "high": row.share.high,
        "ties": row.n_ties,
    })
}

fn judge(options: &JudgeOptions, paths: &Paths, out: &mut impl Write) -> anyhow::Result<()> {
    let mut pairs = read_pairs(&options.pairs)?;
    if let Some(most) = options.most.filter(|most| *most < pairs.len()) {
        let n_pairs = pairs.len();
        let mut idx = 0;
        pairs.retain(|_| {
            idx += 1;
            idx * most / n_pairs != (idx - 1) * most / n_pairs
        });
    }
    let rubric = match &options.rubric {
        Some(file) => std::fs::read_to_string(file).with_context(|| file.display().to_string())?,
        None => RUBRIC.to_owned(),
    };
    let model = options.adapter.open_model(&options.model, &options.compute, paths)?;
    let limit = Duration::from_secs(options.seconds);
    let mut judge = Judge::open(&model, &rubric, limit, Some(&options.cache))?;
    let bar = indicatif::ProgressBar::new(pairs.len() as u64);
    let [mut n_right, mut n_wrong, mut n_ties, mut n_agree, mut n_first] = [0_u32; 5];
    for pair in &pairs {
        let found = judge.compare(&pair.prompt, &pair.chosen.content, &pair.rejected.content)?;
        match found.verdict() {
            Verdict::First => n_right += 1,
            Verdict::Second => n_wrong += 1,
            Verdict::Tie => n_ties += 1,
        }
        n_agree += u32::from(found.agrees());
        n_first += u32::from(found.shown_first == Verdict::First)
            + u32::from(found.shown_second == Verdict::Second);
        bar.inc(1);
    }
    bar.finish_and_clear();
    let n = pairs.len() as u32;
    let share = Share::wilson(f64::from(n_right) + 0.5 * f64::from(n_ties), n);
    writeln!(out, "prefers the better reply: {share} (ties half)")?;
    writeln!(out, "right {n_right}, wrong {n_wrong}, ties {n_ties}")?;
    writeln!(out, "both orders agree: {}", Share::wilson(f64::from(n_agree), n))?;
    writeln!(out, "names the first side: {}", Share::wilson(f64::from(n_first), 2 * n))?;
    writeln!(
        out,
        "judge {}, rubric {}, {} readings asked, the others from {}",
        options.model,
        &judge.rubric_hash()[..12],
        judge.n_asked,
        options.cache.display()
    )?;
    Ok(())
}

/// The components behind HTTP.
struct Scorer {
    weights: Weights,
}

impl ScoreReplies for Scorer {
    fn names(&self) -> Vec<&'static str> {
        Component::ALL.map(Component::name).to_vec()
    }

    fn score(&self, sample: &Sample) -> ReplyScores {
        let word = |key: &str| sample.labels.get(key).and_then(Value::as_str).map(str::to_owned);
        let tags = Tags { feeling: word("feeling"), need: word("need"), kind: word("kind") };
        let answers: Vec<String> = match sample.labels.get("answers") {
            Some(Value::Array(answers)) => {
                answers.iter().filter_map(Value::as_str).map(str::to_owned).collect()
            }
            Some(Value::String(answer)) => vec![answer.clone()],
            _ => Vec::new(),
        };
        let scores = scores(&sample.messages, &sample.reply, labels(&tags, &answers));
        ReplyScores {
            reward: scores.total(&self.weights),
            failed: scores.failed.map(rapport_persona::rewards::Gate::name),
            components: scores.values().to_vec(),
        }
    }
}

/// Serves until SIGINT or SIGTERM.
fn serve(options: &ServeOptions) -> anyhow::Result<()> {
    let scorer = Arc::new(Scorer { weights: options.weights.weights()? });
    serve::runtime()?.block_on(async {
        let asked_to_end = serve::asked_to_end()?;
        let server = RewardServer::listen(options.listen, scorer).await?;
        crate::say(format_args!("rapport: rewards at http://{}", server.address()?));
        server.run(asked_to_end).await;
        Ok(())
    })
}
