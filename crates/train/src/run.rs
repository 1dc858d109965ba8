//! A training from its recipe to its adapter.
//!
//! ```text
//! 1 read recipe, base and data          6 for each step: packs forward and back,
//! 2 render rows to tokens                 clip, AdamW, balance the experts
//! 3 hold some rows out                  7 look at the held-out rows
//! 4 plan every step from the seed       8 checkpoint every few minutes
//! 5 go on from a checkpoint, if any     9 write adapter, card and report
//! ```
//!
//! Where the model writes its own replies, a step has them written and judged first ([`policy`]).
//!
//! Two runs of one recipe on one machine give the same bits, and so does one that was stopped or
//! killed on the way: a checkpoint holds all that steps depend on.
//!
//! Start reading at [`train`].

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rapport_kernels::Compute;
use rapport_model::adapter::{Adapter, AdapterError, DENSE_WEIGHTS, ROUTED_FILE};
use rapport_model::gguf::{Gguf, GgufError};
use rapport_model::{AdviceError, SamplingAdvice};
use rapport_types::{GenerateError, Message, Role};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::advantage::{advantages, weighted};
use crate::checkpoint::{Checkpoint, CheckpointError, Origin, Parts, Position};
use crate::curve::{Curve, Point, PointKind};
use crate::data::{
    ConversationRow, DataError, Files, LabelRow, PairRow, PromptRow, hexadecimal, share_of,
};
use crate::network::Network;
use crate::network::base::{Base, BaseError, Precision};
use crate::network::parameters::{AdapterShape, Layout, Parameters};
use crate::objective::{self, Graded, Scored, Written};
use crate::optimizer::{AdamW, Moments, Schedule, clip};
use crate::plan::{self, PackedUnits, Unit, UnitPack};
use crate::random::Random;
use crate::recipe::{GrpoRecipe, Method, RecipeFile, Stage};
use crate::report;
use crate::reward_model::{self, RewardModelError};
use crate::rollout::{self, Failure, Policy, Prompt};
use crate::text::{Language, Reply, Sequence, TextError};

/// Why a training stops before its end.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    #[error(transparent)]
    File(#[from] GgufError),
    #[error(transparent)]
    Base(#[from] BaseError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error("{source}")]
    Language { source: TextError },
    #[error("row `{id}`: {source}")]
    Row { id: String, source: TextError },
    #[error(
        "stage {stage_idx} has nothing to learn from: {n_rows} rows, {n_too_long} of them longer \
         than max_tokens and {n_held_out} held out"
    )]
    NothingToLearn { stage_idx: usize, n_rows: usize, n_too_long: usize, n_held_out: usize },
    #[error(
        "stage {stage_idx} has the model write replies, and nobody said where they come from and \
         what they are worth"
    )]
    NoPolicy { stage_idx: usize },
    #[error("stage {stage_idx}: no score is called `{name}`: there are {}", known.join(", "))]
    UnknownReward { stage_idx: usize, name: String, known: Vec<String> },
    #[error("the model under training cannot be made to answer: {source}")]
    Rollouts { source: Failure },
    #[error(transparent)]
    Advice(#[from] AdviceError),
    #[error(transparent)]
    Generate(#[from] GenerateError),
    #[error(transparent)]
    RewardModel(#[from] RewardModelError),
    #[error("a reply cannot be judged: {source}")]
    Reward { source: Failure },
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    #[error(
        "{}: this adapter has {found}, and the recipe asks for {expected}: name the same in \
         [adapter], or leave `start` out",
        file.display()
    )]
    OtherForm { file: PathBuf, found: String, expected: String },
    #[error("{}: {source}", file.display())]
    Io { file: PathBuf, source: io::Error },
    #[error(
        "stage {stage_idx}, step {step}: the loss is {loss}: lower the learning rate; the last \
         checkpoint is from before this step"
    )]
    Diverged { stage_idx: usize, step: usize, loss: f64 },
}

/// What a training is made from.
pub struct Training<'a> {
    pub recipe: &'a RecipeFile,
    /// The base model's file.
    pub base: &'a Path,
    /// The folder that gets adapter, card, report, and the checkpoint meanwhile.
    pub out: &'a Path,
    /// The source's commit, for the card.
    pub commit: Option<String>,
    /// Set from outside to stop after the step under way.
    pub stop: &'a AtomicBool,
    /// Needed where a stage has the model write replies.
    pub policy: Option<Policy<'a>>,
}

/// What happens during a training.
#[derive(Debug)]
pub enum Progress<'a> {
    /// Before anything is computed.
    Planned(&'a Plan),
    /// Going on from a checkpoint.
    Resumed {
        stage_idx: usize,
        step: usize,
    },
    /// Log-probabilities under the reference: sequences done and in all.
    Reference {
        n_done: usize,
        n_sequences: usize,
    },
    /// What a step's replies are worth: the mean of each score, and one of the replies.
    Rollouts {
        scores: &'a [(String, f64)],
        mean_tokens: f64,
        example: &'a Message,
    },
    Step {
        point: &'a Point,
        curve: &'a [Point],
        tokens_per_second: f64,
        seconds_left: f64,
    },
    HeldOut {
        point: &'a Point,
    },
    Saved {
        file: &'a Path,
    },
}

/// What will be done, and what it takes.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    pub n_parameters: usize,
    pub stages: Vec<StagePlan>,
    /// The most memory that weights, adapter, optimiser and passes take.
    pub memory_bytes: usize,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct StagePlan {
    pub method: Method,
    pub n_rows: usize,
    pub n_too_long: usize,
    pub n_held_out: usize,
    pub n_steps: usize,
    /// In all steps together; at most, where the model writes them.
    pub n_tokens: u64,
    /// Those of them that are learned.
    pub n_targets: u64,
}

/// How a training ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The adapter is in the folder.
    Finished(Box<Card>),
    /// Stopped from outside; the checkpoint is in the folder.
    Stopped,
}

/// What a training says of its result: `card.json`.
#[derive(Clone, Debug, Serialize)]
pub struct Card {
    pub name: String,
    pub base: String,
    pub base_sha256: String,
    pub recipe_sha256: String,
    pub data_sha256: String,
    /// Of the adapter that it went on from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_sha256: Option<String>,
    pub seed: u64,
    pub rapport_version: &'static str,
    pub commit: Option<String>,
    pub instruction_set: String,
    /// Of the products with the frozen weights, as they were computed at the end.
    pub precision: Precision,
    pub n_threads: usize,
    pub n_parameters: usize,
    pub n_tokens: u64,
    pub seconds: f64,
    pub adapter_file: String,
    pub adapter_bytes: u64,
    pub adapter_sha256: String,
    pub stages: Vec<StageCard>,
    /// The bound that was printed before the start, and what the process took at most since it
    /// began; `None` where the system does not tell.
    pub planned_memory_bytes: usize,
    pub peak_memory_bytes: Option<usize>,
    /// (layers, E): the part of the last stage's held-out tokens that each expert served.
    pub expert_use: Vec<Vec<f64>>,
}

