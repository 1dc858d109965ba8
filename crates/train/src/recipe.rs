//! A recipe: everything that decides what a training gives, in a file that people read.
//!
//! ```toml
//! name = "rapport-135m"
//! base = "smollm2-135m"
//! seed = 1
//!
//! [adapter]
//! n_experts = 4
//! top_k = 2
//! rank = 8
//! alpha = 16.0
//!
//! [[stage]]
//! method = "sft"
//! data = ["../data/conversations"]
//! learning_rate = 1e-3
//! epochs = 2.0
//! ```
//!
//! Paths count from the recipe's folder. Keys that do not exist are errors.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rapport_model::SamplingAdvice;
use rapport_model::adapter::{Routing, Storage};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::data::hexadecimal;
use crate::network::Recompute;
use crate::network::base::Precision;
use crate::network::parameters::AdapterShape;

/// Why a recipe cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    #[error("{}: {source}", file.display())]
    Io { file: PathBuf, source: io::Error },
    #[error("{}: {source}", file.display())]
    Toml { file: PathBuf, source: toml::de::Error },
    #[error("{}: `{key}` is {found}, expected {expected}", file.display())]
    Value { file: PathBuf, key: String, found: String, expected: &'static str },
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Of what comes out; also its folder's name below `models/`.
    pub name: String,
    /// A model of the catalogue, or the path of a .gguf file.
    pub base: String,
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// How the adapter's numbers are stored in the end.
    #[serde(default)]
    pub storage: StoredAs,
    /// Of the products with the frozen weights.
    #[serde(default)]
    pub precision: Precision,
    #[serde(default)]
    pub recompute: Recompute,
    /// Minutes between checkpoints.
    #[serde(default = "default_checkpoint_minutes")]
    pub checkpoint_minutes: f64,
    /// An adapter of the same form to go on from, its folder or file, instead of a fresh one.
    #[serde(default)]
    pub start: Option<PathBuf>,
    pub adapter: AdapterRecipe,
    /// How replies with the adapter are sampled where nobody says.
    #[serde(default)]
    pub sampling: Option<SamplingRecipe>,
    #[serde(rename = "stage")]
    pub stages: Vec<Stage>,
}

fn default_seed() -> u64 {
    1
}

