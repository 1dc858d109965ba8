//! The life of one reply: ask a replica, read its stream, tell the sink.
//!
//! 1. A replica is chosen ([`Replicas::take`](crate::replicas::Replicas::take)) and asked.
//! 2. Until the first byte of a reply, a replica that fails is passed over for the next try.
//! 3. The stream's events become ours; the first is preceded by [`Event::Started`].
//! 4. The end is checked, and told with usage and times. Whatever breaks off has failed.
//!
//! Dropping the body closes the connection, which is what tells the engine to stop.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, RETRY_AFTER};
use hyper::{HeaderMap, Response, StatusCode};
use rapport_types::{
    Control, Event, EventSink, FinishReason, GenerateError, Mode, ModeChoice, Outcome, Reader,
    Request, Timings,
};
use serde_json::Value;
use tokio::time::timeout;

use crate::Shared;
use crate::body::{self, Wire};
use crate::chunks::ReplyReader;
use crate::client::told;
use crate::replicas::Place;
use crate::sse::SseReader;

/// How often it is looked whether the reply was stopped while nothing comes.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Before the only replica is asked again; twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// After the words that end a stream.
const LAST_BYTES: Duration = Duration::from_secs(1);
const DEFAULT_RETRY_AFTER_S: u32 = 1;

/// A reply that was asked for.
pub(crate) struct Making {
    shared: Arc<Shared>,
    wire: Wire,
    control: Control,
    telling: Telling,
}

/// What was told of it.
struct Telling {
    sink: EventSink,
    reader: ReplyReader,
    mode: Mode,
    seed: u64,
    started: Instant,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    is_started: bool,
}

/// Why a try gave no reply.
enum Trouble {
    /// The replica is at fault, and no byte of a reply had come.
    Replica { reason: &'static str },
    /// It has too much to do.
    Busy { retry_after_s: u32 },
    /// No other try would go better.
    Final(GenerateError),
    /// Nobody reads any more.
    Gone,
}

impl Making {
    /// # Errors
    /// The engine cannot be asked for this, or no replica may be asked now.
    pub(crate) fn new(
        shared: &Arc<Shared>,
        request: &Request,
        control: Control,
        sink: EventSink,
    ) -> Result<Self, GenerateError> {
        let wire = body::build(shared, request)?;
        let started = Instant::now();
        if let Some(wait) = shared.replicas.all_refuse_for(started) {
            return Err(unavailable("every replica has failed", wait));
        }
        let reader = ReplyReader::new(request, &shared.model);
        let telling = Telling {
            sink,
            reader,
            mode: request.mode,
            seed: wire.seed,
            started,
            first_token: None,
            last_token: None,
            is_started: false,
        };
        Ok(Self { shared: Arc::clone(shared), wire, control, telling })
    }

