//! Whether a replica is asked: a state machine that is told the time.

use std::time::{Duration, Instant};

use crate::config::Limits;

/// What is known of a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// It is asked; so many failures after one another.
    Closed { n_failures: u32 },
    /// It is left alone until then.
    Open { until: Instant },
    /// One request finds out how it is.
    HalfOpen { is_tried: bool },
}

#[derive(Clone, Debug)]
pub(crate) struct Breaker {
    state: State,
    max_failures: u32,
    open: Duration,
    /// How long it is left alone next.
    next_open: Duration,
    max_open: Duration,
}

impl Breaker {
    pub(crate) fn new(limits: &Limits) -> Self {
        let open = Duration::from_millis(limits.open_ms);
        Self {
            state: State::Closed { n_failures: 0 },
            max_failures: limits.max_failures.max(1),
            open,
            next_open: open,
            max_open: Duration::from_millis(limits.max_open_ms).max(open),
        }
    }

    /// Whether a request may go there now; `None` if so, else for how long it may not.
    pub(crate) fn refuses_for(&self, now: Instant) -> Option<Duration> {
        match self.state {
            State::Closed { .. } | State::HalfOpen { is_tried: false } => None,
            State::Open { until } if now >= until => None,
            State::Open { until } => Some(until - now),
            State::HalfOpen { is_tried: true } => Some(self.open),
        }
    }

    /// Whether the last that is known of it is good. A time of rest that is over says nothing.
    pub(crate) fn is_well(&self) -> bool {
        matches!(self.state, State::Closed { .. } | State::HalfOpen { is_tried: false })
    }

    /// A request goes there; whether it is the one that finds out, after a time of rest.
    pub(crate) fn begin(&mut self, now: Instant) -> bool {
        let finds_out = match self.state {
            State::Open { until } => now >= until,
            State::HalfOpen { .. } => true,
            State::Closed { .. } => false,
        };
        if finds_out {
            self.state = State::HalfOpen { is_tried: true };
        }
        finds_out
    }

    pub(crate) fn succeed(&mut self) {
        self.state = State::Closed { n_failures: 0 };
        self.next_open = self.open;
    }

    pub(crate) fn fail(&mut self, now: Instant) {
        let n_failures = match self.state {
            State::Closed { n_failures } => n_failures + 1,
            State::HalfOpen { .. } => self.max_failures,
            // Requests that began before it was left alone say nothing new.
            State::Open { .. } => return,
        };
        if n_failures < self.max_failures {
            self.state = State::Closed { n_failures };
            return;
        }
        self.state = State::Open { until: now + self.next_open };
        self.next_open = (self.next_open * 2).min(self.max_open);
    }

    /// The request that was to find out was not finished: the next one will.
    pub(crate) fn give_up(&mut self) {
        if self.state == (State::HalfOpen { is_tried: true }) {
            self.state = State::HalfOpen { is_tried: false };
        }
    }

    /// It says itself that it is well: a request may find out.
    pub(crate) fn is_said_well(&mut self) {
        if matches!(self.state, State::Open { .. }) {
            self.state = State::HalfOpen { is_tried: false };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::new(&Limits::default());
        for n_failures in 0..3 {
            assert_eq!(breaker.refuses_for(now), None, "after {n_failures}");
            breaker.fail(now);
        }
        breaker
    }

    #[test]
    fn f37_after_failures_in_a_row_it_is_left_alone_and_then_one_request_finds_out() {
        let now = Instant::now();
        let mut breaker = opened(now);
        assert_eq!(breaker.refuses_for(now), Some(SECOND));
        let later = now + SECOND;
        assert_eq!(breaker.refuses_for(later), None);
        assert!(!breaker.is_well(), "nobody has found out");
        breaker.begin(later);
        assert!(breaker.refuses_for(later).is_some(), "one only");
        breaker.fail(later);
        assert_eq!(breaker.refuses_for(later), Some(2 * SECOND), "twice as long");
        let later = later + 2 * SECOND;
        breaker.begin(later);
        breaker.succeed();
        assert_eq!(breaker.refuses_for(later), None);
        assert!(breaker.is_well());
        breaker.fail(later);
        breaker.fail(later);
        assert_eq!(breaker.refuses_for(later), None, "the count began anew");
    }

    #[test]
    fn one_that_says_that_it_is_well_is_tried_at_once() {
        let now = Instant::now();
        let mut breaker = opened(now);
        breaker.is_said_well();
        assert_eq!(breaker.refuses_for(now), None);
        breaker.begin(now);
        assert!(breaker.refuses_for(now).is_some());
        breaker.give_up();
        assert_eq!(breaker.refuses_for(now), None, "a client that left has found nothing out");
    }

    #[test]
    fn the_time_of_rest_has_an_end() {
        let mut now = Instant::now();
        let mut breaker = opened(now);
        for _ in 0..40 {
            now += breaker.refuses_for(now).unwrap();
            breaker.begin(now);
            breaker.fail(now);
        }
        assert_eq!(breaker.refuses_for(now), Some(30 * SECOND));
    }
}
