//! HTTP/1.1 with TLS where the address says so: one pool of connections for all replicas.

use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use hyper::http::request::Builder;
use hyper::{Method, Request, Response, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;

use crate::UpstreamError;
use crate::config::UpstreamConfig;
use crate::replicas::Endpoint;

/// Engines hang up on connections that are not used, llama-server after five seconds.
const POOL_IDLE: Duration = Duration::from_secs(4);
/// Of a body that tells of an error, or lists models.
const MAX_TOLD_BYTES: usize = 1 << 20;

/// Cloning shares the connections.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pool: Pool<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Client {
    pub(crate) fn new(config: &UpstreamConfig) -> Result<Self, UpstreamError> {
        let is_tls = |url: &str| url.starts_with("https:");
        let needs_tls = config.replicas.iter().any(|replica| is_tls(&replica.url));
        let provider = rustls::crypto::ring::default_provider();
        let builder = HttpsConnectorBuilder::new();
        let builder = if needs_tls {
            let tls = |error: std::io::Error| UpstreamError::Tls { reason: error.to_string() };
            builder.with_provider_and_native_roots(provider).map_err(tls)?
        } else {
            let tls = |error: rustls::Error| UpstreamError::Tls { reason: error.to_string() };
            let config = ClientConfig::builder_with_provider(provider.into())
                .with_safe_default_protocol_versions()
                .map_err(tls)?
                .with_root_certificates(RootCertStore::empty())
                .with_no_client_auth();
            builder.with_tls_config(config)
        };
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        // A token is a few bytes and is waited for.
        http.set_nodelay(true);
        http.set_connect_timeout(Some(config.limits.connect()));
        let connector = builder.https_or_http().enable_http1().wrap_connector(http);
        let pool = Pool::builder(TokioExecutor::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_timer(TokioTimer::new())
            .build(connector);
        Ok(Self { pool })
    }

    /// Sends a body and waits for the head of the answer.
    pub(crate) async fn post(
        &self,
        endpoint: &Endpoint,
        path: &str,
        headers: &[(&'static str, HeaderValue)],
        body: Bytes,
    ) -> Result<Response<Incoming>, String> {
        let mut request = request(endpoint, Method::POST, path)?
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "text/event-stream");
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        self.send(request, Full::new(body)).await
    }

    /// Asks for JSON.
    pub(crate) async fn get(
        &self,
        endpoint: &Endpoint,
        path: &str,
    ) -> Result<(u16, Value), String> {
        let request = request(endpoint, Method::GET, path)?;
        let response = self.send(request, Full::default()).await?;
        let status = response.status().as_u16();
        Ok((status, told(response.into_body()).await))
    }

    async fn send(
        &self,
        request: Builder,
        body: Full<Bytes>,
    ) -> Result<Response<Incoming>, String> {
        let request: Request<_> = request.body(body).map_err(|error| error.to_string())?;
        self.pool.request(request).await.map_err(|error| {
            let what = if error.is_connect() { "cannot connect" } else { "the connection broke" };
            what.to_owned()
        })
    }
}

fn request(endpoint: &Endpoint, method: Method, path: &str) -> Result<Builder, String> {
    let address = format!("{}{path}", endpoint.base);
    let uri: Uri = address.parse().map_err(|_| "the address cannot be used".to_owned())?;
    let request = Request::builder().method(method).uri(uri);
    Ok(match &endpoint.key {
        Some(key) => request.header(hyper::header::AUTHORIZATION, key),
        None => request,
    })
}

/// The JSON of a short body; what is longer, or no JSON, tells nothing.
pub(crate) async fn told(mut body: Incoming) -> Value {
    let mut bytes = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        if let Some(part) = frame.data_ref() {
            if bytes.len() + part.len() > MAX_TOLD_BYTES {
                return Value::Null;
            }
            bytes.extend_from_slice(part);
        }
    }
    serde_json::from_slice(&bytes).unwrap_or(Value::Null)
}
