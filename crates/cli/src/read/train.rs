//! `rapport read train`: a recipe and its data to a reader's file and its card.

use std::fmt::Write as _;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use rapport_persona::TONES;
use rapport_persona::reading::fit::{Aim, Example, FitOptions, Fitted, fit};
use rapport_persona::reading::labels::{FEELINGS, NEEDS};
use rapport_persona::reading::score::label_score;
use rapport_persona::reading::{Heads, heads};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::TrainOptions;
use super::data;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Recipe {
    seed: u64,
    conversations: Vec<PathBuf>,
    risk: Vec<PathBuf>,
    /// Rows of GoEmotions that stand for everything that is no danger.
    n_risk_rows: usize,
    feeling: HeadRecipe,
    need: HeadRecipe,
    risk_head: HeadRecipe,
    formal: HeadRecipe,
    tone: HeadRecipe,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeadRecipe {
    min_documents: u32,
    max_features: usize,
    cost: f32,
    balance: f32,
    passes: u32,
    folds: u32,
    /// The share that must be found; without it thresholds have the best F1.
    recall: Option<f32>,
}

impl HeadRecipe {
    fn options(self, seed: u64, n_threads: usize) -> FitOptions {
        FitOptions {
            min_documents: self.min_documents,
            max_features: self.max_features,
            cost: self.cost,
            balance: self.balance,
            passes: self.passes,
            folds: self.folds,
            aim: self.recall.map_or(Aim::F1, Aim::Recall),
            n_threads,
            seed,
        }
    }
}

/// Words by which a row of GoEmotions may be of danger after all, and is left out.
const DANGER_WORDS: &[&str] = &[
    "suicid",
    "kill myself",
    "kill yourself",
    "end my life",
    "want to die",
    "self harm",
    "overdos",
];

pub(super) fn run(options: &TrainOptions, out: &mut impl Write) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(&options.recipe)
        .with_context(|| options.recipe.display().to_string())?;
    let recipe: Recipe =
        toml::from_str(&text).with_context(|| options.recipe.display().to_string())?;
    let beside = options.recipe.parent().unwrap_or(Path::new("."));
    let placed = |files: &[PathBuf]| files.iter().map(|file| beside.join(file)).collect::<Vec<_>>();
    let mut own = data::own(&placed(&recipe.conversations), &placed(&recipe.risk))?;
    let feelings = data::goemotions(&options.goemotions, "train")?;
    ensure!(!feelings.is_empty(), "GoEmotions' train.tsv is empty");
    let is_tame = |example: &&Example| {
        let text = example.text.to_lowercase();
        !DANGER_WORDS.iter().any(|word| text.contains(word))
    };
    let tame = feelings.iter().filter(is_tame).take(recipe.n_risk_rows);
    own.risk.extend(tame.map(|example| Example { labels: 0, ..example.clone() }));

    let mut learned = Heads::default();
    let mut figures = Map::new();
    let jobs: [(&str, &[&str], &[Example], HeadRecipe); 5] = [
        (heads::FEELING, &FEELINGS, &feelings, recipe.feeling),
        (heads::NEED, &NEEDS, &own.need, recipe.need),
        (heads::RISK, &["risk"], &own.risk, recipe.risk_head),
        (heads::FORMAL, &["formal"], &own.formal, recipe.formal),
        (heads::TONE, TONES, &own.tone, recipe.tone),
    ];
    for (name, labels, examples, head) in jobs {
        let fitted = fit(labels, examples, &head.options(recipe.seed, options.threads))
            .with_context(|| format!("the head `{name}`"))?;
        let held_out = held_out(&fitted, examples);
        writeln!(
            out,
            "{name:<8} {} examples; on folds that were left out: {held_out}",
            examples.len()
        )?;
        figures.insert(name.to_owned(), held_out);
        learned.0.insert(name.to_owned(), fitted.head);
    }
    let bytes = learned.to_bytes();
    std::fs::create_dir_all(&options.out).with_context(|| options.out.display().to_string())?;
    let file = options.out.join("reader.bin");
    std::fs::write(&file, &bytes).with_context(|| file.display().to_string())?;
    let mut data = Sha256::new();
    let seen =
        feelings.iter().chain(&own.need).chain(&own.risk).chain(&own.formal).chain(&own.tone);
    for example in seen {
        data.update(example.labels.to_le_bytes());
        data.update(&example.text);
        data.update("\n");
    }
    let card = json!({
        "reader": hex(&Sha256::digest(&bytes)),
        "recipe": hex(&Sha256::digest(&text)),
        "data": hex(&data.finalize()),
        "seed": recipe.seed,
        "bytes": bytes.len(),
        "held_out": figures,
    });
    let card_file = options.out.join("card.json");
    std::fs::write(&card_file, serde_json::to_string_pretty(&card)? + "\n")
        .with_context(|| card_file.display().to_string())?;
    writeln!(out, "{} ({} bytes)", file.display(), bytes.len())?;
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        // Writing to a string does not fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// Figures on folds that were left out. For one output: recall and false alarms at its threshold;
/// for several: the share whose likeliest one is right, and macro F1 at their thresholds.
fn held_out(fitted: &Fitted, examples: &[Example]) -> Value {
    let outputs = fitted.head.outputs();
    let round = |value: f64| (value * 1e4).round() / 1e4;
    let scores: Vec<_> = outputs
        .iter()
        .enumerate()
        .map(|(at, output)| {
            let said: Vec<bool> =
                fitted.held_out.iter().map(|p| p[at] >= output.threshold).collect();
            let right: Vec<bool> = examples.iter().map(|e| e.labels >> at & 1 == 1).collect();
            let n_false =
                said.iter().zip(&right).filter(|(said, right)| **said && !**right).count();
            (label_score(&said, &right), n_false)
        })
        .collect();
    if let [(score, n_false)] = scores[..] {
        let n_others = examples.len() - score.n;
        return json!({
            "n": score.n,
            "n_others": n_others,
            "precision": round(score.precision),
            "recall": round(score.recall),
            "false_alarms": round(n_false as f64 / n_others.max(1) as f64),
        });
    }
    let first_right = fitted.held_out.iter().zip(examples).filter(|(probabilities, example)| {
        let best = probabilities.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        best.is_some_and(|(at, _)| example.labels >> at & 1 == 1)
    });
    let accuracy = first_right.count() as f64 / examples.len() as f64;
    let commonest = scores.iter().map(|(score, _)| score.n).max().unwrap_or_default();
    let macro_f1 = scores.iter().map(|(score, _)| score.f1).sum::<f64>() / scores.len() as f64;
    json!({
        "n": examples.len(),
        "likeliest_right": round(accuracy),
        "commonest_label": round(commonest as f64 / examples.len() as f64),
        "macro_f1": round(macro_f1),
    })
}
