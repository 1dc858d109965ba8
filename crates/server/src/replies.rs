//! Replies as async streams of events.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rapport_types::{Control, Event, Generate, GenerateError, Outcome, Reader, Request};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::watch;

use crate::charge::{self, Hold};
use crate::error::ApiError;
use crate::metrics::ModelMetrics;
use crate::observe::{self, Observed, ReplyFacts};
use crate::{App, Shared, filter};

/// Replies to one request, numbered; dropping this ends those that still run.
pub(crate) struct Replies {
    events: UnboundedReceiver<(usize, Event)>,
    running: Running,
    n_running: usize,
    ending: watch::Receiver<bool>,
    /// The first event, where it was waited for.
    heard: Option<(usize, Event)>,
}

/// How long the head of an answer waits for the first event of a reply, so that a reply that never
/// began is told by its status.
const FIRST_EVENT: Duration = Duration::from_secs(5);

/// Ends the replies when it goes: a reply may wait long for its first event, and must not wait for a
/// reader that has left.
#[derive(Default)]
struct Running(Vec<Control>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.iter().for_each(Control::stop);
    }
}

/// Counts a reply until its last event, however it ends, and tells the request that it is for.
pub(crate) struct Counted {
    metrics: Arc<ModelMetrics>,
    observed: Option<Arc<Observed>>,
    facts: ReplyFacts,
    is_waiting: bool,
    is_over: bool,
}

impl Counted {
    /// A reply of a model to a request, which is the one of `observed`.
    pub(crate) fn begin(
        app: &Shared,
        observed: Option<Arc<Observed>>,
        generate: &dyn Generate,
        request: &Request,
    ) -> Self {
        let facts = ReplyFacts::new(generate.model().name, request);
        let metrics = app.metrics.of(&facts.model);
        metrics.begin();
        Self { metrics, observed, facts, is_waiting: true, is_over: false }
    }

    pub(crate) fn take(&mut self, event: &Event) {
        match event {
            Event::Started { prompt_tokens, cached_tokens, .. } if self.is_waiting => {
                self.is_waiting = false;
                self.metrics.take_up(*prompt_tokens, *cached_tokens);
            }
            Event::Thought(_) | Event::Text { .. } => self.metrics.piece(),
            Event::Finished(outcome) => self.end(Ok(outcome)),
            Event::Failed(error) => self.end(Err(error_type(error))),
            _ => {}
        }
    }

    fn end(&mut self, outcome: Result<&Outcome, &'static str>) {
        if self.is_over {
            return;
        }
        self.is_over = true;
        self.metrics.end(outcome.ok(), self.facts.began_at.elapsed());
        if let Some(observed) = &self.observed {
            observed.reply_ended(&self.facts, outcome);
        }
    }
}

/// A word for dashboards; what the error says may be of the prompt.
fn error_type(error: &GenerateError) -> &'static str {
    match error {
        GenerateError::FormatLost { .. } => "format_lost",
        GenerateError::EngineStopped => "engine_stopped",
        GenerateError::Internal { .. } => "internal",
        GenerateError::Overloaded => "overloaded",
        _ => "refused",
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if self.is_waiting {
            self.metrics.give_up();
        }
        self.end(Err("refused"));
    }
}

