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
use rapport_model::adapter::{AdapterError, ROUTED_FILE};
use rapport_model::gguf::{Gguf, GgufError};
use rapport_types::{Message, Role};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::checkpoint::{Checkpoint, CheckpointError, Origin, Position};
use crate::curve::{Curve, Point, PointKind};
use crate::data::{ConversationRow, DataError, Files, LabelRow, PairRow, hexadecimal, share_of};
use crate::network::Network;
use crate::network::base::{Base, BaseError};
use crate::network::parameters::{Layout, Parameters};
use crate::objective::{self, Scored};
use crate::optimizer::{AdamW, Moments, Schedule, clip};
use crate::plan::{self, PackedUnits, Unit, UnitPack};
use crate::recipe::{Method, RecipeFile, Stage};
use crate::report;
use crate::text::{Language, Sequence, TextError};

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
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Adapter(#[from] AdapterError),
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

#[derive(Clone, Debug, Serialize)]
pub struct StagePlan {
    pub method: Method,
    pub n_rows: usize,
    pub n_too_long: usize,
    pub n_held_out: usize,
    pub n_steps: usize,
    /// In all steps together.
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
    pub seed: u64,
    pub rapport_version: &'static str,
    pub commit: Option<String>,
    pub instruction_set: String,
    pub n_threads: usize,
    pub n_parameters: usize,
    pub n_tokens: u64,
    pub seconds: f64,
    pub adapter_file: String,
    pub adapter_bytes: u64,
    pub adapter_sha256: String,
    pub stages: Vec<StageCard>,
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
}

/// A stage's data, ready to learn from.
struct StageData {
    learned: Vec<Unit>,
    held_out: Vec<Unit>,
    steps: Vec<Vec<UnitPack>>,
    plan: StagePlan,
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
            stage_data(&language, &files, stage_idx, stage, recipe.seed)
        })
        .collect::<Result<Vec<_>, TrainError>>()?;
    let io_error = |file: &Path| {
        let file = file.to_owned();
        move |source| TrainError::Io { file, source }
    };
    let origin = Origin {
        recipe: training.recipe.sha256.clone(),
        data: hexadecimal(&data_hash.finalize()),
        base: file_sha256(training.base).map_err(io_error(training.base))?,
    };
    let base = Base::load(&gguf, recipe.precision)?;
    let network = Network::<f32>::new(compute, base, recipe.recompute);
    drop(gguf);
    let layout = Layout { base: network.shape().base(), adapter: recipe.adapter.shape() };
    let plan = plan_of(&network, &layout, recipe.stages.iter().zip(&stages));
    observe(&Progress::Planned(&plan));

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
    let mut parameters = Parameters::<f32>::fresh(layout, recipe.seed);
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
        network,
        gradients: vec![0.0; layout.n_parameters()],
        parameters,
        moments,
        references,
        position,
        curve,
        origin,
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
        Method::Dpo => files
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
    let stage_seed = seed.wrapping_mul(1_000_003).wrapping_add(stage_idx as u64);
    let steps = plan::steps(&learned, sizes, stage.epochs, stage_seed);
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
    Ok(StageData { learned, held_out, steps, plan })
}

fn plan_of<'a>(
    network: &Network<f32>,
    layout: &Layout,
    stages: impl Iterator<Item = (&'a Stage, &'a StageData)> + Clone,
) -> Plan {
    // A pair that is longer than a pack is one by itself.
    let longest = stages.clone().flat_map(|(stage, data)| {
        let units = data.learned.iter().chain(&data.held_out);
        units.map(Unit::n_tokens).chain([stage.pack_tokens])
    });
    let n_parameters = layout.n_parameters();
    let adapter_bytes = 4 * n_parameters * size_of::<f32>();
    Plan {
        n_parameters,
        memory_bytes: network.planned_bytes(layout, longest.max().unwrap_or(0)) + adapter_bytes,
        stages: stages.map(|(_, data)| data.plan.clone()).collect(),
    }
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
    fn mean_margin(&self) -> Option<f64> {
        (self.n_graded > 0).then(|| self.margin / self.n_graded as f64)
    }

    fn accuracy(&self) -> Option<f64> {
        (self.n_graded > 0).then(|| self.n_ahead as f64 / self.n_graded as f64)
    }
}

