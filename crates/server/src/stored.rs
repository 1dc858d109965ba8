//! What outlives its request: responses that clients may ask for again, and deferred completions.
//!
//! A server that knows people keeps both in its store, where they survive a restart, belong to who
//! asked and go with the account; the person at this machine, who has no account, has a space there
//! too. A server without a store keeps them in memory. A deferred completion has a maker that is heard
//! of every few seconds: when its server dies, whoever asks is told so instead of waiting for a day.

use std::collections::{HashMap, VecDeque};
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use prost::Message as _;
use rapport_store::{
    Deferred as Kept, Error as StoreError, NewDeferred, NewResponse, UnixMs, UserId,
};
use rapport_types::{GenerateError, Message, Role, ToolCall};
use serde_json::{Value, json};

use crate::App;
use crate::error::ApiError;
use crate::grpc::GetChatCompletionResponse;
use crate::replies::fresh_id;
use crate::web::Accounts;

/// Whose it is: an account, or the person at this machine. Nobody else's id finds anything.
pub(crate) type Owner = Option<UserId>;

/// How long a response is kept, where conversations are not kept for less.
const RESPONSE_DAYS: u32 = 30;

/// A response with what came before it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StoredResponse {
    pub(crate) response: Value,
    /// The items of its input, each with an id.
    pub(crate) input: Vec<Value>,
    /// The conversation up to and with this response, without instructions.
    pub(crate) messages: Vec<Message>,
}

impl StoredResponse {
    fn to_value(&self) -> Value {
        let message = |message: &Message| {
            let calls = message.tool_calls.iter().map(
                |ToolCall { id, name, arguments }| json!({ "id": id, "name": name, "arguments": arguments }),
            );
            json!({
                "role": message.role.as_str(),
                "content": message.content,
                "thought": message.thought,
                "tool_calls": calls.collect::<Vec<_>>(),
                "tool_call_id": message.tool_call_id,
            })
        };
        let messages: Vec<Value> = self.messages.iter().map(message).collect();
        json!({ "response": self.response, "input": self.input, "messages": messages })
    }

    fn from_value(mut value: Value) -> Option<Self> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let call = |call: &Value| {
            let [id, name, arguments] = ["id", "name", "arguments"].map(|key| text(&call[key]));
            Some(ToolCall { id: id?, name: name?, arguments: arguments? })
        };
        let message = |message: &Value| {
            let calls = message["tool_calls"].as_array()?;
            Some(Message {
                role: Role::parse(message["role"].as_str()?)?,
                content: text(&message["content"])?,
                thought: text(&message["thought"]),
                tool_calls: calls.iter().map(call).collect::<Option<_>>()?,
                tool_call_id: text(&message["tool_call_id"]),
            })
        };
        let messages = value["messages"].as_array()?.iter().map(message).collect::<Option<_>>()?;
        let Value::Array(input) = value["input"].take() else { return None };
        Some(Self { response: value["response"].take(), input, messages })
    }
}

/// Keeps responses for `previous_response_id` and for being asked for again.
pub(crate) struct Responses {
    memory: Memory,
}

impl Default for Responses {
    /// Without a store, 64 MiB of them.
    fn default() -> Self {
        Self { memory: Memory { limit_bytes: 64 << 20, kept: Mutex::default() } }
    }
}

impl Responses {
    pub(crate) async fn put(
        app: &App,
        owner: Owner,
        id: &str,
        stored: StoredResponse,
    ) -> Result<(), ApiError> {
        let Some(accounts) = &app.accounts else {
            app.responses.memory.put(id.to_owned(), stored);
            return Ok(());
        };
        let now = accounts.now();
        let settings = accounts.settings().await.map_err(|error| told(&error))?;
        let days = settings.retention_days.map_or(RESPONSE_DAYS, |days| days.min(RESPONSE_DAYS));
        let expires_at = now.plus_ms(i64::from(days) * UnixMs::DAY_MS);
        let body = stored.to_value();
        let new = NewResponse { id, body: &body, expires_at };
        accounts.store.put_response(owner, new, now).await.map_err(|error| told(&error))
    }

