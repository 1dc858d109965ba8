//! Guessing what comes next, so that one pass can verify several tokens.
//!
//! A pass over one token reads all weights; over a few it costs little more. So a guess is computed
//! along with the token before it, and as many of its tokens are kept as the sampler chooses anyway
//! (Leviathan, Kalman and Matias 2023). The sampler's draw depends on seed and place alone, so the
//! text is the text without guessing, bit for bit and at any temperature.
//!
//! [`lookup`] guesses that what followed the same words before follows them again (Saxena 2023);
//! where it knows nothing a [`DraftModel`] may. [`Eagerness`] says how much is worth guessing.
//!
//! What is not here: trees of guesses, and accepting a draft model's own draws. Both accept a few
//! more tokens, but the text would depend on the draft.

use std::collections::HashMap;
use std::sync::Arc;

use rapport_kernels::{Compute, KvPage, KvType, PAGE_TOKENS};
use rapport_model::{Batch, BatchSequence, Logits, Scratch, Transformer};

use crate::request::SequenceId;
use crate::sampler::argmax;

/// Words that must agree before something is looked up, longest first.
const LOOKUP_TOKENS: [usize; 2] = [4, 3];
/// How far back is looked: far enough for a document that is quoted.
const LOOKUP_DISTANCE: usize = 4096;

/// At most `max_tokens` that followed the latest place where the text read as it ends now.
pub(crate) fn lookup(tokens: &[u32], max_tokens: usize) -> &[u32] {
    let tokens = &tokens[tokens.len().saturating_sub(LOOKUP_DISTANCE)..];
    for n_known in LOOKUP_TOKENS {
        let Some(end) = tokens.len().checked_sub(n_known) else { continue };
        let known = &tokens[end..];
        // The end itself is no find.
        let before = &tokens[..tokens.len() - 1];
        if let Some(found) = before.windows(n_known).rposition(|window| window == known) {
            let rest = &tokens[found + n_known..];
            return &rest[..max_tokens.min(rest.len())];
        }
    }
    &[]
}

/// How much one sequence guesses: more while it is right, and less and less often while not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Eagerness {
    n_tokens: usize,
    /// Tokens to be written before the next guess.
    pause: usize,
    next_pause: usize,
}

impl Default for Eagerness {
    fn default() -> Self {
        Self { n_tokens: 2, pause: 0, next_pause: 1 }
    }
}

impl Eagerness {
    /// How many tokens to guess now; called once for each pass.
    pub(crate) fn n_tokens(&mut self) -> usize {
        if self.pause > 0 {
            self.pause -= 1;
            return 0;
        }
        self.n_tokens
    }

    /// Takes note of how a guess went.
    pub(crate) fn learn(&mut self, n_guessed: usize, n_accepted: usize) {
        if n_accepted == n_guessed {
            self.n_tokens = (self.n_tokens * 2).min(64);
            self.next_pause = 1;
        } else if n_accepted > 0 {
            self.n_tokens = n_accepted + 1;
            self.next_pause = 1;
        } else {
            self.n_tokens = 2;
            self.pause = self.next_pause;
            self.next_pause = (self.next_pause * 2).min(32);
        }
    }
}

/// A smaller model of the same vocabulary that guesses greedily.
pub(crate) struct DraftModel {
    model: Transformer,
    kv_type: KvType,
    /// New tokens that it takes in at once; a longer prompt takes several passes.
    pass_tokens: usize,
    max_pages: usize,
    tracks: HashMap<SequenceId, Track>,
    scratch: Scratch,
}

/// What the draft model has computed of a sequence.
#[derive(Default)]
struct Track {
    tokens: Vec<u32>,
    pages: Vec<Arc<KvPage>>,
}

/// A sequence that a guess is wanted for.
pub(crate) struct Wanted<'a> {
    pub(crate) id: SequenceId,
    pub(crate) tokens: &'a [u32],
    pub(crate) n_guess: usize,
}

/// A guess in the making.
struct Guess<'a> {
    id: SequenceId,
    track: Track,
    /// Not computed yet.
    pending: Vec<u32>,
    wanted: &'a Wanted<'a>,
    guessed: Vec<u32>,
}

impl DraftModel {
    pub(crate) fn new(
        model: Transformer,
        kv_type: KvType,
        pass_tokens: usize,
        max_pages: usize,
    ) -> Self {
        let (tracks, scratch) = (HashMap::new(), Scratch::default());
        Self { model, kv_type, pass_tokens, max_pages, tracks, scratch }
    }

    pub(crate) fn forget(&mut self, id: SequenceId) {
        self.tracks.remove(&id);
    }

