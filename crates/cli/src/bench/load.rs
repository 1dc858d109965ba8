//! Many conversations at once over HTTP, with a server that speaks OpenAI's protocol.
//!
//! Each conversation asks one question after another, none of them twice, so that prompts are read
//! anew as in `bench batch`. Afterwards some are asked again alone: a greedy reply must be the same
//! then, and must not be another conversation's; the time that goes beside the engine's own is taken
//! there too.

use std::io::Write;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use rapport_types::{
    AdapterChoice, Caller, Event, FinishReason, Generate, GenerateError, Message, Mode, Outcome,
    OutputFormat, PromptForm, Reader, Request, Sampling, ThinkingBudget, Tools,
};
use rapport_upstream::{Dialect, Secret, Upstream, UpstreamConfig};
use serde_json::json;

use super::options::LoadOptions;
use super::{rounded, rounded_share};

/// What the questions are made of.
const WORDS: &[&str] = &[
    "river", "candle", "market", "winter", "garden", "letter", "bridge", "music", "window",
    "forest", "teacher", "island", "morning", "engine", "blanket", "harbour", "mountain",
    "kitchen", "silver", "train", "orange", "village", "paper", "stone", "summer", "doctor",
    "yellow", "ocean", "bread", "story", "horse", "cloud",
];
const N_WORDS: usize = 90;

/// One reply as it was heard.
struct Heard {
    stream_idx: usize,
    question_idx: usize,
    text: String,
    asked: Instant,
    /// When each piece came.
    pieces: Vec<Instant>,
    ended: Instant,
    end: Result<Outcome, GenerateError>,
}

pub(super) fn run(options: &LoadOptions, out: &mut impl Write) -> anyhow::Result<()> {
    let upstream = open(options)?;
    let n_streams = options.streams.get();
    let seconds = options.seconds.get();
    writeln!(
        out,
        "server           {} ({}, {})",
        options.url,
        upstream.model().name,
        upstream.dialect()
    )?;
    writeln!(
        out,
        "what             {n_streams} conversations for {seconds} s, replies of at most {} tokens",
        options.max_tokens
    )?;
    let begin = Instant::now();
    let deadline = begin + Duration::from_secs(seconds);
    let (memory, heard) = std::thread::scope(|scope| {
        let watching = options.pid.map(|pid| scope.spawn(move || watch_memory(pid, deadline)));
        let streams: Vec<_> = (0..n_streams)
            .map(|stream_idx| {
                let upstream = &upstream;
                scope.spawn(move || {
                    let mut heard = Vec::new();
                    while Instant::now() < deadline {
                        heard.push(ask(upstream, options, stream_idx, heard.len()));
                    }
                    heard
                })
            })
            .collect();
        let heard: Vec<Heard> =
            streams.into_iter().flat_map(|stream| stream.join().unwrap_or_default()).collect();
        (watching.and_then(|watching| watching.join().ok()), heard)
    });
    let checks = check(&upstream, options, &heard);
    let report = Report::new(&heard, begin, deadline);
    report.write(options, &upstream, memory.as_deref(), &checks, out)
}

fn open(options: &LoadOptions) -> anyhow::Result<Upstream> {
    let mut config = UpstreamConfig::new(&options.url);
    config.model.clone_from(&options.server_model);
    // Nothing is asked twice and nobody is left alone here: what fails is counted.
    (config.limits.max_tries, config.limits.max_failures) = (1, u32::MAX);
    config.limits.health_ms = 3_600_000;
    if let Some(name) = &options.key_env {
        let key = crate::variable(name).with_context(|| format!("{name} is not set"))?;
        config.replicas[0].key = Some(Secret::new(key));
    }
    Ok(Upstream::open(config)?)
}

fn question(stream_idx: usize, question_idx: usize) -> String {
    let mut state = (stream_idx as u64) << 32 | question_idx as u64;
    let mut text = format!("Conversation {stream_idx}, question {question_idx}. Words:");
    for _ in 0..N_WORDS {
        // Knuth's MMIX generator: any that is the same everywhere.
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text.push(' ');
        text.push_str(WORDS[(state >> 33) as usize % WORDS.len()]);
    }
    text.push_str(". Tell a long story with all of these words in it.");
    text
}