impl Replies {
    /// Starts one reply for each request.
    ///
    /// # Errors
    /// The first refusal, or a reply that broke before it began; those started before it are ended.
    pub(crate) async fn start(
        app: &App,
        generate: &Arc<dyn Generate>,
        requests: Vec<Request>,
    ) -> Result<Self, ApiError> {
        generate.check_ready()?;
        let mut charged = charge::hold(app, generate, requests).await?;
        let n_running = charged.len();
        let ending = app.ending.subscribe();
        let (sender, events) = unbounded_channel();
        let (app, generate) = (Arc::clone(app), Arc::clone(generate));
        let (observed, user) = (observe::current(), charge::owner());
        // Templates and tokenizers may take a while for a long prompt.
        let started = tokio::task::spawn_blocking(move || {
            let mut running = Running::default();
            for (reply_idx, (request, hold)) in charged.drain(..).enumerate() {
                let sender = sender.clone();
                filter::check(&app, &request, user, observed.as_deref())?;
                let observed = observed.clone();
                let mut counted = Counted::begin(&app, observed, &*generate, &request);
                let (failed, mut hold) = (sender.clone(), hold);
                let mut is_cut = false;
                let watched = hold.as_mut().map(Hold::watch);
                let control = generate.start(
                    request,
                    Box::new(move |event| {
                        if is_cut {
                            return Reader::Gone;
                        }
                        let is_open = hold.as_ref().is_none_or(Hold::is_open);
                        let event = if is_open {
                            event
                        } else {
                            is_cut = true;
                            // Given back: a reply that is cut costs nothing.
                            hold = None;
                            Event::Failed(charge::closed_key())
                        };
                        counted.take(&event);
                        let is_last = matches!(event, Event::Finished(_) | Event::Failed(_));
                        if is_last && let Some(hold) = hold.take() {
                            // The client hears of the end when it is on disk.
                            let sender = sender.clone();
                            hold.settle_then(event, move |event| {
                                let _ = sender.send((reply_idx, event));
                            });
                            return Reader::Listening;
                        }
                        // A reply has at most as many events as tokens, so the queue has a bound.
                        match sender.send((reply_idx, event)) {
                            Ok(()) => Reader::Listening,
                            Err(_) => Reader::Gone,
                        }
                    }),
                )?;
                if let Some(watched) = watched {
                    watched.keep(control.clone(), move |error| {
                        let _ = failed.send((reply_idx, Event::Failed(error)));
                    });
                }
                running.0.push(control);
            }
            Ok::<_, GenerateError>(running)
        });
        let reason = "the request could not be prepared".to_owned();
        let running = started
            .await
            .map_err(|_| GenerateError::Internal { reason })?
            .map_err(ApiError::from)?;
        let mut replies = Self { events, running, n_running, ending, heard: None };
        if let Ok(first) = tokio::time::timeout(FIRST_EVENT, replies.events.recv()).await {
            if let Some((_, Event::Failed(error))) = first {
                return Err(error.into());
            }
            replies.heard = first;
        }
        Ok(replies)
    }

    /// What steers the first reply.
    pub(crate) fn control(&self) -> Option<Control> {
        self.running.0.first().cloned()
    }

    /// The next event and the number of its reply; `None` after the last of all.
    pub(crate) async fn next(&mut self) -> Option<(usize, Event)> {
        if self.n_running == 0 {
            self.running.0.clear();
            return None;
        }
        let received = tokio::select! {
            biased;
            Some(heard) = std::future::ready(self.heard.take()) => Some(heard),
            received = self.events.recv() => received,
            // The server ends and cannot wait any longer.
            _ = self.ending.wait_for(|is_ending| *is_ending) => None,
        };
        let (reply_idx, event) = received.unwrap_or_else(|| {
            self.n_running = 1;
            (0, Event::Failed(GenerateError::EngineStopped))
        });
        if matches!(event, Event::Finished(_) | Event::Failed(_)) {
            self.n_running -= 1;
        }
        Some((reply_idx, event))
    }
}

pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A time of day as text.
pub(crate) fn rfc3339(unix_seconds: u64) -> String {
    let (days, seconds) = (unix_seconds / 86_400, unix_seconds % 86_400);
    // The civil date of a day number, after Hinnant's `civil_from_days`.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// A name nobody else has: `prefix` and 128 random bits. Not a secret.
pub(crate) fn fresh_id(prefix: &str) -> String {
    format!("{prefix}{:016x}{:016x}", fresh_number(), fresh_number())
}

/// A number that nobody else is likely to have. Not a secret.
pub(crate) fn fresh_number() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_clients_read_them() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_827_696), "2000-02-29T12:34:56Z");
        assert_eq!(rfc3339(4_107_542_399), "2100-02-28T23:59:59Z");
    }
}
