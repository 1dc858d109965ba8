//! Saying something, and reading what is answered.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use rapport_store::{Message, MessageId, MessageStatus, NewReply, NewTurn, User, UserId};
use rapport_types::{
    AdapterChoice, Control, Event, FinishReason, Generate, Message as Said, Mode, OutputFormat,
    PromptForm, Request, Role, ThinkingBudget, Tools,
};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::error::WebError;
use super::forms::{self, Body, id, parsed};
use super::hub::{self, Job, Live};
use super::reading::{form_of_answer, with_guidance};
use super::session::Person;
use super::{Web, chats, prompt};
use crate::charge::{Hold, Holder, for_holder};
use crate::events::{self, Frame, Wording};
use crate::replies::Replies;

/// The longest answer; who wants more lets it go on.
const MAX_TOKENS: u32 = 1024;
const MAX_CONTENT_BYTES: usize = 1 << 20;
/// How often it is looked for the end of a reply that another server makes.
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Deserialize)]
pub(super) struct NewMessage {
    client_id: String,
    #[serde(default)]
    parent_id: Option<String>,
    content: String,
    mode: Option<String>,
}

/// `POST /api/conversations/{id}/messages`
pub(super) async fn send(
    State(web): State<Web>,
    Person(user): Person,
    Path(text): Path<String>,
    Body(new): Body<NewMessage>,
) -> Result<(StatusCode, Json<Value>), WebError> {
    let conversation = web.store().conversation(user.id, id(&text, "conversation")?).await?;
    let mode = new.mode.map_or(Ok(conversation.mode), |mode| parsed(&mode, "mode"))?;
    let parent: Option<MessageId> =
        new.parent_id.map(|parent| id(&parent, "message")).transpose()?;
    check_content(&new.content)?;
    let mut messages = match parent {
        Some(parent) => web.store().branch(user.id, parent, u32::MAX).await?,
        None => Vec::new(),
    };
    if messages.iter().any(|message| message.conversation != conversation.id) {
        return Err(WebError::not_found("message"));
    }
    let mut branch: Vec<Said> = messages.drain(..).map(said).collect();
    branch.push(Said::user(new.content.as_str()));
    let settings = web.settings().await?;
    let system = prompt::system(&web, &settings, &user, conversation.persona.as_deref()).await?;
    let format = form_of_answer(web.accounts.reader.as_ref(), &branch);
    let system = with_guidance(web.accounts.reader.as_ref(), system, &branch);
    let holder = Holder::of(&web.accounts, &user, None);
    let generate = web.generate()?;
    let mut request = Request { format, ..request(&*generate, system, branch, mode, &holder) };
    let hold = Hold::take(&web.accounts, &holder, &generate, &mut request).await?;
    let mut other = None;
    if mode != Mode::Thinking
        && request.format == OutputFormat::Text
        && is_choice(&new.client_id, settings.choice_every)
    {
        // Where the plan has no room for two, there is one.
        let mut request = request.clone();
        let hold = Hold::take(&web.accounts, &holder, &generate, &mut request).await;
        other = hold.ok().map(|hold| (request, hold));
    }
    let turn = NewTurn {
        client_id: &new.client_id,
        conversation: conversation.id,
        parent,
        content: &new.content,
        mode,
        has_alternative: other.is_some(),
        lease_until: hub::lease(&web),
    };
    let turn = web.store().begin_turn(user.id, turn, web.now()).await?;
    let form = |message: &Message| forms::message(message, None);
    let body = json!({
        "user": form(&turn.user),
        "reply": form(&turn.reply),
        "alternative": turn.alternative.as_ref().map(form),
    });
    if turn.is_new {
        let hub = &web.accounts.hub;
        hub.begin(&web, Job { user: user.id, message: turn.reply, request, hold });
        if let (Some(message), Some((request, hold))) = (turn.alternative, other) {
            hub.begin(&web, Job { user: user.id, message, request, hold });
        }
        chats::title_by(&web, user.id, &conversation, &new.content).await?;
    }
    Ok((StatusCode::ACCEPTED, Json(body)))
}

