//! One reply being made: its tokens, its phases, its place in the pages.

use std::collections::VecDeque;
use std::sync::Arc;

use rapport_model::PackedAdapter;

use crate::disk::DiskPage;
use crate::draft::Eagerness;
use crate::pages::PageTable;
use crate::prefix::{AdapterKey, CacheScope};
use crate::request::{
    CachedTokens, Ending, EngineEvent, EngineRequest, Phase, SequenceId, UserKey,
};
use crate::sampler::{Choice, Sampler};

/// A sequence from the moment it was submitted to its last token, running or waiting.
pub(crate) struct Sequence {
    pub(crate) id: SequenceId,
    pub(crate) user: UserKey,
    pub(crate) priority: i8,
    pub(crate) scope: CacheScope,
    pub(crate) adapter: Option<Arc<PackedAdapter>>,
    /// The prompt and everything written.
    pub(crate) tokens: Vec<u32>,
    /// Of `tokens`, those the pages hold. At least the last token is not among them: its logits
    /// are what the next one is chosen from.
    pub(crate) n_computed: usize,
    pub(crate) pages: PageTable,
    /// Whole pages that are in the prefix cache.
    pub(crate) n_kept_pages: usize,
    /// Pages that are read from disk before anything is computed.
    pub(crate) to_load: VecDeque<DiskPage>,
    pub(crate) cached: CachedTokens,
    /// Whether it has had a place before: it was preempted if it waits now.
    pub(crate) is_started: bool,
    /// The longest that `tokens` can become.
    max_tokens: usize,
    sampler: Sampler,
    phases: VecDeque<Phase>,
    phase_idx: usize,
    n_chosen: u32,
    wants_end: bool,
    pub(crate) eagerness: Eagerness,
}

impl Sequence {
    pub(crate) fn new(id: SequenceId, request: EngineRequest, max_tokens: usize) -> Self {
        let adapter = request.adapter.as_ref().map(|adapter| AdapterKey(adapter.sha256()));
        let adapter = adapter.unwrap_or_default();
        Self {
            id,
            user: request.user,
            priority: request.priority,
            scope: CacheScope { adapter, ..request.cache },
            adapter: request.adapter,
            n_computed: 0,
            pages: PageTable::default(),
            n_kept_pages: 0,
            to_load: VecDeque::new(),
            cached: CachedTokens::default(),
            is_started: false,
            max_tokens,
            sampler: Sampler::new(request.sampling, request.seed, &request.prompt),
            tokens: request.prompt,
            phases: request.phases.into(),
            phase_idx: 0,
            n_chosen: 0,
            wants_end: false,
            eagerness: Eagerness::default(),
        }
    }

    pub(crate) fn n_pending(&self) -> usize {
        self.tokens.len() - self.n_computed
    }

    /// The tokens whose pages can be taken from elsewhere: the last one is always computed.
    pub(crate) fn usable(&self) -> &[u32] {
        &self.tokens[..self.tokens.len() - 1]
    }

    /// How many tokens may still be written.
    pub(crate) fn n_remaining(&self) -> usize {
        self.max_tokens - self.tokens.len()
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.phases.is_empty()
    }

    /// Whether it takes part in the next pass.
    pub(crate) fn is_ready(&self) -> bool {
        self.is_started && self.to_load.is_empty() && !self.is_finished()
    }

    /// Ends the phase it is in, unless that is the last.
    pub(crate) fn ask_for_end(&mut self) {
        self.wants_end = self.phases.len() > 1;
    }

    /// Opens the first phase.
    pub(crate) fn start(&mut self, events: &mut Vec<EngineEvent>) {
        self.is_started = true;
        events.push(EngineEvent::Started { id: self.id, cached: self.cached });
        self.open_phase(events);
    }

    /// Gives its pages back; everything else stays, so that it goes on as if nothing had been.
    pub(crate) fn suspend(&mut self) {
        self.pages = PageTable::default();
        self.n_computed = 0;
        self.n_kept_pages = 0;
        self.to_load.clear();
        if !self.is_started {
            self.cached = CachedTokens::default();
        }
    }

    /// Advances as far as a guess foresaw what is written, and one token further. The pages hold
    /// the guess already. Returns how much of it was right.
    ///
    /// # Shapes
    /// `rows`: the logits of the last token and of each guessed one.
    pub(crate) fn advance_through<'r>(
        &mut self,
        guess: &[u32],
        mut rows: impl Iterator<Item = &'r [f32]>,
        work: &mut Vec<f32>,
        events: &mut Vec<EngineEvent>,
    ) -> usize {
        let start = self.tokens.len();
        let mut n_accepted = 0;
        let mut next_row = rows.next();
        while let Some(row) = next_row {
            self.advance(row, work, events);
            let written = &self.tokens[start..];
            let n_right = written.iter().zip(guess).take_while(|(a, b)| a == b).count();
            // Forced tokens may have been foreseen too: their rows are passed over.
            let n_passed = n_right - n_accepted;
            n_accepted = n_right;
            if n_right < written.len() || n_passed == 0 || self.is_finished() {
                break;
            }
            next_row = rows.nth(n_passed - 1);
        }
        self.n_computed += n_accepted;
        n_accepted
    }

    /// Chooses the next token from the logits of the last one and ends the phase where it ends.
    fn advance(&mut self, logits: &[f32], work: &mut Vec<f32>, events: &mut Vec<EngineEvent>) {
        if self.wants_end {
            let n_tokens = self.tokens.len();
            self.close_phase(Ending::Asked, events);
            if self.tokens.len() > n_tokens {
                return;
            }
            // Nothing was written in between: these logits are the next phase's.
        }
        let Some(phase) = self.phases.front_mut() else { return };
        let choice = self.sampler.choose(logits, phase.constraint.as_deref_mut(), work);
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