/// A training under way.
struct Run<'a> {
    training: &'a Training<'a>,
    network: Network<f32>,
    parameters: Parameters<f32>,
    gradients: Vec<f32>,
    moments: Moments,
    /// One a sequence of the stage: those learned from, then those held out.
    references: Vec<f64>,
    position: Position,
    curve: Curve,
    origin: Origin,
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
                Method::Sft => Vec::new(),
                Method::Dpo | Method::Kto => {
                    self.reference_log_probs(data, stage.pack_tokens, observe)
                }
            };
        }
        for step in self.position.step + 1..=data.steps.len() {
            if self.training.stop.load(Ordering::Relaxed) {
                return Ok(false);
            }
            let begun = Instant::now();
            let packs = &data.steps[step - 1];
            let n_tokens: usize =
                packs.iter().flatten().map(|unit_idx| data.learned[*unit_idx].n_tokens()).sum();
            self.gradients.fill(0.0);
            let totals = self.pass(stage, &data.learned, packs, (0, Some(n_tokens)));
            if !totals.loss.is_finite() {
                return Err(TrainError::Diverged { stage_idx, step, loss: totals.loss });
            }
            let gradient_norm = clip(&mut self.gradients, stage.clip_norm);
            let adam = AdamW {
                learning_rate: schedule.at(step),
                betas: stage.betas,
                weight_decay: stage.weight_decay,
            };
            let values = &mut self.parameters.values;
            adam.step(step, &mut self.moments, &self.gradients, values);
            let busiest_expert = self.balance();

            self.n_tokens_here += n_tokens as u64;
            self.position.step = step;
            self.position.n_tokens += n_tokens as u64;
            self.position.seconds += begun.elapsed().as_secs_f64();
            let point = Point {
                stage_idx,
                step,
                kind: PointKind::Step,
                loss: totals.loss,
                margin: totals.mean_margin(),
                accuracy: totals.accuracy(),
                learning_rate: adam.learning_rate,
                gradient_norm,
                busiest_expert,
                n_tokens: self.position.n_tokens,
                seconds: self.position.seconds,
            };
            self.record(point)?;
            let tokens_per_second =
                self.n_tokens_here as f64 / self.started.elapsed().as_secs_f64();
            let n_all: u64 = self.plan.stages.iter().map(|stage| stage.n_tokens).sum();
            let n_left = n_all.saturating_sub(self.position.n_tokens);
            observe(&Progress::Step {
                point: &point,
                curve: &self.curve.points,
                tokens_per_second,
                seconds_left: n_left as f64 / tokens_per_second,
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
            Method::Sft | Method::Dpo => 0.0,
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
                Method::Dpo | Method::Kto => {
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
                        totals.loss += graded.loss;
                        totals.n_graded += 1;
                        totals.n_ahead += usize::from(graded.margin > 0.0);
                        totals.margin += graded.margin;
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
        if data.held_out.is_empty() {
            return Ok(());
        }
        let stage = &self.training.recipe.recipe.stages[stage_idx];
        let all: Vec<usize> = (0..data.held_out.len()).collect();
        let packs = plan::packs(&data.held_out, &all, stage.pack_tokens);
        let totals = self.pass(stage, &data.held_out, &packs, (data.learned.len(), None));
        let point = Point {
            stage_idx,
            step: self.position.step,
            kind: PointKind::HeldOut,
            loss: totals.loss,
            margin: totals.mean_margin(),
            accuracy: totals.accuracy(),
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
        let checkpoint = Checkpoint {
            position: self.position,
            values: self.parameters.values.clone(),
            router_bias: self.parameters.router_bias.clone(),
            moments: self.moments.clone(),
            references: self.references.clone(),
        };
        checkpoint.save(&file, &self.origin)?;
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
        let card = Card {
            name: recipe.name.clone(),
            base: recipe.base.clone(),
            base_sha256: self.origin.base.clone(),
            recipe_sha256: self.origin.recipe.clone(),
            data_sha256: self.origin.data.clone(),
            seed: recipe.seed,
            rapport_version: env!("CARGO_PKG_VERSION"),
            commit: self.training.commit.clone(),
            instruction_set: self.network.compute().isa().to_string(),
            n_threads: self.network.compute().pool().n_threads(),
            n_parameters: self.plan.n_parameters,
            n_tokens: self.position.n_tokens,
            seconds: self.position.seconds,
            adapter_file: adapter_file.to_owned(),
            adapter_bytes: fs::metadata(&file).map_err(io_error(&file))?.len(),
            adapter_sha256: file_sha256(&file).map_err(io_error(&file))?,
            stages: self.stage_cards(),
            expert_use: self.expert_use(),
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
            let points = |kind| {
                let all = self.curve.points.iter();
                all.filter(move |point| point.stage_idx == stage_idx && point.kind == kind)
            };
            let losses: Vec<f64> = points(PointKind::Step).map(|point| point.loss).collect();
            let tenth = losses.len().div_ceil(10).max(1);
            let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len().max(1) as f64;
            let held_out = points(PointKind::HeldOut).next_back();
            StageCard {
                plan: plan.clone(),
                first_loss: mean(&losses[..tenth.min(losses.len())]),
                last_loss: mean(&losses[losses.len().saturating_sub(tenth)..]),
                held_out_loss: held_out.map(|point| point.loss),
                held_out_accuracy: held_out.and_then(|point| point.accuracy),
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
