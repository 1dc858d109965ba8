//! `rapport bench`: how fast, and how far from what the machine could do.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use rapport_kernels::{Compute, KvPage, KvType, PAGE_TOKENS};
use rapport_model::gguf::Gguf;
use rapport_model::{Batch, BatchSequence, Logits, Scratch, Transformer};
use serde_json::json;

use crate::machine;
use crate::options::{BenchKind, BenchOptions};
use crate::pull;

/// Prints a table and, as the last line, the same as one line of JSON.
pub(crate) fn run(options: &BenchOptions, home: &Path, out: &mut impl Write) -> anyhow::Result<()> {
    let path = pull::resolve(&options.model, home)?;
    let compute = options.compute.compute();
    let gguf = Gguf::open(&path)?;
    let model = Transformer::load(&gguf, &compute)?;
    drop(gguf);
    let n_tokens = options.tokens.map_or_else(
        || if options.kind == BenchKind::Decode { 128 } else { 512 },
        std::num::NonZeroUsize::get,
    );
    // One run to warm up, then those that count.
    let mut rates: Vec<f64> = (0..=options.runs.get())
        .map(|_| match options.kind {
            BenchKind::Decode => decode(&model, &compute, n_tokens),
            BenchKind::Prefill => prefill(&model, &compute, n_tokens),
        })
        .skip(1)
        .collect();
    rates.sort_by(f64::total_cmp);
    let median = rates[rates.len() / 2];
    let bandwidth = machine::read_bandwidth(compute.pool());
    let bytes_per_token = match options.kind {
        BenchKind::Decode => model.bytes_per_pass(1) as f64,
        BenchKind::Prefill => model.bytes_per_pass(n_tokens) as f64 / n_tokens as f64,
    };
    let ceiling = bandwidth / bytes_per_token;
    let kind = match options.kind {
        BenchKind::Decode => "decode",
        BenchKind::Prefill => "prefill",
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    writeln!(out, "model            {name}")?;
    writeln!(out, "what             {kind}, {n_tokens} tokens, median of {}", rates.len())?;
    writeln!(out, "instruction set  {}, {} threads", compute.isa(), compute.pool().n_threads())?;
    writeln!(
        out,
        "tokens a second  {median:.1}  ({:.1} to {:.1})",
        rates[0],
        rates[rates.len() - 1]
    )?;
    writeln!(out, "bytes a token    {bytes_per_token:.0}")?;
    writeln!(out, "memory reads     {:.1} GB/s measured", bandwidth / 1e9)?;
    writeln!(
        out,
        "memory ceiling   {ceiling:.0} tokens a second, {:.0} % of it reached",
        100.0 * median / ceiling
    )?;
    let line = json!({
        "bench": kind,
        "model": name,
        "isa": compute.isa().as_str(),
        "threads": compute.pool().n_threads(),
        "tokens": n_tokens,
        "tokens_per_second": (median * 10.0).round() / 10.0,
        "bytes_per_token": bytes_per_token.round(),
        "read_bytes_per_second": bandwidth.round(),
        "bandwidth_share": (median / ceiling * 1000.0).round() / 1000.0,
    });
    writeln!(out, "{line}")?;
    Ok(())
}

/// Tokens a second of one sequence that grows from its first token.
fn decode(model: &Transformer, compute: &Compute, n_tokens: usize) -> f64 {
    let mut pages = pages(model, n_tokens);
    let mut scratch = Scratch::default();
    let start = Instant::now();
    for position in 0..n_tokens {
        let token = [(position * 7919 % model.n_vocab()) as u32];
        pass(model, compute, &mut scratch, &mut pages, position, &token);
    }
    n_tokens as f64 / start.elapsed().as_secs_f64()
}

/// Tokens a second of one prompt.
fn prefill(model: &Transformer, compute: &Compute, n_tokens: usize) -> f64 {
    let tokens: Vec<u32> = (0..n_tokens).map(|idx| (idx * 7919 % model.n_vocab()) as u32).collect();
    let mut pages = pages(model, n_tokens);
    let mut scratch = Scratch::default();
    let start = Instant::now();
    pass(model, compute, &mut scratch, &mut pages, 0, &tokens);
    n_tokens as f64 / start.elapsed().as_secs_f64()
}

fn pages(model: &Transformer, n_tokens: usize) -> Vec<Arc<KvPage>> {
    let shape = model.architecture().attention;
    let page = || Arc::new(KvPage::new(shape, KvType::F16));
    std::iter::repeat_with(page).take(n_tokens.div_ceil(PAGE_TOKENS)).collect()
}

fn pass(
    model: &Transformer,
    compute: &Compute,
    scratch: &mut Scratch,
    pages: &mut [Arc<KvPage>],
    position: usize,
    tokens: &[u32],
) {
    let sequence = BatchSequence { tokens, position, pages, logits: Logits::Last };
    let mut batch = Batch { sequences: vec![sequence] };
    std::hint::black_box(model.forward(compute, &mut batch, scratch));
}
