//! Rewards behind HTTP, for trainers in other processes.
//!
//! `POST /get_reward` is OpenRLHF's remote reward protocol (0.11: `query`, `prompts`, `labels` in;
//! `rewards`, `scores`, `extra_logs` out); `POST /score` takes conversations as messages and is what
//! the Python clients speak. OpenRLHF asks once a rollout, tries five times and then loses its whole
//! step, so a sample that cannot be read gets a neutral value and a flag, never an error.
//!
//! There is no key: OpenRLHF cannot send one, and nothing is kept here. What scores is not here
//! either: it comes as [`ScoreReplies`].

mod transcript;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use rapport_types::{Message, Role};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::net::TcpListener;

use crate::body::{BodyTime, JsonBody, MAX_BODY_BYTES};
use crate::connections::Entrance;
use crate::error::ApiError;
use crate::{ServeError, TimeLimits, connections, envelope};

/// Samples of one request.
const MAX_SAMPLES: usize = 1024;
/// What a sample is worth of which nothing can be said.
const NEUTRAL: f64 = 0.5;

/// Scores replies; safe to be asked from many threads.
pub trait ScoreReplies: Send + Sync {
    /// The components, in the order of [`ReplyScores::components`].
    fn names(&self) -> Vec<&'static str>;

    /// What a reply is worth.
    fn score(&self, sample: &Sample) -> ReplyScores;
}

/// A reply in its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The conversation before it.
    pub messages: Vec<Message>,
    pub reply: String,
    /// What the trainer's data says about it: `feeling`, `need`, `kind`, `answers`.
    pub labels: Map<String, Value>,
}

/// What a reply is worth.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplyScores {
    /// 0 to 1.
    pub reward: f64,
    /// The gate that it failed.
    pub failed: Option<&'static str>,
    /// 0 to 1 each; `None` where it does not apply.
    pub components: Vec<Option<f64>>,
}

/// A server of rewards that listens and has not begun to answer.
pub struct RewardServer {
    listener: TcpListener,
    scorer: Arc<dyn ScoreReplies>,
}

type Scorer = Arc<dyn ScoreReplies>;

impl RewardServer {
    /// Takes the address.
    ///
    /// # Errors
    /// [`ServeError::Listen`] if it is taken.
    pub async fn listen(address: SocketAddr, scorer: Scorer) -> Result<Self, ServeError> {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| ServeError::Listen { address, source })?;
        Ok(Self { listener, scorer })
    }

    /// Where it listens: with the real port where 0 was asked for.
    ///
    /// # Errors
    /// [`ServeError::Address`] if the system no longer knows.
    pub fn address(&self) -> Result<SocketAddr, ServeError> {
        self.listener.local_addr().map_err(|source| ServeError::Address { source })
    }

    /// Answers until `stop` resolves and what was asked is answered.
    pub async fn run(self, stop: impl Future<Output = ()> + Send) {
        let limits = TimeLimits::default();
        let router = Router::new()
            .route("/get_reward", post(get_reward))
            .route("/score", post(score))
            .route("/healthz", get(|| async { "ok\n" }))
            .fallback(|| async { no_such_path() })
            .method_not_allowed_fallback(|| async { ApiError::wrong_method() })
            .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
            .layer(axum::Extension(BodyTime(limits.body)))
            .layer(axum::middleware::from_fn(envelope::wrap_plain))
            .with_state(self.scorer);
        let entrance = Entrance { listener: self.listener, tls: None, limits, app: None };
        connections::accept(entrance, router, stop).await.shutdown().await;
    }
}

fn no_such_path() -> ApiError {
    ApiError::not_found(
        "nothing is served under this path: there are /get_reward, /score and /healthz".to_owned(),
    )
}

#[derive(Deserialize)]
struct RemoteRequest {
    query: Vec<String>,
    #[serde(default)]
    prompts: Vec<Option<String>>,
    #[serde(default)]
    labels: Vec<Value>,
}

#[derive(Serialize)]
struct RemoteAnswer {
    rewards: Vec<f64>,
    scores: Vec<f64>,
    extra_logs: BTreeMap<&'static str, Vec<f64>>,
}