#[derive(Clone, Debug, Serialize)]
pub struct StageCard {
    #[serde(flatten)]
    pub plan: StagePlan,
    /// Mean of the first and of the last tenth of its steps.
    pub first_loss: f64,
    pub last_loss: f64,
    /// At the end; `None` if nothing was held out.
    pub held_out_loss: Option<f64>,
    pub held_out_accuracy: Option<f64>,
    /// Replies that the model wrote: means over the same steps, and of those to held-out prompts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_reward: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_reward: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_out_reward: Option<f64>,
    pub curve: CardCurve,
}

/// A stage's curve as its card has it: a column a field.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CardCurve {
    /// Groups of steps at most [`CardCurve::MAX_POINTS`]; the last step of each.
    pub step: Vec<usize>,
    /// Their means.
    pub loss: Vec<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reward: Vec<f64>,
    pub held_out_step: Vec<usize>,
    pub held_out_loss: Vec<f64>,
}

impl CardCurve {
    pub const MAX_POINTS: usize = 100;

    fn new(learned: &[&Point], held_out: &[&Point]) -> Self {
        let mut curve = Self::default();
        for group in learned.chunks(learned.len().div_ceil(Self::MAX_POINTS).max(1)) {
            let mean = |of: &dyn Fn(&Point) -> f64| {
                group.iter().map(|point| of(point)).sum::<f64>() / group.len() as f64
            };
            curve.step.extend(group.last().map(|point| point.step));
            curve.loss.push(mean(&|point| point.loss));
            if group.iter().all(|point| point.reward.is_some()) {
                curve.reward.push(mean(&|point| point.reward.unwrap_or_default()));
            }
        }
        curve.held_out_step = held_out.iter().map(|point| point.step).collect();
        curve.held_out_loss = held_out.iter().map(|point| point.loss).collect();
        curve
    }
}

/// A stage's data, ready to learn from.
#[derive(Default)]
struct StageData {
    learned: Vec<Unit>,
    held_out: Vec<Unit>,
    /// Where the model writes the replies: what they are to. Steps then count these.
    prompts: Prompts,
    steps: Vec<Vec<UnitPack>>,
    plan: StagePlan,
}

impl StageData {
    fn n_bytes(&self) -> usize {
        let of_sequence = |s: &Sequence| {
            size_of_val(&*s.tokens) + size_of_val(&*s.targets) + size_of_val(&*s.in_thought)
        };
        let of_unit = |unit: &Unit| {
            // With the reference's numbers and places in steps.
            size_of::<Unit>() + unit.referenced().map(|s| of_sequence(s) + 64).sum::<usize>()
        };
        let units = self.learned.iter().chain(&self.held_out).map(of_unit).sum::<usize>();
        let prompts = self.prompts.learned.iter().chain(&self.prompts.held_out);
        let messages = prompts.flat_map(|prompt| &prompt.messages);
        let texts = messages.map(|m| size_of::<Message>() + m.content.len());
        units + texts.sum::<usize>()
    }
}

#[derive(Default)]
struct Prompts {
    learned: Vec<Prompt>,
    held_out: Vec<Prompt>,
}

/// Trains an adapter.
///
/// # Errors
/// Recipe, data, base or checkpoint cannot be used, the folder cannot be written, or the loss is no
/// longer a number.
pub fn train(
    training: &Training<'_>,
    compute: Compute,
    observe: &mut dyn FnMut(&Progress<'_>),
) -> Result<Outcome, TrainError> {
    let recipe = &training.recipe.recipe;
    let gguf = Gguf::open(training.base)?;
    let language = Language::load(&gguf).map_err(|source| TrainError::Language { source })?;
    let mut data_hash = Sha256::new();
    let stages = recipe
        .stages
        .iter()
        .enumerate()
        .map(|(stage_idx, stage)| {
            let files = Files::read(&training.recipe.data(stage))?;
            data_hash.update(&files.sha256);
            if stage.method == Method::Grpo {
                check_policy(training.policy, stage_idx, stage)?;
                stage_prompts(&language, &files, stage_idx, stage, recipe.seed)
            } else {
                stage_data(&language, &files, stage_idx, stage, recipe.seed)
            }
        })
        .collect::<Result<Vec<_>, TrainError>>()?;
    let io_error = |file: &Path| {
        let file = file.to_owned();
        move |source| TrainError::Io { file, source }
    };
    let started_from = training.recipe.start().map(|file| Start::read(&file)).transpose()?;
    if let Some(start) = &started_from {
        // A checkpoint belongs to it as to the data.
        data_hash.update(start.sha256.as_bytes());
    }
    let origin = Origin {
        recipe: training.recipe.sha256.clone(),
        data: hexadecimal(&data_hash.finalize()),
        base: file_sha256(training.base).map_err(io_error(training.base))?,
    };
    let base = Base::load(&gguf, recipe.precision.here(&compute))?;
    let mut network = Network::<f32>::new(compute, base, recipe.recompute);
    drop(gguf);
    let layout = Layout {
        has_reward_head: recipe.stages.iter().any(|stage| stage.method == Method::Reward),
        ..Layout::new(network.shape().base(), recipe.adapter.shape())
    };
    let mut plan = plan_of(&network, &layout, recipe.stages.iter().zip(&stages));
    plan.memory_bytes += training
        .policy
        .map_or(0, |policy| policy.rollouts.memory_bytes() + policy.reward.memory_bytes());
    observe(&Progress::Planned(&plan));
    network.reserve(&layout, longest_pack(recipe.stages.iter().zip(&stages)));

    let work = training.out.join("training");
    fs::create_dir_all(&work).map_err(io_error(&work))?;
    let checkpoint_file = work.join("checkpoint.safetensors");
    let checkpoint = Checkpoint::load(&checkpoint_file, &origin)?;
    let position = checkpoint.as_ref().map_or_else(Position::default, |saved| saved.position);
    if checkpoint.is_some() {
        let Position { stage_idx, step, .. } = position;
        observe(&Progress::Resumed { stage_idx, step });
    }
    let curve_file = work.join("curve.jsonl");
    let curve = Curve::open(&curve_file, position.stage_idx, position.step)
        .map_err(io_error(&curve_file))?;
    let mut parameters = match &started_from {
        Some(start) => start.parameters(layout)?,
        None => Parameters::<f32>::fresh(layout, recipe.seed),
    };
    let mut moments = Moments::new(layout.n_parameters());
    let mut references = Vec::new();
    if let Some(saved) = checkpoint {
        let is_whole = saved.values.len() == parameters.values.len()
            && saved.router_bias.len() == parameters.router_bias.len()
            && saved.moments.mean.len() == moments.mean.len()
            && saved.moments.square.len() == moments.square.len();
        if !is_whole {
            let reason = "tensors of another length".to_owned();
            return Err(CheckpointError::Damaged { file: checkpoint_file, reason }.into());
        }
        parameters.values = saved.values;
        parameters.router_bias = saved.router_bias;
        moments = saved.moments;
        references = saved.references;
    }
    let mut run = Run {
        training,
        language,
        network,
        gradients: vec![0.0; layout.n_parameters()],
        parameters,
        moments,
        references,
        position,
        curve,
        origin,
        start_sha256: started_from.map(|start| start.sha256),
        plan,
        work,
        started: Instant::now(),
        last_save: Instant::now(),
        n_tokens_here: 0,
        expert_load: Vec::new(),
    };
    for (stage_idx, data) in stages.iter().enumerate().skip(position.stage_idx) {
        if !run.stage(stage_idx, data, observe)? {
            run.save(observe)?;
            return Ok(Outcome::Stopped);
        }
    }
    run.finish(observe).map(|card| Outcome::Finished(Box::new(card)))
}

/// An adapter to go on from.
struct Start {
    file: PathBuf,
    /// Of the weights, in hexadecimal.
    sha256: String,
    adapter: Adapter,
}

impl Start {
    fn read(path: &Path) -> Result<Self, TrainError> {
        let adapter = Adapter::load(path)?;
        let weights = if adapter.routing.is_some() { ROUTED_FILE } else { DENSE_WEIGHTS };
        let file = if path.is_dir() { path.join(weights) } else { path.to_owned() };
        let sha256 =
            file_sha256(&file).map_err(|source| TrainError::Io { file: file.clone(), source })?;
        Ok(Self { file, sha256, adapter })
    }

    fn parameters(&self, layout: Layout) -> Result<Parameters<f32>, TrainError> {
        self.adapter.check_fits(&layout.base)?;
        let parameters = Parameters::<f32>::from_adapter(layout.base, &self.adapter);
        let AdapterShape { alpha, .. } = layout.adapter;
        // A file has it as f32.
        let expected = AdapterShape { alpha: f64::from(alpha as f32), ..layout.adapter };
        let found = parameters.layout.adapter;
        if found != expected {
            let told = |shape: &AdapterShape| {
                let top_k = shape.routing.map_or(1, |routing| routing.top_k);
                let AdapterShape { rank, alpha, .. } = shape;
                let n_experts = shape.n_experts();
                format!("n_experts {n_experts}, top_k {top_k}, rank {rank}, alpha {alpha}")
            };
            let (found, expected) = (told(&found), told(&expected));
            return Err(TrainError::OtherForm { file: self.file.clone(), found, expected });
        }
        let head = vec![0.0; layout.reward_head().len()];
        Ok(if layout.has_reward_head { parameters.with_reward_head(&head) } else { parameters })
    }
}

/// The most memory that this process ever held, as Linux tells it.
fn peak_memory_bytes() -> Option<usize> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

fn file_sha256(file: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut reader = fs::File::open(file)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match io::Read::read(&mut reader, &mut buffer)? {
            0 => return Ok(hexadecimal(&hash.finalize())),
            n_bytes => hash.update(&buffer[..n_bytes]),
        }
    }
}