    /// Guesses for several sequences at once; empty where it has not caught up yet.
    pub(crate) fn guess(
        &mut self,
        compute: &Compute,
        wanted: &[Wanted<'_>],
    ) -> Vec<(SequenceId, Vec<u32>)> {
        let mut guesses: Vec<Guess<'_>> = Vec::new();
        let context_tokens = self.model.architecture().context_tokens;
        for wanted in wanted {
            let mut track = self.tracks.remove(&wanted.id).unwrap_or_default();
            let pairs = track.tokens.iter().zip(wanted.tokens);
            let n_common = pairs.take_while(|(a, b)| a == b).count();
            track.tokens.truncate(n_common.min(wanted.tokens.len() - 1));
            let n_longest = wanted.tokens.len() + wanted.n_guess;
            let n_others: usize = self.tracks.values().map(|track| track.pages.len()).sum();
            let n_planned: usize =
                guesses.iter().map(|guess| guess.longest().div_ceil(PAGE_TOKENS)).sum();
            let n_pages = n_others + n_planned + n_longest.div_ceil(PAGE_TOKENS);
            if n_longest <= context_tokens && n_pages <= self.max_pages {
                let pending = &wanted.tokens[track.tokens.len()..];
                let pending = pending[..pending.len().min(self.pass_tokens)].to_vec();
                guesses.push(Guess { id: wanted.id, track, pending, wanted, guessed: Vec::new() });
            }
        }
        while guesses.iter().any(|guess| !guess.pending.is_empty()) {
            self.pass(compute, &mut guesses);
        }
        let guessed = guesses.into_iter().map(|guess| {
            self.tracks.insert(guess.id, guess.track);
            (guess.id, guess.guessed)
        });
        guessed.collect()
    }

    /// Computes what is pending and takes the likeliest next tokens.
    fn pass(&mut self, compute: &Compute, guesses: &mut [Guess<'_>]) {
        let shape = self.model.architecture().attention;
        let mut sequences = Vec::new();
        for guess in guesses.iter_mut().filter(|guess| !guess.pending.is_empty()) {
            let end = guess.track.tokens.len() + guess.pending.len();
            while guess.track.pages.len() * PAGE_TOKENS < end {
                guess.track.pages.push(Arc::new(KvPage::new(shape, self.kv_type)));
            }
            sequences.push(BatchSequence {
                tokens: &guess.pending,
                position: guess.track.tokens.len(),
                pages: &mut guess.track.pages,
                logits: Logits::Last,
                adapter: None,
            });
        }
        let mut batch = Batch { sequences };
        let logits = self.model.forward(compute, &mut batch, &mut self.scratch);
        let mut rows = logits.chunks_exact(self.model.n_vocab());
        for guess in guesses.iter_mut().filter(|guess| !guess.pending.is_empty()) {
            guess.track.tokens.append(&mut guess.pending);
            let Some(row) = rows.next() else { continue };
            let has_caught_up = guess.track.tokens.len() >= guess.wanted.tokens.len();
            if has_caught_up && guess.guessed.len() < guess.wanted.n_guess {
                let token = argmax(row);
                guess.guessed.push(token);
                if guess.guessed.len() < guess.wanted.n_guess {
                    guess.pending.push(token);
                }
            }
        }
    }
}

impl Guess<'_> {
    fn longest(&self) -> usize {
        self.wanted.tokens.len() + self.wanted.n_guess
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_followed_the_same_words_is_guessed_again() {
        let text = [1, 2, 3, 4, 5, 6, 9, 2, 3, 4];
        assert_eq!(lookup(&text, 8), [5, 6, 9, 2, 3, 4]);
        assert_eq!(lookup(&text, 2), [5, 6]);
        assert!(lookup(&text[..9], 8).is_empty(), "two words are too few");
        assert!(lookup(&[7], 8).is_empty());
        assert_eq!(lookup(&[7; 6], 8), [7]);
        // The latest place wins.
        assert_eq!(lookup(&[1, 2, 3, 8, 1, 2, 3, 9, 1, 2, 3], 1), [9]);
    }

    #[test]
    fn wrong_guesses_are_made_less_and_less_often() {
        let mut eagerness = Eagerness::default();
        let mut n_guesses = 0;
        for _ in 0..320 {
            let n_tokens = eagerness.n_tokens();
            if n_tokens > 0 {
                n_guesses += 1;
                eagerness.learn(n_tokens, 0);
            }
        }
        assert!(n_guesses < 18, "{n_guesses}");
        while eagerness.n_tokens() == 0 {}
        eagerness.learn(2, 2);
        assert_eq!(eagerness.n_tokens(), 4);
        eagerness.learn(4, 1);
        assert_eq!(eagerness.n_tokens(), 2);
    }
}
