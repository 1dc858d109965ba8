//! A model in this process, behind [`rapport_types::Generate`].
//!
//! This is where text meets ids: a conversation goes through the file's chat template and tokenizer
//! to the engine, and tokens come back as whole characters, thought apart from answer. One thread
//! owns the engine; callers talk to it by messages.
//!
//! What is not here: scheduling and sampling (the engine), HTTP, accounts.
//!
//! Start reading at [`LocalModel::load`], then `reply.rs` for the life of one reply.

mod constrain;
mod driver;
mod modes;
mod reply;
mod slots;
mod stop;
mod tools;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rapport_engine::{DiskConfig, DiskError, DraftError, Embeddable, Engine, EngineConfig};
use rapport_kernels::{Compute, KvType};
use rapport_model::adapter::AdapterError;
use rapport_model::chat_template::{ChatTemplate, TemplateError, TemplateTokens};
use rapport_model::gguf::{Gguf, GgufError};
use rapport_model::tokenizer::{Tokenizer, TokenizerError, Vocabulary};
use rapport_model::{
    AdapterFile, BaseCheck, LoadError, PackedAdapter, SamplingAdvice, Transformer, file_sha256,
};
use rapport_types::{
    AdapterChoice, AdapterInfo, BuildId, Control, Embedding, EmbeddingInput, EmbeddingRequest,
    EventSink, Generate, GenerateError, InvalidSampling, ModelInfo, Request, SamplingDraft,
    TextToken,
};
use sha2::{Digest, Sha256};

use driver::Driver;

pub use driver::Notices;
pub use modes::{AutoMode, WordRule};
pub use slots::ThoughtForm;

/// Tokens that the engine keeps at most by default: several long conversations. Memory is taken as
/// they come.
pub const DEFAULT_KV_TOKENS: usize = 16_384;

