//! `rapport read eval`: how right the reader is, on labelled texts that it did not learn from.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::io::Write;
use std::time::Instant;

use anyhow::{Context, ensure};
use rapport_local::{AutoMode, WordRule};
use rapport_persona::reading::labels::FEELINGS;
use rapport_persona::reading::score::{LabelScore, calibration_error, correlation, label_score};
use rapport_persona::reading::{Reader, Reading};
use rapport_types::Mode;
use serde_json::{Map, Value, json};

use super::data::{self, Prompt};
use super::{EvalOptions, mode};

const N_BINS: usize = 15;
/// Kinds of development prompts in which a feeling or a danger is to be answered, and others.
const FELT_KINDS: &[&str] = &["empathy", "joy", "crisis"];
const PLAIN_KINDS: &[&str] = &["fact_real", "fact_invented", "creative", "banter"];
/// The needs that answer a kind of prompt.
const NEEDS_OF_KIND: &[(&str, &[&str])] = &[
    ("empathy", &["vent", "comfort"]),
    ("joy", &["celebrate"]),
    ("crisis", &["vent", "comfort"]),
    ("fact_real", &["facts"]),
    ("fact_invented", &["facts"]),
    ("creative", &["create"]),
    ("banter", &["company"]),
];

pub(super) fn run(options: &EvalOptions, out: &mut impl Write) -> anyhow::Result<()> {
    let own;
    let reader = match &options.model {
        None => Reader::builtin(),
        Some(file) => {
            let bytes = std::fs::read(file).with_context(|| file.display().to_string())?;
            own = Reader::from_bytes(&bytes).with_context(|| file.display().to_string())?;
            &own
        }
    };
    let mut figures = Map::new();
    figures.insert("reader".to_owned(), json!(reader.version()));
    feelings(reader, options, &mut figures, out)?;
    let prompts = data::prompts(&options.prompts)?;
    ensure!(!prompts.is_empty(), "{} has no prompt", options.prompts.display());
    on_prompts(reader, &prompts, &mut figures, out)?;
    if let Ok(text) = data::text(&options.data.join("emobank"), "emobank.csv") {
        arousal(reader, &text, &mut figures, out)?;
    }
    if let Ok(text) = data::text(&options.data.join("emotional-persuasion-ja"), "utterances.jsonl")
    {
        japanese(reader, &text, &mut figures, out)?;
    }
    writeln!(out, "{}", Value::Object(figures))?;
    Ok(())
}

fn rounded(value: f64) -> Value {
    json!((value * 1e4).round() / 1e4)
}