/// Rows without a system message get the stage's.
fn with_system(stage: &Stage, id: &str, mut messages: Vec<Message>) -> Vec<Message> {
    if stage.systems.is_empty() || messages.first().is_some_and(|m| m.role == Role::System) {
        return messages;
    }
    let place = share_of(id, "system") * stage.systems.len() as f64;
    let system = &stage.systems[(place as usize).min(stage.systems.len() - 1)];
    if !system.is_empty() {
        messages.insert(0, Message::system(system.clone()));
    }
    messages
}

fn stage_data(
    language: &Language,
    files: &Files,
    stage_idx: usize,
    stage: &Stage,
    seed: u64,
) -> Result<StageData, TrainError> {
    let of_row = |id: &str, source| TrainError::Row { id: id.to_owned(), source };
    let single = |sequence| Unit::new(vec![sequence]);
    let rows: Vec<(String, Vec<Unit>)> = match stage.method {
        Method::Sft => files
            .rows::<ConversationRow>()?
            .into_iter()
            .map(|row| {
                let messages = with_system(stage, &row.id, row.messages());
                let sequences = language.conversation(&messages);
                let sequences = sequences.map_err(|source| of_row(&row.id, source))?;
                Ok((row.id, sequences.into_iter().map(single).collect()))
            })
            .collect::<Result<_, TrainError>>()?,
        Method::Dpo | Method::Reward => files
            .rows::<PairRow>()?
            .into_iter()
            .map(|row| {
                let prompt = with_system(stage, &row.id, row.prompt());
                let sequences = [row.chosen(), row.rejected()]
                    .map(|reply| language.completion(&prompt, &reply))
                    .into_iter()
                    .collect::<Result<Vec<Sequence>, TextError>>()
                    .map_err(|source| of_row(&row.id, source))?;
                Ok((row.id, vec![Unit { margin: row.margin, ..Unit::new(sequences) }]))
            })
            .collect::<Result<_, TrainError>>()?,
        Method::Kto => {
            let rows = files.rows::<LabelRow>()?;
            let others = rows.iter().cycle().skip(1);
            rows.iter()
                .zip(others)
                .map(|(row, other)| {
                    let prompt = with_system(stage, &row.id, row.prompt());
                    let completion = |of: &LabelRow| {
                        let sequence = language.completion(&prompt, &of.completion());
                        sequence.map_err(|source| of_row(&row.id, source))
                    };
                    let unit = Unit {
                        is_liked: row.label,
                        mismatched: Some(completion(other)?),
                        ..Unit::new(vec![completion(row)?])
                    };
                    Ok((row.id.clone(), vec![unit]))
                })
                .collect::<Result<_, TrainError>>()?
        }
        Method::Grpo => Vec::new(),
    };
    let n_rows = rows.len();
    let (mut n_too_long, mut n_held_out) = (0, 0);
    let (mut learned, mut held_out) = (Vec::new(), Vec::new());
    for (id, units) in rows {
        let longest = units.iter().flat_map(Unit::referenced).map(|s| s.tokens.len()).max();
        if longest.is_some_and(|longest| longest > stage.max_tokens) {
            n_too_long += 1;
        } else if share_of(&id, "held out") < stage.held_out {
            n_held_out += 1;
            held_out.extend(units);
        } else {
            learned.extend(units);
        }
    }
    if learned.is_empty() {
        return Err(TrainError::NothingToLearn { stage_idx, n_rows, n_too_long, n_held_out });
    }
    let sizes = (stage.pack_tokens, stage.batch_tokens);
    let steps = plan::steps(&learned, sizes, stage.epochs, stage_seed(seed, stage_idx));
    let drawn = || steps.iter().flatten().flatten().map(|unit_idx| &learned[*unit_idx]);
    let n_targets =
        |unit: &Unit| unit.sequences.iter().map(|s| s.targets.len() as u64).sum::<u64>();
    let plan = StagePlan {
        method: stage.method,
        n_rows,
        n_too_long,
        n_held_out,
        n_steps: steps.len(),
        n_tokens: drawn().map(|unit| unit.n_tokens() as u64).sum(),
        n_targets: drawn().map(n_targets).sum(),
    };
    Ok(StageData { learned, held_out, steps, plan, prompts: Prompts::default() })
}

fn stage_seed(seed: u64, stage_idx: usize) -> u64 {
    seed.wrapping_mul(1_000_003).wrapping_add(stage_idx as u64)
}

