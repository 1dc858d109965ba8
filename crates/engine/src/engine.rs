//! The state machine: sequences in, events out.

use std::collections::VecDeque;
use std::fmt;

use rapport_kernels::{Compute, KvType, PAGE_TOKENS};
use rapport_model::{Batch, BatchSequence, Logits, Scratch, Transformer};
use rapport_types::Sampling;

use crate::pages::{Pages, Reservation};
use crate::sampler::{Choice, Sampler};

/// How much an engine may use.
#[derive(Clone, Copy, Debug)]
pub struct EngineConfig {
    /// Tokens of all conversations together, running and cached.
    pub kv_tokens: usize,
    pub kv_type: KvType,
    /// New tokens of one pass: prompts longer than this are computed in chunks, so that replies
    /// being written go on.
    pub pass_tokens: usize,
}

/// A sequence's name, unique within its engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(u64);

/// Restricts which tokens may come next.
pub trait Constraint: Send {
    /// Sets the logits of forbidden tokens to negative infinity; leaves at least one.
    fn mask(&mut self, logits: &mut [f32]);
    /// Takes note of the token that was chosen.
    fn accept(&mut self, token: u32);
    /// Whether nothing more may follow.
    fn is_complete(&self) -> bool;
}

/// A part of a reply that ends in its own way: a thought, an answer.
pub struct Phase {
    /// Written before anything is chosen.
    pub opening: Vec<u32>,
    /// Any of these, chosen, ends the phase; it is written.
    pub stop_tokens: Vec<u32>,
    /// At most this many chosen tokens; 0 skips straight to `closing`.
    pub max_tokens: u32,
    /// Written where the phase did not end itself by a stop token or its constraint.
    pub closing: Vec<u32>,
    pub constraint: Option<Box<dyn Constraint>>,
}

impl fmt::Debug for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Phase").field("max_tokens", &self.max_tokens).finish_non_exhaustive()
    }
}

/// One reply asked for.
#[derive(Debug)]
pub struct EngineRequest {
    /// Not empty; ids below the vocabulary.
    pub prompt: Vec<u32>,
    /// Not empty; the last one is the answer.
    pub phases: Vec<Phase>,
    pub sampling: Sampling,
    pub seed: u64,
}

/// Why a request was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    #[error("the prompt is empty")]
    EmptyPrompt,
    #[error("token {token} is not one of the model's {n_vocab}")]
    UnknownToken { token: u32, n_vocab: usize },
    #[error("prompt and reply need {needed_tokens} tokens and there is room for {room_tokens}")]
    TooLong { needed_tokens: usize, room_tokens: usize },
}

/// Something that happened in a step.
#[derive(Clone, Debug, PartialEq)]
pub enum EngineEvent {
    /// The sequence has its place; its prompt is computed from the next step on.
    Started {
        id: SequenceId,
        cached_tokens: usize,
    },
    /// A token was written: chosen by the sampler, or forced by a phase's opening or closing.
    Token {
        id: SequenceId,
        phase_idx: usize,
        choice: Choice,
        is_forced: bool,
    },
    PhaseEnded {
        id: SequenceId,
        phase_idx: usize,
        ending: Ending,
    },
    /// The last phase ended; the sequence is gone.
    Finished {
        id: SequenceId,
    },
}

/// How a phase ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// By a stop token, or its constraint was complete.
    Complete,
    /// `max_tokens`.
    Limit,
    /// [`Engine::end_phase`].
    Asked,
}

struct Sequence {
    id: SequenceId,
    /// The prompt and everything written.
    tokens: Vec<u32>,
    /// How many of `tokens` the pages hold.
    n_computed: usize,
    reservation: Reservation,
    sampler: Sampler,
    phases: VecDeque<Phase>,
    phase_idx: usize,
    n_chosen: u32,
    wants_end: bool,
}

struct Waiting {
    id: SequenceId,
    request: EngineRequest,
    needed_tokens: usize,
}

/// Runs requests over one model.
pub struct Engine {
    model: Transformer,
    compute: Compute,
    config: EngineConfig,
    pages: Pages,
    waiting: VecDeque<Waiting>,
    running: Vec<Sequence>,
    scratch: Scratch,
    next_id: u64,
}

