//! The state machine: sequences in, events out.
//!
//! A step admits what has room, reads stored pages, plans one pass over the model, runs it and
//! advances every sequence that has its next logits. [`Engine::step`] shows the order.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use rapport_kernels::{Compute, KvType, PAGE_TOKENS};
use rapport_model::{Batch, BatchSequence, Logits, Scratch, Transformer};

use crate::disk::{DiskConfig, DiskError, DiskReport, DiskStatistics, DiskTier};
use crate::draft::{DraftModel, Wanted, lookup};
use crate::pages::PagePool;
use crate::prefix::{CacheKey, CacheScope, Evict, PrefixCache};
use crate::request::{EngineEvent, EngineRequest, Failure, Phase, SequenceId, SubmitError};
use crate::sequence::Sequence;
use crate::users::Users;

/// Sequences with at most this many tokens to compute are in every pass: a token being written, a
/// phase's words, the short rest of a cached prompt.
const SHORT_TOKENS: usize = 16;
/// What a step reads from disk at most while others are waiting for it.
const STEP_LOAD_BYTES: usize = 16 << 20;

/// How much an engine may use.
#[derive(Clone, Copy, Debug)]
pub struct EngineConfig {
    /// Tokens of all conversations together, running and cached.
    pub kv_tokens: usize,
    pub kv_type: KvType,
    /// New tokens of one pass: prompts longer than this are computed in chunks, so that replies
    /// being written go on.
    pub pass_tokens: usize,
    /// Requests that may wait for their first place.
    pub max_waiting: usize,
    /// How many of them may be one user's.
    pub max_waiting_per_user: usize,
    /// Room that a reply is expected to need, where it may take more: what admission counts with.
    pub expected_reply_tokens: usize,
    /// Tokens guessed ahead in one pass, shared by all that write; 0 guesses nothing. The text is
    /// the same, only sooner where much of it was said before.
    pub max_draft_tokens: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            kv_tokens: 16_384,
            kv_type: KvType::F16,
            pass_tokens: 256,
            max_waiting: 256,
            max_waiting_per_user: 32,
            expected_reply_tokens: 256,
            max_draft_tokens: 4,
        }
    }
}

/// Where an engine's pages are: `free + cached + held == total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageCounts {
    pub free: usize,
    /// Held by nobody, kept for the next turn.
    pub cached: usize,
    /// Of running sequences; what several share counts once.
    pub held: usize,
    pub total: usize,
}

/// What an operator watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineStatistics {
    pub pages: PageCounts,
    pub n_running: usize,
    pub n_waiting: usize,
    /// How often a sequence had to give its pages back, since the start.
    pub n_preemptions: u64,
    /// Tokens guessed ahead, and those of them that were right.
    pub n_drafted: u64,
    pub n_accepted: u64,
    /// `None` without a disk tier.
    pub disk: Option<DiskStatistics>,
}

/// Why a draft model was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the draft model has {n_vocab} tokens and the model {expected}: both need one vocabulary")]
pub struct DraftError {
    pub n_vocab: usize,
    pub expected: usize,
}

/// What one sequence has of a pass.
struct Share {
    /// Its own tokens that are computed.
    n_tokens: usize,
    /// Tokens guessed to follow them.
    guess: Vec<u32>,
}

/// Runs requests over one model.
pub struct Engine {
    pub(crate) model: Transformer,
    pub(crate) compute: Compute,
    pub(crate) config: EngineConfig,
    pool: PagePool,
    cache: PrefixCache,
    disk: Option<DiskTier>,
    draft: Option<DraftModel>,
    users: Users,
    /// New ones, and those that were preempted.
    waiting: BTreeMap<SequenceId, Sequence>,
    running: BTreeMap<SequenceId, Sequence>,
    pub(crate) scratch: Scratch,
    /// A row of logits that is being changed.
    work: Vec<f32>,
    next_id: u64,
    n_preemptions: u64,
    n_drafted: u64,
    n_accepted: u64,
}

impl Engine {
    pub fn new(model: Transformer, compute: Compute, config: EngineConfig) -> Self {
        let n_pages = config.kv_tokens.div_ceil(PAGE_TOKENS);
        let pool = PagePool::new(model.architecture().attention, config.kv_type, n_pages);
        Self {
            model,
            compute,
            config,
            pool,
            cache: PrefixCache::new(),
            disk: None,
            draft: None,
            users: Users::default(),
            waiting: BTreeMap::new(),
            running: BTreeMap::new(),
            scratch: Scratch::default(),
            work: Vec::new(),
            next_id: 0,
            n_preemptions: 0,
            n_drafted: 0,
            n_accepted: 0,
        }
    }

