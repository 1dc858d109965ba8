//! The life of one reply: conversation to tokens, tokens to events.

use std::time::Instant;

use rapport_engine::{
    CacheKey, CacheScope, Constraint, Ending, EngineEvent, EngineRequest, Phase, SubmitError,
    UserKey,
};
use rapport_model::PackedAdapter;
use rapport_model::chat_template::{CivilTime, Conversation, TemplateError};
use rapport_model::tokenizer::{ControlText, Segment, Start, StreamDecoder, Tokenizer, Trust};
use rapport_types::{
    BuildId, Caller, Control, Event, EventSink, FinishReason, GenerateError, Message, Mode,
    ModeChoice, ModelInfo, Outcome, OutputFormat, PromptForm, Reader, Request, Role, TextToken,
    Timings, TokenLogprob, Tool, TopLogprob, Usage,
};
use sha2::{Digest, Sha256};

use std::sync::Arc;

use crate::Language;
use crate::constrain::{self, FormatLoss};
use crate::modes;
use crate::slots::{self, SlotForm};
use crate::stop::{Released, StopStrings};
use crate::tools::{self, CallReader};

/// A reply that is ready for the engine.
pub(crate) struct Job {
    pub(crate) engine_request: EngineRequest,
    pub(crate) reply: ReplyState,
}

/// What the driver keeps of a reply that is being made.
pub(crate) struct ReplyState {
    language: Arc<Language>,
    pub(crate) control: Control,
    sink: EventSink,
    choice: ModeChoice,
    seed: u64,
    build: BuildId,
    answer_phase_idx: usize,
    thought: Text,
    answer: Text,
    usage: Usage,
    started: Instant,
    admitted: Option<Instant>,
    first_token: Option<Instant>,
    /// Whether and why the answer has left its format.
    format_loss: Option<FormatLoss>,
    is_over: bool,
}

/// Bytes of one phase on their way to being text.
struct Text {
    decoder: StreamDecoder,
    /// Takes calls out before stop strings are looked for: those are for words.
    calls: Option<CallReader>,
    stop: StopStrings,
    /// White space between a thought and its answer is nobody's words.
    trim_start: bool,
    is_stopped: bool,
    met_stop: Option<String>,
}

impl Text {
    fn new(stops: Vec<String>, calls: Option<CallReader>, trim_start: bool) -> Self {
        let decoder = StreamDecoder::new(Start::Continued, ControlText::Hidden);
        let stop = StopStrings::new(stops);
        Self { decoder, calls, stop, trim_start, is_stopped: false, met_stop: None }
    }

    fn push(&mut self, tokenizer: &Tokenizer, token: u32) -> String {
        if self.is_stopped {
            return String::new();
        }
        let text = self.decoder.push(tokenizer, token);
        let text = self.words(text);
        self.release(&text)
    }

    fn words(&mut self, text: String) -> String {
        match &mut self.calls {
            Some(calls) => calls.push(&text),
            None => text,
        }
    }

    fn release(&mut self, text: &str) -> String {
        let text = match self.stop.push(text) {
            Released::Text(text) => text,
            Released::Stopped(text) => {
                self.is_stopped = true;
                self.met_stop = self.stop.met().map(str::to_owned);
                text
            }
        };
        if !self.trim_start {
            return text;
        }
        let trimmed = text.trim_start().to_owned();
        self.trim_start = trimmed.is_empty();
        trimmed
    }

    fn finish(&mut self) -> String {
        if self.is_stopped {
            return String::new();
        }
        let mut rest = self.decoder.finish();
        if let Some(calls) = &mut self.calls {
            rest = calls.push(&rest) + &calls.finish();
        }
        let shown = self.release(&rest);
        let held = std::mem::replace(&mut self.stop, StopStrings::new(Vec::new())).finish();
        shown + if self.is_stopped { "" } else { &held }
    }
}

/// Ends a phase when the model has written a string that is several tokens to it.
struct Until {
    language: Arc<Language>,
    end: &'static str,
    written: Vec<u8>,
}

