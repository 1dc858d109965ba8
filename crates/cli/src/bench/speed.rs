//! One reply being written, or one prompt being read.

use std::io::Write;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Instant;

use rapport_cli::pull::Paths;
use rapport_kernels::{KvPage, KvType, PAGE_TOKENS};
use rapport_model::{Batch, BatchSequence, Logits, PackedAdapter, Scratch};
use serde_json::json;

use super::options::SpeedOptions;
use super::{Subject, rounded, rounded_share};
use crate::machine;

/// What the engine computes in one pass: as in [`rapport_engine::EngineConfig::default`].
const PASS_TOKENS: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Decode,
    Prefill,
}

impl Kind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Prefill => "prefill",
        }
    }

    pub(super) fn n_tokens(self, options: &SpeedOptions) -> usize {
        let default = if self == Self::Decode { 128 } else { 512 };
        options.tokens.map_or(default, NonZeroUsize::get)
    }

    /// Tokens a second of one run.
    pub(super) fn measure(self, subject: &Subject, n_tokens: usize) -> f64 {
        self.measure_sequence(Sequence::new(subject, n_tokens), n_tokens)
    }

    fn measure_sequence(self, mut sequence: Sequence<'_>, n_tokens: usize) -> f64 {
        let pass_tokens = if self == Self::Decode { 1 } else { PASS_TOKENS };
        let start = Instant::now();
        sequence.extend(n_tokens, pass_tokens);
        n_tokens as f64 / start.elapsed().as_secs_f64()
    }
}

pub(super) fn run(
    kind: Kind,
    options: &SpeedOptions,
    paths: &Paths,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let subject = Subject::load(&options.common, paths)?;
    let n_tokens = kind.n_tokens(options);
    // One run to warm up, then those that count; the model alone and with its adapter in turn.
    let (mut rates, mut alone) = (Vec::new(), Vec::new());
    for run_idx in 0..=options.common.runs.get() {
        let rate = kind.measure(&subject, n_tokens);
        let base = subject.adapter.is_some().then(|| {
            let sequence = Sequence { adapter: None, ..Sequence::new(&subject, n_tokens) };
            kind.measure_sequence(sequence, n_tokens)
        });
        if run_idx > 0 {
            rates.push(rate);
            alone.extend(base);
        }
    }
    rates.sort_by(f64::total_cmp);
    let median = rates[rates.len() / 2];
    let alone = (!alone.is_empty()).then(|| super::median(alone));
    let bandwidth = machine::read_bandwidth(subject.compute.pool());
    let n_passes = if kind == Kind::Decode { n_tokens } else { n_tokens.div_ceil(PASS_TOKENS) };
    let adapter_bytes = subject.adapter.as_ref().map_or(0, |adapter| adapter.n_bytes());
    let pass_bytes = subject.model.bytes_per_pass(n_tokens.div_ceil(n_passes)) + adapter_bytes;
    let bytes_per_token = (pass_bytes * n_passes) as f64 / n_tokens as f64;
    let ceiling = bandwidth / bytes_per_token;
    let what = format!("{}, {n_tokens} tokens, median of {}", kind.as_str(), rates.len());
    subject.write_head(&what, out)?;
    let (slowest, fastest) = (rates[0], rates[rates.len() - 1]);
    writeln!(out, "tokens a second  {median:.1}  ({slowest:.1} to {fastest:.1})")?;
    if let Some(alone) = alone {
        let share = 100.0 * median / alone;
        writeln!(out, "without adapter  {alone:.1}, of which the adapter leaves {share:.0} %")?;
    }
    writeln!(out, "bytes a token    {bytes_per_token:.0}")?;
    writeln!(out, "memory reads     {:.1} GB/s measured", bandwidth / 1e9)?;
    let percent = 100.0 * median / ceiling;
    writeln!(out, "memory ceiling   {ceiling:.0} tokens a second, {percent:.0} % of it reached")?;
    let load = subject.adapter.as_ref().and_then(|adapter| adapter.expert_load());
    let imbalance = load.or_else(|| subject.model.expert_load()).map(|load| load.imbalance());
    let imbalance = imbalance.map(|layers| {
        let mean = layers.iter().sum::<f64>() / layers.len() as f64;
        (mean, layers.into_iter().fold(0.0, f64::max))
    });
    if let Some((mean, worst)) = imbalance {
        writeln!(out, "expert load      busiest over mean {mean:.2}, worst layer {worst:.2}")?;
    }
    let line = json!({
        "bench": kind.as_str(),
        "model": subject.name,
        "isa": subject.compute.isa().as_str(),
        "threads": subject.compute.pool().n_threads(),
        "tokens": n_tokens,
        "tokens_per_second": rounded(median),
        "without_adapter": alone.map(rounded),
        "bytes_per_token": bytes_per_token.round(),
        "read_bytes_per_second": bandwidth.round(),
        "expert_load": imbalance.map(|(mean, worst)| {
            json!({ "busiest_over_mean": rounded_share(mean), "worst_layer": rounded_share(worst) })
        }),
        "bandwidth_share": rounded_share(median / ceiling),
    });
    writeln!(out, "{line}")?;
    Ok(())
}

/// One sequence without an engine around it.
pub(super) struct Sequence<'a> {
    subject: &'a Subject,
    adapter: Option<&'a PackedAdapter>,
    pages: Vec<Arc<KvPage>>,
    scratch: Scratch,
    position: usize,
}

impl<'a> Sequence<'a> {
    pub(super) fn new(subject: &'a Subject, max_tokens: usize) -> Self {
        let shape = subject.model.architecture().attention;
        let page = || Arc::new(KvPage::new(shape, KvType::F16));
        let pages = std::iter::repeat_with(page).take(max_tokens.div_ceil(PAGE_TOKENS)).collect();
        let adapter = subject.adapter.as_deref();
        Self { subject, adapter, pages, scratch: Scratch::default(), position: 0 }
    }

    /// Computes the next `n_tokens` in passes of `pass_tokens`, with logits of each pass's last.
    pub(super) fn extend(&mut self, n_tokens: usize, pass_tokens: usize) {
        let subject = self.subject;
        let end = self.position + n_tokens;
        while self.position < end {
            let next = end.min(self.position + pass_tokens);
            let tokens: Vec<u32> =
                (self.position..next).map(|position| subject.token(0, position)).collect();
            let sequence = BatchSequence {
                tokens: &tokens,
                position: self.position,
                pages: &mut self.pages,
                logits: Logits::Last,
                adapter: self.adapter,
            };
            let mut batch = Batch { sequences: vec![sequence] };
            let model = &subject.model;
            std::hint::black_box(model.forward(&subject.compute, &mut batch, &mut self.scratch));
            self.position = next;
        }
    }
}
