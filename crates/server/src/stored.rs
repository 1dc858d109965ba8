//! What outlives its request: responses that clients may ask for again, and deferred completions.
//!
//! Nothing here is on disk. [`ResponseStore`] is the seam for a store that is.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, FutureExt, ready};
use rapport_types::Message;
use serde_json::Value;

use crate::error::ApiError;

/// Whose it is: the key of [`rapport_types::Caller`]. Nobody else's id finds anything.
pub type Owner = [u8; 32];

/// A response with what came before it.
#[derive(Clone, Debug)]
pub struct StoredResponse {
    pub response: Value,
    /// The items of its input, each with an id.
    pub input: Vec<Value>,
    /// The conversation up to and with this response, without instructions.
    pub messages: Vec<Message>,
}

/// Why a store did not keep or find.
#[derive(Debug, thiserror::Error)]
#[error("responses cannot be kept or read now: {source}")]
pub struct StoreError {
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Keeps responses for `previous_response_id` and for being asked for again.
pub trait ResponseStore: Send + Sync {
    fn put(
        &self,
        owner: Owner,
        id: String,
        stored: StoredResponse,
    ) -> BoxFuture<'_, Result<(), StoreError>>;

    fn get(
        &self,
        owner: Owner,
        id: String,
    ) -> BoxFuture<'_, Result<Option<Arc<StoredResponse>>, StoreError>>;

    /// Whether there was one.
    fn delete(&self, owner: Owner, id: String) -> BoxFuture<'_, Result<bool, StoreError>>;
}

type Key = (Owner, String);

/// Keeps responses in memory up to a limit; the oldest go first.
#[derive(Debug)]
pub struct MemoryResponses {
    limit_bytes: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    by_key: HashMap<Key, (Arc<StoredResponse>, usize)>,
    oldest_first: VecDeque<Key>,
    n_bytes: usize,
}

impl Kept {
    fn remove(&mut self, key: &Key) -> bool {
        let Some((_, n_bytes)) = self.by_key.remove(key) else { return false };
        self.n_bytes -= n_bytes;
        self.oldest_first.retain(|present| present != key);
        true
    }
}

impl MemoryResponses {
    pub fn new(limit_bytes: usize) -> Self {
        Self { limit_bytes, kept: Mutex::default() }
    }
}

impl Default for MemoryResponses {
    /// 64 MiB.
    fn default() -> Self {
        Self::new(64 << 20)
    }
}

impl ResponseStore for MemoryResponses {
    fn put(
        &self,
        owner: Owner,
        id: String,
        stored: StoredResponse,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        let n_bytes = n_bytes(&stored);
        let key = (owner, id);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.remove(&key);
        kept.n_bytes += n_bytes;
        kept.oldest_first.push_back(key.clone());
        kept.by_key.insert(key, (Arc::new(stored), n_bytes));
        while kept.n_bytes > self.limit_bytes {
            let Some(oldest) = kept.oldest_first.front().cloned() else { break };
            kept.remove(&oldest);
        }
        ready(Ok(())).boxed()
    }

    fn get(
        &self,
        owner: Owner,
        id: String,
    ) -> BoxFuture<'_, Result<Option<Arc<StoredResponse>>, StoreError>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        ready(Ok(kept.by_key.get(&(owner, id)).map(|(stored, _)| Arc::clone(stored)))).boxed()
    }

    fn delete(&self, owner: Owner, id: String) -> BoxFuture<'_, Result<bool, StoreError>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        ready(Ok(kept.remove(&(owner, id)))).boxed()
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

/// Completions that are made while nobody waits; each is read once.
pub(crate) struct Deferred<T> {
    by_key: Mutex<HashMap<Key, Waiting<T>>>,
}

impl<T> Default for Deferred<T> {
    fn default() -> Self {
        Self { by_key: Mutex::default() }
    }
}

struct Waiting<T> {
    begun: Instant,
    outcome: Option<Result<T, ApiError>>,
}

/// What a deferred completion has come to.
pub(crate) enum DeferredState<T> {
    Unknown,
    Pending,
    Done(Result<T, ApiError>),
}

impl<T> Deferred<T> {
    /// Makes a place for a completion.
    ///
    /// # Errors
    /// There are too many that nobody has read.
    pub(crate) fn begin(&self, owner: Owner, id: &str) -> Result<(), ApiError> {
        let mut by_key = self.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        by_key.retain(|_, waiting| waiting.begun.elapsed() < MAX_WAIT);
        if by_key.len() >= MAX_DEFERRED {
            return Err(rapport_types::GenerateError::Overloaded.into());
        }
        let waiting = Waiting { begun: Instant::now(), outcome: None };
        by_key.insert((owner, id.to_owned()), waiting);
        Ok(())
    }

    pub(crate) fn finish(&self, owner: Owner, id: &str, outcome: Result<T, ApiError>) {
        let mut by_key = self.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = by_key.get_mut(&(owner, id.to_owned())) {
            waiting.outcome = Some(outcome);
        }
    }

    /// Reads one; once it was done it is gone.
    pub(crate) fn read(&self, owner: Owner, id: &str) -> DeferredState<T> {
        let mut by_key = self.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (owner, id.to_owned());
        match by_key.get(&key) {
            None => DeferredState::Unknown,
            Some(Waiting { outcome: None, .. }) => DeferredState::Pending,
            Some(_) => match by_key.remove(&key).and_then(|waiting| waiting.outcome) {
                Some(outcome) => DeferredState::Done(outcome),
                None => DeferredState::Unknown,
            },
        }
    }
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

    fn now<T>(future: BoxFuture<'_, Result<T, StoreError>>) -> T {
        future.now_or_never().unwrap().unwrap()
    }

    #[test]
    fn the_oldest_responses_make_room() {
        let store = MemoryResponses::new(4_000);
        for id in 0..20 {
            now(store.put([0; 32], id.to_string(), stored(&"x".repeat(100))));
        }
        assert!(now(store.get([0; 32], "0".to_owned())).is_none());
        assert!(now(store.get([0; 32], "19".to_owned())).is_some());
        assert!(store.kept.lock().unwrap().n_bytes <= 4_000);
        now(store.put([0; 32], "huge".to_owned(), stored(&"x".repeat(5_000))));
        assert!(store.kept.lock().unwrap().by_key.is_empty(), "more than there is room for");
    }

    #[test]
    fn f39_an_id_finds_nothing_of_somebody_else() {
        let store = MemoryResponses::default();
        now(store.put([1; 32], "id".to_owned(), stored("mine")));
        assert!(now(store.get([2; 32], "id".to_owned())).is_none());
        assert!(!now(store.delete([2; 32], "id".to_owned())));
        assert!(now(store.delete([1; 32], "id".to_owned())));

        let deferred = Deferred::default();
        deferred.begin([1; 32], "id").unwrap();
        assert!(matches!(deferred.read([1; 32], "id"), DeferredState::Pending));
        deferred.finish([1; 32], "id", Ok(Value::Null));
        assert!(matches!(deferred.read([2; 32], "id"), DeferredState::Unknown));
        assert!(matches!(deferred.read([1; 32], "id"), DeferredState::Done(Ok(_))));
        assert!(matches!(deferred.read([1; 32], "id"), DeferredState::Unknown), "read once");
    }

    #[test]
    fn deferred_completions_that_nobody_reads_have_a_limit() {
        let deferred = Deferred::<()>::default();
        let n_taken = (0..).take_while(|id| deferred.begin([0; 32], &format!("{id}")).is_ok());
        assert_eq!(n_taken.count(), MAX_DEFERRED);
    }
}