    /// Keeps cached pages on disk too, and finds those of earlier engines.
    ///
    /// # Errors
    /// If the directory cannot be used; the engine goes on without.
    pub fn attach_disk(&mut self, config: DiskConfig) -> Result<(), DiskError> {
        self.disk = Some(DiskTier::open(config, self.pool.page_bytes())?);
        Ok(())
    }

    /// Lets a smaller model guess ahead where the text itself gives no guess. Its own keys and
    /// values may take as many tokens as the engine's.
    ///
    /// # Errors
    /// If it has another vocabulary; the engine goes on without.
    pub fn attach_draft(&mut self, model: Transformer) -> Result<(), DraftError> {
        let (n_vocab, expected) = (model.n_vocab(), self.model.n_vocab());
        if n_vocab != expected {
            return Err(DraftError { n_vocab, expected });
        }
        let EngineConfig { kv_type, pass_tokens, .. } = self.config;
        self.draft = Some(DraftModel::new(model, kv_type, pass_tokens, self.pool.n_total()));
        Ok(())
    }

    /// Ends the engine and gives back what it was made of.
    pub fn into_parts(self) -> (Transformer, Compute) {
        (self.model, self.compute)
    }

    pub fn model(&self) -> &Transformer {
        &self.model
    }

    /// The longest prompt and reply together.
    pub fn context_tokens(&self) -> usize {
        self.model.architecture().context_tokens.min(self.pool.n_total() * PAGE_TOKENS)
    }