fn default_checkpoint_minutes() -> f64 {
    3.0
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StoredAs {
    F32,
    #[default]
    F16,
    Bf16,
}

impl From<StoredAs> for Storage {
    fn from(stored: StoredAs) -> Self {
        match stored {
            StoredAs::F32 => Self::F32,
            StoredAs::F16 => Self::F16,
            StoredAs::Bf16 => Self::Bf16,
        }
    }
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SamplingRecipe {
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
}

impl From<SamplingRecipe> for SamplingAdvice {
    fn from(SamplingRecipe { temperature, top_p }: SamplingRecipe) -> Self {
        Self { temperature, top_p, ..Self::default() }
    }
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AdapterRecipe {
    /// 1 makes a plain LoRA.
    pub n_experts: usize,
    #[serde(default = "default_top_k")]
    pub top_k: usize,
    pub rank: usize,
    pub alpha: f64,
    /// How fast the biases of the routers balance the experts, in score a step.
    #[serde(default = "default_balance_rate")]
    pub balance_rate: f64,
    /// What the routers' z-loss counts.
    #[serde(default = "default_z_loss")]
    pub z_loss: f64,
}

fn default_top_k() -> usize {
    1
}

fn default_balance_rate() -> f64 {
    1e-3
}

fn default_z_loss() -> f64 {
    1e-4
}

impl AdapterRecipe {
    pub fn shape(&self) -> AdapterShape {
        let Self { n_experts, top_k, rank, alpha, .. } = *self;
        let routing = (n_experts > 1).then_some(Routing { n_experts, top_k });
        AdapterShape { rank, alpha, routing }
    }
}

/// A part of a training with one kind of data and one loss; each goes on from the one before it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    pub method: Method,
    /// Only where `method` is `dpo`.
    #[serde(default)]
    pub dpo: Option<DpoRecipe>,
    /// Only where `method` is `kto`.
    #[serde(default)]
    pub kto: Option<KtoRecipe>,
    /// Only where `method` is `grpo`, and there it must be.
    #[serde(default)]
    pub grpo: Option<GrpoRecipe>,
    /// Only where `method` is `reward`.
    #[serde(default)]
    pub reward: Option<RewardRecipe>,
    /// What a token of a thought counts, with one of an answer at 1, where replies are imitated.
    #[serde(default = "default_thought_weight")]
    pub thought_weight: f64,
    /// Files, and folders of .jsonl files.
    pub data: Vec<PathBuf>,
    /// Rows without a system message get one of these, always the same; "" stands for none.
    #[serde(default)]
    pub systems: Vec<String>,
    /// Passes over the data; may be a fraction.
    #[serde(default = "default_epochs")]
    pub epochs: f64,
    pub learning_rate: f64,
    /// The part of the steps in which the learning rate rises.
    #[serde(default = "default_warmup")]
    pub warmup: f64,
    /// Where the cosine ends, as a part of the learning rate.
    #[serde(default = "default_final_learning_rate")]
    pub final_learning_rate: f64,
    /// Tokens of a step, prompts included.
    #[serde(default = "default_batch_tokens")]
    pub batch_tokens: usize,
    /// Tokens that go through the network together: more is more memory, not another result.
    #[serde(default = "default_pack_tokens")]
    pub pack_tokens: usize,
    /// Rows with a longer sequence are left out.
    #[serde(default = "default_max_tokens")]
    pub max_tokens: usize,
    #[serde(default)]
    pub weight_decay: f64,
    #[serde(default = "default_clip_norm")]
    pub clip_norm: f64,
    #[serde(default = "default_betas")]
    pub betas: [f64; 2],
    /// The part of the rows that is held out, to see what is learned and what is learned by heart.
    #[serde(default = "default_held_out")]
    pub held_out: f64,
    /// Steps between looks at the held-out rows; there is always one at the end.
    #[serde(default = "default_validate_every")]
    pub validate_every: usize,
}

fn default_epochs() -> f64 {
    1.0
}

fn default_warmup() -> f64 {
    0.05
}

fn default_final_learning_rate() -> f64 {
    0.1
}

fn default_batch_tokens() -> usize {
    4096
}

fn default_pack_tokens() -> usize {
    512
}

fn default_max_tokens() -> usize {
    512
}

fn default_clip_norm() -> f64 {
    1.0
}

fn default_betas() -> [f64; 2] {
    [0.9, 0.999]
}

fn default_held_out() -> f64 {
    0.02
}

fn default_validate_every() -> usize {
    50
}

/// What is learned from.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Replies to imitate: the mean negative log-probability of their tokens.
    #[default]
    Sft,
    /// Pairs of replies (Rafailov et al. 2023).
    Dpo,
    /// Single replies that people liked or did not (Ethayarajh et al. 2024).
    Kto,
    /// Replies that the model writes itself, by what they are worth (Shao et al. 2024).
    Grpo,
    /// Pairs of replies, to learn what replies are worth: a head that gives a number, not text.
    Reward,
}

fn default_thought_weight() -> f64 {
    1.0
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DpoRecipe {
    #[serde(default = "default_beta")]
    pub beta: f64,
    /// Compare means over tokens rather than sums, so that length does not win.
    #[serde(default)]
    pub length_normalised: bool,
    /// The probability that a pair is the wrong way round (cDPO).
    #[serde(default)]
    pub label_smoothing: f64,
    /// What a row's `margin` counts.
    #[serde(default = "default_weight")]
    pub margin_weight: f64,
    /// What the chosen reply's mean negative log-probability counts beside the preference.
    #[serde(default)]
    pub sft_weight: f64,
}

fn default_beta() -> f64 {
    0.1
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct KtoRecipe {
    #[serde(default = "default_beta")]
    pub beta: f64,
    /// What a liked and a disliked reply count; where there are many more of one kind, the products
    /// of weight and number should be near each other.
    #[serde(default = "default_weight")]
    pub liked_weight: f64,
    #[serde(default = "default_weight")]
    pub disliked_weight: f64,
}

fn default_weight() -> f64 {
    1.0
}

/// How replies that the model writes become a step. A step asks `prompts_per_step` prompts, `group`
/// times each.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct GrpoRecipe {
    /// What each score of a reply counts, by its name.
    pub rewards: BTreeMap<String, f64>,
    pub group: usize,
    pub prompts_per_step: usize,
    /// Of a reply's answer; a longer one is cut and learned without its end.
    pub max_new_tokens: u32,
    /// 1 samples what the gradient is about; other values are approximations.
    pub temperature: f64,
    pub mode: RolloutMode,
    pub advantage: Advantage,
    pub aggregation: Aggregation,
    /// How far a token's probability may fall and rise in a step before it counts no more.
    pub clip_low: f64,
    pub clip_high: f64,
    pub kl: KlEstimate,
    /// What the distance from where the stage began counts.
    pub kl_weight: f64,
    /// Steps of the optimiser for each set of replies.
    pub updates: usize,
    /// The folder of a trained reward model on the same base: what the score `reward_model` is.
    pub reward_model: Option<PathBuf>,
}

impl Default for GrpoRecipe {
    fn default() -> Self {
        Self {
            rewards: BTreeMap::new(),
            group: 8,
            prompts_per_step: 4,
            max_new_tokens: 64,
            temperature: 1.0,
            mode: RolloutMode::Fast,
            advantage: Advantage::Gdpo,
            aggregation: Aggregation::Dapo,
            clip_low: 0.2,
            clip_high: 0.28,
            kl: KlEstimate::K2,
            kl_weight: 1e-3,
            updates: 1,
            reward_model: None,
        }
    }
}

impl GrpoRecipe {
    /// What the sum over the tokens of a step is divided by.
    pub(crate) fn tokens_of_step(&self, n_targets: usize, n_replies: usize) -> f64 {
        match self.aggregation {
            Aggregation::Dapo => n_targets.max(1) as f64,
            Aggregation::DrGrpo => n_replies as f64 * f64::from(self.max_new_tokens),
        }
    }
}

/// Whether replies think first.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutMode {
    Fast,
    Thinking,
}

/// How scores become advantages.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Advantage {
    /// Each score by the mean and deviation of its group, summed by weights, then by those of the
    /// step (arXiv 2601.05242): no score drowns another by its scale.
    Gdpo,
    /// The weighted sum by the mean and deviation of its group (Shao et al. 2024).
    Group,
    /// The weighted sum less the mean of its group (Dr. GRPO, arXiv 2503.20783).
    Mean,
}

