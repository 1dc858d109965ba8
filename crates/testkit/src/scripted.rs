//! An engine that follows a script: the same events every time, no model, no clock.
//!
//! It keeps the contract of [`Generate`] (order of events, one last event, stop, answer now, the
//! reader going away), so what passes against it does not depend on timing. It is deliberately not
//! a model: a piece of text is one token, a prompt has as many tokens as words, stop strings and
//! sampling are only recorded.
//!
//! Start reading at [`ScriptedEngine::start`].

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rapport_types::{
    AdapterChoice, AdapterInfo, BuildId, Control, Embedding, EmbeddingInput, EmbeddingRequest,
    Event, EventSink, FinishReason, Generate, GenerateError, Message, Mode, ModeChoice, ModelInfo,
    Outcome, Reader, Readiness, Request, SamplingDraft, TextToken, Timings, ToolCall, Usage,
};

/// How often a waiting script looks whether it was asked for what it waits for.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// After so many looks (some ten seconds) the script fails: a broken test must end.
const MAX_POLLS: u32 = 10_000;

/// Numbers of an embedding.
const SCRIPTED_WIDTH: usize = 4;

/// The script for a request, or `None` when there is nothing left to play.
type Answer = Box<dyn Fn(&Request) -> Option<Script> + Send + Sync>;

/// Answers with scripts and remembers what it was asked.
pub struct ScriptedEngine {
    model: ModelInfo,
    adapters: Vec<AdapterInfo>,
    sampling: Box<dyn Fn(&AdapterChoice) -> SamplingDraft + Send + Sync>,
    answer: Answer,
    requests: Mutex<Vec<Request>>,
    readiness: Mutex<Readiness>,
}

impl ScriptedEngine {
    /// Plays `scripts`, one a reply; refuses with [`GenerateError::EngineStopped`] after the last.
    pub fn new(scripts: impl IntoIterator<Item = Script>) -> Self {
        let scripts = Mutex::new(scripts.into_iter().collect::<VecDeque<_>>());
        Self::with_answer(move |_| {
            scripts.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
        })
    }

    /// Plays the script that `answer` gives for a request.
    pub fn answering(answer: impl Fn(&Request) -> Script + Send + Sync + 'static) -> Self {
        Self::with_answer(move |request| Some(answer(request)))
    }

    /// Takes every request, and says before anything else that it broke.
    pub fn broken_at_once(error: GenerateError) -> Self {
        Self::answering(move |_| Script { is_silent: true, ..Script::new().fail(error.clone()) })
    }

    fn with_answer(answer: impl Fn(&Request) -> Option<Script> + Send + Sync + 'static) -> Self {
        let hash = |digit: &str| digit.repeat(12);
        let build = BuildId {
            weights: hash("a"),
            adapter: "none".to_owned(),
            persona: hash("b"),
            engine: hash("c"),
        };
        Self {
            model: ModelInfo { name: "scripted".to_owned(), context_tokens: 1024, build },
            adapters: Vec::new(),
            sampling: Box::new(|_| SamplingDraft::default()),
            answer: Box::new(answer),
            requests: Mutex::new(Vec::new()),
            readiness: Mutex::new(Readiness::Ready),
        }
    }

    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.model.name);
        self
    }

    /// Has adapters of these names; a reply with one says so in its build.
    #[must_use]
    pub fn with_adapters(mut self, names: &[&str]) -> Self {
        let build = |name: &str| BuildId { adapter: name.to_owned(), ..self.model.build.clone() };
        let adapter = |name: &&str| AdapterInfo { name: (*name).to_owned(), build: build(name) };
        self.adapters = names.iter().map(adapter).collect();
        self
    }

    /// Would have what a request leaves open sampled so.
    #[must_use]
    pub fn with_sampling(
        mut self,
        sampling: impl Fn(&AdapterChoice) -> SamplingDraft + Send + Sync + 'static,
    ) -> Self {
        self.sampling = Box::new(sampling);
        self
    }

    /// Refuses prompts of more words than this.
    #[must_use]
    pub fn with_context_tokens(mut self, context_tokens: u32) -> Self {
        self.model.context_tokens = context_tokens;
        self
    }

    /// Says from now on that it is so far; scripts are played all the same.
    pub fn set_readiness(&self, readiness: Readiness) {
        *self.readiness.lock().unwrap_or_else(PoisonError::into_inner) = readiness;
    }

    /// Everything asked so far, refused requests included.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for ScriptedEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedEngine").field("model", &self.model).finish_non_exhaustive()
    }
}

impl Generate for ScriptedEngine {
    fn model(&self) -> ModelInfo {
        self.model.clone()
    }