    /// Queues a request.
    ///
    /// # Errors
    /// If it can never run, or too many wait already.
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
        let written = request.phases.iter().map(Phase::max_written);
        let needed_tokens = request.prompt.len() + written.sum::<usize>();
        let room_tokens = self.context_tokens();
        if needed_tokens > room_tokens {
            return Err(SubmitError::TooLong { needed_tokens, room_tokens });
        }
        let new = self.waiting.values().filter(|sequence| !sequence.is_started);
        let (n_waiting, n_of_user) = new.fold((0, 0), |(n_waiting, n_of_user), sequence| {
            (n_waiting + 1, n_of_user + usize::from(sequence.user == request.user))
        });
        if n_waiting >= self.config.max_waiting {
            return Err(SubmitError::Overloaded { n_waiting });
        }
        if n_of_user >= self.config.max_waiting_per_user {
            return Err(SubmitError::UserOverloaded { n_waiting: n_of_user });
        }
        let id = SequenceId(self.next_id);
        self.next_id += 1;
        self.users.arrive(request.user);
        self.waiting.insert(id, Sequence::new(id, request, needed_tokens));
        Ok(id)
    }

    /// Ends a sequence at once and frees its place; unknown ids do nothing.
    pub fn cancel(&mut self, id: SequenceId) {
        if let Some(sequence) = self.waiting.remove(&id).or_else(|| self.running.remove(&id)) {
            self.release(&sequence);
        }
    }

    /// Ends the phase that a sequence is in, unless it is the last; unknown ids do nothing.
    pub fn end_phase(&mut self, id: SequenceId) {
        let sequence = self.running.get_mut(&id).or_else(|| self.waiting.get_mut(&id));
        if let Some(sequence) = sequence.filter(|sequence| sequence.is_started) {
            sequence.ask_for_end();
        }
    }

    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// Keeps the cached beginning of `tokens` until [`Self::unpin`] is called with as many; only a
    /// sequence that could not run otherwise may still take its pages. Returns how many tokens
    /// were cached.
    pub fn pin(&mut self, scope: &CacheScope, tokens: &[u32]) -> usize {
        self.cache.pin(scope, tokens)
    }

    /// Takes back what [`Self::pin`] did to so many tokens.
    pub fn unpin(&mut self, scope: &CacheScope, tokens: &[u32]) {
        self.cache.unpin(scope, tokens);
    }

    /// Drops everything that is cached under a key, in memory and on disk.
    pub fn forget(&mut self, key: CacheKey) {
        self.cache.forget(key);
        if let Some(disk) = &mut self.disk {
            disk.forget(key);
        }
    }

    /// Waits until the disk has everything that finished sequences left.
    pub fn flush_disk(&mut self) {
        if let Some(disk) = &mut self.disk {
            disk.flush();
        }
    }

    /// Files that were not used or not written since the last call.
    pub fn take_disk_reports(&mut self) -> Vec<DiskReport> {
        self.disk.as_mut().map(DiskTier::take_reports).unwrap_or_default()
    }

    pub fn statistics(&self) -> EngineStatistics {
        let held: HashSet<usize> =
            self.running.values().flat_map(|sequence| sequence.pages.identities()).collect();
        EngineStatistics {
            pages: PageCounts {
                free: self.pool.n_free(),
                cached: self.cache.n_cached(),
                held: held.len(),
                total: self.pool.n_total(),
            },
            n_running: self.running.len(),
            n_waiting: self.waiting.len(),
            n_preemptions: self.n_preemptions,
            n_drafted: self.n_drafted,
            n_accepted: self.n_accepted,
            disk: self.disk.as_ref().map(DiskTier::statistics),
        }
    }

    /// One pass over the weights for all running sequences.
    pub fn step(&mut self) -> Vec<EngineEvent> {
        let mut events = Vec::new();
        self.admit();
        self.load();
        self.start(&mut events);
        let plan = self.plan();
        self.pass(&plan, &mut events);
        self.retire(&mut events);
        events
    }

    /// Gives places to those that wait, as long as there is room for the next one.
    fn admit(&mut self) {
        while let Some(id) = self.next_waiting() {
            if !self.make_place(id) {
                return;
            }
            let Some(mut sequence) = self.waiting.remove(&id) else { return };
            self.take_cached(&mut sequence);
            self.running.insert(id, sequence);
        }
    }

    /// By priority; those that were preempted first, then whoever's user has had least.
    fn next_waiting(&self) -> Option<SequenceId> {
        let key = |sequence: &Sequence| {
            let service_tokens = self.users.service_tokens(sequence.user);
            (Reverse(sequence.priority), !sequence.is_started, service_tokens, sequence.id)
        };
        self.waiting.values().min_by_key(|sequence| key(sequence)).map(|sequence| sequence.id)
    }

    /// Whether a waiting sequence may run now; preempts lower priorities for it.
    fn make_place(&mut self, id: SequenceId) -> bool {
        let priority = self.waiting[&id].priority;
        while !self.has_place(id) {
            match self.victim() {
                Some(victim) if self.running[&victim].priority < priority => self.preempt(victim),
                _ => return false,
            }
        }
        true
    }

    /// Whether a sequence's estimated pages are there beside those that running ones will need.
    fn has_place(&mut self, id: SequenceId) -> bool {
        if self.running.is_empty() {
            return true;
        }
        let config = self.config;
        let expected_pages = |sequence: &Sequence| {
            let n_reply = sequence.n_remaining().min(config.expected_reply_tokens);
            (sequence.tokens.len() + n_reply).div_ceil(PAGE_TOKENS)
        };
        let sequence = &self.waiting[&id];
        let n_held = self.cache.n_held(&sequence.scope, sequence.usable());
        let growth = self
            .running
            .values()
            .map(|running| expected_pages(running).saturating_sub(running.pages.len()));
        let n_needed = expected_pages(sequence) - n_held + growth.sum::<usize>();
        let n_free = self.pool.n_free();
        n_needed <= n_free || self.cache.can_evict(n_needed - n_free)
    }

    /// Takes what memory has of a sequence and notes what the disk has.
    fn take_cached(&mut self, sequence: &mut Sequence) {
        for page in self.cache.find(&sequence.scope, sequence.usable()) {
            sequence.pages.push(page);
        }
        let n_pages = sequence.pages.len();
        sequence.n_kept_pages = n_pages;
        sequence.n_computed = n_pages * PAGE_TOKENS;
        if let Some(disk) = &mut self.disk {
            sequence.to_load = disk.find(&sequence.scope, sequence.usable(), n_pages);
        }
        if !sequence.is_started {
            sequence.cached.memory = sequence.n_computed;
        }
    }

    /// Reads pages from disk: all of them if nothing else is to be done, else a few a step.
    fn load(&mut self) {
        let mut n_left = usize::MAX;
        if self.running.values().any(Sequence::is_ready) {
            n_left = (STEP_LOAD_BYTES / self.pool.page_bytes()).max(1);
        }
        let loading = self.running.values().filter(|sequence| !sequence.to_load.is_empty());
        let loading: Vec<SequenceId> = loading.map(|sequence| sequence.id).collect();
        for id in loading {
            while n_left > 0 && self.load_page(id) {
                n_left -= 1;
            }
        }
    }

    /// Reads the next page of a sequence; returns whether it did.
    fn load_page(&mut self, id: SequenceId) -> bool {
        let Some(disk) = &mut self.disk else { return false };
        let Some(sequence) = self.running.get_mut(&id) else { return false };
        let Some(page) = sequence.to_load.pop_front() else { return false };
        let Some(bytes) = disk.load(page) else {
            sequence.to_load.clear();
            return false;
        };
        if !self.make_page(id) {
            return false;
        }
        let Some(sequence) = self.running.get_mut(&id) else { return false };
        let Some(page) = self.pool.restore(&bytes) else { return false };
        sequence.pages.push(page);
        sequence.n_computed += PAGE_TOKENS;
        if !sequence.is_started {
            sequence.cached.disk += PAGE_TOKENS;
        }
        keep(&mut self.cache, sequence);
        true
    }

    /// Starts those that have all that was stored of them.
    fn start(&mut self, events: &mut Vec<EngineEvent>) {
        for sequence in self.running.values_mut() {
            if !sequence.is_started && sequence.to_load.is_empty() {
                sequence.start(events);
            }
        }
    }

    /// Shares out the next pass: short sequences whole, and what is left of the pass to the long
    /// ones, by priority and then to those whose users have had least. All of a sequence's pages
    /// are there afterwards.
    fn plan(&mut self) -> BTreeMap<SequenceId, Share> {
        let mut guesses = self.guesses();
        let ready = self.running.values().filter(|sequence| sequence.is_ready());
        let mut order: Vec<_> = ready
            .map(|sequence| {
                let is_long = sequence.n_pending() > SHORT_TOKENS;
                let service_tokens =
                    if is_long { self.users.service_tokens(sequence.user) } else { 0 };
                let rank = (is_long, Reverse(sequence.priority), service_tokens, sequence.id);
                (rank, sequence.n_pending())
            })
            .collect();
        order.sort_unstable();
        let short = order.iter().filter(|((is_long, ..), _)| !is_long);
        let n_short: usize = short.map(|(_, n_pending)| n_pending).sum();
        let n_guessed: usize = guesses.values().map(Vec::len).sum();
        // However many write, prompts get on.
        let n_left = self.config.pass_tokens.saturating_sub(n_short + n_guessed);
        let mut n_left = n_left.max(PAGE_TOKENS);
        let mut plan = BTreeMap::new();
        for ((is_long, .., id), n_pending) in order {
            let n_tokens = if is_long { n_pending.min(n_left) } else { n_pending };
            let guess = guesses.remove(&id).unwrap_or_default();
            if n_tokens > 0 && self.grow(id, n_tokens + guess.len()) {
                n_left -= if is_long { n_tokens } else { 0 };
                plan.insert(id, Share { n_tokens, guess });
            }
        }
        plan.retain(|id, _| self.running.contains_key(id));
        plan
    }

    /// What the sequences that write may write next.
    fn guesses(&mut self) -> BTreeMap<SequenceId, Vec<u32>> {
        let writes = |sequence: &&mut Sequence| sequence.is_ready() && sequence.n_pending() == 1;
        let n_writing = self.running.values_mut().filter(writes).count();
        let max_tokens = self.config.max_draft_tokens / n_writing.max(1);
        let mut guesses = BTreeMap::new();
        // A guess is not worth another's place.
        if max_tokens == 0 || self.pool.n_free() < n_writing {
            return guesses;
        }
        let mut wanted = Vec::new();
        for sequence in self.running.values_mut().filter(writes) {
            let n_useful = sequence.n_remaining().saturating_sub(1).min(max_tokens);
            let n_guess = sequence.eagerness.n_tokens().min(n_useful);
            if n_guess == 0 {
                continue;
            }
            let found = lookup(&sequence.tokens, n_guess);
            if found.is_empty() {
                wanted.push(Wanted { id: sequence.id, tokens: &sequence.tokens, n_guess });
            } else {
                guesses.insert(sequence.id, found.to_vec());
            }
        }
        if let Some(draft) = self.draft.as_mut().filter(|_| !wanted.is_empty()) {
            match guard(|| draft.guess(&self.compute, &wanted)) {
                Ok(guessed) => guesses.extend(guessed),
                // It only saves time: a draft model that breaks is not asked again.
                Err(_) => self.draft = None,
            }
        }
        guesses
    }

    /// Gives a sequence pages for so many more tokens; `false` if it lost its place instead.
    fn grow(&mut self, id: SequenceId, n_tokens: usize) -> bool {
        loop {
            let Some(sequence) = self.running.get(&id) else { return false };
            if sequence.pages.len() * PAGE_TOKENS >= sequence.n_computed + n_tokens {
                return true;
            }
            if !self.make_page(id) {
                return false;
            }
            if let (Some(sequence), Some(page)) = (self.running.get_mut(&id), self.pool.take()) {
                sequence.pages.push(page);
            }
        }
    }

    /// Makes one page free for a running sequence: evicts what was used longest ago, then preempts
    /// the youngest of the lowest priority; `false` if that is the sequence itself.
    fn make_page(&mut self, id: SequenceId) -> bool {
        while self.pool.n_free() == 0 && !self.cache.evict(Evict::Unpinned) {
            if self.running.len() == 1 {
                return self.cache.evict(Evict::Pinned);
            }
            match self.victim() {
                Some(victim) => self.preempt(victim),
                None => return false,
            }
            if !self.running.contains_key(&id) {
                return false;
            }
        }
        true
    }

    /// Who gives up a place first.
    fn victim(&self) -> Option<SequenceId> {
        let rank = |sequence: &&Sequence| (sequence.priority, Reverse(sequence.id));
        self.running.values().min_by_key(rank).map(|sequence| sequence.id)
    }

    /// Sends a sequence back to wait. Its whole pages stay cached while there is room.
    fn preempt(&mut self, id: SequenceId) {
        if let Some(mut sequence) = self.running.remove(&id) {
            sequence.suspend();
            if let Some(draft) = &mut self.draft {
                draft.forget(id);
            }
            self.waiting.insert(id, sequence);
            self.n_preemptions += 1;
        }
    }

    /// Computes what is planned and advances the sequences that have nothing pending any more.
    fn pass(&mut self, plan: &BTreeMap<SequenceId, Share>, events: &mut Vec<EngineEvent>) {
        if plan.is_empty() {
            return;
        }
        let Self { model, compute, running, users, cache, scratch, work, .. } = self;
        let mut planned: Vec<(&Share, &mut Sequence)> = Vec::new();
        for (id, sequence) in running.iter_mut() {
            planned.extend(plan.get(id).map(|share| (share, sequence)));
        }
        // Those with one adapter side by side share its products.
        planned.sort_by_key(|(_, sequence)| (sequence.scope.adapter, sequence.id));
        let order: Vec<SequenceId> = planned.iter().map(|(_, sequence)| sequence.id).collect();
        let mut sequences = Vec::new();
        for (share, sequence) in planned {
            let is_complete = share.n_tokens == sequence.n_pending();
            let end = sequence.n_computed + share.n_tokens + share.guess.len();
            // Taken off again as soon as the pass is over.
            sequence.tokens.extend(&share.guess);
            sequences.push(BatchSequence {
                tokens: &sequence.tokens[sequence.n_computed..end],
                position: sequence.n_computed,
                pages: sequence.pages.as_mut_slice(),
                logits: match (is_complete, share.guess.is_empty()) {
                    (false, _) => Logits::None,
                    (true, true) => Logits::Last,
                    // Guesses follow a single token, so every row is wanted.
                    (true, false) => Logits::All,
                },
                adapter: sequence.adapter.as_deref(),
            });
        }
        let mut batch = Batch { sequences };
        let (model, compute) = (&*model, &*compute);
        let mut failures = Vec::new();
        match guard(|| model.forward(compute, &mut batch, scratch)) {
            Ok(logits) => {
                let mut rows = logits.chunks_exact(model.n_vocab());
                for id in &order {
                    let Some(sequence) = running.get_mut(id) else { continue };
                    let Share { n_tokens, guess } = &plan[id];
                    sequence.tokens.truncate(sequence.tokens.len() - guess.len());
                    sequence.n_computed += n_tokens;
                    users.charge(sequence.user, *n_tokens);
                    if sequence.n_pending() == 0 {
                        let mut rows = rows.by_ref().take(1 + guess.len());
                        let advanced =
                            guard(|| sequence.advance_through(guess, &mut rows, work, events));
                        // The next sequence's rows come after all of this one's.
                        rows.for_each(drop);
                        match advanced {
                            Ok(n_accepted) if !guess.is_empty() => {
                                sequence.eagerness.learn(guess.len(), n_accepted);
                                users.charge(sequence.user, n_accepted);
                                self.n_drafted += guess.len() as u64;
                                self.n_accepted += n_accepted as u64;
                            }
                            Ok(_) => {}
                            Err(message) => {
                                failures.push((*id, Failure::Choosing { message }));
                                continue;
                            }
                        }
                    }
                    keep(cache, sequence);
                }
            }
            Err(message) => {
                // What it left behind is not known, so nothing of it is used again.
                let failure = |id: &SequenceId| (*id, Failure::Pass { message: message.clone() });
                failures.extend(plan.keys().map(failure));
                self.scratch = Scratch::default();
            }
        }
        for (id, failure) in failures {
            if let Some(sequence) = self.running.remove(&id) {
                self.leave(&sequence);
                events.push(EngineEvent::Failed { id, failure });
            }
        }
    }

    fn retire(&mut self, events: &mut Vec<EngineEvent>) {
        let finished = self
            .running
            .extract_if(.., |_, sequence| sequence.is_started && sequence.is_finished());
        for (id, sequence) in finished.collect::<Vec<_>>() {
            events.push(EngineEvent::Finished { id });
            self.release(&sequence);
        }
    }

    /// Forgets a sequence that is gone.
    fn leave(&mut self, sequence: &Sequence) {
        self.users.leave(sequence.user);
        if let Some(draft) = &mut self.draft {
            draft.forget(sequence.id);
        }
    }

    /// Does what is left to do for a sequence that ends: its whole pages are in the cache already.
    fn release(&mut self, sequence: &Sequence) {
        self.leave(sequence);
        if let Some(disk) = &mut self.disk {
            let tokens = &sequence.tokens[..sequence.n_kept_pages * PAGE_TOKENS];
            disk.store(&sequence.scope, tokens, &sequence.pages);
        }
    }
}

