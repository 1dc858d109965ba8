//! Replies that are made for the web app, each by a task of its own that no reader can end.
//!
//! A task owns its engine's events: it adds them to a log that pages read from any place, saves
//! what there is every two seconds, and at the end stores the message with its charge in one step.
//! Only then does the log say that it is finished. The log is kept a while for pages that come
//! back; after that, or on another server, the row in the store is the truth.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rapport_store::{
    ConversationId, MessageId, MessageStatus, NewMessage, ReplyFacts, ReservationId, UnixMs, UserId,
};
use rapport_types::{
    Control, Event, FinishReason, Generate, GenerateError, ModeChoice, Outcome, PromptForm, Reader,
    Request, Role,
};
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;

use super::error::WebError;
use super::{Web, forms};
use crate::charge::Hold;
use crate::replies::Counted;
use crate::{filter, observe};

/// How long a reply counts as being made without being heard of.
const LEASE_MS: i64 = 30_000;
const SAVE_EVERY: Duration = Duration::from_secs(2);
/// How long a finished log is kept.
const KEPT: Duration = Duration::from_mins(5);

pub(super) fn lease(web: &Web) -> UnixMs {
    web.now().plus_ms(LEASE_MS)
}

/// The replies that this server makes or has just made.
#[derive(Debug, Default)]
pub(super) struct Hub {
    live: Mutex<HashMap<MessageId, Arc<Live>>>,
    n_running: watch::Sender<usize>,
}

/// One reply as its pages see it.
#[derive(Debug, Default)]
pub(super) struct Live {
    control: OnceLock<Control>,
    wants_stop: AtomicBool,
    wants_answer: AtomicBool,
    log: Mutex<Log>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Log {
    events: Vec<Said>,
    is_over: bool,
}

/// An event as it travels: its name and its data.
#[derive(Clone, Debug)]
pub(super) struct Said {
    pub(super) name: &'static str,
    pub(super) data: String,
}

impl Said {
    pub(super) fn new(name: &'static str, data: &Value) -> Self {
        Self { name, data: data.to_string() }
    }
}

impl Live {
    /// Ends the reply within a token.
    pub(super) fn stop(&self) {
        self.wants_stop.store(true, Ordering::Release);
        if let Some(control) = self.control.get() {
            control.stop();
        }
    }

    /// Ends the thought.
    pub(super) fn answer_now(&self) {
        self.wants_answer.store(true, Ordering::Release);
        if let Some(control) = self.control.get() {
            control.answer_now();
        }
    }

    fn set_control(&self, control: Control) {
        let control = self.control.get_or_init(|| control);
        if self.wants_stop.load(Ordering::Acquire) {
            control.stop();
        }
        if self.wants_answer.load(Ordering::Acquire) {
            control.answer_now();
        }
    }

    fn say(&self, said: Said, is_last: bool) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.events.push(said);
        log.is_over = is_last;
        drop(log);
        self.changed.send_replace(());
    }

    /// How many events there are.
    pub(super) fn n_events(&self) -> usize {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).events.len()
    }

    /// The event with this number, when it is there; `None` after the last.
    pub(super) async fn event(&self, number: usize) -> Option<Said> {
        let mut changed = self.changed.subscribe();
        loop {
            {
                let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(said) = log.events.get(number) {
                    return Some(said.clone());
                }
                if log.is_over {
                    return None;
                }
            }
            changed.changed().await.ok()?;
        }
    }
}

/// What there is of a message.
#[derive(Debug, Default)]
struct Written {
    thought: String,
    content: String,
    choice: Option<ModeChoice>,
}

impl Written {
    fn thought(&self) -> Option<&str> {
        Some(self.thought.as_str()).filter(|thought| !thought.is_empty())
    }
}

/// A reply to make.
pub(super) struct Job {
    pub(super) user: UserId,
    /// The row that was begun for it, with what there is already.
    pub(super) message: rapport_store::Message,
    pub(super) request: Request,
    pub(super) hold: Hold,
}

impl Hub {
    pub(super) fn get(&self, id: MessageId) -> Option<Arc<Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// How many replies are being made.
    pub(super) fn n_running(&self) -> usize {
        *self.n_running.borrow()
    }

    /// Resolves when no reply is being made.
    pub(super) async fn is_idle(&self) {
        let _ = self.n_running.subscribe().wait_for(|n_running| *n_running == 0).await;
    }

