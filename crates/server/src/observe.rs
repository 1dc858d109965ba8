//! What happens, for whoever runs the server: a line for each request, and spans for traces.
//!
//! A request has an [`Observed`] from its head to the last byte of its answer; the replies that are
//! made for it add what they used. Neither prompts nor answers nor keys are ever in it: a person is a
//! keyed hash, a path its pattern.
//!
//! What is not here: where lines and spans go ([`Sink`] and `otlp.rs`).

use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Method, StatusCode};
use http_body::{Frame, SizeHint};
use rapport_types::{Caller, FinishReason, Outcome, Request, Usage};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::otlp::{Attribute, Kind, Span, Traces};
use crate::replies::{fresh_number, rfc3339};

/// Where lines go; must not block for long.
pub trait Sink: Send + Sync {
    fn write(&self, line: &str);
}

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    #[default]
    Text,
    /// An object a line.
    Json,
}

/// How much is said; each level says what those before it say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    Off,
    /// Faults of the server: statuses from 500 on, replies that broke.
    Error,
    /// Refusals: statuses from 400 on.
    #[default]
    Warn,
    /// Every request.
    Info,
}

/// Why a word is no format or level.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is not one of {known}")]
pub struct InvalidLogOption {
    found: String,
    known: &'static str,
}

impl std::str::FromStr for LogFormat {
    type Err = InvalidLogOption;

    fn from_str(text: &str) -> Result<Self, InvalidLogOption> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(InvalidLogOption { found: text.to_owned(), known: "text and json" }),
        }
    }
}

impl std::str::FromStr for LogLevel {
    type Err = InvalidLogOption;

    fn from_str(text: &str) -> Result<Self, InvalidLogOption> {
        let known = "off, error, warn and info";
        match text {
            "off" => Ok(Self::Off),
            "error" => Ok(Self::Error),
            "warn" => Ok(Self::Warn),
            "info" => Ok(Self::Info),
            _ => Err(InvalidLogOption { found: text.to_owned(), known }),
        }
    }
}

/// Lines for whoever runs the server.
pub struct Log {
    pub sink: Box<dyn Sink>,
    pub format: LogFormat,
    pub level: LogLevel,
}

/// Who looks on.
#[derive(Default)]
pub(crate) struct Watchers {
    pub(crate) log: Option<Log>,
    pub(crate) traces: Option<Traces>,
}

impl Watchers {
    /// Says a line, if its level is wanted.
    fn line(&self, level: LogLevel, at: SystemTime, facts: &Map<String, Value>) {
        let Some(log) = self.log.as_ref().filter(|log| level <= log.level) else { return };
        let word = match level {
            LogLevel::Off => return,
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
        };
        let time = rfc3339(unix_nanos(at) / 1_000_000_000);
        let line = match log.format {
            LogFormat::Json => {
                let mut line = json!({ "time": time, "level": word });
                if let Some(line) = line.as_object_mut() {
                    line.extend(facts.clone());
                }
                line.to_string()
            }
            LogFormat::Text => {
                facts.iter().fold(format!("{time} {word}"), |line, (name, value)| {
                    let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    line + " " + name + "=" + &value
                })
            }
        };
        log.sink.write(&line);
    }
}

/// A request while it is answered.
pub(crate) struct Observed {
    watchers: Arc<Watchers>,
    id: String,
    method: &'static str,
    route: String,
    /// Of its trace; `None` where the client does not want to be traced.
    trace: Option<Place>,
    began: SystemTime,
    began_at: Instant,
    first_byte_after: OnceLock<Duration>,
    facts: Mutex<Facts>,
}

/// Where a span is in its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    trace: u128,
    span: u64,
    parent: Option<u64>,
}

#[derive(Default)]
struct Facts {
    status: u16,
    user: Option<String>,
    model: Option<String>,
    usage: Usage,
    is_over: bool,
}

tokio::task_local! {
    /// The request that this task answers.
    static OBSERVED: Arc<Observed>;
}

/// Runs something as part of a request.
pub(crate) async fn within<T>(observed: Option<Arc<Observed>>, work: impl Future<Output = T>) -> T {
    match observed {
        Some(observed) => OBSERVED.scope(observed, work).await,
        None => work.await,
    }
}

/// The request that this task answers.
pub(crate) fn current() -> Option<Arc<Observed>> {
    OBSERVED.try_with(Arc::clone).ok()
}

/// Notes whose request this is, by nothing that leads back to the person.
pub(crate) fn note_caller(caller: &Caller) {
    let digest = Sha256::new().chain_update("log").chain_update(caller.key).finalize();
    let number = digest[..6].iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    if let Some(observed) = current() {
        observed.facts().user = Some(format!("{number:012x}"));
    }
}

fn unix_nanos(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// Methods are a closed list in lines and counters, whatever clients send.
pub(crate) fn method_name(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "OTHER",
    }
}

