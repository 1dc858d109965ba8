//! Another engine beside this one, in turn, so that both meet the same machine.

use std::io::Write;
use std::process::Command;

use anyhow::{Context, ensure};
use rapport_cli::pull::Paths;
use serde_json::json;

use super::options::{CompareKind, CompareOptions};
use super::speed::Kind;
use super::{Subject, median, rounded, rounded_share};

pub(super) fn run(
    options: &CompareOptions,
    paths: &Paths,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let common = &options.speed.common;
    let kind = match options.what {
        CompareKind::Decode => Kind::Decode,
        CompareKind::Prefill => Kind::Prefill,
    };
    let subject = Subject::load(common, paths)?;
    let n_tokens = kind.n_tokens(&options.speed);
    let what = format!("{}, {n_tokens} tokens, {} pairs in turn", kind.as_str(), common.runs);
    subject.write_head(&what, out)?;
    kind.measure(&subject, n_tokens);
    let mut pairs = Vec::new();
    for _ in 0..common.runs.get() {
        let ours = kind.measure(&subject, n_tokens);
        let other = other_rate(&options.other, &options.other_key)?;
        writeln!(out, "{ours:>10.1} to {other:.1}, {:.2} x", ours / other)?;
        pairs.push([ours, other]);
    }
    let ratio = median(pairs.iter().map(|[ours, other]| ours / other).collect());
    writeln!(out, "median ratio     {ratio:.2} x")?;
    let line = json!({
        "bench": "compare",
        "what": kind.as_str(),
        "model": subject.name,
        "tokens": n_tokens,
        "pairs": pairs.iter().map(|pair| pair.map(rounded)).collect::<Vec<_>>(),
        "median_ratio": rounded_share(ratio),
    });
    writeln!(out, "{line}")?;
    Ok(())
}

fn other_rate(command: &str, key: &str) -> anyhow::Result<f64> {
    let mut words = command.split_whitespace();
    let program = words.next().context("--other is empty: give a command")?;
    let output = Command::new(program)
        .args(words)
        .output()
        .with_context(|| format!("cannot run {program}: is it on the PATH?"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    let last_line = errors.trim_end().lines().last().unwrap_or_default();
    ensure!(output.status.success(), "{program} ended with {}: {last_line}", output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    last_number(&text, key).with_context(|| {
        format!(
            "{program} printed no number under \"{key}\": have it print JSON, or use --other-key"
        )
    })
}

/// The number after the last `"key":`.
fn last_number(text: &str, key: &str) -> Option<f64> {
    let (_, after) = text.rsplit_once(&format!("\"{key}\""))?;
    let value = after.trim_start().strip_prefix(':')?.trim_start();
    let is_part = |c: char| c.is_ascii_digit() || "+-.eE".contains(c);
    let end = value.find(|c| !is_part(c)).unwrap_or(value.len());
    value[..end].parse().ok().filter(|rate: &f64| rate.is_finite() && *rate > 0.0)
}

#[cfg(test)]
mod tests {
    use super::last_number;

    #[test]
    fn the_last_number_under_the_key_counts() {
        let text = r#"[{"n": 1, "avg_ts": 3.5}, {"avg_ts" : 1.25e2, "stddev": 1}]"#;
        assert_eq!(last_number(text, "avg_ts"), Some(125.0));
        assert_eq!(last_number(text, "n"), Some(1.0));
        assert_eq!(last_number(text, "rate"), None);
        assert_eq!(last_number(r#"{"avg_ts": null}"#, "avg_ts"), None);
        assert_eq!(last_number(r#"{"avg_ts": 0}"#, "avg_ts"), None);
    }
}
