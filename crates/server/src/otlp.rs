//! Spans on their way to a collector: OTLP over HTTP in JSON, from a thread of its own.
//!
//! Source: <https://opentelemetry.io/docs/specs/otlp/>, with the field names of
//! `opentelemetry/proto/trace/v1/trace.proto`. Sampling beyond the client's own flag, metrics and
//! logs are left out: the server has `/metrics` and lines.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use ureq::Agent;
use ureq::tls::{RootCerts, TlsConfig, TlsProvider};

/// Spans that may wait for the thread; more are dropped and counted.
const MAX_WAITING: usize = 2048;
/// Spans of one message.
const MAX_BATCH: usize = 512;
/// How long a span waits for others.
const MAX_DELAY: Duration = Duration::from_secs(2);
/// How long the collector may take.
const MAX_TIME: Duration = Duration::from_secs(10);

/// A stretch of work.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Span {
    pub(crate) trace: u128,
    pub(crate) id: u64,
    pub(crate) parent: Option<u64>,
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) began_nanos: u64,
    pub(crate) ended_nanos: u64,
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) error: Option<String>,
}

/// `Span.SpanKind` of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Internal = 1,
    Server = 2,
}

/// `KeyValue` of the protocol.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Attribute {
    name: &'static str,
    value: Value,
}

impl Attribute {
    pub(crate) fn text(name: &'static str, value: &str) -> Self {
        Self { name, value: json!({ "stringValue": value }) }
    }

    /// Numbers of 64 bits travel as text.
    pub(crate) fn int(name: &'static str, value: i64) -> Self {
        Self { name, value: json!({ "intValue": value.to_string() }) }
    }

    pub(crate) fn double(name: &'static str, value: f64) -> Self {
        Self { name, value: json!({ "doubleValue": value }) }
    }

    pub(crate) fn texts(name: &'static str, values: &[&str]) -> Self {
        let values: Vec<Value> =
            values.iter().map(|value| json!({ "stringValue": value })).collect();
        Self { name, value: json!({ "arrayValue": { "values": values } }) }
    }

    fn form(&self) -> Value {
        json!({ "key": self.name, "value": self.value })
    }
}

impl Span {
    fn form(&self) -> Value {
        let attributes: Vec<Value> = self.attributes.iter().map(Attribute::form).collect();
        let mut form = json!({
            "traceId": format!("{:032x}", self.trace),
            "spanId": format!("{:016x}", self.id),
            "name": self.name,
            "kind": self.kind as u8,
            "startTimeUnixNano": self.began_nanos.to_string(),
            "endTimeUnixNano": self.ended_nanos.to_string(),
            "attributes": attributes,
        });
        if let Some(parent) = self.parent {
            form["parentSpanId"] = json!(format!("{parent:016x}"));
        }
        if let Some(error) = &self.error {
            form["status"] = json!({ "code": 2, "message": error });
        }
        form
    }
}

/// `ExportTraceServiceRequest` of the protocol.
fn message(spans: &[Span]) -> Value {
    let resource = [
        Attribute::text("service.name", "rapport"),
        Attribute::text("service.version", env!("CARGO_PKG_VERSION")),
    ];
    json!({ "resourceSpans": [{
        "resource": { "attributes": resource.iter().map(Attribute::form).collect::<Vec<_>>() },
        "scopeSpans": [{
            "scope": { "name": "rapport-server", "version": env!("CARGO_PKG_VERSION") },
            "spans": spans.iter().map(Span::form).collect::<Vec<_>>(),
        }],
    }] })
}

/// The way to a collector.
#[derive(Debug)]
pub struct Traces {
    spans: Option<SyncSender<Span>>,
    thread: Option<JoinHandle<()>>,
    n_dropped: Arc<AtomicU64>,
}

impl Traces {
    /// Sends spans to the collector at `endpoint`, such as `http://127.0.0.1:4318`.
    pub fn start(endpoint: &str) -> Self {
        let (spans, waiting) = sync_channel(MAX_WAITING);
        let n_dropped = Arc::new(AtomicU64::new(0));
        let url = format!("{}/v1/traces", endpoint.trim_end_matches('/'));
        let counter = Arc::clone(&n_dropped);
        let thread = std::thread::spawn(move || send_all(&url, &waiting, &counter));
        Self { spans: Some(spans), thread: Some(thread), n_dropped }
    }

    pub(crate) fn send(&self, span: Span) {
        let sent = self.spans.as_ref().is_some_and(|spans| spans.try_send(span).is_ok());
        if !sent {
            self.n_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Spans that no collector has taken.
    pub(crate) fn n_dropped(&self) -> u64 {
        self.n_dropped.load(Ordering::Relaxed)
    }
}

impl Drop for Traces {
    /// What waits is sent first.
    fn drop(&mut self) {
        self.spans = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn send_all(url: &str, waiting: &Receiver<Span>, n_dropped: &AtomicU64) {
    let tls = TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .root_certs(RootCerts::PlatformVerifier)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build();
    let agent: Agent = Agent::config_builder()
        .tls_config(tls)
        .max_redirects(0)
        .timeout_global(Some(MAX_TIME))
        .build()
        .new_agent();
    while let Ok(first) = waiting.recv() {
        let until = Instant::now() + MAX_DELAY;
        let mut batch = vec![first];
        while batch.len() < MAX_BATCH {
            match waiting.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(span) => batch.push(span),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        let body = message(&batch).to_string();
        let sent = agent.post(url).header("content-type", "application/json").send(body);
        if sent.is_err() {
            n_dropped.fetch_add(batch.len() as u64, Ordering::Relaxed);
        }
    }
}
