//! A model behind HTTP, in the protocols that existing clients speak.
//!
//! One internal request ([`rapport_types::Request`]) stands behind every protocol; a module for each
//! turns its words into that and events back into its words. Whoever asks goes on reading, or the
//! reply ends within a token and its place is free.
//!
//! With [`Accounts`] it also knows people: `web/` is what the web app talks to, `charge.rs` counts
//! what is used.
//!
//! What is not here: models, SQL, the environment.
//!
//! Start reading at [`Server`], then `openai/chat.rs` for the life of one request.

mod access;
mod answer;
mod anthropic;
mod body;
mod charge;
mod connections;
mod envelope;
mod error;
mod events;
mod grpc;
mod metrics;
mod models;
mod openai;
mod openapi;
mod replies;
mod stored;
mod wanted;
mod web;
mod xai;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use rapport_types::Generate;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;

use metrics::Metrics;
use stored::Deferred;

pub use body::MAX_BODY_BYTES;
pub use charge::{Plan, Plans, Prices};
pub use openapi::document as openapi_document;
pub use stored::{MemoryResponses, Owner, ResponseStore, StoreError, StoredResponse};
pub use web::{Accounts, AccountsConfig, Pages, Persona};

/// How long replies may go on after the server was asked to end.
pub const DEFAULT_DRAIN: Duration = Duration::from_secs(30);
/// How long clients have to read that their replies are cut.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How to serve.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    pub address: SocketAddr,
    /// Names beside addresses and `localhost` under which the server may be called.
    pub host_names: Vec<String>,
    /// What clients must show as `Authorization: Bearer KEY`; `None` asks for nothing.
    pub api_key: Option<String>,
    /// Whether a request without a key is refused; else whoever reaches the address is the person at
    /// this machine, and pays nothing.
    pub requires_key: bool,
    /// How long replies may go on after the server was asked to end.
    pub drain: Duration,
}

impl ServerConfig {
    /// For whoever is at this machine.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            host_names: Vec::new(),
            api_key: None,
            requires_key: false,
            drain: DEFAULT_DRAIN,
        }
    }
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(
        "{address} can be reached from other machines and anybody could use it: set RAPPORT_API_KEY, \
         or use --host 127.0.0.1"
    )]
    OpenToAll { address: SocketAddr },
    #[error("cannot listen on {address}: {source}; another --port may be free")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("the address that was taken cannot be read: {source}")]
    Address { source: std::io::Error },
}

/// What every request sees.
struct Shared {
    /// The first is `rapport`.
    models: Vec<Arc<dyn Generate>>,
    config: ServerConfig,
    metrics: Metrics,
    responses: Arc<dyn ResponseStore>,
    deferred: Deferred<Value>,
    /// Of gRPC.
    deferred_calls: Deferred<grpc::GetChatCompletionResponse>,
    is_draining: AtomicBool,
    /// People, where the server knows any.
    accounts: Option<Arc<Accounts>>,
    /// Whether replies have to end now.
    ending: watch::Sender<bool>,
    /// Unix seconds, for `created` of models.
    started: u64,
}

type App = Arc<Shared>;

/// A server that listens and has not begun to answer.
pub struct Server {
    listener: TcpListener,
    app: Shared,
}