/// Whether there is somebody to write replies and to give every score that the stage asks for.
fn check_policy(
    policy: Option<Policy<'_>>,
    stage_idx: usize,
    stage: &Stage,
) -> Result<(), TrainError> {
    let policy = policy.ok_or(TrainError::NoPolicy { stage_idx })?;
    let known = policy.reward.names();
    let asked = stage.grpo.iter().flat_map(|grpo| grpo.rewards.keys());
    match asked.into_iter().find(|name| !known.contains(name)) {
        Some(name) => Err(TrainError::UnknownReward { stage_idx, name: name.clone(), known }),
        None => Ok(()),
    }
}

fn stage_prompts(
    language: &Language,
    files: &Files,
    stage_idx: usize,
    stage: &Stage,
    seed: u64,
) -> Result<StageData, TrainError> {
    let grpo = stage.grpo.clone().unwrap_or_default();
    let rows = files.rows::<PromptRow>()?;
    let n_rows = rows.len();
    let (mut n_too_long, mut longest) = (0, 0);
    let mut prompts = Prompts::default();
    for row in rows {
        let messages = with_system(stage, &row.id, row.prompt());
        let empty = language.completion(&messages, &Reply::default());
        let empty = empty.map_err(|source| TrainError::Row { id: row.id.clone(), source })?;
        // With room for the answer and, at most, a thought.
        let n_tokens = empty.tokens.len() + grpo.max_new_tokens as usize + THOUGHT_ROOM;
        let prompt = Prompt { messages, labels: row.labels() };
        if n_tokens > stage.max_tokens {
            n_too_long += 1;
        } else if share_of(&row.id, "held out") < stage.held_out {
            prompts.held_out.push(prompt);
        } else {
            longest = longest.max(n_tokens);
            prompts.learned.push(prompt);
        }
    }
    let n_held_out = prompts.held_out.len();
    if prompts.learned.is_empty() {
        return Err(TrainError::NothingToLearn { stage_idx, n_rows, n_too_long, n_held_out });
    }
    // Units of one token, so that a batch of n tokens has n prompts.
    let units = vec![
        Unit::new(vec![Sequence { tokens: vec![0], ..Sequence::default() }]);
        prompts.learned.len()
    ];
    let sizes = (grpo.prompts_per_step, grpo.prompts_per_step);
    let steps = plan::steps(&units, sizes, stage.epochs, stage_seed(seed, stage_idx));
    let n_replies = steps.iter().flatten().map(Vec::len).sum::<usize>() * grpo.group;
    let plan = StagePlan {
        method: stage.method,
        n_rows,
        n_too_long,
        n_held_out,
        n_steps: steps.len(),
        n_tokens: (n_replies * longest) as u64,
        n_targets: n_replies as u64 * u64::from(grpo.max_new_tokens),
    };
    Ok(StageData { prompts, steps, plan, ..StageData::default() })
}

/// Tokens that a thought may have beside the answer.
const THOUGHT_ROOM: usize = 64;

fn plan_of<'a>(
    network: &Network<f32>,
    layout: &Layout,
    stages: impl Iterator<Item = (&'a Stage, &'a StageData)> + Clone,
) -> Plan {
    let longest = longest_pack(stages.clone());
    let n_parameters = layout.n_parameters();
    let adapter_bytes = 4 * n_parameters * size_of::<f32>();
    // A checkpoint is written a tensor at a time; one of the numbers a stage began with is of f64.
    let writes = stages.clone().any(|(stage, _)| stage.method == Method::Grpo);
    let checkpoint_bytes = n_parameters * size_of::<f32>();
    // Where the model writes replies: what the stage began with, and the adapter on its way to where
    // they are written, as its own numbers and as those of its file.
    let policy_bytes = if writes { n_parameters * 3 * size_of::<f64>() } else { 0 };
    let data_bytes = stages.clone().map(|(_, data)| data.n_bytes()).sum::<usize>();
    let passes_bytes = network.planned_bytes(layout, longest) - network.base_bytes()
        + adapter_bytes
        + checkpoint_bytes
        + policy_bytes
        + data_bytes;
    Plan {
        n_parameters,
        // While weights are read, the largest exists twice, and nothing of the rest.
        memory_bytes: PROCESS_BYTES
            + network.base_bytes()
            + passes_bytes
                .max(network.largest_weight_bytes() + data_bytes)
                // Going on from a checkpoint: its file, its tensors, and what they replace.
                .max(9 * n_parameters * size_of::<f32>() + data_bytes),
        stages: stages.map(|(_, data)| data.plan.clone()).collect(),
    }
}

/// The program itself, the tokenizer, what the products of floats work with, and what the allocator
/// cannot give back.
const PROCESS_BYTES: usize = 96 << 20;

/// Tokens of the largest pack. A pair that is longer than a pack is one by itself.
fn longest_pack<'a>(stages: impl Iterator<Item = (&'a Stage, &'a StageData)>) -> usize {
    let longest = stages.flat_map(|(stage, data)| {
        let units = data.learned.iter().chain(&data.held_out);
        let written = if stage.method == Method::Grpo { stage.max_tokens } else { 0 };
        units.map(Unit::n_tokens).chain([stage.pack_tokens, written])
    });
    longest.max().unwrap_or(0)
}

/// What one pass over units, with or without learning from them, gave.
#[derive(Default)]
struct Totals {
    loss: f64,
    n_graded: usize,
    n_ahead: usize,
    margin: f64,
}

impl Totals {
    fn add(&mut self, graded: &Graded) {
        self.loss += graded.loss;
        self.n_graded += 1;
        self.n_ahead += usize::from(graded.margin > 0.0);
        self.margin += graded.margin;
    }

    fn mean_margin(&self) -> Option<f64> {
        (self.n_graded > 0).then(|| self.margin / self.n_graded as f64)
    }

    fn accuracy(&self) -> Option<f64> {
        (self.n_graded > 0).then(|| self.n_ahead as f64 / self.n_graded as f64)
    }
}

/// Replies and what they are worth.
struct Judged {
    written: Vec<rollout::Written>,
    /// (replies, names)
    scores: Vec<Vec<Option<f64>>>,
    /// Of each score.
    means: Vec<(String, f64)>,
    /// The mean of the weighted sums.
    reward: f64,
}

/// What a step measured.
#[derive(Default)]
struct Stepped {
    totals: Totals,
    n_tokens: usize,
    learning_rate: f64,
    gradient_norm: f64,
    busiest_expert: f64,
    reward: Option<f64>,
    kl: Option<f64>,
}

/// A training under way.
struct Run<'a> {
    training: &'a Training<'a>,
    language: Language,
    network: Network<f32>,
    parameters: Parameters<f32>,
    gradients: Vec<f32>,
    moments: Moments,
    /// One a sequence of the stage: those learned from, then those held out. Where the model writes
    /// the replies, they cannot be known before: then the adapter's numbers as the stage began, and
    /// the routers' biases.
    references: Vec<f64>,
    position: Position,
    curve: Curve,
    origin: Origin,
    start_sha256: Option<String>,
    plan: Plan,
    work: PathBuf,
    started: Instant,
    last_save: Instant,
    /// Since this process began.
    n_tokens_here: u64,
    /// (layers, E), of the pass under way.
    expert_load: Vec<u64>,
}