/// What a token counts in a step.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregation {
    /// One part of all tokens of the step (DAPO).
    Dapo,
    /// One part of the step's replies times `max_new_tokens`, so that length changes nothing
    /// (Dr. GRPO).
    DrGrpo,
}

/// How the distance from the reference is estimated (Schulman 2020).
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KlEstimate {
    K2,
    K3,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RewardRecipe {
    /// What a row's `margin` counts.
    pub margin_weight: f64,
    /// Keeps rewards near zero.
    pub centering: f64,
}

impl Default for RewardRecipe {
    fn default() -> Self {
        Self { margin_weight: 1.0, centering: 0.01 }
    }
}

impl Default for KtoRecipe {
    fn default() -> Self {
        Self { beta: default_beta(), liked_weight: 1.0, disliked_weight: 1.0 }
    }
}

impl Default for DpoRecipe {
    fn default() -> Self {
        Self {
            beta: default_beta(),
            length_normalised: false,
            label_smoothing: 0.0,
            margin_weight: 1.0,
            sft_weight: 0.0,
        }
    }
}

impl Method {
    /// The word for it in a recipe.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sft => "sft",
            Self::Dpo => "dpo",
            Self::Kto => "kto",
            Self::Grpo => "grpo",
            Self::Reward => "reward",
        }
    }
}

