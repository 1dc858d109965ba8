//! What `rapport bench` takes.

use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};

use clap::{Args, Subcommand, ValueEnum};
use rapport_cli::pull::DEFAULT_MODEL;

use crate::options::{AdapterOptions, ComputeOptions};

#[derive(Debug, Args)]
pub(crate) struct BenchOptions {
    #[command(subcommand)]
    pub(super) kind: BenchKind,
}

#[derive(Debug, Subcommand)]
pub(super) enum BenchKind {
    /// One reply being written
    Decode(SpeedOptions),
    /// A prompt being read
    Prefill(SpeedOptions),
    /// Many replies at once: prompts of 128 tokens, replies of 64
    Batch(BatchOptions),
    /// The wait for the first token of a conversation's next turn: cold, from memory, from disk
    Prefix(PrefixOptions),
    /// One reply being written, by how much stands before it
    Long(LongOptions),
    /// Many conversations at once with a server, over HTTP
    Load(LoadOptions),
    /// This engine and another in turn, with ratios pair by pair
    Compare(CompareOptions),
}

#[derive(Debug, Args)]
pub(super) struct CommonOptions {
    /// A model of the catalogue, or the path of a .gguf file
    #[arg(long, default_value = DEFAULT_MODEL)]
    pub(super) model: String,
    /// Runs, of which the median counts
    #[arg(long, default_value = "5")]
    pub(super) runs: NonZeroUsize,
    #[command(flatten)]
    pub(super) adapter: AdapterOptions,
    #[command(flatten)]
    pub(super) compute: ComputeOptions,
}

#[derive(Debug, Args)]
pub(super) struct SpeedOptions {
    #[command(flatten)]
    pub(super) common: CommonOptions,
    /// Tokens of a run [default: 128 for decode, 512 for prefill]
    #[arg(long)]
    pub(super) tokens: Option<NonZeroUsize>,
}

#[derive(Debug, Args)]
pub(super) struct BatchOptions {
    #[command(flatten)]
    pub(super) common: CommonOptions,
    /// How many replies at once, with commas between
    #[arg(long, value_delimiter = ',', default_value = "1,4,16,64")]
    pub(super) streams: Vec<NonZeroUsize>,
}

#[derive(Debug, Args)]
pub(super) struct PrefixOptions {
    #[command(flatten)]
    pub(super) common: CommonOptions,
    /// Tokens of the conversation so far
    #[arg(long, default_value = "2000")]
    pub(super) tokens: NonZeroUsize,
}

#[derive(Debug, Args)]
pub(super) struct LongOptions {
    #[command(flatten)]
    pub(super) common: CommonOptions,
    /// Tokens that stand before, with commas between; those beyond the model's context are left out
    #[arg(long, value_delimiter = ',', default_value = "500,1000,2000,4000,8000")]
    pub(super) contexts: Vec<NonZeroUsize>,
}

#[derive(Debug, Args)]
pub(super) struct LoadOptions {
    /// The address of a server that speaks OpenAI's protocol
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    pub(super) url: String,
    /// The model as the server calls it [default: the first it has]
    #[arg(long, value_name = "NAME")]
    pub(super) server_model: Option<String>,
    /// The variable of the environment that the server's key is in
    #[arg(long, value_name = "VARIABLE")]
    pub(super) key_env: Option<String>,
    /// Conversations at once
    #[arg(long, default_value = "64")]
    pub(super) streams: NonZeroUsize,
    /// For how long new questions are asked
    #[arg(long, default_value = "300")]
    pub(super) seconds: NonZeroU64,
    /// The longest reply
    #[arg(long, default_value = "64")]
    pub(super) max_tokens: NonZeroU32,
    /// Replies that are asked for again alone, afterwards
    #[arg(long, default_value = "64")]
    pub(super) checks: usize,
    /// The server's process, whose memory is watched
    #[arg(long)]
    pub(super) pid: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum CompareKind {
    Decode,
    Prefill,
}

#[derive(Debug, Args)]
pub(super) struct CompareOptions {
    pub(super) what: CompareKind,
    #[command(flatten)]
    pub(super) speed: SpeedOptions,
    /// The other engine's benchmark, for one run of the same work: a command of words with spaces
    /// between; it prints JSON
    #[arg(long, value_name = "COMMAND")]
    pub(super) other: String,
    /// The key of the other's tokens a second in that JSON; the last one counts
    #[arg(long, default_value = "avg_ts")]
    pub(super) other_key: String,
}
