//! How a long context slows writing down.

use std::io::Write;
use std::time::Instant;

use anyhow::ensure;
use rapport_cli::pull::Paths;
use serde_json::json;

use super::options::LongOptions;
use super::speed::Sequence;
use super::{Subject, median, rounded, rounded_share};

/// Tokens written at each length.
const N_WRITTEN: usize = 32;
const PASS_TOKENS: usize = 256;

pub(super) fn run(
    options: &LongOptions,
    paths: &Paths,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let subject = Subject::load(&options.common, paths)?;
    let room = subject.model.architecture().context_tokens - N_WRITTEN;
    let mut contexts: Vec<usize> =
        options.contexts.iter().map(|n| n.get()).filter(|n| *n <= room).collect();
    contexts.sort_unstable();
    contexts.dedup();
    ensure!(!contexts.is_empty(), "the model's context has room for {room} tokens: use fewer");
    // Each run grows one conversation through all lengths, so that every length meets the same
    // noise; the first run warms up.
    let mut rates = vec![Vec::new(); contexts.len()];
    for run_idx in 0..=options.common.runs.get() {
        let mut sequence = Sequence::new(&subject, room + N_WRITTEN);
        let mut n_tokens = 0;
        for (context, rates) in contexts.iter().zip(&mut rates) {
            sequence.extend(context.saturating_sub(n_tokens), PASS_TOKENS);
            let start = Instant::now();
            sequence.extend(N_WRITTEN, 1);
            n_tokens = (*context).max(n_tokens) + N_WRITTEN;
            if run_idx > 0 {
                rates.push(N_WRITTEN as f64 / start.elapsed().as_secs_f64());
            }
        }
    }
    let rates: Vec<f64> = rates.into_iter().map(median).collect();
    let what = format!("decode by context, median of {}", options.common.runs);
    subject.write_head(&what, out)?;
    let mut rows = Vec::new();
    for (context, rate) in contexts.iter().zip(&rates) {
        let share = rate / rates[0];
        writeln!(out, "{context:>7} tokens   {rate:.1} a second, {:.0} %", share * 100.0)?;
        rows.push(json!({
            "context": context,
            "tokens_per_second": rounded(*rate),
            "share_of_first": rounded_share(share),
        }));
    }
    writeln!(out, "{}", json!({ "bench": "long", "model": subject.name, "contexts": rows }))?;
    Ok(())
}
