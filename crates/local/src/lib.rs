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

use std::path::Path;
use std::sync::Arc;

use rapport_engine::{Engine, EngineConfig};
use rapport_kernels::Compute;
use rapport_model::adapter::AdapterError;
use rapport_model::chat_template::{ChatTemplate, TemplateError, TemplateTokens};
use rapport_model::gguf::{Gguf, GgufError};
use rapport_model::tokenizer::{Tokenizer, TokenizerError, Vocabulary};
use rapport_model::{AdapterFile, LoadError, PackedAdapter, Transformer};
use rapport_types::{
    BuildId, Control, EventSink, Generate, GenerateError, ModelInfo, Request, TextToken,
};
use sha2::{Digest, Sha256};

use driver::Driver;

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
    #[error("{file}: tokenizer has {n_tokens} tokens and the model {n_vocab}")]
    Vocabulary { file: String, n_tokens: usize, n_vocab: usize },
}

/// Text and its meaning for one model: shared by all replies.
pub(crate) struct Language {
    pub(crate) tokenizer: Tokenizer,
    pub(crate) template: ChatTemplate,
    pub(crate) slots: Arc<slots::SlotTokens>,
    pub(crate) grammars: constrain::Grammars,
}

/// A model that answers conversations.
pub struct LocalModel {
    info: ModelInfo,
    language: Arc<Language>,
    adapter: Option<Arc<PackedAdapter>>,
    driver: Driver,
}

/// How to run a model; the default is as [`LocalModel::load`] does it.
#[derive(Debug)]
pub struct LocalOptions {
    /// Tokens of all conversations together that stay in memory.
    pub kv_tokens: usize,
    /// What is added to the model, live.
    pub adapter: Option<AdapterFile>,
}

impl Default for LocalOptions {
    fn default() -> Self {
        Self { kv_tokens: DEFAULT_KV_TOKENS, adapter: None }
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
        let mut build = build_id(&gguf, path);
        let model = Transformer::load(&gguf, &compute)?;
        let adapter = options.adapter.as_ref().map(|file| {
            build.adapter = file.short_hash();
            model.pack_adapter(&compute, file).map(Arc::new)
        });
        let adapter = adapter.transpose()?;
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
        drop(gguf);

        let config = EngineConfig {
            kv_tokens: options.kv_tokens,
            // Who asks for how much is for whoever is in front to say.
            max_waiting_per_user: EngineConfig::default().max_waiting,
            ..EngineConfig::default()
        };
        let engine = Engine::new(model, compute, config);
        let context_tokens = engine.context_tokens() as u32;
        let slots = Arc::new(slots::SlotTokens::new(&tokenizer));
        Ok(Self {
            info: ModelInfo { name, context_tokens, build },
            language: Arc::new(Language {
                tokenizer,
                template,
                slots,
                grammars: constrain::Grammars::default(),
            }),
            adapter,
            driver: Driver::start(engine),
        })
    }
}

impl Generate for LocalModel {
    fn model(&self) -> ModelInfo {
        self.info.clone()
    }

    fn start(&self, request: Request, sink: EventSink) -> Result<Control, GenerateError> {
        let adapted = (&self.info, self.adapter.clone());
        let job = reply::prepare(&self.language, adapted, request, sink)?;
        self.driver.submit(job)
    }

    fn tokenize(&self, text: &str) -> Option<Vec<TextToken>> {
        Some(reply::tokenize(&self.language, text))
    }

    fn count_prompt_tokens(&self, request: &Request) -> Result<Option<u32>, GenerateError> {
        reply::count_prompt_tokens(&self.language, request).map(Some)
    }
}

/// The hash of the header and the file's length: names the file without reading all of it at every
/// start. `rapport pull` has verified the whole.
fn build_id(gguf: &Gguf, path: &Path) -> BuildId {
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
    let digest = hash.finalize();
    let number = digest[..6].iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    let weights = format!("{number:012x}");
    BuildId {
        weights,
        adapter: "none".to_owned(),
        persona: "none".to_owned(),
        engine: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

const CHATML: &str = "{% for message in messages %}<|im_start|>{{ message.role }}\n\
{{ message.content }}<|im_end|>\n{% endfor %}\
{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
