//! A reply while it is written: what came so far and what an interruption means now. Pure.

use std::time::Duration;

use rapport_types::{ModeChoice, Outcome};

use super::session::ReplyRecord;

/// The reply so far.
#[derive(Debug, Default)]
pub(super) struct Progress {
    started: Option<(ModeChoice, u64)>,
    text: String,
    thought: String,
    thought_began: Option<Duration>,
    thought_took: Option<Duration>,
    asked: Asked,
}

/// What the person asked the engine for, each more than the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Asked {
    #[default]
    Nothing,
    AnswerNow,
    Stop,
}

/// What Ctrl-C means at a moment of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interruption {
    /// End the thought, go on to the answer.
    AnswerNow,
    Stop,
    /// The engine was asked to stop and has not: wait no longer.
    Abandon,
}

impl Progress {
    pub(super) fn start(&mut self, choice: ModeChoice, seed: u64) {
        self.started = Some((choice, seed));
    }

    pub(super) fn think(&mut self, piece: &str, now: Duration) {
        self.thought_began.get_or_insert(now);
        self.thought.push_str(piece);
    }

    /// Takes a piece of the answer; whether that ended a thought.
    pub(super) fn answer(&mut self, piece: &str, now: Duration) -> bool {
        self.text.push_str(piece);
        self.end_thought(now)
    }

    /// Whether there was a thought to end.
    pub(super) fn end_thought(&mut self, now: Duration) -> bool {
        let Some(began) = self.thought_began.take() else { return false };
        self.thought_took = Some(now.saturating_sub(began));
        true
    }

    /// How long the thought took, once it is over.
    pub(super) fn thought_took(&self) -> Option<Duration> {
        self.thought_took
    }

    /// Ctrl-C: during a thought the answer now, else, or again, the end.
    pub(super) fn interrupt(&mut self) -> Interruption {
        let is_thinking = self.thought_began.is_some();
        let (asked, interruption) = match self.asked {
            Asked::Nothing if is_thinking => (Asked::AnswerNow, Interruption::AnswerNow),
            Asked::Nothing | Asked::AnswerNow => (Asked::Stop, Interruption::Stop),
            Asked::Stop => (Asked::Stop, Interruption::Abandon),
        };
        self.asked = asked;
        interruption
    }

    /// The record of a reply that ran, or `None` when it ended before it started.
    pub(super) fn finish(self, outcome: Outcome) -> Option<ReplyRecord> {
        let (choice, seed) = self.started?;
        let thought = (!self.thought.is_empty()).then_some(self.thought);
        Some(ReplyRecord { text: self.text, thought, choice, seed, outcome })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_thought_is_timed_from_its_first_piece_to_the_answer() {
        let mut progress = Progress::default();
        progress.think("feel: ", at(100));
        progress.think("glad", at(900));
        assert_eq!(progress.thought_took(), None);
        assert!(progress.answer("Hi", at(1300)));
        assert!(!progress.answer("!", at(1400)));
        assert!(!progress.end_thought(at(1500)));
        assert_eq!(progress.thought_took(), Some(at(1200)));
    }

    #[test]
    fn interruptions_grow_stronger() {
        let mut thinking = Progress::default();
        thinking.think("feel", at(0));
        assert_eq!(thinking.interrupt(), Interruption::AnswerNow);
        assert_eq!(thinking.interrupt(), Interruption::Stop);
        assert_eq!(thinking.interrupt(), Interruption::Abandon);

        let mut answering = Progress::default();
        answering.think("feel", at(0));
        answering.answer("Hi", at(1));
        assert_eq!(answering.interrupt(), Interruption::Stop);
        assert_eq!(Progress::default().interrupt(), Interruption::Stop);
    }
}
