//! A model that is not there yet: it is brought and loaded beside the server, which answers already.
//!
//! What is not here: how to bring or load one; that is handed in.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;

use rapport_types::{
    AdapterChoice, AdapterInfo, BuildId, Control, Embedding, EmbeddingRequest, EventSink, Generate,
    GenerateError, ModelInfo, Readiness, Request, SamplingDraft, TextToken,
};

use crate::pull::PullProgress;

/// Where a model comes from.
pub trait Source: Send + Sync {
    /// Brings a model and loads it, saying to its [`Stage`] what it is at. The error is for whoever
    /// runs the server.
    fn bring(&self, stage: &Stage) -> Result<Box<dyn Generate>, String>;

    /// Told what came of it, once requests see that too.
    fn settled(&self, stage: &Stage, outcome: Result<(), &str>);
}

/// What is being done to have the model.
#[derive(Debug, Default)]
pub struct Stage {
    is_pulling: AtomicBool,
    pulled: Arc<PullProgress>,
    cancelled: AtomicBool,
}

impl Stage {
    /// It is being pulled; who does that counts here.
    pub fn pulling(&self) -> &Arc<PullProgress> {
        self.pulled.begin(None);
        self.is_pulling.store(true, Ordering::Release);
        &self.pulled
    }

    pub fn loading(&self) {
        self.is_pulling.store(false, Ordering::Release);
    }

    /// Set when nobody wants the model any more.
    pub fn cancelled(&self) -> &AtomicBool {
        &self.cancelled
    }

    fn readiness(&self) -> Readiness {
        if !self.is_pulling.load(Ordering::Acquire) {
            return Readiness::Loading;
        }
        let (done_bytes, total_bytes) = self.pulled.bytes();
        Readiness::Pulling { done_bytes: Some(done_bytes), total_bytes }
    }
}

/// A model that a thread of its own makes ready.
pub struct LateModel {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    name: String,
    source: Box<dyn Source>,
    stage: Stage,
    state: RwLock<State>,
}

#[derive(Clone)]
enum State {
    Coming,
    Ready(Arc<dyn Generate>),
    Failed(String),
}

impl LateModel {
    /// A model that has this name until it says its own.
    pub fn new(name: String, source: Box<dyn Source>) -> Self {
        let (stage, state) = (Stage::default(), RwLock::new(State::Coming));
        Self { shared: Arc::new(Shared { name, source, stage, state }), thread: Mutex::new(None) }
    }

    /// Begins to bring it.
    pub fn begin(&self) {
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::spawn(move || {
            let bring = AssertUnwindSafe(|| shared.source.bring(&shared.stage));
            let brought = catch_unwind(bring)
                .unwrap_or_else(|_| Err("it broke while it was brought or loaded".to_owned()));
            let failure = brought.as_ref().err().cloned();
            shared.set(match brought {
                Ok(generate) => State::Ready(Arc::from(generate)),
                Err(reason) => State::Failed(reason),
            });
            shared.source.settled(&shared.stage, failure.as_deref().map_or(Ok(()), Err));
        });
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
    }

    /// Stops a pull, and waits until it has cleared away what it must. A model that is being loaded
    /// is not waited for.
    pub fn give_up(&self) {
        self.shared.stage.cancelled.store(true, Ordering::Release);
        if !matches!(self.readiness(), Readiness::Pulling { .. }) {
            return;
        }
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A pull that broke has nothing left to clear away.
            let _ = thread.join();
        }
    }

    fn ready(&self) -> Result<Arc<dyn Generate>, GenerateError> {
        match self.shared.get() {
            State::Ready(generate) => Ok(generate),
            State::Coming => Err(GenerateError::NotReady(self.shared.stage.readiness())),
            State::Failed(reason) => Err(GenerateError::NotReady(Readiness::Failed { reason })),
        }
    }
}

impl Shared {
    fn get(&self) -> State {
        self.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, state: State) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

impl fmt::Debug for LateModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LateModel").field("name", &self.shared.name).finish_non_exhaustive()
    }
}

impl Generate for LateModel {
    fn model(&self) -> ModelInfo {
        match self.shared.get() {
            State::Ready(generate) => generate.model(),
            _ => ModelInfo {
                name: self.shared.name.clone(),
                context_tokens: 0,
                build: BuildId {
                    weights: "none".to_owned(),
                    adapter: "none".to_owned(),
                    persona: "none".to_owned(),
                    engine: env!("CARGO_PKG_VERSION").to_owned(),
                },
            },
        }
    }

    fn start(&self, request: Request, sink: EventSink) -> Result<Control, GenerateError> {
        self.ready()?.start(request, sink)
    }

    fn adapters(&self) -> Vec<AdapterInfo> {
        self.ready().map_or_else(|_| Vec::new(), |generate| generate.adapters())
    }

    fn sampling(&self, adapter: &AdapterChoice) -> SamplingDraft {
        self.ready()
            .map_or_else(|_| SamplingDraft::default(), |generate| generate.sampling(adapter))
    }

    fn tokenize(&self, text: &str) -> Option<Vec<TextToken>> {
        self.ready().ok()?.tokenize(text)
    }

    fn count_prompt_tokens(&self, request: &Request) -> Result<Option<u32>, GenerateError> {
        self.ready()?.count_prompt_tokens(request)
    }

    fn embedding_width(&self) -> Option<u32> {
        self.ready().ok()?.embedding_width()
    }

    fn embed(&self, request: EmbeddingRequest) -> Result<Vec<Embedding>, GenerateError> {
        self.ready()?.embed(request)
    }

    fn readiness(&self) -> Readiness {
        match self.ready() {
            Ok(generate) => generate.readiness(),
            Err(GenerateError::NotReady(waiting)) => waiting,
            Err(error) => Readiness::Failed { reason: error.to_string() },
        }
    }

    fn try_again(&self) -> bool {
        {
            let mut state = self.shared.state.write().unwrap_or_else(PoisonError::into_inner);
            if !matches!(*state, State::Failed(_)) {
                return false;
            }
            *state = State::Coming;
        }
        self.shared.stage.loading();
        self.begin();
        true
    }
}
