//! Whether one build answers better than another: prompts, replies, readers who see no names, and
//! the statistics of what they said.
//!
//! The files between the steps are the product. [`devset`] asks a model every prompt and writes one
//! line a reply; [`blind`] shuffles the replies of two models into sheets without names and keeps
//! the key apart; people or models ([`judge`]) read the sheets and write a verdict a line; [`score`] joins
//! verdicts and key. [`preference`] says how far a reward agrees with people. Nothing here judges: a judgement is always somebody's, and kept.
//!
//! What is not here: models (they are reached through [`rapport_types::Generate`]), HTTP, accounts.
//!
//! Start reading at [`devset::Item`], then [`blind::blind`].

pub mod blind;
pub mod devset;
pub mod jsonl;
pub mod judge;
pub mod preference;
pub mod score;
pub mod statistics;