    pub(crate) async fn get(
        app: &App,
        owner: Owner,
        id: &str,
    ) -> Result<Option<Arc<StoredResponse>>, ApiError> {
        let Some(accounts) = &app.accounts else { return Ok(app.responses.memory.get(id)) };
        match accounts.store.response(owner, id, accounts.now()).await {
            Ok(found) => match StoredResponse::from_value(found.body) {
                Some(stored) => Ok(Some(Arc::new(stored))),
                None => Err(ApiError::broken()),
            },
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(told(&error)),
        }
    }

    /// Whether there was one.
    pub(crate) async fn delete(app: &App, owner: Owner, id: &str) -> Result<bool, ApiError> {
        let Some(accounts) = &app.accounts else { return Ok(app.responses.memory.remove(id)) };
        match accounts.store.delete_response(owner, id).await {
            Ok(()) => Ok(true),
            Err(StoreError::NotFound { .. }) => Ok(false),
            Err(error) => Err(told(&error)),
        }
    }
}

fn told(error: &StoreError) -> ApiError {
    match error {
        StoreError::Busy { .. } => ApiError::store_busy(),
        _ => ApiError::broken(),
    }
}

/// Responses in memory up to a limit; the oldest go first.
struct Memory {
    limit_bytes: usize,
    kept: Mutex<InMemory>,
}

#[derive(Default)]
struct InMemory {
    by_id: HashMap<String, (Arc<StoredResponse>, usize)>,
    oldest_first: VecDeque<String>,
    n_bytes: usize,
}

impl InMemory {
    fn remove(&mut self, id: &str) -> bool {
        let Some((_, n_bytes)) = self.by_id.remove(id) else { return false };
        self.n_bytes -= n_bytes;
        self.oldest_first.retain(|present| present != id);
        true
    }
}

impl Memory {
    fn put(&self, id: String, stored: StoredResponse) {
        let n_bytes = n_bytes(&stored);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.remove(&id);
        kept.n_bytes += n_bytes;
        kept.oldest_first.push_back(id.clone());
        kept.by_id.insert(id, (Arc::new(stored), n_bytes));
        while kept.n_bytes > self.limit_bytes {
            let Some(oldest) = kept.oldest_first.front().cloned() else { break };
            kept.remove(&oldest);
        }
    }

    fn get(&self, id: &str) -> Option<Arc<StoredResponse>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.by_id.get(id).map(|(stored, _)| Arc::clone(stored))
    }

    fn remove(&self, id: &str) -> bool {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).remove(id)
    }
}

/// About what it takes in memory.
fn n_bytes(stored: &StoredResponse) -> usize {
    let messages: usize = stored
        .messages
        .iter()
        .map(|message| {
            let calls = message.tool_calls.iter().map(|call| call.arguments.len() + 128);
            256 + message.content.len()
                + message.thought.as_ref().map_or(0, String::len)
                + calls.sum::<usize>()
        })
        .sum();
    let input: usize = stored.input.iter().map(|item| item.to_string().len()).sum();
    // A parsed value takes a few times its text.
    messages + 4 * (input + stored.response.to_string().len())
}

/// How long a deferred completion waits to be read.
const MAX_WAIT: Duration = Duration::from_hours(24);
const MAX_DEFERRED: usize = 256;
/// How long its maker counts as alive without being heard of.
const LEASE_MS: i64 = 30_000;
const KEEP_EVERY: Duration = Duration::from_secs(10);

/// A completion that can wait in the store.
pub(crate) trait Completion: Sized + Send + 'static {
    /// Tells the ids of one protocol from those of another.
    const ID_PREFIX: &str;
    fn to_value(&self) -> Value;
    fn from_value(value: Value) -> Option<Self>;
}

impl Completion for Value {
    const ID_PREFIX: &str = "deferred_";

    fn to_value(&self) -> Value {
        self.clone()
    }

    fn from_value(value: Value) -> Option<Self> {
        Some(value)
    }
}

impl Completion for GetChatCompletionResponse {
    const ID_PREFIX: &str = "deferredcall_";

    fn to_value(&self) -> Value {
        Value::String(BASE64.encode(self.encode_to_vec()))
    }