    /// Starts to make a reply, whoever reads it.
    pub(super) fn begin(&self, web: &Web, job: Job) {
        let live = Arc::new(Live::default());
        let id = job.message.id;
        self.live.lock().unwrap_or_else(PoisonError::into_inner).insert(id, Arc::clone(&live));
        self.n_running.send_modify(|n_running| *n_running += 1);
        let web = web.clone();
        let observed = observe::current();
        tokio::spawn(async move {
            let making = make(web.clone(), job, Arc::clone(&live));
            let making = tokio::spawn(observe::within(observed, making));
            if making.await.is_err() {
                let error = json!({ "error": WebError::broken().form(), "message": null });
                live.say(Said::new("failed", &error), true);
            }
            let hub = &web.accounts.hub;
            hub.n_running.send_modify(|n_running| *n_running -= 1);
            tokio::time::sleep(KEPT).await;
            let mut all = hub.live.lock().unwrap_or_else(PoisonError::into_inner);
            // A reply that was continued has another log by now.
            if all.get(&id).is_some_and(|kept| Arc::ptr_eq(kept, &live)) {
                all.remove(&id);
            }
        });
    }
}

/// Makes one reply, from its start to its last event.
async fn make(web: Web, job: Job, live: Arc<Live>) {
    let Job { user, message, request, mut hold } = job;
    let mut written = Written {
        thought: message.thought.clone().unwrap_or_default(),
        content: message.content.clone(),
        choice: None,
    };
    let watch = hold.watch();
    let (sender, mut events) = unbounded_channel();
    let started = match web.generate() {
        Ok(generate) => start(&web, user, generate, request, sender).await,
        Err(_) => Err(GenerateError::EngineStopped),
    };
    let last = match started {
        Err(error) => Event::Failed(error),
        Ok(control) => {
            watch.keep(control.clone(), |_| ());
            live.set_control(control.clone());
            follow(&web, user, message.id, &live, &mut events, &mut written).await
        }
    };
    match last {
        Event::Finished(outcome) => {
            let finished = finish(&message, hold, written, outcome).await;
            match finished {
                Ok(()) => {
                    let form = form(&web, user, message.conversation, message.id).await;
                    live.say(Said::new("finished", &json!({ "message": form })), true);
                }
                Err(reservation) => {
                    let reason = "the reply could not be stored".to_owned();
                    let error = GenerateError::Internal { reason };
                    tell_failure(&web, user, &message, &live, reservation, &error).await;
                }
            }
        }
        Event::Failed(error) => fail(&web, user, &message, &live, hold, &error).await,
        _ => {}
    }
}

/// Starts the engine; the oldest turns go first where the conversation is too long.
async fn start(
    web: &Web,
    user: UserId,
    generate: Arc<dyn Generate>,
    mut request: Request,
    sender: UnboundedSender<Event>,
) -> Result<Control, GenerateError> {
    let app = Arc::clone(&web.app);
    let observed = observe::current();
    // Templates and tokenizers may take a while for a long prompt.
    let starting = tokio::task::spawn_blocking(move || {
        filter::check(&app, &request, Some(user), observed.as_deref())?;
        loop {
            let counted = Counted::begin(&app, observed.clone(), &*generate, &request);
            let (sender, mut counted) = (sender.clone(), counted);
            let sink = Box::new(move |event: Event| {
                counted.take(&event);
                match sender.send(event) {
                    Ok(()) => Reader::Listening,
                    Err(_) => Reader::Gone,
                }
            });
            match generate.start(request.clone(), sink) {
                Err(GenerateError::PromptTooLong { .. }) if shorten(&mut request) => {}
                started => return started,
            }
        }
    });
    let reason = "the request could not be prepared".to_owned();
    starting.await.map_err(|_| GenerateError::Internal { reason })?
}

/// Leaves out about a quarter of the conversation from its beginning; `false` when only what is to
/// be answered is left.
fn shorten(request: &mut Request) -> bool {
    let n_kept = if request.prompt_form == PromptForm::Prefilled { 2 } else { 1 };
    let first = usize::from(request.messages[0].role == Role::System);
    let n_old = request.messages.len().saturating_sub(first + n_kept);
    if n_old == 0 {
        return false;
    }
    // A conversation begins with what a person says.
    let mut n_cut = n_old.div_ceil(4);
    while n_cut < n_old && request.messages[first + n_cut].role != Role::User {
        n_cut += 1;
    }
    request.messages.drain(first..first + n_cut);
    true
}