fn check_content(content: &str) -> Result<(), WebError> {
    if content.trim().is_empty() {
        return Err(WebError::invalid("content", "there is nothing in the message"));
    }
    if content.len() > MAX_CONTENT_BYTES {
        let message = format!("a message has at most {MAX_CONTENT_BYTES} bytes");
        return Err(WebError::invalid("content", message));
    }
    Ok(())
}

/// Whether this turn is one of those with two replies to choose from.
fn is_choice(client_id: &str, choice_every: u32) -> bool {
    let digest = Sha256::digest(client_id);
    let number = digest[..4].iter().fold(0_u32, |number, byte| number << 8 | u32::from(*byte));
    choice_every > 0 && number % choice_every == 0
}

fn said(message: Message) -> Said {
    let thought = message.thought;
    Said { thought, ..Said::new(message.role, message.content) }
}

fn request(
    generate: &dyn Generate,
    system: Option<String>,
    branch: Vec<Said>,
    mode: Mode,
    holder: &Holder,
) -> Request {
    let adapter = AdapterChoice::Default;
    let sampling = generate.sampling(&adapter).validate().expect("a model's defaults are valid");
    // A reply that failed before its first word is nothing to go on from.
    let branch =
        branch.into_iter().filter(|said| said.role != Role::Assistant || !said.content.is_empty());
    Request {
        messages: system.map(Said::system).into_iter().chain(branch).collect(),
        prompt_form: PromptForm::Conversation,
        mode,
        thinking_budget: ThinkingBudget::Medium,
        sampling,
        max_tokens: MAX_TOKENS,
        stop: Vec::new(),
        format: OutputFormat::Text,
        tools: Tools::default(),
        adapter,
        caller: holder.caller,
    }
}

/// The branch that ends with a message of a person, ready to be answered.
async fn request_for(
    web: &Web,
    user: &User,
    message: &Message,
    mode: Mode,
    holder: &Holder,
) -> Result<Request, WebError> {
    let branch = web.store().branch(user.id, message.id, u32::MAX).await?;
    let conversation = web.store().conversation(user.id, message.conversation).await?;
    let settings = web.settings().await?;
    let system = prompt::system(web, &settings, user, conversation.persona.as_deref()).await?;
    let branch: Vec<Said> = branch.into_iter().map(said).collect();
    let format = form_of_answer(web.accounts.reader.as_ref(), &branch);
    let system = with_guidance(web.accounts.reader.as_ref(), system, &branch);
    let generate = web.generate()?;
    Ok(Request { format, ..request(&*generate, system, branch, mode, holder) })
}

#[derive(Deserialize)]
pub(super) struct Again {
    client_id: String,
    mode: Option<String>,
}

/// `POST /api/messages/{id}/replies`
pub(super) async fn regenerate(
    State(web): State<Web>,
    Person(user): Person,
    Path(text): Path<String>,
    Body(again): Body<Again>,
) -> Result<(StatusCode, Json<Value>), WebError> {
    let message = web.store().message(user.id, id(&text, "message")?).await?;
    if message.role != Role::User {
        return Err(WebError::conflict("only what a person said can be answered again"));
    }
    let mode = again.mode.map_or(Ok(Mode::Auto), |mode| parsed(&mode, "mode"))?;
    let holder = Holder::of(&web.accounts, &user, None);
    let mut request = request_for(&web, &user, &message, mode, &holder).await?;
    let hold = Hold::take(&web.accounts, &holder, &web.generate()?, &mut request).await?;
    let client_id = &again.client_id;
    let lease_until = hub::lease(&web);
    let new = NewReply { client_id, user_message: message.id, mode, lease_until };
    let begun = web.store().begin_reply(user.id, new, web.now()).await?;
    let body = json!({ "reply": forms::message(&begun.reply, None) });
    if begun.is_new {
        let job = Job { user: user.id, message: begun.reply, request, hold };
        web.accounts.hub.begin(&web, job);
    }
    Ok((StatusCode::ACCEPTED, Json(body)))
}

