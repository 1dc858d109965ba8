//! Every flag of every command.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use rapport_kernels::{Compute, Isa};

/// A conversational AI that you own: warm, honest, and yours to run.
#[derive(Debug, Parser)]
#[command(name = "rapport", version, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Measure speed: a table, then one line of JSON
    Bench(BenchOptions),
    /// Write a model's raw logits, to compare with another engine
    Logits(LogitsOptions),
    /// Measure how well a model predicts a text
    Perplexity(PerplexityOptions),
}

/// How to compute; the defaults suit the machine.
#[derive(Clone, Debug, Args)]
pub(crate) struct ComputeOptions {
    /// Instruction set: scalar, avx2 or avx512 [default: the fastest here]
    #[arg(long)]
    isa: Option<Isa>,
    /// Compute threads [default: physical cores]
    #[arg(long)]
    threads: Option<NonZeroUsize>,
}

impl ComputeOptions {
    pub(crate) fn compute(&self) -> Compute {
        let threads = self.threads.unwrap_or_else(crate::machine::physical_cores);
        Compute::new(self.isa.unwrap_or_else(Isa::detect), threads)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchKind {
    /// One reply being written
    Decode,
    /// A prompt being read
    Prefill,
}

#[derive(Debug, Args)]
pub(crate) struct BenchOptions {
    pub(crate) kind: BenchKind,
    /// A model file
    #[arg(long)]
    pub(crate) model: PathBuf,
    /// Tokens of a run [default: 128 for decode, 512 for prefill]
    #[arg(long)]
    pub(crate) tokens: Option<NonZeroUsize>,
    /// Runs, of which the median counts
    #[arg(long, default_value = "5")]
    pub(crate) runs: NonZeroUsize,
    #[command(flatten)]
    pub(crate) compute: ComputeOptions,
}

#[derive(Debug, Args)]
pub(crate) struct LogitsOptions {
    /// A model file
    #[arg(long)]
    pub(crate) model: PathBuf,
    /// Token ids, with commas between them
    #[arg(long, value_delimiter = ',', required = true)]
    pub(crate) tokens: Vec<u32>,
    /// Where to write raw little-endian f32: one row of the vocabulary for each token
    #[arg(long)]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) compute: ComputeOptions,
}

#[derive(Debug, Args)]
pub(crate) struct PerplexityOptions {
    /// A model file
    #[arg(long)]
    pub(crate) model: PathBuf,
    /// A text file
    #[arg(long)]
    pub(crate) file: PathBuf,
    /// Tokens of a window; each starts from an empty context
    #[arg(long, default_value = "512")]
    pub(crate) window: NonZeroUsize,
    #[command(flatten)]
    pub(crate) compute: ComputeOptions,
}