/// The official measure of GoEmotions: F1 of each label, and their mean.
fn feelings(
    reader: &Reader,
    options: &EvalOptions,
    figures: &mut Map<String, Value>,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let examples = data::goemotions(&options.data.join("goemotions"), &options.split)?;
    ensure!(!examples.is_empty(), "the split {} is empty", options.split);
    let started = Instant::now();
    let readings: Vec<Reading> =
        examples.iter().map(|example| black_box(reader.read(&example.text))).collect();
    let mean_ms = started.elapsed().as_secs_f64() * 1e3 / examples.len() as f64;
    let mut times: Vec<f64> = examples
        .iter()
        .map(|example| {
            let started = Instant::now();
            black_box(reader.read(&example.text));
            started.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);

    writeln!(out, "GoEmotions {}, {} messages", options.split, examples.len())?;
    writeln!(
        out,
        "{:<16} {:>5} {:>9} {:>6} {:>5} {:>6}",
        "feeling", "n", "precision", "recall", "F1", "ECE"
    )?;
    let mut scores: Vec<LabelScore> = Vec::new();
    let (mut all_said, mut all_right, mut all_p) = (Vec::new(), Vec::new(), Vec::new());
    for (at, label) in FEELINGS.iter().enumerate() {
        let said: Vec<bool> = readings
            .iter()
            .map(|reading| reading.feelings.iter().any(|likely| likely.label == *label))
            .collect();
        let right: Vec<bool> =
            examples.iter().map(|example| example.labels >> at & 1 == 1).collect();
        let p: Vec<f32> = readings
            .iter()
            .map(|r| r.all_feelings.get(at).map_or(0.0, |likely| likely.probability))
            .collect();
        let score = label_score(&said, &right);
        let error = calibration_error(&p, &right, N_BINS);
        writeln!(
            out,
            "{label:<16} {:>5} {:>9.3} {:>6.3} {:>5.3} {error:>6.4}",
            score.n, score.precision, score.recall, score.f1
        )?;
        scores.push(score);
        all_said.extend(said);
        all_right.extend(right);
        all_p.extend(p);
    }
    let macro_f1 = scores.iter().map(|score| score.f1).sum::<f64>() / scores.len() as f64;
    let micro = label_score(&all_said, &all_right);
    let ece = calibration_error(&all_p, &all_right, N_BINS);
    // The likeliest feeling of each message: what a person is shown.
    let (first_p, first_right): (Vec<f32>, Vec<bool>) = readings
        .iter()
        .zip(&examples)
        .filter_map(|(reading, example)| {
            let best = reading
                .all_feelings
                .iter()
                .enumerate()
                .max_by(|a, b| a.1.probability.total_cmp(&b.1.probability))?;
            Some((best.1.probability, example.labels >> best.0 & 1 == 1))
        })
        .unzip();
    let first_ece = calibration_error(&first_p, &first_right, N_BINS);
    let first_share =
        first_right.iter().filter(|right| **right).count() as f64 / first_right.len().max(1) as f64;
    let (middle, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    writeln!(out, "macro F1 {macro_f1:.4}, micro F1 {:.4}, ECE {ece:.4}", micro.f1)?;
    writeln!(out, "likeliest right {first_share:.4}, its ECE {first_ece:.4}")?;
    writeln!(
        out,
        "a reading takes {mean_ms:.3} ms on average, {middle:.3} the median, {p99:.3} the 99th of 100"
    )?;
    figures.insert("split".to_owned(), json!(options.split));
    for (name, value) in [
        ("macro_f1", macro_f1),
        ("micro_f1", micro.f1),
        ("ece", ece),
        ("likeliest_right", first_share),
        ("likeliest_ece", first_ece),
        ("median_ms", middle),
        ("p99_ms", p99),
    ] {
        figures.insert(name.to_owned(), rounded(value));
    }
    Ok(())
}

/// Needs, danger and modes on the development prompts.
fn on_prompts(
    reader: &Reader,
    prompts: &[Prompt],
    figures: &mut Map<String, Value>,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let readings: Vec<Reading> = prompts.iter().map(|prompt| reader.read(&prompt.text)).collect();
    let with_need: Vec<bool> = prompts
        .iter()
        .zip(&readings)
        .filter_map(|(prompt, reading)| {
            let (_, needs) = NEEDS_OF_KIND.iter().find(|(kind, _)| *kind == prompt.kind)?;
            Some(reading.need().is_some_and(|need| needs.contains(&need.label)))
        })
        .collect();
    let n_need = with_need.iter().filter(|right| **right).count();
    writeln!(out, "development prompts: need fits the kind in {n_need} of {}", with_need.len())?;
    figures.insert("need_fits".to_owned(), json!([n_need, with_need.len()]));

    let danger: Vec<bool> = prompts.iter().map(|prompt| prompt.kind == "crisis").collect();
    let cues: Vec<bool> = readings.iter().map(|reading| reading.risk.is_cue).collect();
    let n_danger = danger.iter().filter(|danger| **danger).count();
    let n_found = danger.iter().zip(&cues).filter(|(danger, cue)| **danger && **cue).count();
    let n_false = danger.iter().zip(&cues).filter(|(danger, cue)| !**danger && **cue).count();
    let n_tame = prompts.len() - n_danger;
    writeln!(
        out,
        "danger found in {n_found} of {n_danger}, false alarms in {n_false} of {n_tame}"
    )?;
    for ((prompt, danger), cue) in prompts.iter().zip(&danger).zip(&cues) {
        if danger != cue {
            let what = if *danger { "missed" } else { "false alarm" };
            writeln!(out, "  {what}: {}", prompt.text)?;
        }
    }
    figures.insert("danger_found".to_owned(), json!([n_found, n_danger]));
    figures.insert("danger_false_alarms".to_owned(), json!([n_false, n_tame]));

    // A feeling is to be thought about, a plain request answered at once.
    let mut right: BTreeMap<&str, [usize; 2]> = BTreeMap::new();
    let mut n = 0;
    for (prompt, reading) in prompts.iter().zip(&readings) {
        let wanted = if FELT_KINDS.contains(&prompt.kind.as_str()) {
            Mode::Thinking
        } else if PLAIN_KINDS.contains(&prompt.kind.as_str()) {
            Mode::Fast
        } else {
            continue;
        };
        n += 1;
        let by_words = WordRule.choose(&prompt.text).mode;
        let by_reading = match mode::reason(reading) {
            Some(_) => Mode::Thinking,
            None => WordRule::by_reasons(&prompt.text).mode,
        };
        let felt = usize::from(wanted == Mode::Thinking);
        right.entry("words").or_default()[felt] += usize::from(by_words == wanted);
        right.entry("reading").or_default()[felt] += usize::from(by_reading == wanted);
    }
    for (rule, [plain, felt]) in &right {
        writeln!(
            out,
            "auto mode by {rule}: {} of {n} right ({felt} felt, {plain} plain)",
            plain + felt
        )?;
        figures.insert(format!("mode_by_{rule}"), json!([plain + felt, n]));
    }
    Ok(())
}

/// Intensity against the arousal that people gave to EmoBank's test split.
fn arousal(
    reader: &Reader,
    csv: &str,
    figures: &mut Map<String, Value>,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let (mut read, mut given) = (Vec::new(), Vec::new());
    for line in csv.lines().skip(1) {
        let cells: Vec<&str> = line.splitn(6, ',').collect();
        if let [_, "test", _, arousal, _, text] = cells[..] {
            given.push(arousal.parse::<f64>().with_context(|| format!("EmoBank: {arousal:?}"))?);
            read.push(f64::from(reader.read(text.trim_matches('"')).intensity));
        }
    }
    let correlation = correlation(&read, &given);
    writeln!(
        out,
        "intensity against EmoBank's arousal, {} texts: Pearson {correlation:.3}",
        read.len()
    )?;
    figures.insert("arousal_pearson".to_owned(), rounded(correlation));
    Ok(())
}

/// Japanese by its lists, on three feelings that most annotators agreed on.
fn japanese(
    reader: &Reader,
    lines: &str,
    figures: &mut Map<String, Value>,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    // The lists' labels that count as each of the corpus's.
    const ALIKE: &[(&str, &[&str])] = &[
        ("joy", &["joy", "excitement", "amusement", "gratitude", "love", "admiration", "relief"]),
        ("sadness", &["sadness", "grief", "disappointment", "remorse", "nervousness", "fear"]),
        ("anger", &["anger", "annoyance", "disgust"]),
    ];
    let (mut n_found, mut n_right, mut n) = (0, 0, 0);
    for line in lines.lines() {
        let value: Value = serde_json::from_str(line).context("utterances.jsonl")?;
        let given: Vec<&str> =
            value["emotions"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let most = ALIKE.iter().find(|(feeling, _)| {
            given.iter().filter(|given| *given == feeling).count() * 2 > given.len()
        });
        let (Some((_, alike)), Some(text)) = (most, value["text"].as_str()) else { continue };
        n += 1;
        if let Some(found) = reader.read(text).feeling() {
            n_found += 1;
            n_right += usize::from(alike.contains(&found.label));
        }
    }
    writeln!(
        out,
        "Japanese by lists: a feeling found in {n_found} of {n} that have one, right in {n_right}"
    )?;
    figures.insert("japanese".to_owned(), json!({ "n": n, "found": n_found, "right": n_right }));
    Ok(())
}