/// `POST /api/messages/{id}/continue`
pub(super) async fn go_on(
    State(web): State<Web>,
    Person(user): Person,
    Path(text): Path<String>,
    Body(again): Body<Again>,
) -> Result<(StatusCode, Json<Value>), WebError> {
    let message = web.store().message(user.id, id(&text, "message")?).await?;
    let holder = Holder::of(&web.accounts, &user, None);
    let mut request = request_for(&web, &user, &message, Mode::Fast, &holder).await?;
    if message.content.is_empty() {
        request.mode = message.mode_asked.unwrap_or(Mode::Auto);
    } else {
        request.prompt_form = PromptForm::Prefilled;
    }
    let hold = Hold::take(&web.accounts, &holder, &web.generate()?, &mut request).await?;
    let lease = hub::lease(&web);
    let client_id = &again.client_id;
    let mut begun =
        web.store().continue_reply(user.id, client_id, message.id, lease, web.now()).await?;
    let body = json!({ "reply": forms::message(&begun.reply, None) });
    if begun.is_new {
        if begun.reply.content.is_empty() {
            // It is made anew, thought and all.
            begun.reply.thought = None;
        }
        let job = Job { user: user.id, message: begun.reply, request, hold };
        web.accounts.hub.begin(&web, job);
    }
    Ok((StatusCode::ACCEPTED, Json(body)))
}

/// A reply of this person.
async fn reply_of(web: &Web, user: UserId, text: &str) -> Result<Message, WebError> {
    let message = web.store().message(user, id(text, "reply")?).await?;
    if message.role != Role::Assistant {
        return Err(WebError::not_found("reply"));
    }
    Ok(message)
}

/// `POST /api/replies/{id}/stop`
pub(super) async fn stop(
    State(web): State<Web>,
    Person(user): Person,
    Path(text): Path<String>,
) -> Result<StatusCode, WebError> {
    let reply = reply_of(&web, user.id, &text).await?;
    if let Some(live) = web.accounts.hub.get(reply.id) {
        live.stop();
    }
    Ok(StatusCode::ACCEPTED)
}

/// `POST /api/replies/{id}/answer-now`
pub(super) async fn answer_now(
    State(web): State<Web>,
    Person(user): Person,
    Path(text): Path<String>,
) -> Result<StatusCode, WebError> {
    let reply = reply_of(&web, user.id, &text).await?;
    if let Some(live) = web.accounts.hub.get(reply.id) {
        live.answer_now();
    }
    Ok(StatusCode::ACCEPTED)
}

#[derive(Deserialize)]
pub(super) struct From {
    from: Option<usize>,
}

/// `GET /api/replies/{id}/events`
pub(super) async fn events(
    State(web): State<Web>,
    Person(user): Person,
    Path(text): Path<String>,
    Query(From { from }): Query<From>,
    headers: HeaderMap,
) -> Result<Response, WebError> {
    let reply = reply_of(&web, user.id, &text).await?;
    let last_seen = headers.get("last-event-id").and_then(|value| value.to_str().ok());
    let last_seen: Option<usize> = last_seen.and_then(|text| text.parse().ok());
    let next = last_seen.map(|number| number.saturating_add(1)).or(from).unwrap_or(0);
    if let Some(live) = web.accounts.hub.get(reply.id) {
        // A place that this log never had is of an earlier run.
        let next = if next > live.n_events() { 0 } else { next };
        return Ok(sse(stream::unfold((live, next), next_of_log)));
    }
    let waiting =
        Waiting { web, user: user.id, id: reply.id, next, is_over: false, ready: Vec::new() };
    Ok(sse(stream::unfold(waiting, |mut waiting| async move {
        let (number, said) = waiting.next().await?;
        Some((Ok(on_wire(number, &said)), waiting))
    })))
}