impl Run<'_> {
    /// Whether the stage came to its end.
    fn stage(
        &mut self,
        stage_idx: usize,
        data: &StageData,
        observe: &mut dyn FnMut(&Progress<'_>),
    ) -> Result<bool, TrainError> {
        let stage = &self.training.recipe.recipe.stages[stage_idx];
        let schedule = Schedule {
            peak: stage.learning_rate,
            warmup: stage.warmup,
            end: stage.final_learning_rate,
            n_steps: data.steps.len(),
        };
        if self.position.step == 0 {
            self.moments = Moments::new(self.parameters.values.len());
            self.references = match stage.method {
                Method::Sft | Method::Reward => Vec::new(),
                Method::Dpo | Method::Kto => {
                    self.reference_log_probs(data, stage.pack_tokens, observe)
                }
                Method::Grpo => {
                    let Parameters { values, router_bias, .. } = &self.parameters;
                    values.iter().chain(router_bias).map(|value| f64::from(*value)).collect()
                }
            };
        }
        let (n_tokens_before, n_steps_before) = (self.n_tokens_here, self.position.step);
        for step in self.position.step + 1..=data.steps.len() {
            if self.training.stop.load(Ordering::Relaxed) {
                return Ok(false);
            }
            let begun = Instant::now();
            let stepped = match &stage.grpo {
                Some(grpo) => {
                    self.policy_step(stage_idx, (stage, grpo), data, (step, schedule), observe)?
                }
                None => self.step(stage_idx, stage, data, (step, schedule))?,
            };
            self.n_tokens_here += stepped.n_tokens as u64;
            self.position.step = step;
            self.position.n_tokens += stepped.n_tokens as u64;
            self.position.seconds += begun.elapsed().as_secs_f64();
            let point = Point {
                stage_idx,
                step,
                kind: PointKind::Step,
                loss: stepped.totals.loss,
                margin: stepped.totals.mean_margin(),
                accuracy: stepped.totals.accuracy(),
                reward: stepped.reward,
                kl: stepped.kl,
                learning_rate: stepped.learning_rate,
                gradient_norm: stepped.gradient_norm,
                busiest_expert: stepped.busiest_expert,
                n_tokens: self.position.n_tokens,
                seconds: self.position.seconds,
            };
            self.record(point)?;
            let tokens_per_second =
                self.n_tokens_here as f64 / self.started.elapsed().as_secs_f64();
            // How long replies will be that the model writes itself is known only from those it wrote.
            let of_step = if stage.grpo.is_some() {
                (self.n_tokens_here - n_tokens_before) as f64 / (step - n_steps_before) as f64
            } else {
                data.plan.n_tokens as f64 / data.steps.len() as f64
            };
            let later = self.plan.stages[stage_idx + 1..].iter().map(|stage| stage.n_tokens);
            let n_left = of_step * (data.steps.len() - step) as f64 + later.sum::<u64>() as f64;
            observe(&Progress::Step {
                point: &point,
                curve: &self.curve.points,
                tokens_per_second,
                seconds_left: n_left / tokens_per_second,
            });
            if step == data.steps.len() || step.is_multiple_of(stage.validate_every) {
                self.look_at_held_out(stage_idx, data, observe)?;
            }
            let minutes = self.last_save.elapsed().as_secs_f64() / 60.0;
            if minutes >= self.training.recipe.recipe.checkpoint_minutes {
                self.save(observe)?;
            }
        }
        self.position.stage_idx = stage_idx + 1;
        self.position.step = 0;
        self.save(observe)?;
        Ok(true)
    }

    /// A step over replies that people wrote.
    fn step(
        &mut self,
        stage_idx: usize,
        stage: &Stage,
        data: &StageData,
        (step, schedule): (usize, Schedule),
    ) -> Result<Stepped, TrainError> {
        let packs = &data.steps[step - 1];
        let n_tokens: usize =
            packs.iter().flatten().map(|unit_idx| data.learned[*unit_idx].n_tokens()).sum();
        self.gradients.fill(0.0);
        let totals = self.pass(stage, &data.learned, packs, (0, Some(n_tokens)));
        if !totals.loss.is_finite() {
            return Err(TrainError::Diverged { stage_idx, step, loss: totals.loss });
        }
        let learning_rate = schedule.at(step);
        let gradient_norm = self.update(stage, step, learning_rate);
        let busiest_expert = self.balance();
        Ok(Stepped {
            totals,
            n_tokens,
            learning_rate,
            gradient_norm,
            busiest_expert,
            ..Stepped::default()
        })
    }

    /// Clips the gradients, moves the parameters, and says how long the gradient was.
    fn update(&mut self, stage: &Stage, step: usize, learning_rate: f64) -> f64 {
        let gradient_norm = clip(&mut self.gradients, stage.clip_norm);
        let adam = AdamW { learning_rate, betas: stage.betas, weight_decay: stage.weight_decay };
        adam.step(step, &mut self.moments, &self.gradients, &mut self.parameters.values);
        gradient_norm
    }

    /// The model writes replies, they are judged, and it moves towards the better ones.
    fn policy_step(
        &mut self,
        stage_idx: usize,
        (stage, grpo): (&Stage, &GrpoRecipe),
        data: &StageData,
        (step, schedule): (usize, Schedule),
        observe: &mut dyn FnMut(&Progress<'_>),
    ) -> Result<Stepped, TrainError> {
        let asked: Vec<&Prompt> = data.steps[step - 1]
            .iter()
            .flatten()
            .map(|prompt_idx| &data.prompts.learned[*prompt_idx])
            .collect();
        let seed = stage_seed(self.training.recipe.recipe.seed, stage_idx);
        let seed = Random::stream(seed, step as u64).next();
        let judged = self.judged((stage_idx, grpo), &asked, grpo.group, seed)?;
        let weights: Vec<f64> = grpo.rewards.values().copied().collect();
        let advantages = advantages(grpo.advantage, &judged.scores, &weights, grpo.group);

        // Replies without a token cannot be learned.
        let (mut units, mut of_unit) = (Vec::new(), Vec::new());
        for (written, (reply_idx, advantage)) in
            judged.written.iter().zip(advantages.iter().enumerate())
        {
            let reply = Reply {
                content: written.reply.content.clone(),
                thought: written.reply.thought.clone(),
            };
            let prompt = &asked[reply_idx / grpo.group].messages;
            let sequence = self.language.written(prompt, &reply, written.is_whole);
            let sequence = sequence.map_err(|source| TrainError::Language { source })?;
            if !sequence.targets.is_empty() {
                units.push(Unit::new(vec![sequence]));
                of_unit.push(*advantage);
            }
        }
        let n_tokens: usize = units.iter().map(Unit::n_tokens).sum();
        let n_targets: usize = units.iter().map(|unit| unit.sequences[0].targets.len()).sum();
        let share = 1.0 / grpo.tokens_of_step(n_targets, judged.written.len());
        let all: Vec<usize> = (0..units.len()).collect();
        let packs = plan::packs(&units, &all, stage.pack_tokens);
        let reference = (grpo.kl_weight > 0.0).then(|| self.under_reference(&units, &packs));
        let old = (grpo.updates > 1).then(|| self.token_log_probs(&units, &packs));
        let n_layers = self.parameters.layout.base.n_layers;
        let z_loss = self.training.recipe.recipe.adapter.z_loss;
        let z_weight = z_loss / (n_tokens.max(1) * n_layers) as f64;
        let mut stepped = Stepped { n_tokens, ..Stepped::default() };
        for update in 1..=grpo.updates {
            self.gradients.fill(0.0);
            self.expert_load.fill(0);
            self.expert_load.resize(self.parameters.router_bias.len(), 0);
            let (mut loss, mut kl) = (0.0, 0.0);
            for pack in &packs {
                let packed = PackedUnits::new(&units, pack);
                self.network.forward(&self.parameters, &packed.pack);
                for (sum, load) in self.expert_load.iter_mut().zip(&self.network.routing().load) {
                    *sum += load;
                }
                let now = self.network.log_probs(&packed.targets);
                let now: Vec<f64> = now.iter().map(|p| f64::from(*p)).collect();
                let mut narrow = Vec::with_capacity(now.len());
                for (places, unit_idx) in packed.places.iter().zip(pack) {
                    let now = &now[places[0].clone()];
                    let written = Written {
                        now,
                        old: old.as_ref().map_or(now, |old| &old[*unit_idx]),
                        reference: reference.as_ref().map(|reference| &reference[*unit_idx][..]),
                        advantage: of_unit[*unit_idx],
                    };
                    let graded = objective::grpo(grpo, written, share);
                    loss += graded.loss;
                    kl += graded.margin;
                    narrow.extend(graded.d_log_probs.concat().iter().map(|d| *d as f32));
                }
                self.network.log_probs_with_gradient(&packed.targets, &narrow);
                let gradients = &mut self.gradients;
                self.network.backward(&self.parameters, &packed.pack, z_weight, gradients);
            }
            if !loss.is_finite() {
                return Err(TrainError::Diverged { stage_idx, step, loss });
            }
            stepped.learning_rate = schedule.at(step);
            let adam_step = (step - 1) * grpo.updates + update;
            stepped.gradient_norm = self.update(stage, adam_step, stepped.learning_rate);
            stepped.busiest_expert = self.balance();
            stepped.totals.loss = loss;
            stepped.kl = reference.as_ref().map(|_| kl / n_targets.max(1) as f64);
        }
        stepped.reward = Some(judged.reward);
        if let Some(example) = judged.written.first() {
            let mean_tokens = n_targets as f64 / judged.written.len() as f64;
            let (scores, example) = (&judged.means[..], &example.reply);
            observe(&Progress::Rollouts { scores, mean_tokens, example });
        }
        Ok(stepped)
    }

    /// Replies to prompts, as the model is now, with what they are worth.
    fn judged(
        &self,
        (stage_idx, grpo): (usize, &GrpoRecipe),
        prompts: &[&Prompt],
        n_each: usize,
        seed: u64,
    ) -> Result<Judged, TrainError> {
        let policy = self.training.policy.ok_or(TrainError::NoPolicy { stage_idx })?;
        let adapter = self.parameters.to_adapter(None);
        let generate = policy.rollouts.with_adapter(&adapter);
        let generate = generate.map_err(|source| TrainError::Rollouts { source })?;
        let messages: Vec<&[Message]> = prompts.iter().map(|prompt| &prompt.messages[..]).collect();
        let written = rollout::write(&*generate, grpo, &messages, n_each, seed)?;
        drop(generate);
        let names = policy.reward.names();
        let places = grpo.rewards.keys().map(|name| {
            names.iter().position(|known| known == name).ok_or_else(|| TrainError::UnknownReward {
                stage_idx,
                name: name.clone(),
                known: names.clone(),
            })
        });
        let places = places.collect::<Result<Vec<_>, _>>()?;
        let mut scores = Vec::with_capacity(written.len());
        for (reply_idx, written) in written.iter().enumerate() {
            let prompt = prompts[reply_idx / n_each];
            let all = policy.reward.scores(prompt, &written.reply);
            let all = all.map_err(|source| TrainError::Reward { source })?;
            scores.push(
                places.iter().map(|place| all.get(*place).copied().flatten()).collect::<Vec<_>>(),
            );
        }
        let weights: Vec<f64> = grpo.rewards.values().copied().collect();
        let sum: f64 = scores.iter().map(|row| weighted(row, &weights)).sum();
        let mean = |name_idx: usize| {
            let there: Vec<f64> = scores.iter().filter_map(|row| row[name_idx]).collect();
            there.iter().sum::<f64>() / there.len().max(1) as f64
        };
        let means = grpo.rewards.keys().enumerate().map(|(idx, name)| (name.clone(), mean(idx)));
        let means = means.collect();
        let reward = sum / scores.len().max(1) as f64;
        Ok(Judged { written, scores, means, reward })
    }

    /// (units, targets): log-probabilities under the adapter as the stage began.
    fn under_reference(&mut self, units: &[Unit], packs: &[UnitPack]) -> Vec<Vec<f64>> {
        let (n_values, n_biases) =
            (self.parameters.values.len(), self.parameters.router_bias.len());
        let narrow = |values: &[f64]| values.iter().map(|value| *value as f32).collect();
        let mut values: Vec<f32> = narrow(&self.references[..n_values]);
        let mut biases: Vec<f32> = narrow(&self.references[n_values..n_values + n_biases]);
        std::mem::swap(&mut values, &mut self.parameters.values);
        std::mem::swap(&mut biases, &mut self.parameters.router_bias);
        let log_probs = self.token_log_probs(units, packs);
        self.parameters.values = values;
        self.parameters.router_bias = biases;
        log_probs
    }

    /// (units, targets), of units with one sequence each.
    fn token_log_probs(&mut self, units: &[Unit], packs: &[UnitPack]) -> Vec<Vec<f64>> {
        let mut of_units = vec![Vec::new(); units.len()];
        for pack in packs {
            let packed = PackedUnits::new(units, pack);
            self.network.forward(&self.parameters, &packed.pack);
            let log_probs = self.network.log_probs(&packed.targets);
            for (places, unit_idx) in packed.places.iter().zip(pack) {
                let own = &log_probs[places[0].clone()];
                of_units[*unit_idx] = own.iter().map(|p| f64::from(*p)).collect();
            }
        }
        of_units
    }

    /// Goes through packs of units; with the number of tokens of a step, adds to the gradients.
    ///
    /// `first_unit` is the place of the first unit among the stage's references.
    fn pass(
        &mut self,
        stage: &Stage,
        units: &[Unit],
        packs: &[UnitPack],
        (first_unit, learned_tokens): (usize, Option<usize>),
    ) -> Totals {
        let weight = |in_thought: &bool| if *in_thought { stage.thought_weight } else { 1.0 };
        let chosen = || packs.iter().flatten().map(|unit_idx| &units[*unit_idx]);
        let weights_of = |unit: &Unit| -> Vec<f64> {
            unit.sequences.iter().flat_map(|s| s.in_thought.iter().map(weight)).collect()
        };
        let total_weight: f64 = chosen().flat_map(weights_of).sum();
        // Thoughts that count nothing may be all there is.
        let total_weight = total_weight.max(f64::MIN_POSITIVE);
        let n_units = chosen().count() as f64;
        let drift = match stage.method {
            Method::Kto => self.mean_drift(stage, units, packs, first_unit),
            Method::Sft | Method::Dpo | Method::Grpo | Method::Reward => 0.0,
        };
        let adapter = &self.training.recipe.recipe.adapter;
        let n_layers = self.parameters.layout.base.n_layers;
        let z_weight =
            learned_tokens.map_or(0.0, |n_tokens| adapter.z_loss / (n_tokens * n_layers) as f64);
        let mut totals = Totals::default();
        self.expert_load = vec![0; self.parameters.router_bias.len()];
        for pack in packs {
            let packed = PackedUnits::new(units, pack);
            self.network.forward(&self.parameters, &packed.pack);
            for (sum, load) in self.expert_load.iter_mut().zip(&self.network.routing().load) {
                *sum += load;
            }
            let d_log_probs: Vec<f32> = match stage.method {
                Method::Sft => {
                    let weights: Vec<f64> =
                        pack.iter().flat_map(|unit_idx| weights_of(&units[*unit_idx])).collect();
                    let gradient = objective::sft_gradient(&weights, total_weight);
                    let narrow: Vec<f32> = gradient.iter().map(|d| *d as f32).collect();
                    let log_probs = match learned_tokens {
                        Some(_) => self.network.log_probs_with_gradient(&packed.targets, &narrow),
                        None => self.network.log_probs(&packed.targets),
                    };
                    totals.loss += gradient
                        .iter()
                        .zip(&log_probs)
                        .map(|(d, p)| d * f64::from(*p))
                        .sum::<f64>();
                    Vec::new()
                }
                Method::Reward => {
                    let rows: Vec<usize> =
                        packed.pack.spans.iter().map(|span| span.end - 1).collect();
                    let rewards = self.network.rewards(&self.parameters, &rows);
                    let reward = stage.reward.unwrap_or_default();
                    let mut narrow = Vec::with_capacity(rewards.len());
                    for (pair, unit_idx) in rewards.as_chunks::<2>().0.iter().zip(pack) {
                        let pair = pair.map(f64::from);
                        let margin = units[*unit_idx].margin;
                        let graded = objective::bradley_terry(&reward, pair, margin, n_units);
                        totals.add(&graded);
                        narrow.extend(graded.d_log_probs.concat().iter().map(|d| *d as f32));
                    }
                    if learned_tokens.is_some() {
                        let (parameters, gradients) = (&self.parameters, &mut self.gradients);
                        self.network.rewards_with_gradient(parameters, &rows, &narrow, gradients);
                    }
                    Vec::new()
                }
                Method::Dpo | Method::Kto | Method::Grpo => {
                    let log_probs = self.network.log_probs(&packed.targets);
                    let log_probs: Vec<f64> = log_probs.iter().map(|p| f64::from(*p)).collect();
                    let mut narrow = Vec::with_capacity(log_probs.len());
                    for (places, unit_idx) in packed.places.iter().zip(pack) {
                        let scored = |which: usize| Scored {
                            log_probs: &log_probs[places[which].clone()],
                            reference: self.references[2 * (first_unit + unit_idx) + which],
                        };
                        let unit = &units[*unit_idx];
                        let graded = if stage.method == Method::Kto {
                            let kto = stage.kto.unwrap_or_default();
                            objective::kto(&kto, scored(0), unit.is_liked, drift, n_units)
                        } else {
                            let dpo = stage.dpo.unwrap_or_default();
                            objective::dpo(&dpo, scored(0), scored(1), unit.margin, n_units)
                        };
                        totals.add(&graded);
                        narrow.extend(graded.d_log_probs.concat().iter().map(|d| *d as f32));
                    }
                    narrow
                }
            };
            if learned_tokens.is_none() {
                continue;
            }
            if !d_log_probs.is_empty() {
                self.network.log_probs_with_gradient(&packed.targets, &d_log_probs);
            }
            let gradients = &mut self.gradients;
            self.network.backward(&self.parameters, &packed.pack, z_weight, gradients);
        }
        totals
    }

    /// The reference's log-probabilities of all sequences that the stage's loss asks for.
    fn reference_log_probs(
        &mut self,
        data: &StageData,
        pack_tokens: usize,
        observe: &mut dyn FnMut(&Progress<'_>),
    ) -> Vec<f64> {
        let units = data.learned.iter().chain(&data.held_out);
        let sequences: Vec<Sequence> = units.flat_map(Unit::referenced).cloned().collect();
        let n_sequences = sequences.len();
        self.sums(sequences, pack_tokens, &mut |n_done| {
            observe(&Progress::Reference { n_done, n_sequences });
        })
    }

    /// The sum of each sequence's log-probabilities, under the adapter as it is now.
    fn sums(
        &mut self,
        sequences: Vec<Sequence>,
        pack_tokens: usize,
        observe: &mut dyn FnMut(usize),
    ) -> Vec<f64> {
        let units: Vec<Unit> =
            sequences.into_iter().map(|sequence| Unit::new(vec![sequence])).collect();
        let all: Vec<usize> = (0..units.len()).collect();
        let mut sums = vec![0.0; units.len()];
        let mut n_done = 0;
        for pack in plan::packs(&units, &all, pack_tokens) {
            let packed = PackedUnits::new(&units, &pack);
            self.network.forward(&self.parameters, &packed.pack);
            let log_probs = self.network.log_probs(&packed.targets);
            for (places, unit_idx) in packed.places.iter().zip(&pack) {
                let own = &log_probs[places[0].clone()];
                sums[*unit_idx] = own.iter().map(|p| f64::from(*p)).sum();
            }
            n_done += pack.len();
            observe(n_done);
        }
        sums
    }

    /// How far replies to other prompts have moved from the reference, on the mean of a step.
    fn mean_drift(
        &mut self,
        stage: &Stage,
        units: &[Unit],
        packs: &[UnitPack],
        first: usize,
    ) -> f64 {
        let chosen: Vec<usize> = packs.concat();
        let mismatched: Vec<Sequence> =
            chosen.iter().filter_map(|unit_idx| units[*unit_idx].mismatched.clone()).collect();
        let now = self.sums(mismatched, stage.pack_tokens, &mut |_| {});
        let before = chosen.iter().map(|unit_idx| self.references[2 * (first + unit_idx) + 1]);
        let drift: f64 = now.iter().zip(before).map(|(now, before)| now - before).sum();
        (drift / chosen.len().max(1) as f64).max(0.0)
    }

    /// Moves each router's biases towards even use and says how uneven it was.
    fn balance(&mut self) -> f64 {
        let n_experts = self.parameters.layout.adapter.n_experts();
        let rate = self.training.recipe.recipe.adapter.balance_rate as f32;
        let mut busiest: f64 = 1.0;
        let layers = self.parameters.router_bias.chunks_exact_mut(n_experts);
        for (biases, load) in layers.zip(self.expert_load.chunks_exact(n_experts)) {
            let mean = load.iter().sum::<u64>() as f64 / n_experts as f64;
            for (bias, load) in biases.iter_mut().zip(load) {
                let load = *load as f64;
                if load < mean {
                    *bias += rate;
                } else if load > mean {
                    *bias -= rate;
                }
                busiest = busiest.max(load / mean);
            }
        }
        busiest
    }

    fn look_at_held_out(
        &mut self,
        stage_idx: usize,
        data: &StageData,
        observe: &mut dyn FnMut(&Progress<'_>),
    ) -> Result<(), TrainError> {
        if data.held_out.is_empty() && data.prompts.held_out.is_empty() {
            return Ok(());
        }
        let stage = &self.training.recipe.recipe.stages[stage_idx];
        let (mut totals, mut reward) = (Totals::default(), None);
        if let Some(grpo) = &stage.grpo {
            // Always with the same seeds, so that looks compare.
            let prompts: Vec<&Prompt> = data.prompts.held_out.iter().collect();
            let seed = stage_seed(self.training.recipe.recipe.seed, stage_idx);
            reward = Some(self.judged((stage_idx, grpo), &prompts, 1, seed)?.reward);
        } else {
            let all: Vec<usize> = (0..data.held_out.len()).collect();
            let packs = plan::packs(&data.held_out, &all, stage.pack_tokens);
            totals = self.pass(stage, &data.held_out, &packs, (data.learned.len(), None));
        }
        let point = Point {
            stage_idx,
            step: self.position.step,
            kind: PointKind::HeldOut,
            loss: totals.loss,
            margin: totals.mean_margin(),
            accuracy: totals.accuracy(),
            reward,
            kl: None,
            learning_rate: 0.0,
            gradient_norm: 0.0,
            busiest_expert: 1.0,
            n_tokens: self.position.n_tokens,
            seconds: self.position.seconds,
        };
        self.record(point)?;
        observe(&Progress::HeldOut { point: &point });
        Ok(())
    }

    fn record(&mut self, point: Point) -> Result<(), TrainError> {
        self.curve
            .push(point)
            .map_err(|source| TrainError::Io { file: self.work.join("curve.jsonl"), source })
    }

    fn save(&mut self, observe: &mut dyn FnMut(&Progress<'_>)) -> Result<(), TrainError> {
        let file = self.work.join("checkpoint.safetensors");
        let parts = Parts {
            position: self.position,
            values: &self.parameters.values,
            router_bias: &self.parameters.router_bias,
            moments: &self.moments,
            references: &self.references,
        };
        parts.save(&file, &self.origin)?;
        self.write_report()?;
        self.last_save = Instant::now();
        observe(&Progress::Saved { file: &file });
        Ok(())
    }

    fn write_report(&self) -> Result<(), TrainError> {
        let file = self.training.out.join("report.html");
        let html = report::html(&self.training.recipe.recipe, &self.plan, &self.curve.points);
        fs::write(&file, html).map_err(|source| TrainError::Io { file, source })
    }

    /// Writes adapter and card.
    fn finish(&mut self, observe: &mut dyn FnMut(&Progress<'_>)) -> Result<Card, TrainError> {
        let recipe = &self.training.recipe.recipe;
        // They have served, and the adapter's copies take their room.
        self.gradients = Vec::new();
        self.moments = Moments::default();
        let adapter = self.parameters.to_adapter(Some(self.origin.base.clone()));
        adapter.save(self.training.out, recipe.storage.into())?;
        let adapter_file = match adapter.routing {
            Some(_) => ROUTED_FILE,
            None => "adapter_model.safetensors",
        };
        let file = self.training.out.join(adapter_file);
        let io_error = |file: &Path| {
            let file = file.to_owned();
            move |source| TrainError::Io { file, source }
        };
        if let Some(sampling) = recipe.sampling {
            SamplingAdvice::from(sampling).save(self.training.out)?;
        }
        if self.parameters.layout.has_reward_head {
            reward_model::save_head(self.training.out, self.parameters.reward_head())?;
        }
        let card = Card {
            name: recipe.name.clone(),
            base: recipe.base.clone(),
            base_sha256: self.origin.base.clone(),
            recipe_sha256: self.origin.recipe.clone(),
            data_sha256: self.origin.data.clone(),
            start_sha256: self.start_sha256.clone(),
            seed: recipe.seed,
            rapport_version: env!("CARGO_PKG_VERSION"),
            commit: self.training.commit.clone(),
            instruction_set: self.network.compute().isa().to_string(),
            precision: recipe.precision.here(self.network.compute()),
            n_threads: self.network.compute().pool().n_threads(),
            n_parameters: self.plan.n_parameters,
            n_tokens: self.position.n_tokens,
            seconds: self.position.seconds,
            adapter_file: adapter_file.to_owned(),
            adapter_bytes: fs::metadata(&file).map_err(io_error(&file))?.len(),
            adapter_sha256: file_sha256(&file).map_err(io_error(&file))?,
            stages: self.stage_cards(),
            expert_use: self.expert_use(),
            planned_memory_bytes: self.plan.memory_bytes,
            peak_memory_bytes: peak_memory_bytes(),
        };
        let file = self.training.out.join("card.json");
        let text = serde_json::to_string_pretty(&card)
            .map_err(|source| TrainError::Io { file: file.clone(), source: source.into() })?;
        fs::write(&file, text + "\n").map_err(io_error(&file))?;
        self.write_report()?;
        observe(&Progress::Saved { file: &file });
        Ok(card)
    }

    fn stage_cards(&self) -> Vec<StageCard> {
        let of_stage = |stage_idx: usize, plan: &StagePlan| {
            let points = |kind| -> Vec<&Point> {
                let all = self.curve.points.iter();
                all.filter(|point| point.stage_idx == stage_idx && point.kind == kind).collect()
            };
            let (learned, held_out) = (points(PointKind::Step), points(PointKind::HeldOut));
            let tenth = learned.len().div_ceil(10).max(1).min(learned.len());
            let (first, last) = (&learned[..tenth], &learned[learned.len() - tenth..]);
            let loss = |points: &[&Point]| {
                points.iter().map(|point| point.loss).sum::<f64>() / points.len().max(1) as f64
            };
            let reward = |points: &[&Point]| {
                let there: Vec<f64> = points.iter().filter_map(|point| point.reward).collect();
                (!there.is_empty()).then(|| there.iter().sum::<f64>() / there.len() as f64)
            };
            let last_held_out = held_out.last();
            StageCard {
                plan: plan.clone(),
                first_loss: loss(first),
                last_loss: loss(last),
                held_out_loss: last_held_out
                    .filter(|point| point.reward.is_none())
                    .map(|point| point.loss),
                held_out_accuracy: last_held_out.and_then(|point| point.accuracy),
                first_reward: reward(first),
                last_reward: reward(last),
                held_out_reward: last_held_out.and_then(|point| point.reward),
                curve: CardCurve::new(&learned, &held_out),
            }
        };
        self.plan.stages.iter().enumerate().map(|(idx, plan)| of_stage(idx, plan)).collect()
    }

    /// Shares of the last pass, which was over what is held out.
    fn expert_use(&self) -> Vec<Vec<f64>> {
        let n_experts = self.parameters.layout.adapter.n_experts();
        let share = |load: &[u64]| {
            let sum = load.iter().sum::<u64>().max(1) as f64;
            load.iter().map(|load| *load as f64 / sum).collect()
        };
        self.expert_load.chunks_exact(n_experts).map(share).collect()
    }
}