    fn sampling(&self, adapter: &AdapterChoice) -> SamplingDraft {
        (self.sampling)(adapter)
    }

    fn adapters(&self) -> Vec<AdapterInfo> {
        self.adapters.clone()
    }

    fn start(&self, request: Request, sink: EventSink) -> Result<Control, GenerateError> {
        let n_earlier = {
            let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
            requests.push(request.clone());
            requests.len() as u64 - 1
        };
        if request.messages.is_empty() {
            return Err(GenerateError::NoMessages);
        }
        let prompt_tokens = n_words(&request.messages);
        let context_tokens = self.model.context_tokens;
        if prompt_tokens > context_tokens {
            return Err(GenerateError::PromptTooLong { prompt_tokens, context_tokens });
        }
        let script = (self.answer)(&request).ok_or(GenerateError::EngineStopped)?;
        if let Some(refusal) = script.refusal {
            return Err(refusal);
        }

        let build = match &request.adapter {
            AdapterChoice::Default | AdapterChoice::None => Some(&self.model.build),
            AdapterChoice::Named(name) => {
                let adapter = self.adapters.iter().find(|adapter| adapter.name == *name);
                adapter.map(|adapter| &adapter.build)
            }
        };
        let build = build.expect("the server asks for adapters that are there").clone();
        let control = Control::default();
        let playing = Playing {
            seed: request.sampling.seed.unwrap_or(n_earlier),
            usage: Usage { prompt_tokens, ..Usage::default() },
            build,
            control: control.clone(),
            request,
            sink,
        };
        thread::spawn(move || playing.play(script));
        Ok(control)
    }

    /// A word with its space is a token; its number is its place.
    fn tokenize(&self, text: &str) -> Option<Vec<TextToken>> {
        let words = text.split_inclusive(' ').enumerate();
        let token = |(idx, word): (usize, &str)| TextToken { id: idx as u32, bytes: word.into() };
        Some(words.map(token).collect())
    }

    fn count_prompt_tokens(&self, request: &Request) -> Result<Option<u32>, GenerateError> {
        Ok(Some(n_words(&request.messages)))
    }

    fn embedding_width(&self) -> Option<u32> {
        Some(SCRIPTED_WIDTH as u32)
    }

    /// A word of a text is a token; a vector points to where the length of its text says.
    fn embed(&self, request: EmbeddingRequest) -> Result<Vec<Embedding>, GenerateError> {
        let embedding = |input: &EmbeddingInput| {
            let n_tokens = match input {
                EmbeddingInput::Text(text) => text.split_whitespace().count(),
                EmbeddingInput::Tokens(tokens) => tokens.len(),
            };
            let direction = [n_tokens as f32, 1.0, 2.0, 2.0];
            let norm = direction.iter().map(|x| x * x).sum::<f32>().sqrt();
            let vector = direction.iter().map(|x| x / norm).collect();
            Embedding { vector, n_tokens: n_tokens as u32 }
        };
        Ok(request.inputs.iter().map(embedding).collect())
    }

    fn readiness(&self) -> Readiness {
        self.readiness.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn try_again(&self) -> bool {
        let has_failed = matches!(self.readiness(), Readiness::Failed { .. });
        if has_failed {
            self.set_readiness(Readiness::Loading);
        }
        has_failed
    }
}

fn n_words(messages: &[Message]) -> u32 {
    messages.iter().map(|message| message.content.split_whitespace().count() as u32).sum()
}

/// One reply, step by step.
#[derive(Default)]
pub struct Script {
    refusal: Option<GenerateError>,
    /// Whether it does not even say that it has begun.
    is_silent: bool,
    reason: Option<String>,
    steps: Vec<Step>,
}

enum Step {
    Thought(String),
    Text(String),
    ToolCall(ToolCall),
    Run(Arc<dyn Fn() + Send + Sync>),
    AwaitStop,
    AwaitAnswerNow,
    Fail(GenerateError),
    Vanish,
}

impl Script {
    pub fn new() -> Self {
        Self::default()
    }

    /// A reply of these words, each a token with its space.
    pub fn answer(text: &str) -> Self {
        text.split_inclusive(' ').fold(Self::new(), Self::text)
    }

    /// The request is refused.
    pub fn refused(error: GenerateError) -> Self {
        Self { refusal: Some(error), ..Self::default() }
    }

    /// Why `auto` chose its mode: thinking when the script has a thought, else fast.
    #[must_use]
    pub fn because(mut self, reason: &str) -> Self {
        self.reason = Some(reason.to_owned());
        self
    }

    /// One token of thought; left out in [`Mode::Fast`] and once the answer was asked for.
    #[must_use]
    pub fn thought(self, text: &str) -> Self {
        self.step(Step::Thought(text.to_owned()))
    }

