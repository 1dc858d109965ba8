//! Where a training's own replies come from and what they are worth: the engine with the adapter as
//! it is at that moment, and the scores that a recipe may ask for.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use rapport_local::{LocalModel, LocalOptions, NamedAdapter};
use rapport_model::AdapterFile;
use rapport_model::adapter::{Adapter, Storage};
use rapport_persona::rewards::{Component, Reading};
use rapport_train::recipe::RecipeFile;
use rapport_train::{Failure, Prompt, Reward, RewardModel, Rollouts};
use rapport_types::{Generate, Message};

use crate::options::ComputeOptions;
use crate::reward;

/// Tokens that the engine keeps: the replies of a step.
const KV_TOKENS: usize = 16_384;
/// Bytes of keys and values for each token of a model of 7 billion parameters or less.
const BYTES_PER_KV_TOKEN: usize = 64 * 1024;

/// The engine, opened anew with each adapter: a fraction of a second for a small model, and nothing
/// of an earlier adapter is left.
pub(crate) struct LiveRollouts {
    base: PathBuf,
    compute: ComputeOptions,
    folder: tempfile::TempDir,
}

impl LiveRollouts {
    pub(crate) fn new(base: &Path, compute: &ComputeOptions) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a folder for the live adapter")?;
        Ok(Self { base: base.to_owned(), compute: compute.clone(), folder })
    }
}

impl Rollouts for LiveRollouts {
    fn with_adapter(&self, adapter: &Adapter) -> Result<Arc<dyn Generate>, Failure> {
        adapter.save(self.folder.path(), Storage::F32)?;
        let live =
            NamedAdapter { name: "live".to_owned(), file: AdapterFile::open(self.folder.path())? };
        let options = LocalOptions {
            kv_tokens: KV_TOKENS,
            default_adapter: Some(live.name.clone()),
            adapters: vec![live],
            ..LocalOptions::default()
        };
        Ok(Arc::new(LocalModel::open(&self.base, self.compute.compute(), &options)?))
    }

    fn memory_bytes(&self) -> usize {
        // Weights repacked beside those that are read, and all keys and values.
        let file = fs::metadata(&self.base).map_or(0, |metadata| metadata.len() as usize);
        2 * file + KV_TOKENS * BYTES_PER_KV_TOKEN / 2
    }
}

/// Every score that a recipe may name.
pub(crate) struct Scores {
    /// `reward_model`, where the recipe names one.
    learned: Option<Mutex<RewardModel>>,
}

/// Words at which [`brevity`] is one half.
const HALF_BREVITY_WORDS: f64 = 20.0;

/// From 1 for nothing towards 0: there to try a training out, since anybody can count.
fn brevity(reply: &Message) -> f64 {
    let n_words = reply.content.split_whitespace().count() as f64;
    1.0 / (1.0 + n_words / HALF_BREVITY_WORDS)
}

impl Scores {
    pub(crate) fn new(
        recipe: &RecipeFile,
        base: &Path,
        compute: &ComputeOptions,
    ) -> anyhow::Result<Self> {
        let folder = recipe.reward_model();
        let learned = folder
            .map(|folder| {
                RewardModel::open(base, &folder, compute.compute())
                    .map(Mutex::new)
                    .with_context(|| format!("the reward model {}", folder.display()))
            })
            .transpose()?;
        Ok(Self { learned })
    }
}

/// `brevity`; the components of `rapport reward`, 0 behind a closed gate, so that gates hold under any
/// weights; `reward_model`, where there is one.
impl Reward for Scores {
    fn names(&self) -> Vec<String> {
        let learned = self.learned.as_ref().map(|_| "reward_model");
        let components = Component::ALL.into_iter().map(Component::name);
        ["brevity"].into_iter().chain(components).chain(learned).map(str::to_owned).collect()
    }

    fn scores(&self, prompt: &Prompt, reply: &Message) -> Result<Vec<Option<f64>>, Failure> {
        let labels = &prompt.labels;
        let (feeling, need) = (labels.feeling.as_deref(), labels.need.as_deref());
        let labels = Reading {
            answers: labels.answers.clone(),
            ..Reading::of_tags(feeling, need, labels.kind.as_deref())
        };
        let components = reward::scores(&prompt.messages, &reply.content, labels).values();
        let mut scores = vec![Some(brevity(reply))];
        scores.extend(components);
        if let Some(learned) = &self.learned {
            let mut learned = learned.lock().unwrap_or_else(PoisonError::into_inner);
            scores.push(Some(learned.reward(&prompt.messages, reply)?));
        }
        Ok(scores)
    }

    fn memory_bytes(&self) -> usize {
        let learned = self.learned.as_ref();
        learned.map_or(0, |learned| {
            learned.lock().unwrap_or_else(PoisonError::into_inner).memory_bytes()
        })
    }
}