/// Why a model cannot be used for conversations.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    #[error(transparent)]
    File(#[from] GgufError),
    #[error(transparent)]
    Model(#[from] LoadError),
    #[error("{file}: {source}")]
    Tokenizer { file: String, source: TokenizerError },
    #[error("{file}: {source}")]
    Template { file: String, source: TemplateError },
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    #[error("{file}: how it would be sampled: {source}")]
    Sampling { file: String, source: InvalidSampling },
    #[error("`{name}` cannot be an adapter's name: {reason}")]
    AdapterName { name: String, reason: &'static str },
    #[error("the cache on disk cannot be used: {0}")]
    Cache(#[from] DiskError),
    #[error("{file} cannot guess ahead: {source}")]
    Draft { file: String, source: DraftError },
    #[error("{file} cannot guess ahead: its tokens are not those of the model")]
    DraftTokens { file: String },
    #[error("{file}: tokenizer has {n_tokens} tokens and the model {n_vocab}")]
    Vocabulary { file: String, n_tokens: usize, n_vocab: usize },
}

/// Text and its meaning for one model: shared by all replies.
pub(crate) struct Language {
    pub(crate) tokenizer: Tokenizer,
    pub(crate) template: ChatTemplate,
    pub(crate) slots: Arc<slots::SlotTokens>,
    pub(crate) grammars: constrain::Grammars,
    pub(crate) auto: Arc<dyn AutoMode>,
}

/// A model that answers conversations.
pub struct LocalModel {
    info: ModelInfo,
    /// How it is sampled without an adapter, where a request leaves that open.
    sampling: SamplingDraft,
    language: Arc<Language>,
    adapters: Vec<LoadedAdapter>,
    /// The one that answers where none is named.
    default_adapter: Option<usize>,
    embeddable: Embeddable,
    driver: Driver,
}

/// An adapter that replies may ask for.
struct LoadedAdapter {
    name: String,
    build: BuildId,
    sampling: SamplingDraft,
    packed: Arc<PackedAdapter>,
}

/// An adapter's file and the name that requests use.
#[derive(Clone, Debug)]
pub struct NamedAdapter {
    /// Letters, digits, `.`, `_` and `-`; not `none`.
    pub name: String,
    pub file: AdapterFile,
}

/// Cached pages on disk, so that conversations go on quickly after a restart.
#[derive(Clone, Debug)]
pub struct DiskCache {
    /// Made if it is missing; belongs to one model that runs at a time.
    pub directory: PathBuf,
    pub max_bytes: u64,
    pub if_unusable: IfUnusable,
}

/// What becomes of a model whose cache on disk cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfUnusable {
    Fail,
    /// It runs without, and [`Notices`] say why.
    GoOn,
}

/// How to run a model; the default is as [`LocalModel::load`] does it.
#[derive(Clone, Debug)]
pub struct LocalOptions {
    /// Tokens of all conversations together that stay in memory.
    pub kv_tokens: usize,
    /// How keys and values are kept.
    pub kv_type: KvType,
    pub disk_cache: Option<DiskCache>,
    /// The file of a smaller model with the same tokens, which guesses ahead.
    pub draft: Option<PathBuf>,
    /// What can be added to the model, live: each request may choose one by name.
    pub adapters: Vec<NamedAdapter>,
    /// The name of the one that answers where a request chooses none.
    pub default_adapter: Option<String>,
    /// Whether adapters that were trained on another file may be used.
    pub base_check: BaseCheck,
    pub notices: Notices,
    /// What decides between fast and thinking where a request leaves it open.
    pub auto: Arc<dyn AutoMode>,
}

impl Default for LocalOptions {
    fn default() -> Self {
        Self {
            kv_tokens: DEFAULT_KV_TOKENS,
            kv_type: KvType::default(),
            disk_cache: None,
            draft: None,
            adapters: Vec::new(),
            default_adapter: None,
            base_check: BaseCheck::default(),
            notices: Notices::default(),
            auto: Arc::new(WordRule),
        }
    }
}

impl LocalModel {
    /// As [`LocalModel::open`], with all options but one as they are by default.
    ///
    /// # Errors
    /// If the file is not a model that Rapport can run.
    pub fn load(path: &Path, compute: Compute, kv_tokens: usize) -> Result<Self, LocalError> {
        Self::open(path, compute, &LocalOptions { kv_tokens, ..LocalOptions::default() })
    }

    /// Loads a model file with what is added to it, and starts its engine thread.
    ///
    /// # Errors
    /// If the file is not a model that Rapport can run, or the adapter belongs to another.
    pub fn open(path: &Path, compute: Compute, options: &LocalOptions) -> Result<Self, LocalError> {
        let file = || path.display().to_string();
        let gguf = Gguf::open(path)?;
        let metadata = gguf.metadata();
        let mut vocabulary = Vocabulary::from_gguf(&gguf)?;
        // A base model has no template; ChatML is what most of them have seen.
        let template_source =
            metadata.optional_string("tokenizer.chat_template")?.unwrap_or(CHATML);
        if vocabulary.templates.is_empty() {
            vocabulary.templates.push(template_source);
        }
        let tokenizer = Tokenizer::new(&vocabulary)
            .map_err(|source| LocalError::Tokenizer { file: file(), source })?;
        // Before the weights are read, which lets go of the file's pages one after another.
        let weights = weights_digest(&gguf, path);
        let mut build = build_id(&weights);
        check_names(options)?;
        let sampling = SamplingAdvice::of_gguf(metadata)?.over(SamplingDraft::default());
        sampling
            .clone()
            .validate()
            .map_err(|source| LocalError::Sampling { file: file(), source })?;
        let model = load_for_adapters(path, &gguf, &compute, options)?;
        let adapters = options.adapters.iter().map(|adapter| {
            Ok(LoadedAdapter {
                name: adapter.name.clone(),
                build: BuildId { adapter: adapter.file.short_hash(), ..build.clone() },
                sampling: adapter.file.advice.over(sampling.clone()),
                packed: Arc::new(model.pack_adapter(&compute, &adapter.file)?),
            })
        });
        let adapters = adapters.collect::<Result<Vec<_>, AdapterError>>()?;
        let default_adapter = options.default_adapter.as_ref();
        let default_adapter =
            default_adapter.and_then(|name| adapters.iter().position(|one| one.name == *name));
        if let Some(adapter_idx) = default_adapter {
            build = adapters[adapter_idx].build.clone();
        }
        if tokenizer.n_vocab() != model.n_vocab() {
            return Err(LocalError::Vocabulary {
                file: file(),
                n_tokens: tokenizer.n_vocab(),
                n_vocab: model.n_vocab(),
            });
        }
        let ids = tokenizer.special_ids();
        let text = |id| tokenizer.token_text_lossy(id).map(std::borrow::Cow::into_owned);
        let tokens = TemplateTokens { bos: ids.bos.and_then(text), eos: ids.eos.and_then(text) };
        let template = ChatTemplate::parse(template_source, tokens)
            .map_err(|source| LocalError::Template { file: file(), source })?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let draft = options.draft.as_deref().map(|draft| load_draft(draft, &vocabulary, &compute));
        let draft = draft.transpose()?;
        drop(gguf);

        let config = EngineConfig {
            kv_tokens: options.kv_tokens,
            kv_type: options.kv_type,
            // Who asks for how much is for whoever is in front to say.
            max_waiting_per_user: EngineConfig::default().max_waiting,
            ..EngineConfig::default()
        };
        let mut engine = Engine::new(model, compute, config);
        if let Some((file, draft)) = options.draft.as_deref().zip(draft) {
            engine
                .attach_draft(draft)
                .map_err(|source| LocalError::Draft { file: file.display().to_string(), source })?;
        }
        if let Some(cache) = &options.disk_cache {
            attach_cache(&mut engine, cache, &weights, options)?;
        }
        let context_tokens = engine.context_tokens() as u32;
        let slots = Arc::new(slots::SlotTokens::new(&tokenizer));
        Ok(Self {
            info: ModelInfo { name, context_tokens, build },
            sampling,
            language: Arc::new(Language {
                tokenizer,
                template,
                slots,
                grammars: constrain::Grammars::default(),
                auto: Arc::clone(&options.auto),
            }),
            adapters,
            default_adapter,
            embeddable: engine.embeddable(),
            driver: Driver::start(engine, options.notices.clone()),
        })
    }
}

/// Whether every adapter has a name that requests can say, and the default is one of them.
fn check_names(options: &LocalOptions) -> Result<(), LocalError> {
    let refused = |name: &String, reason| LocalError::AdapterName { name: name.clone(), reason };
    for (adapter_idx, NamedAdapter { name, .. }) in options.adapters.iter().enumerate() {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if name.is_empty() || !name.chars().all(is_plain) {
            return Err(refused(name, "use letters, digits, `.`, `_` and `-`"));
        }
        if name == "none" {
            return Err(refused(name, "it stands for the model alone"));
        }
        if options.adapters[..adapter_idx].iter().any(|other| other.name == *name) {
            return Err(refused(name, "another adapter has it: say NAME=PATH"));
        }
    }
    match &options.default_adapter {
        Some(name) if options.adapters.iter().all(|adapter| adapter.name != *name) => {
            Err(refused(name, "there is none of this name to answer by default"))
        }
        _ => Ok(()),
    }
}

impl LocalModel {
    /// The adapter of a choice.
    fn chosen(&self, choice: &AdapterChoice) -> Result<Option<&LoadedAdapter>, GenerateError> {
        Ok(match choice {
            AdapterChoice::None => None,
            AdapterChoice::Default => self.default_adapter.map(|idx| &self.adapters[idx]),
            AdapterChoice::Named(name) => {
                let named = self.adapters.iter().find(|adapter| adapter.name == *name);
                Some(named.ok_or_else(|| GenerateError::UnknownAdapter {
                    name: name.clone(),
                    known: self.adapters.iter().map(|adapter| adapter.name.clone()).collect(),
                })?)
            }
        })
    }

    /// What answers with a choice of adapter.
    fn adapted(
        &self,
        choice: &AdapterChoice,
    ) -> Result<(ModelInfo, Option<Arc<PackedAdapter>>), GenerateError> {
        let adapter = self.chosen(choice)?;
        let build = adapter.map_or_else(
            || BuildId { adapter: "none".to_owned(), ..self.info.build.clone() },
            |adapter| adapter.build.clone(),
        );
        let info = ModelInfo { build, ..self.info.clone() };
        Ok((info, adapter.map(|adapter| Arc::clone(&adapter.packed))))
    }
}

impl Generate for LocalModel {
    fn model(&self) -> ModelInfo {
        self.info.clone()
    }

    fn adapters(&self) -> Vec<AdapterInfo> {
        let told = |adapter: &LoadedAdapter| AdapterInfo {
            name: adapter.name.clone(),
            build: adapter.build.clone(),
        };
        self.adapters.iter().map(told).collect()
    }

    fn sampling(&self, adapter: &AdapterChoice) -> SamplingDraft {
        // One that is not there is refused where a reply is started.
        let adapter = self.chosen(adapter).ok().flatten();
        adapter.map_or(&self.sampling, |adapter| &adapter.sampling).clone()
    }

    fn start(&self, request: Request, sink: EventSink) -> Result<Control, GenerateError> {
        let adapted = self.adapted(&request.adapter)?;
        let job = reply::prepare(&self.language, adapted, request, sink)?;
        self.driver.submit(job)
    }

    fn tokenize(&self, text: &str) -> Option<Vec<TextToken>> {
        Some(reply::tokenize(&self.language, text))
    }

    fn count_prompt_tokens(&self, request: &Request) -> Result<Option<u32>, GenerateError> {
        reply::count_prompt_tokens(&self.language, request).map(Some)
    }

    fn embedding_width(&self) -> Option<u32> {
        Some(self.embeddable.width as u32)
    }

    fn embed(&self, request: EmbeddingRequest) -> Result<Vec<Embedding>, GenerateError> {
        let tokens = |(input_idx, input)| {
            let tokens = match input {
                EmbeddingInput::Text(text) => reply::plain_prompt(&self.language, &text),
                EmbeddingInput::Tokens(tokens) => tokens,
            };
            self.embeddable.check(&tokens).map_err(|error| GenerateError::InvalidRequest {
                field: "input",
                reason: format!("number {input_idx}: {error}"),
            })?;
            Ok(tokens)
        };
        let inputs = request.inputs.into_iter().enumerate();
        let texts = inputs.map(tokens).collect::<Result<Vec<_>, GenerateError>>()?;
        let counts: Vec<u32> = texts.iter().map(|tokens| tokens.len() as u32).collect();
        let vectors = self.driver.embed(texts, request.control)?;
        let embedding = |(vector, n_tokens)| Embedding { vector, n_tokens };
        Ok(vectors.into_iter().zip(counts).map(embedding).collect())
    }
}

/// Loads the weights, and meanwhile looks whether the adapters were trained on them.
fn load_for_adapters(
    path: &Path,
    gguf: &Gguf,
    compute: &Compute,
    options: &LocalOptions,
) -> Result<Transformer, LocalError> {
    let files = options.adapters.iter().map(|adapter| &adapter.file);
    let says_base = files.clone().any(|file| file.adapter.base_sha256.is_some());
    if options.base_check == BaseCheck::Any || !says_base {
        return Ok(Transformer::load(gguf, compute)?);
    }
    std::thread::scope(|scope| {
        let hashing = scope.spawn(|| file_sha256(path));
        let model = Transformer::load(gguf, compute)?;
        let hash = hashing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        for file in files {
            file.check_base(path, &hash)?;
        }
        Ok(model)
    })
}

/// A model that guesses ahead for one with these tokens.
fn load_draft(
    path: &Path,
    vocabulary: &Vocabulary<'_>,
    compute: &Compute,
) -> Result<Transformer, LocalError> {
    let gguf = Gguf::open(path)?;
    if Vocabulary::from_gguf(&gguf)?.tokens != vocabulary.tokens {
        return Err(LocalError::DraftTokens { file: path.display().to_string() });
    }
    Ok(Transformer::load(&gguf, compute)?)
}

fn attach_cache(
    engine: &mut Engine,
    cache: &DiskCache,
    weights: &[u8; 32],
    options: &LocalOptions,
) -> Result<(), LocalError> {
    let mut build = Sha256::new();
    build.update(weights);
    build.update(env!("CARGO_PKG_VERSION"));
    build.update(format!("{:?}", options.kv_type));
    let config = DiskConfig {
        directory: cache.directory.clone(),
        max_bytes: cache.max_bytes,
        build: build.finalize().into(),
    };
    match (engine.attach_disk(config), cache.if_unusable) {
        (Err(error), IfUnusable::GoOn) => {
            options.notices.tell(&format!("going on without a cache on disk: {error}"));
            Ok(())
        }
        (attached, _) => Ok(attached?),
    }
}

/// The hash of the header and the file's length: names the file without reading all of it at every
/// start. `rapport pull` has verified the whole.
fn weights_digest(gguf: &Gguf, path: &Path) -> [u8; 32] {
    let mut hash = Sha256::new();
    for tensor in gguf.tensors() {
        hash.update(tensor.name.as_bytes());
        hash.update(tensor.offset.to_le_bytes());
        // A few bytes of each tensor tell fine-tunes of one model apart.
        if let Ok(tensor) = gguf.tensor(&tensor.name) {
            hash.update(&tensor.bytes[..tensor.bytes.len().min(64)]);
        }
    }
    let n_bytes = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    hash.update(n_bytes.to_le_bytes());
    hash.finalize().into()
}

fn build_id(weights: &[u8; 32]) -> BuildId {
    let number = weights[..6].iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    BuildId {
        weights: format!("{number:012x}"),
        adapter: "none".to_owned(),
        persona: "none".to_owned(),
        engine: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

const CHATML: &str = "{% for message in messages %}<|im_start|>{{ message.role }}\n\
{{ message.content }}<|im_end|>\n{% endfor %}\
{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