    /// One token of the answer.
    #[must_use]
    pub fn text(self, text: &str) -> Self {
        self.step(Step::Text(text.to_owned()))
    }

    /// One token of the answer that is a call.
    #[must_use]
    pub fn tool_call(self, id: &str, name: &str, arguments: &str) -> Self {
        let [id, name, arguments] = [id, name, arguments].map(str::to_owned);
        self.step(Step::ToolCall(ToolCall { id, name, arguments }))
    }

    /// Code of the test, run between two events.
    #[must_use]
    pub fn run(self, code: impl Fn() + Send + Sync + 'static) -> Self {
        self.step(Step::Run(Arc::new(code)))
    }

    /// Waits until the reply is stopped, and ends there.
    #[must_use]
    pub fn await_stop(self) -> Self {
        self.step(Step::AwaitStop)
    }

    /// Goes on only when the answer was asked for.
    #[must_use]
    pub fn await_answer_now(self) -> Self {
        self.step(Step::AwaitAnswerNow)
    }

    /// The reply breaks.
    #[must_use]
    pub fn fail(self, error: GenerateError) -> Self {
        self.step(Step::Fail(error))
    }

    /// The reply ends without its last event, as when the engine's thread died.
    #[must_use]
    pub fn vanish(self) -> Self {
        self.step(Step::Vanish)
    }

    fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }
}

/// A reply being made.
struct Playing {
    request: Request,
    seed: u64,
    usage: Usage,
    build: BuildId,
    control: Control,
    sink: EventSink,
}

/// Why a script ended before its last step.
enum Ended {
    Finished(FinishReason),
    Failed(GenerateError),
    Vanished,
}

impl Playing {
    fn play(mut self, script: Script) {
        let Script { steps, reason, is_silent, .. } = script;
        let thinks = steps.iter().any(|step| matches!(step, Step::Thought(_)));
        let mode = match self.request.mode {
            Mode::Auto if thinks => Mode::Thinking,
            Mode::Auto => Mode::Fast,
            asked => asked,
        };
        let reason = reason.unwrap_or_else(|| format!("the script answers in {mode} mode"));
        let started = Event::Started {
            choice: ModeChoice { mode, reason },
            seed: self.seed,
            prompt_tokens: self.usage.prompt_tokens,
            cached_tokens: 0,
        };

        let begun = if is_silent { Ok(()) } else { self.emit(started) };
        let played = begun.and_then(|()| {
            steps.into_iter().try_for_each(|step| {
                if self.control.is_stopped() {
                    return Err(Ended::Finished(FinishReason::Cancelled));
                }
                self.step(step, mode)
            })
        });
        let last = match played {
            Ok(()) => Event::Finished(self.outcome(FinishReason::Stop)),
            Err(Ended::Finished(reason)) => Event::Finished(self.outcome(reason)),
            Err(Ended::Failed(error)) => Event::Failed(error),
            Err(Ended::Vanished) => return,
        };
        (self.sink)(last);
    }

    fn step(&mut self, step: Step, mode: Mode) -> Result<(), Ended> {
        match step {
            Step::Thought(_) if mode == Mode::Fast || self.control.wants_answer_now() => Ok(()),
            Step::Thought(text) => {
                self.usage.reasoning_tokens += 1;
                self.emit(Event::Thought(text))
            }
            Step::Text(text) => {
                self.usage.completion_tokens += 1;
                self.emit(Event::Text { text, logprobs: Vec::new() })?;
                if self.usage.completion_tokens >= self.request.max_tokens {
                    return Err(Ended::Finished(FinishReason::Length));
                }
                Ok(())
            }
            Step::ToolCall(call) => {
                self.usage.completion_tokens += 1;
                self.emit(Event::ToolCall(call))
            }
            Step::Run(code) => {
                code();
                Ok(())
            }
            Step::AwaitStop => {
                wait_until(|| self.control.is_stopped())?;
                Err(Ended::Finished(FinishReason::Cancelled))
            }
            Step::AwaitAnswerNow => wait_until(|| self.control.wants_answer_now()),
            Step::Fail(error) => Err(Ended::Failed(error)),
            Step::Vanish => Err(Ended::Vanished),
        }
    }

    fn emit(&mut self, event: Event) -> Result<(), Ended> {
        match (self.sink)(event) {
            Reader::Listening => Ok(()),
            Reader::Gone => Err(Ended::Finished(FinishReason::Cancelled)),
        }
    }

