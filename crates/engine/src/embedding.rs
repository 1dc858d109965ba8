//! Embeddings: what the last layer makes of a text, as one vector of length 1.
//!
//! A vector is the mean of the normed hidden states of all tokens, as llama.cpp pools by default.
//!
//! The work shares the engine's model and threads and nothing else: its pages are its own and go with
//! it, nothing is cached, and conversations go on between its passes. A vector is the same bits
//! whatever else was in its passes, and however it was cut into them.
//!
//! What is not here: text, limits, who goes first.

use std::sync::Arc;

use rapport_kernels::{KvPage, PAGE_TOKENS};
use rapport_model::{Batch, BatchSequence, Logits};

use crate::engine::{Engine, guard};
use crate::request::Failure;

/// A text on its way to its vector.
#[derive(Default)]
pub struct EmbeddingJob {
    tokens: Vec<u32>,
    n_computed: usize,
    pages: Vec<Arc<KvPage>>,
    /// (C)
    sum: Vec<f64>,
}

impl EmbeddingJob {
    /// A job for tokens that [`Embeddable::check`] took.
    pub fn new(tokens: Vec<u32>) -> Self {
        Self { tokens, ..Self::default() }
    }

    pub fn n_tokens(&self) -> usize {
        self.tokens.len()
    }

    pub fn is_done(&self) -> bool {
        self.n_computed == self.tokens.len()
    }

    /// The vector of a job that is done.
    ///
    /// # Shapes
    /// (C)
    ///
    /// # Numerics
    /// States in f32 as the model computes them; summed in token order and brought to length 1 in f64.
    pub fn vector(&self) -> Vec<f32> {
        let norm = self.sum.iter().map(|x| x * x).sum::<f64>().sqrt();
        // The mean's own factor goes with the length.
        let scale = if norm > 0.0 { norm.recip() } else { 0.0 };
        self.sum.iter().map(|x| (x * scale) as f32).collect()
    }

    fn add(&mut self, rows: &[f32], hidden: usize) {
        self.sum.resize(hidden, 0.0);
        for row in rows.chunks_exact(hidden) {
            for (sum, x) in self.sum.iter_mut().zip(row) {
                *sum += f64::from(*x);
            }
        }
    }
}

/// Why tokens cannot be embedded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EmbeddingError {
    #[error("there is nothing in it")]
    Empty,
    #[error("it has {n_tokens} tokens and the model takes {max_tokens}")]
    TooLong { n_tokens: usize, max_tokens: usize },
    #[error("there is no token {token}: the vocabulary has {n_vocab}")]
    UnknownToken { token: u32, n_vocab: usize },
}

/// What an engine can embed, to be asked from other threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Embeddable {
    /// C
    pub width: usize,
    pub max_tokens: usize,
    pub n_vocab: usize,
}

impl Embeddable {
    /// # Errors
    /// If these tokens cannot be embedded.
    pub fn check(&self, tokens: &[u32]) -> Result<(), EmbeddingError> {
        let Self { max_tokens, n_vocab, .. } = *self;
        let n_tokens = tokens.len();
        if n_tokens == 0 {
            return Err(EmbeddingError::Empty);
        }
        if n_tokens > max_tokens {
            return Err(EmbeddingError::TooLong { n_tokens, max_tokens });
        }
        match tokens.iter().find(|token| **token as usize >= n_vocab) {
            Some(&token) => Err(EmbeddingError::UnknownToken { token, n_vocab }),
            None => Ok(()),
        }
    }
}

impl Engine {
    pub fn embeddable(&self) -> Embeddable {
        Embeddable {
            width: self.model.architecture().hidden,
            max_tokens: self.context_tokens(),
            n_vocab: self.model.n_vocab(),
        }
    }

    /// One pass for the first jobs that are not done.
    ///
    /// # Errors
    /// The pass broke; none of the jobs may be asked again.
    ///
    /// # Panics
    /// If [`Embeddable::check`] would have refused a job, once its pass was begun.
    pub fn embed(&mut self, jobs: &mut [EmbeddingJob]) -> Result<(), Failure> {
        let architecture = self.model.architecture();
        let (shape, hidden) = (architecture.attention, architecture.hidden);
        let mut n_left = self.config.pass_tokens.max(1);
        let mut sequences = Vec::new();
        let mut shares = Vec::new();
        for (job_idx, job) in jobs.iter_mut().enumerate().filter(|(_, job)| !job.is_done()) {
            let n_tokens = (job.tokens.len() - job.n_computed).min(n_left);
            if n_tokens == 0 {
                break;
            }
            n_left -= n_tokens;
            shares.push((job_idx, n_tokens));
            let end = job.n_computed + n_tokens;
            let page = || Arc::new(KvPage::new(shape, self.config.kv_type));
            job.pages.resize_with(end.div_ceil(PAGE_TOKENS), page);
            sequences.push(BatchSequence {
                tokens: &job.tokens[job.n_computed..end],
                position: job.n_computed,
                pages: &mut job.pages,
                logits: Logits::All,
                adapter: None,
            });
        }
        let mut batch = Batch { sequences };
        let (model, compute, scratch) = (&self.model, &self.compute, &mut self.scratch);
        let states = match guard(|| model.hidden(compute, &mut batch, scratch)) {
            Ok(states) => states,
            Err(message) => {
                // What it left behind is not known, so nothing of it is used again.
                self.scratch = rapport_model::Scratch::default();
                return Err(Failure::Pass { message });
            }
        };
        let mut rest = states;
        for (job_idx, n_tokens) in shares {
            let (rows, after) = rest.split_at(n_tokens * hidden);
            rest = after;
            let job = &mut jobs[job_idx];
            job.add(rows, hidden);
            job.n_computed += n_tokens;
            if job.is_done() {
                job.pages = Vec::new();
            }
        }
        Ok(())
    }
}