/// Puts a sequence's whole pages where others find them.
fn keep(cache: &mut PrefixCache, sequence: &mut Sequence) {
    let n_whole = sequence.n_computed / PAGE_TOKENS;
    if n_whole > sequence.n_kept_pages {
        let tokens = &sequence.tokens[..n_whole * PAGE_TOKENS];
        cache.keep(&sequence.scope, tokens, &mut sequence.pages);
        sequence.n_kept_pages = n_whole;
    }
}

/// Runs something that may panic; the error is what the panic said. What `run` was changing is
/// dropped by the caller then.
pub(crate) fn guard<R>(run: impl FnOnce() -> R) -> Result<R, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        text.unwrap_or("a panic without a message").to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::UserKey;
    use rapport_kernels::Isa;
    use rapport_model::gguf::Gguf;
    use rapport_types::Sampling;

    /// Only from in here can a sequence be given a token that breaks the pass.
    #[test]
    fn a_pass_that_breaks_ends_its_sequences_and_no_other() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../model/tests/fixtures/reference/tiny/gqa-4-2.gguf"
        );
        let compute = Compute::new(Isa::detect(), std::num::NonZeroUsize::MIN);
        let gguf = Gguf::open(path.as_ref()).unwrap();
        let model = Transformer::load(&gguf, &compute).unwrap();
        let mut engine = Engine::new(model, compute, EngineConfig::default());
        let request = || EngineRequest {
            prompt: vec![1; 40],
            phases: vec![Phase {
                opening: Vec::new(),
                stop_tokens: Vec::new(),
                max_tokens: 3,
                closing: Vec::new(),
                constraint: None,
            }],
            sampling: Sampling::greedy(),
            seed: 0,
            user: UserKey::default(),
            priority: 0,
            cache: CacheScope::default(),
            adapter: None,
        };
        let broken = engine.submit(request()).unwrap();
        engine.step();
        let sequence = engine.running.get_mut(&broken).unwrap();
        sequence.tokens.push(u32::MAX);
        let events = engine.step();
        let is_failed = |event: &EngineEvent| {
            let failure = Failure::Pass { message: String::new() };
            matches!(event, EngineEvent::Failed { id, failure: found }
                if *id == broken && std::mem::discriminant(found) == std::mem::discriminant(&failure))
        };
        assert!(events.iter().any(is_failed), "{events:?}");
        let pages = engine.statistics().pages;
        assert_eq!((pages.held, pages.free + pages.cached), (0, pages.total));
        let next = engine.submit(request()).unwrap();
        let mut events = Vec::new();
        while !engine.is_idle() {
            events.extend(engine.step());
        }
        assert_eq!(events.last(), Some(&EngineEvent::Finished { id: next }));
    }
}
