//! Trains adapters on frozen models, on processors: replies to imitate, preferences to follow, and
//! what replies are worth.
//!
//! A training is one [`recipe`] run by [`train`]; [`Network`] is the forward and backward pass,
//! `objective.rs` the losses, which are only gradients by log-probabilities. What comes out is an
//! [`rapport_model::adapter::Adapter`].
//!
//! What is not here: full fine-tuning, several machines (export data and rewards to TRL, verl or
//! OpenRLHF for that), sampling.
//!
//! Start reading at `run.rs`, then `network/mod.rs`.

pub mod recipe;

mod advantage;
mod checkpoint;
mod curve;
mod data;
mod export;
mod network;
mod objective;
mod optimizer;
mod plan;
mod random;
mod report;
mod reward_model;
mod rollout;
mod run;
#[cfg(test)]
mod step_reference;
mod text;

pub use checkpoint::CheckpointError;
pub use curve::{Point, PointKind};
pub use data::DataError;
pub use export::{ExportError, ExportFormat, Exported, export};
pub use network::base::{Base, BaseError, Precision, Shape};
pub use network::parameters::{AdapterShape, Layout, Parameters};
pub use network::{Network, Pack, Recompute, RoutingOfPass, Target};
pub use report::terminal_plot;
pub use reward_model::{RewardModel, RewardModelError};
pub use rollout::{Failure, Labels, Policy, Prompt, Reward, Rollouts};
pub use run::{
    Card, CardCurve, Outcome, Plan, Progress, StageCard, StagePlan, TrainError, Training, train,
};
pub use text::{Language, Reply, Sequence, TextError};