impl Server {
    /// Takes the address.
    ///
    /// # Errors
    /// [`ServeError::OpenToAll`] before anything is opened, [`ServeError::Listen`] if it is taken.
    pub async fn listen(
        config: ServerConfig,
        generate: Arc<dyn Generate>,
    ) -> Result<Self, ServeError> {
        let address = config.address;
        if !address.ip().is_loopback() && config.api_key.is_none() && !config.requires_key {
            return Err(ServeError::OpenToAll { address });
        }
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| ServeError::Listen { address, source })?;
        let started = replies::unix_seconds();
        let app = Shared {
            models: vec![generate],
            config,
            metrics: Metrics::default(),
            responses: Arc::new(MemoryResponses::default()),
            deferred: Deferred::default(),
            deferred_calls: Deferred::default(),
            is_draining: AtomicBool::new(false),
            accounts: None,
            ending: watch::Sender::new(false),
            started,
        };
        Ok(Self { listener, app })
    }

    /// Offers another model beside the first, under its own name.
    #[must_use]
    pub fn with_model(mut self, generate: Arc<dyn Generate>) -> Self {
        self.app.models.push(generate);
        self
    }

    /// Keeps responses there instead of in memory.
    #[must_use]
    pub fn with_responses(mut self, responses: Arc<dyn ResponseStore>) -> Self {
        self.app.responses = responses;
        self
    }

    /// Knows people: keys, plans and the web app.
    #[must_use]
    pub fn with_accounts(mut self, accounts: Accounts) -> Self {
        self.app.accounts = Some(Arc::new(accounts));
        self
    }

    /// Where it listens: with the real port where 0 was asked for.
    ///
    /// # Errors
    /// [`ServeError::Address`] if the system no longer knows.
    pub fn address(&self) -> Result<SocketAddr, ServeError> {
        self.listener.local_addr().map_err(|source| ServeError::Address { source })
    }

    /// Answers until `stop` resolves; then replies that are being made have [`ServerConfig::drain`]
    /// to end, and those that have not are cut with an error that their clients can read.
    pub async fn run(self, stop: impl Future<Output = ()> + Send) {
        let Self { listener, app } = self;
        let app = Arc::new(app);
        let chores = web::start_chores(&app);
        let stop = async {
            stop.await;
            app.is_draining.store(true, Ordering::Release);
        };
        let running = connections::accept(listener, router(Arc::clone(&app)), stop).await;
        let mut ended = std::pin::pin!(running.shutdown());
        if tokio::time::timeout(app.config.drain, &mut ended).await.is_err() {
            app.ending.send_replace(true);
            // Whoever does not read even now is left behind.
            let _ = tokio::time::timeout(LAST_WORDS, ended).await;
        }
        web::end(&app, chores).await;
    }
}

fn router(app: App) -> Router {
    let protocols = Router::new()
        .route("/v1/chat/completions", post(openai::chat::create))
        .route("/v1/chat/deferred-completion/{id}", get(xai::deferred_completion))
        .route("/v1/completions", post(openai::completions::create))
        .route("/v1/responses", post(openai::responses::create))
        .route("/v1/responses/{id}", get(openai::responses::get).delete(openai::responses::delete))
        .route("/v1/responses/{id}/input_items", get(openai::responses::input_items))
        .route("/v1/messages", post(anthropic::create))
        .route("/v1/messages/count_tokens", post(anthropic::count_tokens))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{id}", get(models::get))
        .route("/v1/language-models", get(xai::language_models))
        .route("/v1/language-models/{id}", get(xai::get_language_model))
        .route("/v1/embedding-models", get(xai::no_models))
        .route("/v1/image-generation-models", get(xai::no_models))
        .route("/v1/tokenize-text", post(xai::tokenize_text))
        .route("/v1/api-key", get(xai::api_key))
        .route("/metrics", get(metrics))
        .merge(grpc::routes())
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&app), access::check_key));
    let others = match &app.accounts {
        Some(accounts) => web::routes(&app, accounts),
        None => Router::new().fallback(|| async { error::ApiError::no_such_path() }),
    };
    Router::new()
        .merge(protocols)
        .route("/openapi.json", get(openapi))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .merge(others)
        .method_not_allowed_fallback(|| async { error::ApiError::wrong_method() })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&app), access::check_origin))
        .layer(axum::middleware::from_fn(envelope::wrap))
        .with_state(app)
}

/// Whether new requests are welcome, and what answers them.
async fn ready(State(app): State<App>) -> impl IntoResponse {
    if app.is_draining.load(Ordering::Acquire) {
        return (StatusCode::SERVICE_UNAVAILABLE, "ending\n".to_owned());
    }
    let models = app.models.iter().map(|generate| format!("{} is ready\n", generate.model().name));
    (StatusCode::OK, models.collect())
}

async fn metrics(State(app): State<App>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], app.metrics.text())
}

async fn openapi() -> Json<Value> {
    Json(openapi_document())
}