/// A recipe and where its paths count from.
#[derive(Clone, Debug)]
pub struct RecipeFile {
    pub recipe: Recipe,
    pub folder: PathBuf,
    /// SHA-256 of the file, in hexadecimal: a checkpoint belongs to one recipe.
    pub sha256: String,
}

impl RecipeFile {
    /// Reads and checks a recipe.
    ///
    /// # Errors
    /// The file cannot be read, or a value is not one that training could use.
    pub fn read(file: &Path) -> Result<Self, RecipeError> {
        let text = fs::read_to_string(file)
            .map_err(|source| RecipeError::Io { file: file.to_owned(), source })?;
        let recipe: Recipe = toml::from_str(&text)
            .map_err(|source| RecipeError::Toml { file: file.to_owned(), source })?;
        check(file, &recipe)?;
        let folder = match file.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        Ok(Self { recipe, folder, sha256: hexadecimal(&Sha256::digest(text.as_bytes())) })
    }

    /// Whether a stage has the model write replies.
    pub fn writes_replies(&self) -> bool {
        self.recipe.stages.iter().any(|stage| stage.method == Method::Grpo)
    }

    /// The folder of the reward model that a stage asks, from where the program runs.
    pub fn reward_model(&self) -> Option<PathBuf> {
        let mut grpo = self.recipe.stages.iter().filter_map(|stage| stage.grpo.as_ref());
        let folder = grpo.find_map(|grpo| grpo.reward_model.as_ref())?;
        Some(self.folder.join(folder))
    }

    /// The adapter to go on from, from where the program runs.
    pub fn start(&self) -> Option<PathBuf> {
        self.recipe.start.as_ref().map(|start| self.folder.join(start))
    }

    /// The paths of a stage's data, from where the program runs.
    pub fn data(&self, stage: &Stage) -> Vec<PathBuf> {
        stage.data.iter().map(|path| self.folder.join(path)).collect()
    }
}