    /// The made-up timings are a tenth of a second to the first token and ten milliseconds for each
    /// of the others.
    fn outcome(&self, reason: FinishReason) -> Outcome {
        let n_tokens = self.usage.completion_tokens + self.usage.reasoning_tokens;
        Outcome {
            reason,
            stop: None,
            usage: self.usage,
            timings: Timings {
                first_token_ms: 100.0,
                prompt_ms: 90.0,
                decode_ms: 10.0 * f64::from(n_tokens.saturating_sub(1)),
            },
            build: self.build.clone(),
        }
    }
}

fn wait_until(asked: impl Fn() -> bool) -> Result<(), Ended> {
    for _ in 0..MAX_POLLS {
        if asked() {
            return Ok(());
        }
        thread::park_timeout(POLL_INTERVAL);
    }
    let reason = "the script waited for a stop or an answer-now that never came".to_owned();
    Err(Ended::Failed(GenerateError::Internal { reason }))
}

#[cfg(test)]
mod tests {
    use rapport_types::{
        AdapterChoice, Caller, OutputFormat, PromptForm, SamplingDraft, ThinkingBudget, Tools,
        reply,
    };

    use super::*;

    fn request(mode: Mode) -> Request {
        Request {
            messages: vec![Message::user("one two three")],
            mode,
            thinking_budget: ThinkingBudget::Low,
            sampling: SamplingDraft::default().validate().unwrap(),
            max_tokens: 8,
            stop: Vec::new(),
            format: OutputFormat::Text,
            tools: Tools::default(),
            prompt_form: PromptForm::default(),
            adapter: AdapterChoice::default(),
            caller: Caller::default(),
        }
    }

    fn texts(events: &[Event]) -> (String, String) {
        let mut texts = (String::new(), String::new());
        for event in events {
            match event {
                Event::Thought(text) => texts.0 += text,
                Event::Text { text, .. } => texts.1 += text,
                _ => {}
            }
        }
        texts
    }

    fn reason(events: &[Event]) -> FinishReason {
        let Some(Event::Finished(outcome)) = events.last() else { panic!("{events:?}") };
        outcome.reason
    }

    #[test]
    fn plays_the_script_and_records_the_request() {
        let engine = ScriptedEngine::new([Script::answer("hello there").because("short")]);
        let events: Vec<_> = reply(&engine, request(Mode::Auto)).unwrap().collect();

        let Event::Started { choice, prompt_tokens, .. } = &events[0] else { panic!() };
        assert_eq!((choice.mode, choice.reason.as_str()), (Mode::Fast, "short"));
        assert_eq!(*prompt_tokens, 3);
        assert_eq!(texts(&events).1, "hello there");
        assert_eq!(reason(&events), FinishReason::Stop);
        assert_eq!(engine.requests(), [request(Mode::Auto)]);
        let refused = reply(&engine, request(Mode::Auto)).unwrap_err();
        assert_eq!(refused, GenerateError::EngineStopped);
    }

    #[test]
    fn fast_replies_have_no_thought() {
        let engine = ScriptedEngine::answering(|_| Script::new().thought("hm").text("yes"));
        let fast: Vec<_> = reply(&engine, request(Mode::Fast)).unwrap().collect();
        let thinking: Vec<_> = reply(&engine, request(Mode::Thinking)).unwrap().collect();
        assert_eq!(texts(&fast).0, "");
        assert_eq!(texts(&thinking).0, "hm");
    }

    #[test]
    fn stop_and_answer_now_are_honoured() {
        let script = Script::new()
            .thought("a")
            .await_answer_now()
            .thought("b")
            .text("c")
            .await_stop()
            .text("d");
        let engine = ScriptedEngine::new([script]);
        let mut reply = reply(&engine, request(Mode::Thinking)).unwrap();
        let control = reply.control();
        let mut events = Vec::new();
        for event in reply.by_ref() {
            match &event {
                Event::Thought(_) => control.answer_now(),
                Event::Text { .. } => control.stop(),
                _ => {}
            }
            events.push(event);
        }
        assert_eq!(texts(&events), ("a".to_owned(), "c".to_owned()));
        assert_eq!(reason(&events), FinishReason::Cancelled);
    }

    #[test]
    fn limits_are_kept() {
        let engine = ScriptedEngine::new([Script::answer("1 2 3 4 5 6 7 8 9 10")]);
        let events: Vec<_> = reply(&engine, request(Mode::Fast)).unwrap().collect();
        assert_eq!(texts(&events).1, "1 2 3 4 5 6 7 8 ");
        assert_eq!(reason(&events), FinishReason::Length);

        let small = ScriptedEngine::new([]).with_context_tokens(2);
        let refused = reply(&small, request(Mode::Fast)).unwrap_err();
        let expected = GenerateError::PromptTooLong { prompt_tokens: 3, context_tokens: 2 };
        assert_eq!(refused, expected);
    }
}