    fn from_value(value: Value) -> Option<Self> {
        Self::decode(BASE64.decode(value.as_str()?).ok()?.as_slice()).ok()
    }
}

/// Completions that are made while nobody waits; each is read once.
pub(crate) struct Deferred<T> {
    /// Of a server without a store.
    by_id: Mutex<HashMap<String, Waiting>>,
    completions: PhantomData<fn() -> T>,
}

impl<T> Default for Deferred<T> {
    fn default() -> Self {
        Self { by_id: Mutex::default(), completions: PhantomData }
    }
}

struct Waiting {
    begun: Instant,
    outcome: Option<Result<Value, Value>>,
}

/// What a deferred completion has come to.
pub(crate) enum DeferredState<T> {
    Unknown,
    Pending,
    Done(Result<T, ApiError>),
}

impl<T: Completion> Deferred<T> {
    /// Promises a completion and makes it; the promise has this id.
    ///
    /// # Errors
    /// There are too many that nobody has read, or the store cannot take it: nothing is made then.
    pub(crate) async fn begin(
        &self,
        accounts: Option<&Arc<Accounts>>,
        owner: Owner,
    ) -> Result<Promise, ApiError> {
        let id = fresh_id(T::ID_PREFIX);
        let crowded = || ApiError::from(GenerateError::Overloaded);
        if let Some(accounts) = accounts {
            let now = accounts.now();
            let new = NewDeferred {
                id: &id,
                lease_until: now.plus_ms(LEASE_MS),
                expires_at: now.plus_ms(MAX_WAIT.as_millis() as i64),
            };
            if !accounts
                .store
                .start_deferred(owner, new, now)
                .await
                .map_err(|error| told(&error))?
            {
                return Err(crowded());
            }
        } else {
            let mut by_id = self.by_id.lock().unwrap_or_else(PoisonError::into_inner);
            by_id.retain(|_, waiting| waiting.begun.elapsed() < MAX_WAIT);
            if by_id.len() >= MAX_DEFERRED {
                return Err(crowded());
            }
            by_id.insert(id.clone(), Waiting { begun: Instant::now(), outcome: None });
        }
        Ok(Promise { accounts: accounts.cloned(), owner, id })
    }

    /// Keeps a promise: waits for the completion, and stores what came of it.
    pub(crate) async fn keep(
        &self,
        promise: Promise,
        making: impl Future<Output = Result<T, ApiError>>,
    ) {
        let Promise { accounts, owner, id } = promise;
        let mut making = std::pin::pin!(making);
        let outcome = loop {
            tokio::select! {
                outcome = &mut making => break outcome,
                () = tokio::time::sleep(KEEP_EVERY), if accounts.is_some() => {
                    let Some(accounts) = &accounts else { continue };
                    let lease_until = accounts.now().plus_ms(LEASE_MS);
                    // Whoever waited has gone with the account, and with that the reply.
                    if let Ok(false) = accounts.store.keep_deferred(owner, &id, lease_until).await {
                        return;
                    }
                }
            }
        };
        let outcome = outcome.map(|completion| completion.to_value()).map_err(|e| e.to_value());
        if let Some(accounts) = accounts {
            // What cannot be stored is told to be abandoned.
            let _ = accounts.store.finish_deferred(owner, &id, &outcome).await;
            return;
        }
        let mut by_id = self.by_id.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = by_id.get_mut(&id) {
            waiting.outcome = Some(outcome);
        }
    }

