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

/// A router, and the paths in it, from one table: so that a test can walk all of them.
macro_rules! route_table {
    ($state:ty; $($path:literal => $methods:expr,)*) => {
        pub(crate) const PATHS: &[&str] = &[$($path),*];

        fn table() -> axum::Router<$state> {
            axum::Router::new()$(.route($path, $methods))*
        }
    };
}
pub(crate) use route_table;

mod access;
mod answer;
mod anthropic;
mod body;
mod charge;
mod chores;
mod clock;
mod connections;
mod envelope;
mod error;
mod events;
mod filter;
mod grpc;
mod metrics;
mod models;
mod observe;
mod openai;
mod openapi;
mod otlp;
mod patient;
mod replies;
mod rewards;
mod stored;
mod tls;
mod wanted;
mod web;
mod xai;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use rapport_types::{Generate, Readiness};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;

use metrics::Metrics;
use observe::Watchers;
use stored::{Deferred, Responses};

pub use body::MAX_BODY_BYTES;
pub use charge::SCOPES;
pub use clock::{Clock, SystemClock};
pub use filter::{Finding, InputFilter};
pub use observe::{InvalidLogOption, Log, LogFormat, LogLevel, Sink};
pub use openapi::document as openapi_document;
pub use otlp::Traces;
pub use rewards::{ReplyScores, RewardServer, Sample, ScoreReplies};
pub use tls::{Tls, TlsError};
pub use web::{
    Accounts, AccountsConfig, AdminClaim, InvalidOidc, Oidc, OidcConfig, Pages, Persona,
    PersonaText, ReadMessages,
};

/// How long replies may go on after the server was asked to end.
pub const DEFAULT_DRAIN: Duration = Duration::from_secs(30);
/// How long clients have to read that their replies are cut.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// What browsers are told of a server with TLS: never to come without, for a year.
const TRANSPORT_SECURITY: HeaderValue = HeaderValue::from_static("max-age=31536000");

/// How long clients may take.
#[derive(Clone, Copy, Debug)]
pub struct TimeLimits {
    /// To send a body, beside what its size allows.
    pub body: Duration,
    /// To take the next piece of an answer.
    pub reading: Duration,
}

impl Default for TimeLimits {
    fn default() -> Self {
        Self { body: Duration::from_secs(30), reading: Duration::from_mins(1) }
    }
}

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
    pub time_limits: TimeLimits,
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
            time_limits: TimeLimits::default(),
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
    filter: filter::Slot,
    watchers: Arc<Watchers>,
    responses: Responses,
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
    tls: Option<Arc<Tls>>,
    watchers: Watchers,
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
            filter: filter::Slot::default(),
            watchers: Arc::default(),
            responses: Responses::default(),
            deferred: Deferred::default(),
            deferred_calls: Deferred::default(),
            is_draining: AtomicBool::new(false),
            accounts: None,
            ending: watch::Sender::new(false),
            started,
        };
        Ok(Self { listener, tls: None, watchers: Watchers::default(), app })
    }

    /// Offers another model beside the first, under its own name.
    #[must_use]
    pub fn with_model(mut self, generate: Arc<dyn Generate>) -> Self {
        self.app.models.push(generate);
        self
    }

    /// Refuses what this finds, before a model answers.
    #[must_use]
    pub fn with_input_filter(mut self, filter: Arc<dyn InputFilter>) -> Self {
        self.app.filter.filter = Some(filter);
        self
    }

    /// Says a line of each request.
    #[must_use]
    pub fn with_log(mut self, log: Log) -> Self {
        self.watchers.log = Some(log);
        self
    }

    /// Sends spans of requests and replies to a collector.
    #[must_use]
    pub fn with_traces(mut self, traces: Traces) -> Self {
        self.watchers.traces = Some(traces);
        self
    }

    /// Speaks nothing but TLS, with the certificate that is current when a client comes.
    #[must_use]
    pub fn with_tls(mut self, tls: Arc<Tls>) -> Self {
        self.tls = Some(tls);
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
        let Self { listener, tls, watchers, mut app } = self;
        app.watchers = Arc::new(watchers);
        let app = Arc::new(app);
        let chores = app.accounts.clone().map(|accounts| tokio::spawn(chores::run(accounts)));
        let stop = async {
            stop.await;
            app.is_draining.store(true, Ordering::Release);
        };
        let mut router = router(Arc::clone(&app));
        if tls.is_some() {
            router = router.layer(axum::middleware::map_response(only_tls));
        }
        let limits = app.config.time_limits;
        let counting = Some(Arc::clone(&app));
        let entrance = connections::Entrance { listener, tls, limits, app: counting };
        let running = connections::accept(entrance, router, stop).await;
        let mut ended = std::pin::pin!(running.shutdown());
        if tokio::time::timeout(app.config.drain, &mut ended).await.is_err() {
            app.ending.send_replace(true);
            // Whoever does not read even now is left behind.
            let _ = tokio::time::timeout(LAST_WORDS, ended).await;
        }
        web::end(&app, chores).await;
    }
}