    pub(crate) async fn run(self) {
        let Self { shared, wire, control, mut telling } = self;
        let made = tokio::select! {
            biased;
            () = stopped(&control) => None,
            made = timeout(shared.limits.total(), tries(&shared, &wire, &mut telling)) => Some(made),
        };
        let last = match made {
            None | Some(Ok(Err(Trouble::Gone))) => {
                let outcome = telling.outcome(&shared, FinishReason::Cancelled, None);
                Event::Finished(outcome)
            }
            Some(Err(_)) => Event::Failed(GenerateError::Internal {
                reason: format!("it was not whole after {} s", shared.limits.total().as_secs()),
            }),
            Some(Ok(Ok(outcome))) => Event::Finished(outcome),
            Some(Ok(Err(trouble))) => Event::Failed(trouble.told()),
        };
        (telling.sink)(last);
    }
}

impl Trouble {
    fn told(self) -> GenerateError {
        match self {
            Self::Replica { reason } => unavailable(reason, Duration::from_secs(1)),
            Self::Busy { retry_after_s } => GenerateError::Busy { retry_after_s },
            Self::Final(error) => error,
            Self::Gone => GenerateError::EngineStopped,
        }
    }
}

fn unavailable(reason: &str, wait: Duration) -> GenerateError {
    GenerateError::Unavailable { reason: reason.to_owned(), retry_after_s: whole_seconds(wait) }
}

/// As `Retry-After` has them.
pub(crate) fn whole_seconds(wait: Duration) -> u32 {
    (wait.as_millis().div_ceil(1000) as u32).max(1)
}

fn broken(reason: impl Into<String>) -> Trouble {
    Trouble::Final(GenerateError::Internal { reason: reason.into() })
}

async fn stopped(control: &Control) {
    while !control.is_stopped() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn tries(shared: &Shared, wire: &Wire, telling: &mut Telling) -> Result<Outcome, Trouble> {
    let mut tried = Vec::new();
    let mut pause = FIRST_PAUSE;
    loop {
        let place = shared.replicas.take(&wire.conversation, &tried, Instant::now());
        let mut place =
            place.map_err(|wait| Trouble::Final(unavailable("every replica has failed", wait)))?;
        let trouble = match once(shared, wire, &mut place, telling).await {
            Ok(outcome) => {
                place.succeed();
                return Ok(outcome);
            }
            Err(trouble) => trouble,
        };
        let is_elsewhere = !tried.contains(&place.idx) && tried.len() + 1 < shared.replicas.len();
        tried.push(place.idx);
        let is_last = tried.len() >= shared.limits.max_tries.max(1) as usize;
        match &trouble {
            Trouble::Final(_) | Trouble::Gone => return Err(trouble),
            // Asking it again at once is what it does not want.
            Trouble::Busy { .. } if !is_elsewhere => return Err(trouble),
            Trouble::Replica { .. } | Trouble::Busy { .. } if is_last => return Err(trouble),
            Trouble::Replica { .. } | Trouble::Busy { .. } => {}
        }
        drop(place);
        if !is_elsewhere {
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }
}

async fn once(
    shared: &Shared,
    wire: &Wire,
    place: &mut Place,
    telling: &mut Telling,
) -> Result<Outcome, Trouble> {
    let failed = |place: &mut Place, reason: &'static str| {
        place.fail();
        Trouble::Replica { reason }
    };
    let asking = shared.client.post(place.endpoint(), wire.path, &wire.headers, wire.body.clone());
    let first_byte = tokio::time::sleep(shared.limits.first_byte());
    tokio::pin!(first_byte);
    let response = tokio::select! {
        response = asking => response,
        () = &mut first_byte => return Err(failed(place, "it did not begin to answer in time")),
    };
    let response = response.map_err(|_| failed(place, "it cannot be reached"))?;
    if response.status() != StatusCode::OK {
        let is_server_fault = response.status().is_server_error();
        let limit = shared.limits.connect();
        let trouble = refusal(response, limit).await;
        match &trouble {
            Trouble::Replica { .. } => place.fail(),
            // It is well and says no.
            _ if !is_server_fault => place.succeed(),
            _ => {}
        }
        return Err(trouble);
    }
    if !is_event_stream(response.headers()) {
        return Err(failed(place, "it answers with something other than a stream of events"));
    }
    let mut body = response.into_body();
    let mut bytes = SseReader::default();
    let (mut events, mut told) = (Vec::new(), Vec::new());
    let mut is_begun = false;
    loop {
        let limit = shared.limits.idle();
        let frame = if is_begun {
            timeout(limit, body.frame()).await.map_err(|_| {
                place.fail();
                broken(format!("the engine said nothing for {} ms", limit.as_millis()))
            })?
        } else {
            tokio::select! {
                frame = body.frame() => frame,
                () = &mut first_byte => {
                    return Err(failed(place, "it did not begin to answer in time"));
                }
            }
        };
        let frame = match frame {
            None => break,
            Some(Ok(frame)) => frame,
            Some(Err(_)) if is_begun => {
                place.fail();
                return Err(broken("the engine's stream broke off"));
            }
            Some(Err(_)) => return Err(failed(place, "it broke off before it began")),
        };
        let Some(data) = frame.data_ref().filter(|data| !data.is_empty()) else { continue };
        is_begun = true;
        let read = bytes.push(data, &mut events).map_err(crate::sse::BadStream::reason);
        // What came before a fault was said.
        let read =
            events.drain(..).try_for_each(|event| telling.reader.take(&event, &mut told)).and(read);
        for event in told.drain(..) {
            telling.tell(event)?;
        }
        read.map_err(|reason| {
            place.fail();
            broken(format!("the engine's stream cannot be read: {reason}"))
        })?;
        if telling.reader.is_done() {
            // The connection can be used again when its last bytes are read, which nobody waits for.
            tokio::spawn(timeout(LAST_BYTES, async move { while body.frame().await.is_some() {} }));
            break;
        }
    }
    if !is_begun {
        return Err(failed(place, "it broke off before it began"));
    }
    let ending = telling.reader.end().map_err(|error| {
        if matches!(error, GenerateError::Internal { .. }) {
            place.fail();
        }
        Trouble::Final(error)
    })?;
    // A reply without a word has begun all the same.
    telling.start()?;
    for call in ending.calls {
        telling.tell(Event::ToolCall(call))?;
    }
    Ok(telling.outcome(shared, ending.reason, ending.stop))
}

impl Telling {
    fn say(&mut self, event: Event) -> Result<(), Trouble> {
        match (self.sink)(event) {
            Reader::Listening => Ok(()),
            Reader::Gone => Err(Trouble::Gone),
        }
    }

    fn start(&mut self) -> Result<(), Trouble> {
        if std::mem::replace(&mut self.is_started, true) {
            return Ok(());
        }
        let choice = self.choice(false);
        self.begin(choice)
    }

    fn begin(&mut self, choice: ModeChoice) -> Result<(), Trouble> {
        let (prompt_tokens, cached_tokens) = self.reader.prompt().unwrap_or_default();
        let seed = self.seed;
        self.say(Event::Started { choice, seed, prompt_tokens, cached_tokens })
    }

    fn tell(&mut self, event: Event) -> Result<(), Trouble> {
        let now = Instant::now();
        self.first_token.get_or_insert(now);
        self.last_token = Some(now);
        if !std::mem::replace(&mut self.is_started, true) {
            let choice = self.choice(matches!(event, Event::Thought(_)));
            self.begin(choice)?;
        }
        self.say(event)
    }

    /// The mode that was asked for, or, where the engine chose, the one it chose.
    fn choice(&self, thinks: bool) -> ModeChoice {
        let (mode, reason) = match self.mode {
            Mode::Fast => (Mode::Fast, "you asked for fast"),
            Mode::Thinking => (Mode::Thinking, "you asked for thinking"),
            Mode::Auto if thinks => (Mode::Thinking, "the model chose to think first"),
            Mode::Auto => (Mode::Fast, "the model chose to answer at once"),
        };
        ModeChoice { mode, reason: reason.to_owned() }
    }

    fn outcome(&self, shared: &Shared, reason: FinishReason, stop: Option<String>) -> Outcome {
        let ms = |from: Instant, to: Instant| (to - from).as_secs_f64() * 1e3;
        let times = self.reader.times();
        let seen = self.first_token.map(|first| ms(self.started, first));
        let first_token_ms = times.first_token.or(seen).unwrap_or(0.0);
        let written = self.first_token.zip(self.last_token).map(|(first, last)| ms(first, last));
        Outcome {
            reason,
            stop,
            usage: self.reader.usage(),
            timings: Timings {
                first_token_ms,
                prompt_ms: times.prompt.unwrap_or(first_token_ms),
                decode_ms: times.decode.or(written).unwrap_or(0.0),
            },
            build: self.reader.build(&shared.info.build),
        }
    }
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.trim_start().to_ascii_lowercase().starts_with("text/event-stream")
}

/// What an answer means that is no reply.
async fn refusal(response: Response<Incoming>, limit: Duration) -> Trouble {
    let status = response.status();
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after_s = retry_after.and_then(|text| text.trim().parse::<u32>().ok());
    let body = timeout(limit, told(response.into_body())).await.unwrap_or(Value::Null);
    let error = &body["error"];
    let message = error["message"].as_str().or(error.as_str()).or(body["message"].as_str());
    let message: String = message.unwrap_or("it gives no reason").chars().take(500).collect();
    match status.as_u16() {
        429 => Trouble::Busy { retry_after_s: retry_after_s.unwrap_or(DEFAULT_RETRY_AFTER_S) },
        503 | 529 if retry_after_s.is_some() => {
            Trouble::Busy { retry_after_s: retry_after_s.unwrap_or(DEFAULT_RETRY_AFTER_S) }
        }
        // What the person asked for cannot be done; who runs the server need not be told.
        400 | 413 | 422 => Trouble::Final(invalid(error, message)),
        401 | 403 => {
            Trouble::Final(unavailable("it refuses this server's key", Duration::from_mins(1)))
        }
        404 => Trouble::Final(unavailable("it no longer has the model", Duration::from_mins(1))),
        501 => Trouble::Final(GenerateError::InvalidRequest {
            field: "model",
            reason: "the engine behind this server cannot do this".to_owned(),
        }),
        500.. => Trouble::Replica { reason: "it has a fault of its own" },
        _ => Trouble::Final(unavailable("it answers in a way that is not known", Duration::ZERO)),
    }
}

fn invalid(error: &Value, message: String) -> GenerateError {
    let is_long = error["type"] == "exceed_context_size_error"
        || error["code"] == "context_length_exceeded"
        || message.contains("maximum context length");
    if is_long {
        let count = |key: &str| error[key].as_u64().and_then(|count| count.try_into().ok());
        if let (Some(prompt_tokens), Some(context_tokens)) =
            (count("n_prompt_tokens"), count("n_ctx"))
        {
            return GenerateError::PromptTooLong { prompt_tokens, context_tokens };
        }
    }
    let fields = ["messages", "tools", "response_format", "max_tokens", "stop", "logit_bias"];
    let param = error["param"].as_str().unwrap_or_default();
    let field = fields.into_iter().find(|field| param.starts_with(field));
    let field = field.unwrap_or(if is_long { "messages" } else { "request" });
    GenerateError::InvalidRequest { field, reason: message }
}