impl Observed {
    pub(crate) fn begin(
        watchers: &Arc<Watchers>,
        id: &str,
        (method, route): (&'static str, String),
        headers: &HeaderMap,
    ) -> Arc<Self> {
        let trace = watchers.traces.is_some().then(|| place(headers)).flatten();
        Arc::new(Self {
            watchers: Arc::clone(watchers),
            id: id.to_owned(),
            method,
            route,
            trace,
            began: SystemTime::now(),
            began_at: Instant::now(),
            first_byte_after: OnceLock::new(),
            facts: Mutex::default(),
        })
    }

    pub(crate) fn route(&self) -> &str {
        &self.route
    }

    fn facts(&self) -> std::sync::MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on until the last byte of this body was taken, or nobody takes it any more.
    pub(crate) fn until_the_end_of(self: Arc<Self>, status: StatusCode, body: Body) -> Body {
        self.facts().status = status.as_u16();
        Body::new(Watched { body, observed: self })
    }

    /// A reply was made for it, or broke.
    pub(crate) fn reply_ended(&self, reply: &ReplyFacts, outcome: Result<&Outcome, &'static str>) {
        let usage = outcome.map(|outcome| outcome.usage).unwrap_or_default();
        let is_over = {
            let mut facts = self.facts();
            facts.model = Some(reply.model.clone());
            let sum = &mut facts.usage;
            sum.prompt_tokens += usage.prompt_tokens;
            sum.cached_tokens += usage.cached_tokens;
            sum.completion_tokens += usage.completion_tokens;
            sum.reasoning_tokens += usage.reasoning_tokens;
            facts.is_over
        };
        // The page's request is over long before its reply is, which therefore has a line of its own.
        if is_over {
            let mut line = Map::new();
            line.insert("event".to_owned(), json!("reply"));
            line.insert("id".to_owned(), json!(self.id));
            line.insert("ms".to_owned(), milliseconds(reply.began_at.elapsed()));
            line.insert("model".to_owned(), json!(reply.model));
            tell_usage(&mut line, usage);
            let user = self.facts().user.clone();
            line.extend(user.map(|user| ("user".to_owned(), json!(user))));
            let level = if outcome.is_ok() { LogLevel::Info } else { LogLevel::Error };
            line.extend(outcome.err().map(|error| ("error".to_owned(), json!(error))));
            self.watchers.line(level, SystemTime::now(), &line);
        }
        if let (Some(traces), Some(place)) = (&self.watchers.traces, self.trace) {
            let own = Place { span: fresh_number(), parent: Some(place.span), ..place };
            traces.send(reply.span(own, usage, outcome));
        }
    }

    /// The input filter refused what was asked.
    pub(crate) fn refused(&self, category: &str, probability: f32, filter: &str) {
        let mut line = Map::new();
        line.insert("event".to_owned(), json!("refused"));
        line.insert("id".to_owned(), json!(self.id));
        line.insert("category".to_owned(), json!(category));
        line.insert("probability".to_owned(), json!(probability));
        line.insert("filter".to_owned(), json!(filter));
        let user = self.facts().user.clone();
        line.extend(user.map(|user| ("user".to_owned(), json!(user))));
        self.watchers.line(LogLevel::Warn, SystemTime::now(), &line);
    }

    fn end(&self) {
        let (status, user, model, usage) = {
            let mut facts = self.facts();
            facts.is_over = true;
            (facts.status, facts.user.clone(), facts.model.clone(), facts.usage)
        };
        let level = match status {
            500.. => LogLevel::Error,
            400.. => LogLevel::Warn,
            _ => LogLevel::Info,
        };
        let mut line = Map::new();
        line.insert("event".to_owned(), json!("request"));
        line.insert("id".to_owned(), json!(self.id));
        line.insert("method".to_owned(), json!(self.method));
        line.insert("route".to_owned(), json!(self.route));
        line.insert("status".to_owned(), json!(status));
        line.insert("ms".to_owned(), milliseconds(self.began_at.elapsed()));
        let first = self.first_byte_after.get().map(|after| milliseconds(*after));
        line.extend(first.map(|after| ("first_byte_ms".to_owned(), after)));
        if let Some(model) = model {
            line.insert("model".to_owned(), json!(model));
            tell_usage(&mut line, usage);
        }
        line.extend(user.map(|user| ("user".to_owned(), json!(user))));
        self.watchers.line(level, SystemTime::now(), &line);
        if let (Some(traces), Some(place)) = (&self.watchers.traces, self.trace) {
            let text = |name, value: &str| Attribute::text(name, value);
            let mut attributes = vec![
                text("http.request.method", self.method),
                text("http.route", &self.route),
                Attribute::int("http.response.status_code", i64::from(status)),
                text("rapport.request.id", &self.id),
            ];
            if status >= 500 {
                attributes.push(text("error.type", &status.to_string()));
            }
            traces.send(Span {
                trace: place.trace,
                id: place.span,
                parent: place.parent,
                name: format!("{} {}", self.method, self.route),
                kind: Kind::Server,
                began_nanos: unix_nanos(self.began),
                ended_nanos: unix_nanos(self.began + self.began_at.elapsed()),
                attributes,
                error: (status >= 500).then(|| format!("status {status}")),
            });
        }
    }
}

fn milliseconds(time: Duration) -> Value {
    json!((time.as_secs_f64() * 1e4).round() / 10.0)
}

fn tell_usage(line: &mut Map<String, Value>, usage: Usage) {
    for (name, n_tokens) in [
        ("prompt_tokens", usage.prompt_tokens),
        ("cached_tokens", usage.cached_tokens),
        ("answer_tokens", usage.completion_tokens),
        ("reasoning_tokens", usage.reasoning_tokens),
    ] {
        line.insert(name.to_owned(), json!(n_tokens));
    }
}

/// What is known of a reply before it is made.
#[derive(Clone, Debug)]
pub(crate) struct ReplyFacts {
    pub(crate) model: String,
    max_tokens: u32,
    temperature: f32,
    began: SystemTime,
    pub(crate) began_at: Instant,
}

impl ReplyFacts {
    pub(crate) fn new(model: String, request: &Request) -> Self {
        Self {
            model,
            max_tokens: request.max_tokens,
            temperature: request.sampling.temperature,
            began: SystemTime::now(),
            began_at: Instant::now(),
        }
    }

