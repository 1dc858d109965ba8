//! `rapport bench`: how fast, and how far from what the machine could do.
//!
//! Every kind prints a table for people and, as the last line, the same as one line of JSON.

mod batch;
mod compare;
mod load;
mod long;
mod options;
mod prefix;
mod speed;

use std::io::Write;
use std::sync::Arc;

use rapport_kernels::Compute;
use rapport_model::gguf::Gguf;
use rapport_model::{PackedAdapter, Transformer};

pub(crate) use options::BenchOptions;
use options::{BenchKind, CommonOptions};
use rapport_cli::pull::{self, Paths};

pub(crate) fn run(
    options: &BenchOptions,
    paths: &Paths,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    match &options.kind {
        BenchKind::Decode(options) => speed::run(speed::Kind::Decode, options, paths, out),
        BenchKind::Prefill(options) => speed::run(speed::Kind::Prefill, options, paths, out),
        BenchKind::Batch(options) => batch::run(options, paths, out),
        BenchKind::Prefix(options) => prefix::run(options, paths, out),
        BenchKind::Long(options) => long::run(options, paths, out),
        BenchKind::Load(options) => load::run(options, out),
        BenchKind::Compare(options) => compare::run(options, paths, out),
    }
}

/// The model that is measured.
struct Subject {
    name: String,
    compute: Compute,
    model: Transformer,
    adapter: Option<Arc<PackedAdapter>>,
}

impl Subject {
    fn load(options: &CommonOptions, paths: &Paths) -> anyhow::Result<Self> {
        let files = pull::find(&options.model, paths)?;
        let compute = options.compute.compute();
        let model = Transformer::load(&Gguf::open(&files.gguf)?, &compute)?;
        let name = files.gguf.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let adapter = options.adapter.open(&files)?;
        let adapter = adapter.map(|file| model.pack_adapter(&compute, &file)).transpose()?;
        Ok(Self { name, compute, model, adapter: adapter.map(Arc::new) })
    }

    /// The lines that every table begins with.
    fn write_head(&self, what: &str, out: &mut impl Write) -> std::io::Result<()> {
        writeln!(out, "model            {}", self.name)?;
        writeln!(out, "what             {what}")?;
        let (isa, n_threads) = (self.compute.isa(), self.compute.pool().n_threads());
        writeln!(out, "instruction set  {isa}, {n_threads} threads")
    }

    /// A token that no text would hold next: each position of each stream its own.
    fn token(&self, stream_idx: usize, position: usize) -> u32 {
        ((position * 7919 + stream_idx * 104_729) % self.model.n_vocab()) as u32
    }
}

/// The middle one; of an even number the upper.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// With one digit after the point, as the JSON lines have it.
fn rounded(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// A ratio with three digits after the point.
fn rounded_share(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}