/// Takes events until the last, which is returned.
async fn follow(
    web: &Web,
    user: UserId,
    id: MessageId,
    live: &Live,
    events: &mut UnboundedReceiver<Event>,
    written: &mut Written,
) -> Event {
    let mut ending = web.app.ending.subscribe();
    let mut is_ending = false;
    let mut saving = tokio::time::interval(SAVE_EVERY);
    saving.tick().await;
    loop {
        tokio::select! {
            event = events.recv() => match event {
                None => return Event::Failed(GenerateError::EngineStopped),
                Some(last @ (Event::Finished(_) | Event::Failed(_))) => return last,
                Some(event) => take(event, live, written),
            },
            _ = saving.tick() => {
                let lease = lease(web);
                let saved = web
                    .store()
                    .save_progress(user, id, &written.content, written.thought(), lease)
                    .await;
                // It was deleted, or somebody else has ended it: nobody will ever read it.
                if matches!(saved, Ok(false)) {
                    live.stop();
                }
            }
            () = ends(&mut ending), if !is_ending => {
                is_ending = true;
                live.stop();
            }
        }
    }
}

/// Resolves when replies have to end.
async fn ends(ending: &mut watch::Receiver<bool>) {
    let _ = ending.wait_for(|is_ending| *is_ending).await;
}

fn take(event: Event, live: &Live, written: &mut Written) {
    match event {
        Event::Started { choice, prompt_tokens, cached_tokens, .. } => {
            let data = json!({
                "choice": { "mode": choice.mode.as_str(), "reason": choice.reason },
                "prompt_tokens": prompt_tokens,
                "cached_tokens": cached_tokens,
            });
            written.choice = Some(choice);
            live.say(Said::new("started", &data), false);
            // A reply that goes on is read from its beginning like any other.
            if let Some(thought) = written.thought() {
                live.say(Said::new("thought", &json!({ "text": thought })), false);
            }
            if !written.content.is_empty() {
                live.say(Said::new("text", &json!({ "text": written.content })), false);
            }
        }
        Event::Thought(text) => {
            live.say(Said::new("thought", &json!({ "text": text })), false);
            written.thought += &text;
        }
        Event::Text { text, .. } => {
            if !text.is_empty() {
                live.say(Said::new("text", &json!({ "text": text })), false);
            }
            written.content += &text;
        }
        Event::ToolCall(_) | Event::Finished(_) | Event::Failed(_) => {}
    }
}

/// Stores a reply with its charge; where that fails, what was held for it is returned.
async fn finish(
    message: &rapport_store::Message,
    hold: Hold,
    written: Written,
    outcome: Outcome,
) -> Result<(), Option<ReservationId>> {
    let status = match outcome.reason {
        FinishReason::Stop => MessageStatus::Done,
        FinishReason::Length => MessageStatus::Length,
        FinishReason::Cancelled => MessageStatus::Stopped,
    };
    let charge = hold.charge(&outcome);
    let (mode, mode_reason) = match written.choice {
        Some(choice) => (choice.mode.as_str().to_owned(), choice.reason),
        None => (String::new(), String::new()),
    };
    let done = NewMessage {
        id: message.id,
        conversation: message.conversation,
        parent: message.parent,
        role: Role::Assistant,
        status,
        content: written.content,
        thought: Some(written.thought).filter(|thought| !thought.is_empty()),
        mode_asked: message.mode_asked,
        reply: Some(ReplyFacts {
            model: charge.model,
            build: charge.build,
            mode,
            mode_reason,
            usage: outcome.usage,
            timings: outcome.timings,
            cost_micros: charge.cost_micros,
        }),
        error: None,
        extra: message.extra.clone(),
        choice_of: message.choice_of,
    };
    let reservation = hold.reservation();
    hold.finish(&outcome, Some(&done)).await.map_err(|_| reservation)
}

async fn fail(
    web: &Web,
    user: UserId,
    message: &rapport_store::Message,
    live: &Live,
    hold: Hold,
    error: &GenerateError,
) {
    let reservation = hold.reservation();
    tell_failure(web, user, message, live, reservation, error).await;
    hold.leave_to_other();
}

async fn tell_failure(
    web: &Web,
    user: UserId,
    message: &rapport_store::Message,
    live: &Live,
    reservation: Option<ReservationId>,
    error: &GenerateError,
) {
    let failed = web.store().fail_reply(user, message.id, &error.to_string(), reservation).await;
    let form = match failed {
        Ok(failed) => forms::message(&failed, None),
        Err(_) => Value::Null,
    };
    let error = WebError::from(error.clone()).form();
    live.say(Said::new("failed", &json!({ "error": error, "message": form })), true);
}

/// A message as the store has it now.
async fn form(web: &Web, user: UserId, conversation: ConversationId, id: MessageId) -> Value {
    let marks = web.store().marks(user, conversation).await.unwrap_or_default();
    match web.store().message(user, id).await {
        Ok(message) => forms::message(&message, marks.get(&id)),
        Err(_) => Value::Null,
    }
}