async fn only_tls(mut response: Response) -> Response {
    response.headers_mut().insert(header::STRICT_TRANSPORT_SECURITY, TRANSPORT_SECURITY);
    response
}

route_table! {
    App;
    "/v1/chat/completions" => post(openai::chat::create),
    "/v1/chat/deferred-completion/{id}" => get(xai::deferred_completion),
    "/v1/completions" => post(openai::completions::create),
    "/v1/embeddings" => post(openai::embeddings::create),
    "/v1/responses" => post(openai::responses::create),
    "/v1/responses/{id}" => get(openai::responses::get).delete(openai::responses::delete),
    "/v1/responses/{id}/input_items" => get(openai::responses::input_items),
    "/v1/messages" => post(anthropic::create),
    "/v1/messages/count_tokens" => post(anthropic::count_tokens),
    "/v1/models" => get(models::list),
    "/v1/models/{id}" => get(models::get),
    "/v1/language-models" => get(xai::language_models),
    "/v1/language-models/{id}" => get(xai::get_language_model),
    "/v1/embedding-models" => get(xai::embedding_models),
    "/v1/embedding-models/{id}" => get(xai::get_embedding_model),
    "/v1/image-generation-models" => get(xai::no_models),
    "/v1/tokenize-text" => post(xai::tokenize_text),
    "/v1/api-key" => get(xai::api_key),
    "/metrics" => get(metrics),
}

/// Every path of a server that knows people, as the routes name them: what stands in braces is a
/// name or a number.
pub fn paths() -> Vec<String> {
    let protocols = PATHS.iter().map(|path| (*path).to_owned());
    protocols.chain(web::PATHS.iter().map(|path| format!("/api{path}"))).collect()
}

fn router(app: App) -> Router {
    let protocols = table()
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
        .layer(axum::Extension(body::BodyTime(app.config.time_limits.body)))
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&app), envelope::wrap))
        .with_state(app)
}

#[derive(serde::Deserialize)]
struct ReadyQuery {
    /// One model instead of all.
    model: Option<String>,
}

/// Whether new requests are welcome, and how each model is. The first model decides, or the one that
/// is asked for.
async fn ready(
    State(app): State<App>,
    Query(ReadyQuery { model }): Query<ReadyQuery>,
) -> Result<(StatusCode, String), error::ApiError> {
    if app.is_draining.load(Ordering::Acquire) {
        return Ok((StatusCode::SERVICE_UNAVAILABLE, "ending\n".to_owned()));
    }
    let asked = match model {
        Some(name) => vec![models::find(&app, &name)?.generate],
        None => app.models.clone(),
    };
    let is_ready = asked.first().is_some_and(|generate| generate.readiness() == Readiness::Ready);
    let line = |generate: &Arc<dyn Generate>| {
        format!("{} is {}\n", generate.model().name, generate.readiness())
    };
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok((status, asked.iter().map(line).collect()))
}

async fn metrics(State(app): State<App>) -> impl IntoResponse {
    let mut text = app.metrics.text(app.watchers.traces.as_ref().map(Traces::n_dropped));
    app.filter.write_metrics(&mut text);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text)
}

async fn openapi() -> Json<Value> {
    Json(openapi_document())
}