impl Constraint for Until {
    fn mask(&mut self, _logits: &mut [f32]) {}

    fn accept(&mut self, token: u32) {
        let bytes = self.language.tokenizer.token_bytes(token);
        self.written.extend_from_slice(bytes.unwrap_or_default());
    }

    fn is_complete(&self) -> bool {
        let end = self.end.as_bytes();
        self.written.windows(end.len()).any(|window| window == end)
    }
}

/// Turns a conversation into a request for the engine.
pub(crate) fn prepare(
    language: &Arc<Language>,
    (info, adapter): (ModelInfo, Option<Arc<PackedAdapter>>),
    request: Request,
    sink: EventSink,
) -> Result<Job, GenerateError> {
    let started = Instant::now();
    if request.messages.is_empty() {
        return Err(GenerateError::NoMessages);
    }
    if request.max_tokens == 0 {
        return Err(GenerateError::InvalidRequest {
            field: "max_tokens",
            reason: "it is 0; ask for at least one token".to_owned(),
        });
    }
    let native = language.template.thinking();
    let budget = modes::budget_tokens(request.thinking_budget, native.is_some());
    let form = language.slots.form_within(budget);
    let mut choice =
        modes::choose(request.mode, request.thinking_budget, &request.messages, &*language.auto);
    if choice.mode == Mode::Thinking && native.is_none() && form.is_none() {
        choice = modes::without_room(budget, language.slots.least_budget_tokens());
    }
    if request.prompt_form == PromptForm::Plain {
        choice = modes::plain();
    }
    if request.prompt_form == PromptForm::Prefilled {
        choice = modes::prefilled();
    }
    let thinks = choice.mode == Mode::Thinking;
    let begun_thought = beginning(&request).and_then(|begun| begun.thought.as_deref());
    let mut prompt = prompt(language, &request, thinks || begun_thought.is_some())?;
    let tokenizer = &language.tokenizer;
    let structure = |text: String| tokenizer.encode(&text, Trust::Template);

    let mut phases = Vec::new();
    let close = native.map_or(slots::CLOSE, |style| style.close);
    match native {
        Some(style) if thinks => {
            let close_token = tokenizer.special_id(style.close);
            let until = || -> Box<dyn Constraint> {
                let written = Vec::new();
                Box::new(Until { language: Arc::clone(language), end: style.close, written })
            };
            phases.push(Phase {
                opening: if style.prompt_opens {
                    Vec::new()
                } else {
                    structure(format!("{}\n", style.open))
                },
                stop_tokens: close_token.into_iter().collect(),
                max_tokens: budget,
                closing: structure(format!("\n{}\n\n", style.close)),
                constraint: close_token.is_none().then(until),
            });
        }
        // No switch: only an empty thought keeps the model from starting one.
        Some(style)
            if !style.has_switch
                && request.prompt_form != PromptForm::Plain
                && begun_thought.is_none() =>
        {
            let open = if style.prompt_opens { "" } else { style.open };
            prompt.extend(structure(format!("{open}\n\n{}\n\n", style.close)));
        }
        None if thinks => phases.extend(form.map(|form| Phase {
            opening: structure(slots::OPEN.to_owned()),
            stop_tokens: Vec::new(),
            max_tokens: form.max_tokens,
            closing: structure(format!("{}\n\n", slots::CLOSE)),
            constraint: Some(Box::new(SlotForm::new(Arc::clone(&language.slots), form))),
        })),
        _ => {}
    }

    if let Some(thought) = begun_thought {
        prompt.extend(begun_tokens(language, thought));
    }
    if let Some(begun) = beginning(&request) {
        prompt.extend(tokenizer.encode(&begun.content, Trust::Content));
    }

    let used = prompt.len() as u32
        + phases
            .iter()
            .map(|phase| (phase.opening.len() + phase.closing.len()) as u32 + phase.max_tokens)
            .sum::<u32>();
    // An answer needs some room; it takes what there is up to what was asked for.
    let room = info.context_tokens.saturating_sub(used);
    if room < request.max_tokens.min(16) {
        return Err(GenerateError::PromptTooLong {
            prompt_tokens: prompt.len() as u32,
            context_tokens: info.context_tokens,
        });
    }
    // Last, because it is the most work.
    let constrained = constrain::prepare(language, &request.format, &request.tools)?;
    let format_loss = constrained.as_ref().map(constrain::Constrained::loss);
    let is_free = constrained.is_none();
    phases.push(Phase {
        opening: Vec::new(),
        stop_tokens: tokenizer.end_ids().to_vec(),
        max_tokens: request.max_tokens.min(room),
        closing: Vec::new(),
        constraint: constrained.map(|constrained| Box::new(constrained) as Box<dyn Constraint>),
    });

    let seed = request.sampling.seed.unwrap_or_else(fresh_seed);
    let answer_phase_idx = phases.len() - 1;
    let calls = request.tools.is_callable().then(|| CallReader::new(&request.tools));
    let trims = is_free || (calls.is_some() && request.format == OutputFormat::Text);
    let user = *request.caller.key.first_chunk().expect("a key has 32 bytes");
    Ok(Job {
        reply: ReplyState {
            language: Arc::clone(language),
            control: Control::default(),
            sink,
            choice,
            seed,
            build: info.build,
            answer_phase_idx,
            thought: Text::new(vec![close.to_owned()], None, true),
            answer: Text::new(request.stop, calls, answer_phase_idx > 0 && trims),
            usage: Usage { prompt_tokens: prompt.len() as u32, ..Usage::default() },
            started,
            admitted: None,
            first_token: None,
            format_loss,
            is_over: false,
        },
        engine_request: EngineRequest {
            prompt,
            phases,
            sampling: request.sampling,
            seed,
            user: UserKey(u64::from_le_bytes(user)),
            priority: request.caller.priority,
            cache: CacheScope { key: cache_key(request.caller), ..CacheScope::default() },
            adapter,
        },
    })
}

