//! Replies as async streams of events.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rapport_types::{Control, Event, GenerateError, Reader, Request};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::{App, Shared};

/// Replies to one request, numbered; dropping this ends those that still run.
pub(crate) struct Replies {
    events: UnboundedReceiver<(usize, Event)>,
    running: Running,
    n_running: usize,
}

/// Ends the replies when it goes: a reply may wait long for its first event, and must not wait for a
/// reader that has left.
#[derive(Default)]
struct Running(Vec<Control>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.iter().for_each(Control::stop);
    }
}

/// Counts a reply until its last event, however it ends.
struct Counted {
    app: App,
    is_over: bool,
}

impl Counted {
    fn take(&mut self, event: &Event) {
        match event {
            Event::Finished(outcome) => self.app.metrics.end(Some(outcome)),
            Event::Failed(_) => self.app.metrics.end(None),
            _ => return,
        }
        self.is_over = true;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if !self.is_over {
            self.app.metrics.end(None);
        }
    }
}

impl Replies {
    /// Starts one reply for each request.
    ///
    /// # Errors
    /// The first refusal; those started before it are ended.
    pub(crate) async fn start(app: &App, requests: Vec<Request>) -> Result<Self, GenerateError> {
        let n_running = requests.len();
        let (sender, events) = unbounded_channel();
        let app = Arc::clone(app);
        // Templates and tokenizers may take a while for a long prompt.
        let started = tokio::task::spawn_blocking(move || {
            let Shared { generate, metrics, .. } = &*app;
            let mut running = Running::default();
            for (reply_idx, request) in requests.into_iter().enumerate() {
                let sender = sender.clone();
                metrics.begin();
                let mut counted = Counted { app: Arc::clone(&app), is_over: false };
                running.0.push(generate.start(
                    request,
                    Box::new(move |event| {
                        counted.take(&event);
                        // A reply has at most as many events as tokens, so the queue has a bound.
                        match sender.send((reply_idx, event)) {
                            Ok(()) => Reader::Listening,
                            Err(_) => Reader::Gone,
                        }
                    }),
                )?);
            }
            Ok::<_, GenerateError>(running)
        });
        let reason = "the request could not be prepared".to_owned();
        let running = started.await.map_err(|_| GenerateError::Internal { reason })??;
        Ok(Self { events, running, n_running })
    }

    /// The next event and the number of its reply; `None` after the last of all.
    pub(crate) async fn next(&mut self) -> Option<(usize, Event)> {
        if self.n_running == 0 {
            self.running.0.clear();
            return None;
        }
        let (reply_idx, event) = self.events.recv().await.unwrap_or_else(|| {
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

/// A name nobody else has: `prefix` and 128 random bits. Not a secret.
pub(crate) fn fresh_id(prefix: &str) -> String {
    let random = || RandomState::new().build_hasher().finish();
    format!("{prefix}{:016x}{:016x}", random(), random())
}
