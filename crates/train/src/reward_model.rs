//! A learned reward: a frozen model with an adapter and a head that turns the last hidden state of a
//! conversation, whose last message is the reply, into a number (Bradley and Terry 1952).
//!
//! The head is `reward_head.safetensors` beside the adapter: one tensor, `score.weight` (1, C), the
//! name that `transformers` gives it in models for the classification of sequences.
//!
//! What is not here: training it (`run.rs`, a stage with the method `reward`).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rapport_kernels::Compute;
use rapport_model::adapter::{Adapter, AdapterError};
use rapport_model::gguf::{Gguf, GgufError};
use rapport_types::Message;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensorError, SafeTensors};

use crate::network::base::{Base, BaseError, Precision};
use crate::network::parameters::Parameters;
use crate::network::{Network, Pack, Recompute};
use crate::text::{Language, Reply, TextError};

/// The head's file in the folder of its adapter.
const HEAD_FILE: &str = "reward_head.safetensors";
const HEAD_TENSOR: &str = "score.weight";

/// Why a reward model cannot be written, read or asked.
#[derive(Debug, thiserror::Error)]
pub enum RewardModelError {
    #[error("{}: {source}", file.display())]
    Io { file: PathBuf, source: io::Error },
    #[error("{}: {source}", file.display())]
    Container { file: PathBuf, source: SafeTensorError },
    #[error(
        "{}: `{HEAD_TENSOR}` is {found:?}, expected [1, {expected}]: it belongs to another model",
        file.display()
    )]
    HeadShape { file: PathBuf, found: Vec<usize>, expected: usize },
    #[error(transparent)]
    File(#[from] GgufError),
    #[error(transparent)]
    Base(#[from] BaseError),
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    #[error(transparent)]
    Text(#[from] TextError),
}

/// Writes a head beside its adapter.
pub(crate) fn save_head(folder: &Path, head: &[f32]) -> Result<(), RewardModelError> {
    let file = folder.join(HEAD_FILE);
    let container = |source| RewardModelError::Container { file: file.clone(), source };
    let bytes: Vec<u8> = head.iter().flat_map(|value| value.to_le_bytes()).collect();
    let view = TensorView::new(Dtype::F32, vec![1, head.len()], &bytes).map_err(container)?;
    let whole = safetensors::serialize([(HEAD_TENSOR, view)], None).map_err(container)?;
    fs::write(&file, whole).map_err(|source| RewardModelError::Io { file, source })
}

fn load_head(folder: &Path, n_cols: usize) -> Result<Vec<f32>, RewardModelError> {
    let file = folder.join(HEAD_FILE);
    let bytes =
        fs::read(&file).map_err(|source| RewardModelError::Io { file: file.clone(), source })?;
    let container = |source| RewardModelError::Container { file: file.clone(), source };
    let tensors = SafeTensors::deserialize(&bytes).map_err(container)?;
    let head = tensors.tensor(HEAD_TENSOR).map_err(container)?;
    if head.shape() != [1, n_cols] || head.dtype() != Dtype::F32 {
        let found = head.shape().to_vec();
        return Err(RewardModelError::HeadShape { file, found, expected: n_cols });
    }
    Ok(head.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

/// A reward model that is ready to judge.
pub struct RewardModel {
    network: Network<f32>,
    parameters: Parameters<f32>,
    language: Language,
}

impl RewardModel {
    /// Reads a base model's file and the folder of an adapter with its head.
    ///
    /// # Errors
    /// One of them cannot be read, or they do not belong together.
    pub fn open(base: &Path, folder: &Path, compute: Compute) -> Result<Self, RewardModelError> {
        let gguf = Gguf::open(base)?;
        let language = Language::load(&gguf)?;
        let network = Network::new(compute, Base::load(&gguf, Precision::F32)?, Recompute::Layers);
        let adapter = Adapter::load(folder)?;
        adapter.check_fits(&network.shape().base())?;
        let head = load_head(folder, network.shape().hidden)?;
        let parameters =
            Parameters::from_adapter(network.shape().base(), &adapter).with_reward_head(&head);
        Ok(Self { network, parameters, language })
    }

    /// Memory that it holds at most, for conversations as long as the model can read.
    pub fn memory_bytes(&self) -> usize {
        let n_tokens = self.network.shape().context_tokens;
        let adapter = self.parameters.values.len() * size_of::<f32>();
        self.network.planned_bytes(&self.parameters.layout, n_tokens) + adapter
    }

    /// What a reply to a conversation is worth: greater is better, and only differences between
    /// replies to one conversation mean anything.
    ///
    /// # Errors
    /// The conversation or the reply cannot be rendered.
    pub fn reward(&mut self, prompt: &[Message], reply: &Message) -> Result<f64, RewardModelError> {
        let reply = Reply { content: reply.content.clone(), thought: reply.thought.clone() };
        let sequence = self.language.completion(prompt, &reply)?;
        let mut pack = Pack::default();
        let span = pack.push(&sequence.tokens);
        self.network.forward(&self.parameters, &pack);
        Ok(f64::from(self.network.rewards(&self.parameters, &[span.end - 1])[0]))
    }
}
