//! Engines behind HTTP that speak OpenAI's protocol, as one [`rapport_types::Generate`].
//!
//! vLLM, SGLang, llama-server, xAI and another Rapport answer here exactly as a model in this process
//! does. Several replicas of one model stand behind one [`Upstream`]: a conversation goes to the same
//! replica each turn, where its cached prefix is; one that fails is left alone for a while; and what
//! was not begun is tried elsewhere. A reply that was begun and breaks has failed: it is never begun
//! again, and never taken for whole.
//!
//! What is not here: accounts, prices, embeddings, the engines' own routes.
//!
//! Start reading at [`Upstream::open`], then `reply.rs` for the life of one reply.

mod body;
mod breaker;
mod chunks;
mod client;
mod config;
mod models;
mod replicas;
mod reply;
mod sse;

use std::sync::Arc;
use std::time::Instant;

use rapport_types::{
    BuildId, Control, EventSink, Generate, GenerateError, ModelInfo, Readiness, Request,
};
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;

use client::Client;
use replicas::Replicas;

pub use config::{Dialect, Limits, ModeFields, ReplicaConfig, Secret, UpstreamConfig};

/// Why there is no engine to speak to.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    #[error("there is no replica: give the address of at least one")]
    NoReplicas,
    #[error("`{url}` is not an http(s) address without a name, a password or a query")]
    Address { url: String },
    #[error("the key for {url} has characters that no header may have")]
    Key { url: String },
    #[error("cannot prepare TLS: {reason}")]
    Tls { reason: String },
    #[error("cannot start the threads of the client: {source}")]
    Threads { source: std::io::Error },
    #[error("no engine answers: {reasons}; start it first, or check the address")]
    Unreachable { reasons: String },
    #[error("the engine has no model `{wanted}`: it has {found}")]
    NoSuchModel { wanted: String, found: String },
    #[error("the engine has no model yet, or does not say which")]
    NoModel,
}

/// What every reply needs.
struct Shared {
    client: Client,
    replicas: Replicas,
    limits: Limits,
    dialect: Dialect,
    modes: ModeFields,
    shares_cache: bool,
    /// As the engine calls it.
    model: String,
    info: ModelInfo,
}

/// An engine behind HTTP.
pub struct Upstream {
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

impl Upstream {
    /// Asks the replicas what they are, and begins to look after them. Blocks while it asks.
    ///
    /// # Errors
    /// If no replica answers, or none has the model.
    pub fn open(config: UpstreamConfig) -> Result<Self, UpstreamError> {
        let client = Client::new(&config)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("rapport-upstream")
            .enable_all()
            .build()
            .map_err(|source| UpstreamError::Threads { source })?;
        let replicas = Replicas::new(&config)?;
        let found = {
            let (client, replicas) = (client.clone(), replicas.endpoints());
            let limit = config.limits.connect();
            let asking = async move { models::find(&client, &replicas, limit).await };
            // On a thread of its own: whoever opens this may be in a runtime already.
            std::thread::scope(|scope| {
                scope.spawn(|| runtime.block_on(asking)).join().map_err(|_| UpstreamError::NoModel)
            })??
        };
        let model = found.choose(config.model.as_deref())?;
        let dialect = config.dialect.unwrap_or(model.dialect);
        let engine = format!("{}/{dialect}", env!("CARGO_PKG_VERSION"));
        let info = ModelInfo {
            name: config.name.unwrap_or_else(|| model.id.clone()),
            context_tokens: config.context_tokens.unwrap_or(model.context_tokens),
            build: model.build.clone().unwrap_or_else(|| BuildId {
                weights: short_hash(&[&model.id]),
                adapter: "none".to_owned(),
                persona: "none".to_owned(),
                engine,
            }),
        };
        let shared = Arc::new(Shared {
            client,
            replicas,
            limits: config.limits,
            dialect,
            modes: config.modes,
            shares_cache: config.shares_cache,
            model: model.id,
            info,
        });
        let watched = Arc::downgrade(&shared);
        runtime.spawn(replicas::watch(watched));
        Ok(Self { shared, runtime: Some(runtime) })
    }

    /// What it speaks.
    pub fn dialect(&self) -> Dialect {
        self.shared.dialect
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        // Replies that are being made end with it; nobody may wait for them here.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream").field("model", &self.shared.info).finish_non_exhaustive()
    }
}

impl Generate for Upstream {
    fn model(&self) -> ModelInfo {
        self.shared.info.clone()
    }

    fn start(&self, request: Request, sink: EventSink) -> Result<Control, GenerateError> {
        let runtime = self.runtime.as_ref().ok_or(GenerateError::EngineStopped)?;
        let control = Control::default();
        let reply = reply::Making::new(&self.shared, &request, control.clone(), sink)?;
        runtime.spawn(reply.run());
        Ok(control)
    }

    fn readiness(&self) -> Readiness {
        match self.shared.replicas.are_away(Instant::now()) {
            None => Readiness::Ready,
            Some(wait) => Readiness::Away { retry_after_s: reply::whole_seconds(wait) },
        }
    }
}

/// The first 12 hexadecimal digits of a hash over all parts.
fn short_hash(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hex(&hash.finalize()[..6])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}
