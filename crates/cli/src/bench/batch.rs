//! Many replies at once.

use std::collections::HashMap;
use std::io::Write;
use std::time::{Duration, Instant};

use rapport_cli::pull::Paths;
use rapport_engine::{
    CacheScope, Engine, EngineConfig, EngineEvent, EngineRequest, Phase, UserKey,
};
use rapport_types::Sampling;
use serde_json::json;

use super::options::BatchOptions;
use super::{Subject, median, rounded, rounded_share};

const N_PROMPT: usize = 128;
const N_REPLY: usize = 64;

pub(super) fn run(
    options: &BatchOptions,
    paths: &Paths,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let mut subject = Subject::load(&options.common, paths)?;
    let what = format!(
        "replies of {N_REPLY} tokens to prompts of {N_PROMPT}, median of {}",
        options.common.runs
    );
    subject.write_head(&what, out)?;
    let mut rows = Vec::new();
    let mut first_rate = None;
    for n_streams in options.streams.iter().map(|n| n.get()) {
        let mut rates = Vec::new();
        // One run to warm up, then those that count.
        for run_idx in 0..=options.common.runs.get() {
            let run;
            (subject, run) = once(subject, n_streams);
            if run_idx > 0 {
                rates.push(run);
            }
        }
        let n_written = (n_streams * (N_REPLY - 1)) as f64;
        let n_all = (n_streams * (N_PROMPT + N_REPLY)) as f64;
        let of = |part: fn(&Run) -> Duration| {
            median(rates.iter().map(|run| part(run).as_secs_f64()).collect())
        };
        let written = n_written / of(|run| run.writing);
        let read = (n_streams * N_PROMPT) as f64 / of(|run| run.reading);
        let all = n_all / of(|run| run.reading + run.writing);
        let gain = written / *first_rate.get_or_insert(written);
        writeln!(
            out,
            "{n_streams:>4} streams     {written:.1} tokens a second written ({gain:.2} x the \
             first), {read:.0} read, {all:.0} of both"
        )?;
        rows.push(json!({
            "streams": n_streams,
            "written_per_second": rounded(written),
            "read_per_second": rounded(read),
            "tokens_per_second": rounded(all),
            "gain": rounded_share(gain),
        }));
    }
    writeln!(out, "{}", json!({ "bench": "batch", "model": subject.name, "streams": rows }))?;
    Ok(())
}

struct Run {
    /// Until every reply has its first token.
    reading: Duration,
    /// From there to the end of the last.
    writing: Duration,
}

fn once(subject: Subject, n_streams: usize) -> (Subject, Run) {
    let prompts: Vec<Vec<u32>> = (0..n_streams)
        .map(|stream_idx| (0..N_PROMPT).map(|idx| subject.token(stream_idx, idx)).collect())
        .collect();
    // All prompts are read first, so that what is timed afterwards is writing alone; text of random
    // tokens is no text to guess ahead in.
    let config = EngineConfig {
        kv_tokens: n_streams * (N_PROMPT + N_REPLY + 64),
        pass_tokens: n_streams * N_PROMPT,
        max_waiting: n_streams,
        max_waiting_per_user: n_streams,
        max_draft_tokens: 0,
        ..EngineConfig::default()
    };
    let Subject { name, compute, model, adapter } = subject;
    let mut engine = Engine::new(model, compute, config);
    for (stream_idx, prompt) in prompts.into_iter().enumerate() {
        let answer = Phase {
            opening: Vec::new(),
            stop_tokens: Vec::new(),
            max_tokens: N_REPLY as u32,
            closing: Vec::new(),
            constraint: None,
        };
        let request = EngineRequest {
            prompt,
            phases: vec![answer],
            sampling: Sampling::greedy(),
            seed: 0,
            user: UserKey(stream_idx as u64),
            priority: 0,
            cache: CacheScope::default(),
            adapter: adapter.clone(),
        };
        engine.submit(request).expect("a request that fits");
    }
    let start = Instant::now();
    let mut written: HashMap<_, usize> = HashMap::new();
    let mut reading = None;
    while !engine.is_idle() {
        for event in engine.step() {
            if let EngineEvent::Token { id, .. } = event {
                *written.entry(id).or_default() += 1;
            }
        }
        if written.len() == n_streams {
            reading.get_or_insert_with(|| start.elapsed());
        }
    }
    let total = start.elapsed();
    let reading = reading.unwrap_or(total);
    let run = Run { reading, writing: total.saturating_sub(reading) };
    let (model, compute) = engine.into_parts();
    (Subject { name, compute, model, adapter }, run)
}