/// Whose computation a reply may share.
fn cache_key(caller: Caller) -> CacheKey {
    if caller.cache_salt == [0; 32] {
        return CacheKey(caller.key);
    }
    CacheKey(
        Sha256::new().chain_update(caller.key).chain_update(caller.cache_salt).finalize().into(),
    )
}

/// The tokens of a conversation, up to where its reply begins.
fn prompt(language: &Language, request: &Request, thinks: bool) -> Result<Vec<u32>, GenerateError> {
    let tokenizer = &language.tokenizer;
    if request.prompt_form == PromptForm::Plain {
        let text: String =
            request.messages.iter().map(|message| message.content.as_str()).collect();
        return Ok(plain_prompt(language, &text));
    }
    let has_tool_turns = request
        .messages
        .iter()
        .any(|message| message.role == Role::Tool || !message.tool_calls.is_empty());
    let tells_tools = language.template.tells_tools();
    let described = (!tells_tools && (has_tool_turns || request.tools.is_callable()))
        .then(|| tools::described(&request.messages, &request.tools));
    let callable = request.tools.callable().filter(|_| tells_tools);
    let offered: Vec<Tool> = callable.cloned().collect();
    let messages = described.as_deref().unwrap_or(&request.messages);
    // What is begun already stands behind the template's own beginning of a reply.
    let n_whole = messages.len() - usize::from(beginning(request).is_some());
    let messages = &messages[..n_whole];
    let conversation = Conversation {
        messages,
        tools: &offered,
        add_generation_prompt: true,
        enable_thinking: Some(thinks),
        now: CivilTime::from_unix_seconds(unix_seconds()),
    };
    let rendered = language.template.render(&conversation).map_err(|error| refusal(&error))?;
    let segments: Vec<Segment<'_>> = rendered
        .segments
        .iter()
        .map(|segment| Segment {
            text: &segment.text,
            trust: if segment.trusted { Trust::Template } else { Trust::Content },
        })
        .collect();
    Ok(tokenizer.encode_prompt(&segments))
}