/// Asks a question and listens to the end.
fn ask(
    upstream: &Upstream,
    options: &LoadOptions,
    stream_idx: usize,
    question_idx: usize,
) -> Heard {
    let request = Request {
        adapter: AdapterChoice::Default,
        messages: vec![Message::user(question(stream_idx, question_idx))],
        prompt_form: PromptForm::Conversation,
        mode: Mode::Fast,
        thinking_budget: ThinkingBudget::None,
        sampling: Sampling::greedy().with_seed(1),
        max_tokens: options.max_tokens.get(),
        stop: Vec::new(),
        format: OutputFormat::Text,
        tools: Tools::default(),
        caller: Caller::default(),
    };
    let asked = Instant::now();
    let (sender, ended) = channel();
    let listening = Listening { text: String::new(), pieces: Vec::new(), ended: sender };
    let listening = Arc::new(Mutex::new(listening));
    let shared = Arc::clone(&listening);
    let started = upstream.start(
        request,
        Box::new(move |event| {
            shared.lock().unwrap_or_else(PoisonError::into_inner).take(event);
            Reader::Listening
        }),
    );
    let (at, end) = match started {
        Ok(_) => {
            ended.recv().unwrap_or_else(|_| (Instant::now(), Err(GenerateError::EngineStopped)))
        }
        Err(error) => (Instant::now(), Err(error)),
    };
    let mut listening = listening.lock().unwrap_or_else(PoisonError::into_inner);
    Heard {
        stream_idx,
        question_idx,
        text: std::mem::take(&mut listening.text),
        asked,
        pieces: std::mem::take(&mut listening.pieces),
        ended: at,
        end,
    }
}

struct Listening {
    text: String,
    pieces: Vec<Instant>,
    ended: Sender<(Instant, Result<Outcome, GenerateError>)>,
}

impl Listening {
    fn take(&mut self, event: Event) {
        let now = Instant::now();
        let end = match event {
            Event::Text { text, .. } => {
                self.text += &text;
                return self.pieces.push(now);
            }
            Event::Finished(outcome) => Ok(outcome),
            Event::Failed(error) => Err(error),
            _ => return,
        };
        // Whoever asked waits for it.
        let _ = self.ended.send((now, end));
    }
}

/// Kilobytes that the process has in memory, second by second.
fn watch_memory(pid: u32, deadline: Instant) -> Vec<u64> {
    let mut seen = Vec::new();
    while Instant::now() < deadline {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        seen.extend(line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()));
        std::thread::sleep(Duration::from_secs(1));
    }
    seen
}

/// What asking again alone has shown.
#[derive(Default)]
struct Checks {
    n_asked: usize,
    /// The reply alone was not the same.
    n_different: usize,
    /// It was nearer to another conversation's.
    n_crossed: usize,
    /// Milliseconds of a request beside the engine's own, where the engine tells them.
    overheads_ms: Vec<f64>,
}

fn check(upstream: &Upstream, options: &LoadOptions, heard: &[Heard]) -> Checks {
    let whole: Vec<&Heard> = heard.iter().filter(|heard| heard.end.is_ok()).collect();
    let step = (whole.len() / options.checks.max(1)).max(1);
    let chosen: Vec<&Heard> = whole.iter().step_by(step).take(options.checks).copied().collect();
    let again: Vec<Heard> = chosen
        .iter()
        .map(|heard| ask(upstream, options, heard.stream_idx, heard.question_idx))
        .collect();
    let mut checks = Checks { n_asked: again.len(), ..Checks::default() };
    for (heard, alone) in chosen.iter().zip(&again) {
        let own = common(&heard.text, &alone.text);
        checks.n_different += usize::from(heard.text != alone.text);
        checks.n_crossed +=
            usize::from(again.iter().any(|other| common(&heard.text, &other.text) > own));
        if upstream.dialect() == Dialect::Rapport
            && let Ok(outcome) = &alone.end
        {
            let engine_ms = outcome.timings.first_token_ms + outcome.timings.decode_ms;
            checks.overheads_ms.push((alone.ended - alone.asked).as_secs_f64() * 1e3 - engine_ms);
        }
    }
    checks
}

/// Bytes at the beginning that both have.
fn common(a: &str, b: &str) -> usize {
    a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count()
}

/// Figures over many measurements.
#[derive(Clone, Copy, Default)]
struct Spread {
    p50: f64,
    p95: f64,
    max: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let idx = (values.len() as f64 * share) as usize;
            values.get(idx.min(values.len().saturating_sub(1))).copied().unwrap_or_default()
        };
        Self { p50: at(0.5), p95: at(0.95), max: at(1.0) }
    }

    fn json(self) -> serde_json::Value {
        json!({ "p50": rounded(self.p50), "p95": rounded(self.p95), "max": rounded(self.max) })
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.1} ms p50, {:.1} p95, {:.1} max", self.p50, self.p95, self.max)
    }
}

struct Report {
    n_replies: usize,
    /// Those that broke, or were refused.
    failures: Vec<String>,
    gaps: Spread,
    first_piece: Spread,
    written_per_second: f64,
    tokens_per_second: f64,
}