    /// Reads one; once it was done it is gone.
    pub(crate) async fn read(
        &self,
        accounts: Option<&Arc<Accounts>>,
        owner: Owner,
        id: &str,
    ) -> Result<DeferredState<T>, ApiError> {
        if !id.starts_with(T::ID_PREFIX) {
            return Ok(DeferredState::Unknown);
        }
        let outcome = if let Some(accounts) = accounts {
            match accounts.store.take_deferred(owner, id, accounts.now()).await {
                Ok(Kept::Pending) => return Ok(DeferredState::Pending),
                Ok(Kept::Done(value)) => Ok(value),
                Ok(Kept::Failed(error)) => Err(ApiError::from_value(&error)),
                Ok(Kept::Abandoned) => Err(GenerateError::EngineStopped.into()),
                Err(StoreError::NotFound { .. }) => return Ok(DeferredState::Unknown),
                Err(error) => return Err(told(&error)),
            }
        } else {
            let mut by_id = self.by_id.lock().unwrap_or_else(PoisonError::into_inner);
            match by_id.get(id) {
                None => return Ok(DeferredState::Unknown),
                Some(Waiting { outcome: None, .. }) => return Ok(DeferredState::Pending),
                Some(_) => {}
            }
            let outcome = by_id.remove(id).and_then(|waiting| waiting.outcome);
            let Some(outcome) = outcome else { return Ok(DeferredState::Unknown) };
            outcome.map_err(|error| ApiError::from_value(&error))
        };
        let outcome = outcome.and_then(|value| T::from_value(value).ok_or_else(ApiError::broken));
        Ok(DeferredState::Done(outcome))
    }
}

/// A completion that somebody may ask for.
pub(crate) struct Promise {
    accounts: Option<Arc<Accounts>>,
    owner: Owner,
    pub(crate) id: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(text: &str) -> StoredResponse {
        StoredResponse {
            response: Value::String(text.to_owned()),
            input: Vec::new(),
            messages: vec![Message::user(text)],
        }
    }

    #[test]
    fn the_oldest_responses_make_room_in_memory() {
        let memory = Memory { limit_bytes: 4_000, kept: Mutex::default() };
        for id in 0..20 {
            memory.put(id.to_string(), stored(&"x".repeat(100)));
        }
        assert!(memory.get("0").is_none());
        assert!(memory.get("19").is_some());
        assert!(memory.kept.lock().unwrap().n_bytes <= 4_000);
        memory.put("huge".to_owned(), stored(&"x".repeat(5_000)));
        assert!(memory.kept.lock().unwrap().by_id.is_empty(), "more than there is room for");
    }

    #[test]
    fn a_response_comes_back_from_its_text_as_it_was() {
        let call = ToolCall { id: "a".into(), name: "b".into(), arguments: "{}".into() };
        let mut result = Message::new(Role::Tool, "done");
        result.tool_call_id = Some("a".to_owned());
        let said = Message {
            thought: Some("hm".to_owned()),
            tool_calls: vec![call],
            ..Message::assistant("東京\0")
        };
        let response = StoredResponse {
            messages: vec![Message::system("s"), Message::user("u"), said, result],
            input: vec![json!({ "id": "x" })],
            ..stored("r")
        };
        let text = response.to_value().to_string();
        let back = StoredResponse::from_value(serde_json::from_str(&text).unwrap());
        assert_eq!(back, Some(response));
        assert_eq!(StoredResponse::from_value(json!({ "messages": [{ "role": "x" }] })), None);
    }

    #[tokio::test]
    async fn deferred_completions_that_nobody_reads_have_a_limit() {
        let deferred = Deferred::<Value>::default();
        let mut n_taken = 0;
        while deferred.begin(None, None).await.is_ok() {
            n_taken += 1;
        }
        assert_eq!(n_taken, MAX_DEFERRED);
    }

    #[tokio::test]
    async fn a_deferred_completion_is_read_once_by_its_own_protocol() {
        let deferred = Deferred::<Value>::default();
        let promise = deferred.begin(None, None).await.unwrap();
        let id = promise.id.clone();
        let read = async || deferred.read(None, None, &id).await.unwrap();
        assert!(matches!(read().await, DeferredState::Pending));
        deferred.keep(promise, async { Err(ApiError::invalid("x", "broke")) }).await;
        let calls = Deferred::<GetChatCompletionResponse>::default();
        let other = calls.read(None, None, &id).await.unwrap();
        assert!(matches!(other, DeferredState::Unknown));
        let DeferredState::Done(Err(error)) = read().await else { panic!("it is done") };
        assert_eq!((error.status().as_u16(), error.field()), (400, Some("x")));
        assert!(matches!(read().await, DeferredState::Unknown));
    }
}
