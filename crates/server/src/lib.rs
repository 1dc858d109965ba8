//! A model behind HTTP, in the protocols that existing clients speak.
//!
//! One internal request ([`rapport_types::Request`]) stands behind every protocol; a module for each
//! turns its words into that and events back into its words. Whoever asks goes on reading, or the
//! reply ends within a token and its place is free.
//!
//! What is not here: models, SQL, the environment, accounts.
//!
//! Start reading at [`Server`], then `openai/chat.rs` for the life of one request.

mod access;
mod error;
mod metrics;
mod openai;
mod replies;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use rapport_types::Generate;
use tokio::net::TcpListener;

use metrics::Metrics;

/// The largest body that is read.
pub const MAX_BODY_BYTES: usize = 4 << 20;
/// How long replies may go on after the server was asked to end.
const DRAIN: Duration = Duration::from_secs(30);

/// How to serve.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    pub address: SocketAddr,
    /// Names beside addresses and `localhost` under which the server may be called.
    pub host_names: Vec<String>,
    /// What clients must show as `Authorization: Bearer KEY`; `None` asks for nothing.
    pub api_key: Option<String>,
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
    #[error("the server broke: {source}")]
    Broken { source: std::io::Error },
}

/// What every request sees.
struct Shared {
    generate: Arc<dyn Generate>,
    config: ServerConfig,
    metrics: Metrics,
    /// Unix seconds, for `created` of models.
    started: u64,
}

type App = Arc<Shared>;

/// A server that listens and has not begun to answer.
pub struct Server {
    listener: TcpListener,
    app: App,
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
        if !address.ip().is_loopback() && config.api_key.is_none() {
            return Err(ServeError::OpenToAll { address });
        }
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| ServeError::Listen { address, source })?;
        let started = replies::unix_seconds();
        let app = Shared { generate, config, metrics: Metrics::default(), started };
        Ok(Self { listener, app: Arc::new(app) })
    }

    /// Where it listens: with the real port where 0 was asked for.
    ///
    /// # Errors
    /// [`ServeError::Broken`] if the system no longer knows.
    pub fn address(&self) -> Result<SocketAddr, ServeError> {
        self.listener.local_addr().map_err(|source| ServeError::Broken { source })
    }

    /// Answers until `stop` resolves; then replies that are being made have half a minute to end.
    ///
    /// # Errors
    /// [`ServeError::Broken`] if the listener fails.
    pub async fn run(
        self,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), ServeError> {
        let (stopped, stopping) = tokio::sync::oneshot::channel();
        let stop = async move {
            stop.await;
            // Nobody listens if serving has ended by itself.
            let _ = stopped.send(());
        };
        let serving = axum::serve(self.listener, router(self.app)).with_graceful_shutdown(stop);
        let too_long = async {
            match stopping.await {
                Ok(()) => tokio::time::sleep(DRAIN).await,
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            outcome = serving => outcome.map_err(|source| ServeError::Broken { source }),
            () = too_long => Ok(()),
        }
    }
}

fn router(app: App) -> Router {
    let protocols = Router::new()
        .route("/v1/chat/completions", post(openai::chat::create))
        .route("/v1/models", get(openai::models::list))
        .route("/v1/models/{id}", get(openai::models::get))
        .route("/metrics", get(metrics))
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&app), access::check_key));
    Router::new()
        .merge(protocols)
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .fallback(|| async { error::ApiError::no_such_path() })
        .method_not_allowed_fallback(|| async { error::ApiError::wrong_method() })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&app), access::check_origin))
        .with_state(app)
}

async fn ready(State(app): State<App>) -> impl IntoResponse {
    (StatusCode::OK, format!("{} is ready\n", app.generate.model().name))
}

async fn metrics(State(app): State<App>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], app.metrics.text())
}