impl Report {
    fn new(heard: &[Heard], begin: Instant, deadline: Instant) -> Self {
        let ms = |from: Instant, to: Instant| (to - from).as_secs_f64() * 1e3;
        let (mut gaps, mut waits, mut failures) = (Vec::new(), Vec::new(), Vec::new());
        let (mut n_written, mut n_read) = (0.0, 0.0);
        for heard in heard {
            gaps.extend(heard.pieces.windows(2).map(|pair| ms(pair[0], pair[1])));
            let first = heard.pieces.first();
            waits.extend(first.map(|first| ms(heard.asked, *first)));
            match &heard.end {
                Ok(outcome) if outcome.reason != FinishReason::Cancelled => {
                    let usage = outcome.usage;
                    // A piece may be several tokens, or a part of one.
                    let a_piece =
                        f64::from(usage.completion_tokens) / heard.pieces.len().max(1) as f64;
                    let n_in_time = heard.pieces.iter().filter(|at| **at <= deadline).count();
                    n_written += n_in_time as f64 * a_piece;
                    if first.is_some_and(|first| *first <= deadline) {
                        n_read += f64::from(usage.prompt_tokens - usage.cached_tokens);
                    }
                }
                Ok(_) => failures.push("it was cancelled".to_owned()),
                Err(error) => failures.push(error.to_string()),
            }
        }
        let seconds = (deadline - begin).as_secs_f64();
        Self {
            n_replies: heard.len(),
            failures,
            gaps: Spread::of(gaps),
            first_piece: Spread::of(waits),
            written_per_second: n_written / seconds,
            tokens_per_second: (n_written + n_read) / seconds,
        }
    }

    fn write(
        &self,
        options: &LoadOptions,
        upstream: &Upstream,
        memory: Option<&[u64]>,
        checks: &Checks,
        out: &mut impl Write,
    ) -> anyhow::Result<()> {
        let n_failed = self.failures.len();
        writeln!(out, "replies          {}, {n_failed} of them dropped", self.n_replies)?;
        if let Some(first) = self.failures.first() {
            writeln!(out, "the first        {first}")?;
        }
        writeln!(
            out,
            "asked again      {} alone: {} different, {} crossed",
            checks.n_asked, checks.n_different, checks.n_crossed
        )?;
        let ratio = self.gaps.p95 / self.gaps.p50.max(1e-9);
        writeln!(out, "between pieces   {}; p95 is {ratio:.2} x p50", self.gaps)?;
        writeln!(out, "first piece      {}", self.first_piece)?;
        writeln!(
            out,
            "throughput       {:.1} tokens a second written, {:.1} with those read",
            self.written_per_second, self.tokens_per_second
        )?;
        // The first tenth is for warming up.
        let settled = memory.map(|seen| &seen[seen.len() / 10..]).filter(|seen| !seen.is_empty());
        let kilobytes = settled.map(|seen| {
            let max = seen.iter().max().copied().unwrap_or_default();
            (seen[0], seen[seen.len() - 1], max)
        });
        if let Some((first, last, max)) = kilobytes {
            let mib = |kilobytes: u64| kilobytes as f64 / 1024.0;
            let (first, last, max) = (mib(first), mib(last), mib(max));
            writeln!(
                out,
                "memory           {first:.1} MiB warm, {last:.1} at the end, {max:.1} most"
            )?;
        }
        let overhead = Spread::of(checks.overheads_ms.clone());
        let has_overhead = !checks.overheads_ms.is_empty();
        if has_overhead {
            writeln!(
                out,
                "beside engine    {:.2} ms a request p50, {:.2} p95, alone",
                overhead.p50, overhead.p95
            )?;
        }
        let line = json!({
            "bench": "load",
            "server": upstream.dialect().to_string(),
            "model": upstream.model().name,
            "streams": options.streams,
            "seconds": options.seconds,
            "replies": self.n_replies,
            "dropped": n_failed,
            "checked": checks.n_asked,
            "different": checks.n_different,
            "crossed": checks.n_crossed,
            "gap_ms": self.gaps.json(),
            "gap_p95_over_p50": rounded_share(ratio),
            "first_piece_ms": self.first_piece.json(),
            "written_per_second": rounded(self.written_per_second),
            "tokens_per_second": rounded(self.tokens_per_second),
            "memory_kilobytes": kilobytes.map(|(first, last, max)| json!({ "warm": first, "end": last, "max": max })),
            "overhead_ms_p50": has_overhead.then(|| rounded_share(overhead.p50)),
        });
        writeln!(out, "{line}")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_question_is_asked_twice() {
        let questions =
            |stream_idx| (0..50).map(move |question_idx| question(stream_idx, question_idx));
        let all: std::collections::BTreeSet<String> = (0..64).flat_map(questions).collect();
        assert_eq!(all.len(), 64 * 50);
    }

    #[test]
    fn a_spread_is_of_sorted_values() {
        let spread = Spread::of((1..=100).rev().map(f64::from).collect());
        assert_eq!((spread.p50, spread.p95, spread.max), (51.0, 96.0, 100.0));
        assert!(Spread::of(Vec::new()).max.abs() < 1e-9);
    }
}