impl Engine {
    pub fn new(model: Transformer, compute: Compute, config: EngineConfig) -> Self {
        let n_pages = config.kv_tokens.div_ceil(PAGE_TOKENS);
        let pages = Pages::new(model.architecture().attention, config.kv_type, n_pages);
        Self {
            model,
            compute,
            config,
            pages,
            waiting: VecDeque::new(),
            running: Vec::new(),
            scratch: Scratch::default(),
            next_id: 0,
        }
    }

    pub fn model(&self) -> &Transformer {
        &self.model
    }

    /// The longest prompt and reply together.
    pub fn context_tokens(&self) -> usize {
        self.model.architecture().context_tokens.min(self.pages.n_total() * PAGE_TOKENS)
    }

    /// Queues a request.
    ///
    /// # Errors
    /// If it can never run.
    pub fn submit(&mut self, request: EngineRequest) -> Result<SequenceId, SubmitError> {
        let n_vocab = self.model.n_vocab();
        if request.prompt.is_empty() {
            return Err(SubmitError::EmptyPrompt);
        }
        let forced =
            request.phases.iter().flat_map(|phase| phase.opening.iter().chain(&phase.closing));
        if let Some(&token) =
            request.prompt.iter().chain(forced).find(|token| **token as usize >= n_vocab)
        {
            return Err(SubmitError::UnknownToken { token, n_vocab });
        }
        let written = request
            .phases
            .iter()
            .map(|phase| phase.opening.len() + phase.max_tokens as usize + phase.closing.len());
        let needed_tokens = request.prompt.len() + written.sum::<usize>();
        let room_tokens = self.context_tokens();
        if needed_tokens > room_tokens {
            return Err(SubmitError::TooLong { needed_tokens, room_tokens });
        }
        let id = SequenceId(self.next_id);
        self.next_id += 1;
        self.waiting.push_back(Waiting { id, request, needed_tokens });
        Ok(id)
    }

    /// Ends a sequence at once and frees its place; unknown ids do nothing.
    pub fn cancel(&mut self, id: SequenceId) {
        self.waiting.retain(|waiting| waiting.id != id);
        if let Some(idx) = self.running.iter().position(|sequence| sequence.id == id) {
            let sequence = self.running.swap_remove(idx);
            self.release(sequence);
        }
    }

    /// Ends the phase that a sequence is in, unless it is the last; unknown ids do nothing.
    pub fn end_phase(&mut self, id: SequenceId) {
        if let Some(sequence) = self.running.iter_mut().find(|sequence| sequence.id == id) {
            sequence.wants_end = sequence.phases.len() > 1;
        }
    }

    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// One pass over the weights for all running sequences.
    pub fn step(&mut self) -> Vec<EngineEvent> {
        let mut events = Vec::new();
        self.admit(&mut events);
        let chosen = self.pass();
        for (idx, logits) in chosen {
            self.running[idx].advance(logits, &mut events);
        }
        let (finished, running) = std::mem::take(&mut self.running)
            .into_iter()
            .partition(|sequence: &Sequence| sequence.phases.is_empty());
        self.running = running;
        for sequence in finished {
            events.push(EngineEvent::Finished { id: sequence.id });
            self.release(sequence);
        }
        events
    }

    fn admit(&mut self, events: &mut Vec<EngineEvent>) {
        while let Some(waiting) = self.waiting.front() {
            let prompt = &waiting.request.prompt;
            let Some(reservation) = self.pages.reserve(prompt, waiting.needed_tokens) else {
                return;
            };
            let Some(Waiting { id, request, .. }) = self.waiting.pop_front() else { return };
            let cached_tokens = reservation.n_shared * PAGE_TOKENS;
            events.push(EngineEvent::Started { id, cached_tokens });
            let mut sequence = Sequence {
                id,
                n_computed: cached_tokens,
                reservation,
                sampler: Sampler::new(request.sampling, request.seed, &request.prompt),
                tokens: request.prompt,
                phases: request.phases.into(),
                phase_idx: 0,
                n_chosen: 0,
                wants_end: false,
            };
            sequence.open_phase(events);
            if sequence.phases.is_empty() {
                events.push(EngineEvent::Finished { id });
                self.release(sequence);
            } else {
                self.running.push(sequence);
            }
        }
    }