/// The beginning of the reply, where the request has it.
fn beginning(request: &Request) -> Option<&Message> {
    let last = request.messages.last()?;
    let is_begun = request.prompt_form == PromptForm::Prefilled && last.role == Role::Assistant;
    is_begun.then_some(last)
}

/// A whole thought, in the tokens that the model would have written it in.
fn begun_tokens(language: &Language, thought: &str) -> Vec<u32> {
    let tokenizer = &language.tokenizer;
    let structure = |text: &str| tokenizer.encode(text, Trust::Template);
    if let Some(style) = language.template.thinking() {
        let open = if style.prompt_opens { String::new() } else { format!("{}\n", style.open) };
        let mut tokens = structure(&open);
        tokens.extend(tokenizer.encode(thought, Trust::Content));
        tokens.extend(structure(&format!("\n{}\n\n", style.close)));
        return tokens;
    }
    let mut tokens = structure(slots::OPEN);
    tokens.extend(language.slots.encode(thought).unwrap_or_else(|| {
        // Of another form, so of another model.
        let mut tokens = tokenizer.encode(thought, Trust::Content);
        tokens.extend(structure(&format!("{}\n\n", slots::CLOSE)));
        tokens
    }));
    tokens
}

/// Tokens of the prompt of a request, in the mode that it asks for.
pub(crate) fn count_prompt_tokens(
    language: &Language,
    request: &Request,
) -> Result<u32, GenerateError> {
    if request.messages.is_empty() {
        return Err(GenerateError::NoMessages);
    }
    let choice =
        modes::choose(request.mode, request.thinking_budget, &request.messages, &*language.auto);
    Ok(prompt(language, request, choice.mode == Mode::Thinking)?.len() as u32)
}

/// A text alone, with what the model wants before and after every prompt.
pub(crate) fn plain_prompt(language: &Language, text: &str) -> Vec<u32> {
    language.tokenizer.encode_prompt(&[Segment { text, trust: Trust::Content }])
}

pub(crate) fn tokenize(language: &Language, text: &str) -> Vec<TextToken> {
    let tokenizer = &language.tokenizer;
    let bytes = |token| tokenizer.token_bytes(token).unwrap_or_default().to_vec();
    let tokens = tokenizer.encode(text, Trust::Content);
    tokens.into_iter().map(|id| TextToken { id, bytes: bytes(id) }).collect()
}

fn refusal(error: &TemplateError) -> GenerateError {
    GenerateError::Template { reason: error.to_string() }
}

/// What the engine refused, in the words of [`rapport_types::Generate`].
pub(crate) fn submit_error(error: &SubmitError) -> GenerateError {
    match *error {
        SubmitError::TooLong { needed_tokens, room_tokens } => GenerateError::PromptTooLong {
            prompt_tokens: needed_tokens as u32,
            context_tokens: room_tokens as u32,
        },
        SubmitError::Overloaded { .. } | SubmitError::UserOverloaded { .. } => {
            GenerateError::Overloaded
        }
        SubmitError::EmptyPrompt => GenerateError::InvalidRequest {
            field: "prompt",
            reason: "it is empty; give at least a word to go on from".to_owned(),
        },
        SubmitError::UnknownToken { .. } => GenerateError::Internal { reason: error.to_string() },
    }
}

fn unix_seconds() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// Different for each reply; not a secret.
fn fresh_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0) >> 11
}

