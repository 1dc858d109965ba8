//! `rapport read train-asked`: labelled texts to a classifier for the server's input filter.

use std::collections::BTreeSet;
use std::io::Write;

use anyhow::{Context, ensure};
use rapport_persona::reading::fit::{Aim, Example, FitOptions, fit};
use rapport_persona::reading::score::label_score;
use rapport_persona::reading::{ASKED_HEAD, AskedClassifier, Heads};
use serde::Deserialize;

use super::TrainAskedOptions;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    text: String,
    #[serde(default)]
    labels: Vec<String>,
}

pub(super) fn run(options: &TrainAskedOptions, out: &mut impl Write) -> anyhow::Result<()> {
    let file = options.data.display();
    let text = std::fs::read_to_string(&options.data).with_context(|| file.to_string())?;
    let lines: Vec<Line> = text
        .lines()
        .enumerate()
        .map(|(at, line)| serde_json::from_str(line).with_context(|| format!("{file}:{}", at + 1)))
        .collect::<anyhow::Result<_>>()?;
    let labels: BTreeSet<&str> =
        lines.iter().flat_map(|line| line.labels.iter().map(String::as_str)).collect();
    let labels: Vec<&str> = labels.into_iter().collect();
    ensure!(!labels.is_empty(), "{file}: no line has a label: there is nothing to refuse");
    // More than there are bits are refused where they are learned.
    let bit = |label: &String| {
        let at = labels.iter().position(|known| known == label);
        at.and_then(|at| 1_u64.checked_shl(at as u32)).unwrap_or(0)
    };
    let examples: Vec<Example> = lines
        .iter()
        .enumerate()
        .map(|(at, line)| Example {
            text: line.text.clone(),
            labels: line.labels.iter().map(bit).fold(0, |bits, bit| bits | bit),
            group: at as u64,
        })
        .collect();
    // As the reader's head for danger is learned.
    let learning = FitOptions {
        min_documents: 2,
        max_features: 60_000,
        cost: 1.0,
        balance: 0.5,
        passes: 20,
        folds: 5,
        aim: options.recall.map_or(Aim::F1, Aim::Recall),
        n_threads: options.threads,
        seed: 1,
    };
    let fitted = fit(&labels, &examples, &learning).with_context(|| file.to_string())?;
    for (at, output) in fitted.head.outputs().iter().enumerate() {
        let said: Vec<bool> = fitted.held_out.iter().map(|p| p[at] >= output.threshold).collect();
        let right: Vec<bool> = examples.iter().map(|e| e.labels >> at & 1 == 1).collect();
        let n_false = said.iter().zip(&right).filter(|(said, right)| **said && !**right).count();
        let score = label_score(&said, &right);
        writeln!(
            out,
            "{}: on folds that were left out, {:.1} % of {} found and {n_false} of {} others refused",
            output.label,
            100.0 * score.recall,
            score.n,
            examples.len() - score.n
        )?;
    }
    let bytes = Heads([(ASKED_HEAD.to_owned(), fitted.head)].into()).to_bytes();
    let version = AskedClassifier::from_bytes(&bytes)?.version().to_owned();
    std::fs::write(&options.out, &bytes).with_context(|| options.out.display().to_string())?;
    writeln!(out, "{} ({} bytes, version {version})", options.out.display(), bytes.len())?;
    Ok(())
}