    /// In the words of OpenTelemetry's conventions for generative AI.
    fn span(&self, place: Place, usage: Usage, outcome: Result<&Outcome, &'static str>) -> Span {
        let text = |name, value: &str| Attribute::text(name, value);
        let count = |name, n_tokens: u32| Attribute::int(name, i64::from(n_tokens));
        let mut attributes = vec![
            text("gen_ai.operation.name", "chat"),
            text("gen_ai.provider.name", "rapport"),
            text("gen_ai.request.model", &self.model),
            count("gen_ai.request.max_tokens", self.max_tokens),
            Attribute::double("gen_ai.request.temperature", f64::from(self.temperature)),
            count("gen_ai.usage.input_tokens", usage.prompt_tokens),
            count("gen_ai.usage.cache_read.input_tokens", usage.cached_tokens),
            count("gen_ai.usage.output_tokens", usage.completion_tokens + usage.reasoning_tokens),
        ];
        match outcome {
            Ok(outcome) => {
                let reason = match outcome.reason {
                    FinishReason::Stop => "stop",
                    FinishReason::Length => "length",
                    FinishReason::Cancelled => "cancelled",
                };
                attributes.push(text("gen_ai.response.model", &self.model));
                attributes.push(Attribute::texts("gen_ai.response.finish_reasons", &[reason]));
                attributes.push(text("rapport.build", &outcome.build.to_string()));
            }
            Err(error) => attributes.push(text("error.type", error)),
        }
        Span {
            trace: place.trace,
            id: place.span,
            parent: place.parent,
            name: format!("chat {}", self.model),
            kind: Kind::Internal,
            began_nanos: unix_nanos(self.began),
            ended_nanos: unix_nanos(self.began + self.began_at.elapsed()),
            attributes,
            error: outcome.err().map(str::to_owned),
        }
    }
}

/// A new span, in the client's trace where it sent one (W3C trace context, `traceparent`).
fn place(headers: &HeaderMap) -> Option<Place> {
    let span = fresh_number();
    let parent = headers.get("traceparent").and_then(|value| value.to_str().ok());
    let Some((trace, parent, flags)) = parent.and_then(parent_of) else {
        let trace = u128::from(fresh_number()) << 64 | u128::from(fresh_number());
        return Some(Place { trace, span, parent: None });
    };
    (flags & 1 == 1).then_some(Place { trace, span, parent: Some(parent) })
}

fn parent_of(text: &str) -> Option<(u128, u64, u8)> {
    let mut parts = text.trim().split('-');
    let mut hex = |n_digits: usize| {
        let part = parts.next()?;
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (part.len() == n_digits && part.bytes().all(is_hex)).then_some(part)
    };
    let version = hex(2)?;
    let trace = u128::from_str_radix(hex(32)?, 16).ok()?;
    let parent = u64::from_str_radix(hex(16)?, 16).ok()?;
    let flags = u8::from_str_radix(hex(2)?, 16).ok()?;
    (version != "ff" && trace != 0 && parent != 0).then_some((trace, parent, flags))
}

/// A body that tells when its first byte goes and when it is over, however that comes.
struct Watched {
    body: Body,
    observed: Arc<Observed>,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        let frame = Pin::new(&mut this.body).poll_frame(context);
        if frame.is_ready() {
            this.observed.first_byte_after.get_or_init(|| this.observed.began_at.elapsed());
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.observed.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_well_formed_parents_are_taken_up() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let (trace, parent, flags) = parent_of(good).unwrap();
        assert_eq!((trace >> 64, parent, flags), (0x0af7_6519_16cd_43dd, 0xb7ad_6b71_6920_3331, 1));
        for wrong in [
            "",
            "00",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(parent_of(wrong), None, "{wrong}");
        }
    }
}