impl ReplyState {
    /// Takes one event of this reply's sequence; returns whether the reply goes on.
    pub(crate) fn take(&mut self, event: EngineEvent) -> bool {
        if let Some(reason) = self.format_loss.as_ref().and_then(|loss| loss.get()) {
            let reason = reason.clone();
            self.fail(GenerateError::FormatLost { reason });
            return false;
        }
        match event {
            EngineEvent::Started { cached, .. } => {
                self.admitted = Some(Instant::now());
                self.usage.cached_tokens = cached.total() as u32;
                let (choice, seed) = (self.choice.clone(), self.seed);
                let prompt_tokens = self.usage.prompt_tokens;
                let cached_tokens = self.usage.cached_tokens;
                self.send(Event::Started { choice, seed, prompt_tokens, cached_tokens })
            }
            EngineEvent::Token { phase_idx, choice, is_forced, .. } => {
                if !is_forced {
                    self.first_token.get_or_insert_with(Instant::now);
                }
                if phase_idx < self.answer_phase_idx {
                    self.usage.reasoning_tokens += 1;
                    return is_forced || self.thought_token(choice.token);
                }
                self.answer_token(&choice)
            }
            EngineEvent::PhaseEnded { phase_idx, .. } if phase_idx < self.answer_phase_idx => {
                let text = self.thought.finish();
                text.is_empty() || self.send(Event::Thought(text))
            }
            EngineEvent::PhaseEnded { ending, .. } => {
                let text = self.answer.finish();
                if !text.is_empty() {
                    self.send(Event::Text { text, logprobs: Vec::new() });
                }
                self.send_calls();
                let reason = match ending {
                    Ending::Complete => FinishReason::Stop,
                    Ending::Limit | Ending::Asked => FinishReason::Length,
                };
                self.finish(reason);
                false
            }
            EngineEvent::Finished { .. } => false,
            EngineEvent::Failed { failure, .. } => {
                self.fail(GenerateError::Internal { reason: failure.to_string() });
                false
            }
        }
    }

    fn thought_token(&mut self, token: u32) -> bool {
        let language = Arc::clone(&self.language);
        let text = self.thought.push(&language.tokenizer, token);
        text.is_empty() || self.send(Event::Thought(text))
    }

    fn answer_token(&mut self, choice: &rapport_engine::Choice) -> bool {
        self.usage.completion_tokens += 1;
        let language = Arc::clone(&self.language);
        let tokenizer = &language.tokenizer;
        if tokenizer.is_end(choice.token) {
            return true;
        }
        let text = self.answer.push(tokenizer, choice.token);
        let logprobs = if choice.top.is_empty() && choice.logprob == 0.0 {
            Vec::new()
        } else {
            let bytes = |token| tokenizer.token_bytes(token).unwrap_or_default().to_vec();
            let top = choice
                .top
                .iter()
                .map(|&(token, logprob)| TopLogprob { bytes: bytes(token), logprob })
                .collect();
            vec![TokenLogprob { bytes: bytes(choice.token), logprob: choice.logprob, top }]
        };
        let goes_on =
            (text.is_empty() && logprobs.is_empty()) || self.send(Event::Text { text, logprobs });
        let goes_on = goes_on && self.send_calls();
        if self.answer.is_stopped {
            self.finish(FinishReason::Stop);
            return false;
        }
        goes_on
    }

    /// Tells of the calls that are whole; returns whether anybody still reads.
    fn send_calls(&mut self) -> bool {
        let calls = self.answer.calls.as_mut().map(CallReader::take_calls).unwrap_or_default();
        calls.into_iter().all(|call| self.send(Event::ToolCall(call)))
    }

    pub(crate) fn cancel(&mut self) {
        self.finish(FinishReason::Cancelled);
    }

    pub(crate) fn fail(&mut self, error: GenerateError) {
        if !self.is_over {
            self.is_over = true;
            self.send(Event::Failed(error));
        }
    }

    fn finish(&mut self, reason: FinishReason) {
        if self.is_over {
            return;
        }
        self.is_over = true;
        let now = Instant::now();
        let first = self.first_token.unwrap_or(now);
        let ms = |from: Instant, to: Instant| to.duration_since(from).as_secs_f64() * 1e3;
        let timings = Timings {
            first_token_ms: ms(self.started, first),
            prompt_ms: ms(self.admitted.unwrap_or(first), first),
            decode_ms: ms(first, now),
        };
        let (stop, build) = (self.answer.met_stop.clone(), self.build.clone());
        let outcome = Outcome { reason, stop, usage: self.usage, timings, build };
        self.send(Event::Finished(outcome));
    }

    fn send(&mut self, event: Event) -> bool {
        (self.sink)(event) == Reader::Listening
    }
}