fn sse(
    events: impl stream::Stream<Item = Result<SseEvent, Infallible>> + Send + 'static,
) -> Response {
    let unbuffered =
        [(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"))];
    (unbuffered, Sse::new(events).keep_alive(KeepAlive::default())).into_response()
}

fn on_wire(number: usize, said: &hub::Said) -> SseEvent {
    SseEvent::default().id(number.to_string()).event(said.name).data(&said.data)
}

async fn next_of_log(
    (live, next): (Arc<Live>, usize),
) -> Option<(Result<SseEvent, Infallible>, (Arc<Live>, usize))> {
    let said = live.event(next).await?;
    Some((Ok(on_wire(next, &said)), (live, next + 1)))
}

/// A reply without a log here: its row tells how it ended.
struct Waiting {
    web: Web,
    user: UserId,
    id: MessageId,
    next: usize,
    is_over: bool,
    /// What is still to be told, the last first.
    ready: Vec<(usize, hub::Said)>,
}

impl Waiting {
    async fn next(&mut self) -> Option<(usize, hub::Said)> {
        while !self.is_over {
            let message = self.web.store().message(self.user, self.id).await.ok()?;
            if message.status != MessageStatus::Streaming {
                self.is_over = true;
                self.ready = self.replay(&message).await;
                break;
            }
            if *self.web.app.ending.borrow() {
                return None;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.ready.pop()
    }

    /// The whole reply in a few events; for whoever has some of it already, the last alone, which
    /// has all of it.
    async fn replay(&self, message: &Message) -> Vec<(usize, hub::Said)> {
        let marks = self.web.store().marks(self.user, message.conversation).await;
        let form = forms::message(message, marks.unwrap_or_default().get(&message.id));
        let last = if message.status == MessageStatus::Failed {
            let error = json!({ "code": "failed", "message": message.error });
            hub::Said::new("failed", &json!({ "error": error, "message": form }))
        } else {
            hub::Said::new("finished", &json!({ "message": form }))
        };
        let mut events = Vec::new();
        if self.next == 0 {
            if let Some(facts) = &message.reply {
                let data = json!({
                    "choice": { "mode": facts.mode, "reason": facts.mode_reason },
                    "prompt_tokens": facts.usage.prompt_tokens,
                    "cached_tokens": facts.usage.cached_tokens,
                });
                events.push(hub::Said::new("started", &data));
            }
            if let Some(thought) = &message.thought {
                events.push(hub::Said::new("thought", &json!({ "text": thought })));
            }
            if !message.content.is_empty() {
                events.push(hub::Said::new("text", &json!({ "text": message.content })));
            }
        }
        events.push(last);
        let first = self.next;
        let mut numbered: Vec<_> =
            events.into_iter().enumerate().map(|(idx, said)| (first + idx, said)).collect();
        numbered.reverse();
        numbered
    }
}

/// Private replies while they are made, by the names that their pages gave them: what a page needs
/// to end a thought. Nothing of it outlives the reply.
#[derive(Debug, Default)]
pub(super) struct PrivateReplies(Mutex<HashMap<(UserId, String), Control>>);

impl PrivateReplies {
    fn put(&self, key: (UserId, String), control: Control) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key, control);
    }

    fn get(&self, key: &(UserId, String)) -> Option<Control> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    fn forget(&self, key: &(UserId, String)) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

const MAX_NAME_BYTES: usize = 64;

#[derive(Deserialize)]
pub(super) struct PrivateChat {
    /// How the page will call this reply; new for each.
    #[serde(default)]
    id: Option<String>,
    messages: Vec<PrivateMessage>,
    mode: Option<String>,
    persona: Option<String>,
}

#[derive(Deserialize)]
struct PrivateMessage {
    role: String,
    content: String,
}

/// `POST /api/private/replies`: nothing of it is stored but what it cost.
pub(super) async fn private(
    State(web): State<Web>,
    Person(user): Person,
    Body(chat): Body<PrivateChat>,
) -> Result<Response, WebError> {
    let mode = chat.mode.map_or(Ok(Mode::Auto), |mode| parsed(&mode, "mode"))?;
    let mut branch = Vec::with_capacity(chat.messages.len());
    for message in chat.messages {
        let role = match message.role.as_str() {
            "user" => Role::User,
            "assistant" => Role::Assistant,
            _ => return Err(WebError::invalid("messages", "a role is `user` or `assistant`")),
        };
        branch.push(Said::new(role, message.content));
    }
    match branch.last() {
        Some(last) if last.role == Role::User => check_content(&last.content)?,
        _ => return Err(WebError::invalid("messages", "the last message must be the person's")),
    }
    let id = chat.id.filter(|id| !id.is_empty());
    if id.as_ref().is_some_and(|id| id.len() > MAX_NAME_BYTES) {
        let message = format!("the name of a reply has at most {MAX_NAME_BYTES} bytes");
        return Err(WebError::invalid("id", message));
    }
    let persona = chats::check_persona(&web, chat.persona)?;
    let settings = web.settings().await?;
    let system = prompt::system(&web, &settings, &user, persona.as_deref()).await?;
    let format = form_of_answer(web.accounts.reader.as_ref(), &branch);
    let system = with_guidance(web.accounts.reader.as_ref(), system, &branch);
    let holder = Holder::of(&web.accounts, &user, None);
    let generate = web.generate()?;
    let request = Request { format, ..request(&*generate, system, branch, mode, &holder) };
    let starting = Replies::start(&web.app, &generate, vec![request]);
    let replies = for_holder(holder.clone(), starting).await?;
    let named = id.zip(replies.control()).map(|(id, control)| {
        let key = (user.id, id);
        web.accounts.private.put(key.clone(), control);
        Named { web: web.clone(), key }
    });
    let (thought, content, choice) = (String::new(), String::new(), None);
    let words = PrivateWords { web, _named: named, holder, mode, thought, content, choice };
    Ok(events::stream(replies, words))
}

/// `POST /api/private/replies/{id}/answer-now`
pub(super) async fn private_answer_now(
    State(web): State<Web>,
    Person(user): Person,
    Path(id): Path<String>,
) -> Result<StatusCode, WebError> {
    let control = web.accounts.private.get(&(user.id, id));
    control.ok_or_else(|| WebError::not_found("reply"))?.answer_now();
    Ok(StatusCode::ACCEPTED)
}

/// The name of a private reply, which goes with it.
struct Named {
    web: Web,
    key: (UserId, String),
}

impl Drop for Named {
    fn drop(&mut self) {
        self.web.accounts.private.forget(&self.key);
    }
}

/// A private reply in the words of a stored one.
struct PrivateWords {
    _named: Option<Named>,
    web: Web,
    holder: Holder,
    mode: Mode,
    thought: String,
    content: String,
    choice: Option<rapport_types::ModeChoice>,
}

impl Wording for PrivateWords {
    async fn take(&mut self, _reply_idx: usize, event: Event) -> Vec<Frame> {
        let frame = match event {
            Event::Started { choice, prompt_tokens, cached_tokens, .. } => {
                let data = json!({
                    "choice": { "mode": choice.mode.as_str(), "reason": choice.reason },
                    "prompt_tokens": prompt_tokens,
                    "cached_tokens": cached_tokens,
                });
                self.choice = Some(choice);
                Frame::named("started", &data)
            }
            Event::Thought(text) => {
                self.thought += &text;
                Frame::named("thought", &json!({ "text": text }))
            }
            Event::Text { text, .. } => {
                self.content += &text;
                Frame::named("text", &json!({ "text": text }))
            }
            Event::ToolCall(_) => return Vec::new(),
            Event::Finished(outcome) => {
                let status = match outcome.reason {
                    FinishReason::Stop => "done",
                    FinishReason::Length => "length",
                    FinishReason::Cancelled => "stopped",
                };
                let (usage, timings) = (outcome.usage, outcome.timings);
                let message = json!({
                    "id": "private",
                    "parent_id": null,
                    "role": "assistant",
                    "content": self.content,
                    "thought": Some(&self.thought).filter(|thought| !thought.is_empty()),
                    "status": status,
                    "mode_asked": self.mode.as_str(),
                    "mode": self.choice.as_ref().map(|choice| choice.mode.as_str()),
                    "mode_reason": self.choice.as_ref().map(|choice| &choice.reason),
                    "build": outcome.build.to_string(),
                    "usage": {
                        "prompt_tokens": usage.prompt_tokens,
                        "cached_tokens": usage.cached_tokens,
                        "completion_tokens": usage.completion_tokens,
                        "reasoning_tokens": usage.reasoning_tokens,
                    },
                    "timings": {
                        "first_token_ms": timings.first_token_ms,
                        "prompt_ms": timings.prompt_ms,
                        "decode_ms": timings.decode_ms,
                    },
                    "cost_microdollars": self.holder.plan.price.cost_micros(&usage),
                    "created_ms": self.web.now(),
                    "error": null,
                    "feedback": { "thumb": null, "chips": [], "comment": null },
                    "choice_of": null,
                });
                Frame::named("finished", &json!({ "message": message }))
            }
            Event::Failed(error) => {
                let error = WebError::from(error).form();
                Frame::named("failed", &json!({ "error": error, "message": null }))
            }
        };
        vec![frame]
    }

    fn end(&mut self) -> Vec<Frame> {
        Vec::new()
    }
}