    /// Computes what is pending within the pass's budget, single tokens first; returns the logits
    /// of those sequences that have nothing pending any more.
    fn pass(&mut self) -> Vec<(usize, Vec<f32>)> {
        let mut order: Vec<usize> = (0..self.running.len()).collect();
        order.sort_by_key(|&idx| (self.running[idx].n_pending() > 1, self.running[idx].id));
        let mut budget = self.config.pass_tokens.max(1);
        let mut shares = vec![0; self.running.len()];
        for idx in order {
            shares[idx] = self.running[idx].n_pending().min(budget);
            budget -= shares[idx];
        }
        let mut complete = Vec::new();
        let mut sequences = Vec::new();
        for (idx, (sequence, &n)) in self.running.iter_mut().zip(&shares).enumerate() {
            if n == 0 {
                continue;
            }
            let end = sequence.n_computed + n;
            while sequence.reservation.pages.len() * PAGE_TOKENS < end {
                sequence.reservation.pages.push(self.pages.page());
            }
            let is_complete = end == sequence.tokens.len();
            if is_complete {
                complete.push(idx);
            }
            sequences.push(BatchSequence {
                tokens: &sequence.tokens[sequence.n_computed..end],
                position: sequence.n_computed,
                pages: &mut sequence.reservation.pages,
                logits: if is_complete { Logits::Last } else { Logits::None },
            });
        }
        if sequences.is_empty() {
            return Vec::new();
        }
        let mut batch = Batch { sequences };
        let logits = self.model.forward(&self.compute, &mut batch, &mut self.scratch);
        let rows = logits.chunks_exact(self.model.n_vocab()).map(<[f32]>::to_vec);
        let complete = complete.into_iter().zip(rows).collect();
        for (sequence, n) in self.running.iter_mut().zip(shares) {
            sequence.n_computed += n;
        }
        complete
    }

    fn release(&mut self, sequence: Sequence) {
        let tokens = &sequence.tokens[..sequence.n_computed];
        self.pages.release(sequence.reservation, tokens);
    }
}

impl Sequence {
    fn n_pending(&self) -> usize {
        self.tokens.len() - self.n_computed
    }

    /// Chooses the next token and ends the phase where it ends.
    fn advance(&mut self, mut logits: Vec<f32>, events: &mut Vec<EngineEvent>) {
        if self.wants_end {
            return self.close_phase(Ending::Asked, events);
        }
        let Some(phase) = self.phases.front_mut() else { return };
        let choice = self.sampler.choose(&mut logits, |logits| {
            if let Some(constraint) = &mut phase.constraint {
                constraint.mask(logits);
            }
        });
        let token = choice.token;
        if let Some(constraint) = &mut phase.constraint {
            constraint.accept(token);
        }
        self.n_chosen += 1;
        let is_stop = phase.stop_tokens.contains(&token);
        let is_complete = phase.constraint.as_ref().is_some_and(|c| c.is_complete());
        let is_limit = self.n_chosen >= phase.max_tokens;
        self.write(choice, false, events);
        if is_stop || is_complete {
            self.next_phase(Ending::Complete, events);
        } else if is_limit {
            self.close_phase(Ending::Limit, events);
        }
    }

    fn write(&mut self, choice: Choice, is_forced: bool, events: &mut Vec<EngineEvent>) {
        self.sampler.accept(choice.token);
        self.tokens.push(choice.token);
        let (id, phase_idx) = (self.id, self.phase_idx);
        events.push(EngineEvent::Token { id, phase_idx, choice, is_forced });
    }

    fn force(&mut self, tokens: &[u32], events: &mut Vec<EngineEvent>) {
        for &token in tokens {
            self.write(Choice { token, logprob: 0.0, top: Vec::new() }, true, events);
        }
    }

    fn close_phase(&mut self, ending: Ending, events: &mut Vec<EngineEvent>) {
        let closing = self.phases.front_mut().map(|phase| std::mem::take(&mut phase.closing));
        self.force(&closing.unwrap_or_default(), events);
        self.next_phase(ending, events);
    }

    fn next_phase(&mut self, ending: Ending, events: &mut Vec<EngineEvent>) {
        events.push(EngineEvent::PhaseEnded { id: self.id, phase_idx: self.phase_idx, ending });
        self.phases.pop_front();
        self.phase_idx += 1;
        self.open_phase(events);
    }

    fn open_phase(&mut self, events: &mut Vec<EngineEvent>) {
        self.n_chosen = 0;
        self.wants_end = false;
        let Some(phase) = self.phases.front_mut() else { return };
        let opening = std::mem::take(&mut phase.opening);
        let skips = phase.max_tokens == 0;
        self.force(&opening, events);
        if skips {
            self.close_phase(Ending::Limit, events);
        }
    }
}
