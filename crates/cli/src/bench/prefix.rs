//! How long a returning conversation waits for its first token.

use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use anyhow::ensure;
use rapport_cli::pull::Paths;
use rapport_engine::{
    CacheScope, CachedTokens, DiskConfig, Engine, EngineConfig, EngineEvent, EngineRequest, Phase,
    UserKey,
};
use rapport_kernels::PAGE_TOKENS;
use rapport_model::PackedAdapter;
use rapport_types::Sampling;
use serde_json::json;

use super::options::PrefixOptions;
use super::{Subject, median, rounded, rounded_share};

/// Tokens of the new message.
const N_NEW: usize = 32;
const CACHE_BYTES: u64 = 1 << 30;

pub(super) fn run(
    options: &PrefixOptions,
    paths: &Paths,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let mut subject = Subject::load(&options.common, paths)?;
    let n_before = options.tokens.get();
    let room = subject.model.architecture().context_tokens;
    ensure!(
        n_before + N_NEW + PAGE_TOKENS <= room,
        "{n_before} tokens and a message leave nothing of the model's {room}: use --tokens"
    );
    let (mut cold, mut memory, mut disk) = (Vec::new(), Vec::new(), Vec::new());
    // One run to warm up, then those that count. Each has a conversation of its own.
    for run_idx in 0..=options.common.runs.get() {
        let folder = tempfile::tempdir()?;
        let token = |position| subject.token(run_idx + 1, position);
        let before: Vec<u32> = (0..n_before).map(token).collect();
        // The disk gets another message than memory, so that it has none of it.
        let turn = |message_idx: usize| -> Vec<u32> {
            let message = (0..N_NEW).map(|idx| subject.token(message_idx, n_before + idx + 1));
            before.iter().copied().chain(message).collect()
        };
        let (next, other_next) = (turn(0), turn(1_000));
        let adapter = subject.adapter.clone();
        let engine = |Subject { name, compute, model, .. }| -> anyhow::Result<(String, Engine)> {
            let kv_tokens = 2 * (n_before + N_NEW + PAGE_TOKENS);
            let config = EngineConfig { kv_tokens, ..EngineConfig::default() };
            let mut engine = Engine::new(model, compute, config);
            engine.attach_disk(DiskConfig {
                directory: folder.path().to_owned(),
                max_bytes: CACHE_BYTES,
                build: [0; 32],
            })?;
            Ok((name, engine))
        };
        let (name, mut first) = engine(subject)?;
        let (cold_ms, _) = first_token(&mut first, adapter.as_ref(), &before);
        // Writing to disk goes on beside; people take longer to answer than that.
        first.flush_disk();
        let (memory_ms, found) = first_token(&mut first, adapter.as_ref(), &next);
        ensure!(found.memory > 0, "nothing was found in memory");
        let (model, compute) = first.into_parts();
        let (name, mut second) = engine(Subject { name, compute, model, adapter: None })?;
        let (disk_ms, found) = first_token(&mut second, adapter.as_ref(), &other_next);
        ensure!(found.disk > 0, "nothing was found on disk");
        let (model, compute) = second.into_parts();
        subject = Subject { name, compute, model, adapter };
        if run_idx > 0 {
            cold.push(cold_ms);
            memory.push(memory_ms);
            disk.push(disk_ms);
        }
    }
    let [cold, memory, disk] = [cold, memory, disk].map(median);
    let what = format!(
        "first token after {n_before} tokens and a message of {N_NEW}, median of {}",
        options.common.runs
    );
    subject.write_head(&what, out)?;
    writeln!(out, "cold             {cold:.1} ms")?;
    writeln!(out, "from memory      {memory:.1} ms, {:.1} % of cold", memory / cold * 100.0)?;
    writeln!(out, "after a restart  {disk:.1} ms, {:.1} % of cold", disk / cold * 100.0)?;
    let line = json!({
        "bench": "prefix",
        "model": subject.name,
        "tokens": n_before,
        "cold_ms": rounded(cold),
        "memory_ms": rounded(memory),
        "disk_ms": rounded(disk),
        "memory_share": rounded_share(memory / cold),
        "disk_share": rounded_share(disk / cold),
    });
    writeln!(out, "{line}")?;
    Ok(())
}

/// Milliseconds to the first token, and what was not computed again.
fn first_token(
    engine: &mut Engine,
    adapter: Option<&Arc<PackedAdapter>>,
    prompt: &[u32],
) -> (f64, CachedTokens) {
    let answer = Phase {
        opening: Vec::new(),
        stop_tokens: Vec::new(),
        max_tokens: 1,
        closing: Vec::new(),
        constraint: None,
    };
    let request = EngineRequest {
        prompt: prompt.to_vec(),
        phases: vec![answer],
        sampling: Sampling::greedy(),
        seed: 0,
        user: UserKey::default(),
        priority: 0,
        cache: CacheScope::default(),
        adapter: adapter.cloned(),
    };
    let start = Instant::now();
    engine.submit(request).expect("a request that fits");
    let (mut waited_ms, mut found) = (0.0, CachedTokens::default());
    while !engine.is_idle() {
        for event in engine.step() {
            match event {
                EngineEvent::Started { cached, .. } => found = cached,
                EngineEvent::Token { .. } => waited_ms = start.elapsed().as_secs_f64() * 1e3,
                _ => {}
            }
        }
    }
    (waited_ms, found)
}