fn check(file: &Path, recipe: &Recipe) -> Result<(), RecipeError> {
    let adapter = &recipe.adapter;
    let sampling = recipe.sampling.map(SamplingAdvice::from).unwrap_or_default();
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let mut checks = vec![
        (
            !recipe.name.is_empty()
                && recipe.name.chars().all(is_name)
                && !recipe.name.starts_with('.'),
            "name".to_owned(),
            format!("`{}`", recipe.name),
            "letters, digits, `-`, `_` and `.`",
        ),
        (
            sampling.temperature.is_none_or(|temperature| (0.0..=2.0).contains(&temperature)),
            "sampling.temperature".to_owned(),
            sampling.temperature.unwrap_or_default().to_string(),
            "0 to 2",
        ),
        (
            sampling.top_p.is_none_or(|top_p| top_p > 0.0 && top_p <= 1.0),
            "sampling.top_p".to_owned(),
            sampling.top_p.unwrap_or_default().to_string(),
            "above 0 and at most 1",
        ),
        (!recipe.stages.is_empty(), "stage".to_owned(), "empty".to_owned(), "at least one stage"),
        (
            (1..=256).contains(&adapter.n_experts),
            "adapter.n_experts".to_owned(),
            adapter.n_experts.to_string(),
            "1 to 256",
        ),
        (
            (1..=adapter.n_experts).contains(&adapter.top_k),
            "adapter.top_k".to_owned(),
            adapter.top_k.to_string(),
            "1 to n_experts",
        ),
        (
            (1..=1024).contains(&adapter.rank),
            "adapter.rank".to_owned(),
            adapter.rank.to_string(),
            "1 to 1024",
        ),
    ];
    let number = |key: String, value: f64, is_good: bool, expected| {
        (value.is_finite() && is_good, key, value.to_string(), expected)
    };
    let (alpha, rate, z_loss) = (adapter.alpha, adapter.balance_rate, adapter.z_loss);
    let minutes = recipe.checkpoint_minutes;
    checks.extend([
        number("adapter.alpha".to_owned(), alpha, alpha > 0.0, "above 0"),
        number("adapter.balance_rate".to_owned(), rate, rate >= 0.0, "0 or more"),
        number("adapter.z_loss".to_owned(), z_loss, z_loss >= 0.0, "0 or more"),
        number("checkpoint_minutes".to_owned(), minutes, minutes >= 0.0, "0 or more"),
    ]);
    for (stage_idx, stage) in recipe.stages.iter().enumerate() {
        let key = |name: &str| format!("stage[{stage_idx}].{name}");
        let mut at = |name: &str, value: f64, is_good: bool, expected| {
            checks.push(number(key(name), value, is_good, expected));
        };
        at("epochs", stage.epochs, stage.epochs > 0.0, "above 0");
        at("learning_rate", stage.learning_rate, stage.learning_rate > 0.0, "above 0");
        at("warmup", stage.warmup, (0.0..=1.0).contains(&stage.warmup), "0 to 1");
        let last = stage.final_learning_rate;
        at("final_learning_rate", last, (0.0..=1.0).contains(&last), "0 to 1");
        at("weight_decay", stage.weight_decay, stage.weight_decay >= 0.0, "0 or more");
        at("clip_norm", stage.clip_norm, stage.clip_norm > 0.0, "above 0");
        at("held_out", stage.held_out, (0.0..1.0).contains(&stage.held_out), "0 up to 1");
        for beta in stage.betas {
            at("betas", beta, (0.0..1.0).contains(&beta), "0 up to 1");
        }
        let tokens = [
            ("batch_tokens", stage.batch_tokens),
            ("pack_tokens", stage.pack_tokens),
            ("max_tokens", stage.max_tokens),
            ("validate_every", stage.validate_every),
        ];
        for (name, tokens) in tokens {
            at(name, tokens as f64, tokens > 0, "above 0");
        }
        at("data", stage.data.len() as f64, !stage.data.is_empty(), "at least one path");
        at("thought_weight", stage.thought_weight, stage.thought_weight >= 0.0, "0 or more");
        let dpo = stage.dpo.unwrap_or_default();
        at("dpo.beta", dpo.beta, dpo.beta > 0.0, "above 0");
        let smoothing = dpo.label_smoothing;
        at("dpo.label_smoothing", smoothing, (0.0..0.5).contains(&smoothing), "0 up to 0.5");
        at("dpo.margin_weight", dpo.margin_weight, dpo.margin_weight >= 0.0, "0 or more");
        at("dpo.sft_weight", dpo.sft_weight, dpo.sft_weight >= 0.0, "0 or more");
        let kto = stage.kto.unwrap_or_default();
        at("kto.beta", kto.beta, kto.beta > 0.0, "above 0");
        at("kto.liked_weight", kto.liked_weight, kto.liked_weight >= 0.0, "0 or more");
        at("kto.disliked_weight", kto.disliked_weight, kto.disliked_weight >= 0.0, "0 or more");
        let reward = stage.reward.unwrap_or_default();
        let (weight, centering) = (reward.margin_weight, reward.centering);
        at("reward.margin_weight", weight, weight >= 0.0, "0 or more");
        at("reward.centering", centering, centering >= 0.0, "0 or more");
        let grpo = stage.grpo.clone().unwrap_or_default();
        let counts = [
            ("grpo.prompts_per_step", grpo.prompts_per_step),
            ("grpo.max_new_tokens", grpo.max_new_tokens as usize),
            ("grpo.updates", grpo.updates),
        ];
        for (name, count) in counts {
            at(name, count as f64, count > 0, "above 0");
        }
        at("grpo.group", grpo.group as f64, grpo.group >= 2, "at least 2: replies are compared");
        let temperature = grpo.temperature;
        at(
            "grpo.temperature",
            temperature,
            temperature > 0.0 && temperature <= 2.0,
            "above 0 to 2",
        );
        at("grpo.clip_low", grpo.clip_low, (0.0..1.0).contains(&grpo.clip_low), "0 up to 1");
        at("grpo.clip_high", grpo.clip_high, grpo.clip_high >= 0.0, "0 or more");
        at("grpo.kl_weight", grpo.kl_weight, grpo.kl_weight >= 0.0, "0 or more");
        for (name, weight) in &grpo.rewards {
            at(&format!("grpo.rewards.{name}"), *weight, *weight != 0.0, "a number but 0");
        }
        let n_rewards = grpo.rewards.len();
        let has_rewards = stage.method != Method::Grpo || n_rewards > 0;
        at("grpo.rewards", n_rewards as f64, has_rewards, "at least one score and its weight");
        let of_methods = [
            (stage.kto.is_some(), Method::Kto, "only where `method` is \"kto\""),
            (stage.dpo.is_some(), Method::Dpo, "only where `method` is \"dpo\""),
            (stage.grpo.is_some(), Method::Grpo, "only where `method` is \"grpo\""),
            (stage.reward.is_some(), Method::Reward, "only where `method` is \"reward\""),
        ];
        for (is_there, method, expected) in of_methods {
            let is_good = !is_there || stage.method == method;
            checks.push((is_good, key(method.name()), "there".to_owned(), expected));
        }
    }
    match checks.into_iter().find(|(is_good, ..)| !is_good) {
        Some((_, key, found, expected)) => {
            Err(RecipeError::Value { file: file.to_owned(), key, found, expected })
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = r#"
        name = "test"
        base = "smollm2-135m"
        [adapter]
        n_experts = 4
        top_k = 2
        rank = 8
        alpha = 16.0
        [[stage]]
        method = "sft"
        data = ["../data"]
        learning_rate = 1e-3
        [[stage]]
        method = "dpo"
        dpo = { beta = 0.3 }
        data = ["../pairs"]
        learning_rate = 1e-5
    "#;

    fn read(text: &str) -> Result<RecipeFile, RecipeError> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("recipe.toml");
        fs::write(&file, text).unwrap();
        RecipeFile::read(&file)
    }

    #[test]
    fn a_plain_recipe_has_usual_values_for_the_rest() {
        let file = read(PLAIN).unwrap();
        let stages = &file.recipe.stages;
        assert_eq!((stages[0].method, stages[1].method), (Method::Sft, Method::Dpo));
        assert_eq!(stages[1].dpo, Some(DpoRecipe { beta: 0.3, ..DpoRecipe::default() }));
        assert_eq!(stages[0].pack_tokens, 512);
        let paths = file.data(&stages[0]);
        assert!(paths[0].ends_with("../data") && paths[0].is_absolute());
    }

    #[test]
    fn impossible_values_are_named() {
        let error = |from: &str, to: &str| {
            let error = read(&PLAIN.replace(from, to)).unwrap_err().to_string();
            error.split_once(": ").unwrap().1.to_owned()
        };
        assert_eq!(
            error("top_k = 2", "top_k = 5"),
            "`adapter.top_k` is 5, expected 1 to n_experts"
        );
        assert_eq!(error("1e-5", "-1.0"), "`stage[1].learning_rate` is -1, expected above 0");
        assert_eq!(
            error("beta = 0.3", "beta = nan"),
            "`stage[1].dpo.beta` is NaN, expected above 0"
        );
        assert!(error("\"test\"", "\"../x\"").starts_with("`name` is `../x`"));
        assert!(error("beta = 0.3", "bete = 0.3").contains("bete"));
        assert!(error("rank = 8", "ranks = 8").contains("ranks"));
        assert_eq!(
            error("\"dpo\"\n        dpo = { beta = 0.3 }", "\"grpo\""),
            "`stage[1].grpo.rewards` is 0, expected at least one score and its weight"
        );
        let grpo = "\"grpo\"\n        grpo = { rewards = { brevity = 1.0 }, group = 1 }";
        assert_eq!(
            error("\"dpo\"\n        dpo = { beta = 0.3 }", grpo),
            "`stage[1].grpo.group` is 1, expected at least 2: replies are compared"
        );
        assert_eq!(
            error("method = \"sft\"", "method = \"sft\"\n        reward = {}"),
            "`stage[0].reward` is there, expected only where `method` is \"reward\""
        );
    }
}