async fn get_reward(
    State(scorer): State<Scorer>,
    JsonBody(request): JsonBody<RemoteRequest>,
) -> Result<Json<RemoteAnswer>, ApiError> {
    check_number("query", request.query.len())?;
    let mut answer =
        RemoteAnswer { rewards: Vec::new(), scores: Vec::new(), extra_logs: BTreeMap::new() };
    for (idx, query) in request.query.iter().enumerate() {
        let prompt = request.prompts.get(idx).and_then(Option::as_deref).unwrap_or_default();
        let labels = labels_of(request.labels.get(idx));
        let sample = transcript::read(query, prompt).map(|(messages, reply)| Sample {
            messages,
            reply,
            labels,
        });
        let scores = sample.as_ref().map(|sample| scorer.score(sample));
        let mut log = |name, value| answer.extra_logs.entry(name).or_default().push(value);
        log("unreadable", f64::from(u8::from(scores.is_none())));
        let is_gated = scores.as_ref().is_some_and(|scores| scores.failed.is_some());
        log("gated", f64::from(u8::from(is_gated)));
        for (component_idx, name) in scorer.names().into_iter().enumerate() {
            let value = scores.as_ref().and_then(|scores| scores.components[component_idx]);
            log(name, value.unwrap_or(NEUTRAL));
        }
        answer.rewards.push(scores.map_or(NEUTRAL, |scores| scores.reward));
    }
    answer.scores.clone_from(&answer.rewards);
    Ok(Json(answer))
}

/// A label is an object of labels, as it is or written as JSON; any other text is a right answer to
/// a question of fact.
fn labels_of(label: Option<&Value>) -> Map<String, Value> {
    let text = match label {
        Some(Value::Object(labels)) => return labels.clone(),
        Some(Value::String(text)) if !text.trim().is_empty() => text.trim(),
        _ => return Map::new(),
    };
    if let Ok(Value::Object(labels)) = serde_json::from_str(text) {
        return labels;
    }
    let answer = Value::Array(vec![Value::String(text.to_owned())]);
    Map::from_iter([
        ("kind".to_owned(), Value::String("fact_real".to_owned())),
        ("answers".to_owned(), answer),
    ])
}

#[derive(Deserialize)]
struct ScoreRequest {
    samples: Vec<SampleBody>,
}

#[derive(Deserialize)]
struct SampleBody {
    messages: Vec<TurnBody>,
    reply: String,
    #[serde(default)]
    labels: Map<String, Value>,
}

#[derive(Deserialize)]
struct TurnBody {
    role: String,
    content: String,
}

#[derive(Serialize)]
struct ScoreAnswer {
    names: Vec<&'static str>,
    scores: Vec<ScoreBody>,
}

#[derive(Serialize)]
struct ScoreBody {
    reward: f64,
    failed: Option<&'static str>,
    components: BTreeMap<&'static str, Option<f64>>,
}

async fn score(
    State(scorer): State<Scorer>,
    JsonBody(request): JsonBody<ScoreRequest>,
) -> Result<Response, ApiError> {
    check_number("samples", request.samples.len())?;
    let names = scorer.names();
    let mut scores = Vec::with_capacity(request.samples.len());
    for (idx, body) in request.samples.into_iter().enumerate() {
        let messages = body.messages.into_iter().map(|turn| {
            let role = Role::parse(&turn.role).ok_or_else(|| {
                let message =
                    format!("`{}` is no role: use system, user, assistant or tool", turn.role);
                ApiError::invalid(format!("samples[{idx}].messages"), message)
            })?;
            Ok(Message::new(role, turn.content))
        });
        let messages = messages.collect::<Result<Vec<_>, ApiError>>()?;
        let reply = transcript::without_thought(&body.reply).to_owned();
        let found = scorer.score(&Sample { messages, reply, labels: body.labels });
        let components = names.iter().copied().zip(found.components).collect();
        scores.push(ScoreBody { reward: found.reward, failed: found.failed, components });
    }
    Ok((StatusCode::OK, Json(ScoreAnswer { names, scores })).into_response())
}

fn check_number(param: &str, n_samples: usize) -> Result<(), ApiError> {
    if n_samples <= MAX_SAMPLES {
        return Ok(());
    }
    let message = format!("{n_samples} are too many for one request: send {MAX_SAMPLES} at most");
    Err(ApiError::invalid(param, message))
}
