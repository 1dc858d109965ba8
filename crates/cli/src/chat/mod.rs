//! `rapport chat`: a conversation in a terminal, or one message through a pipe.
//!
//! - From a keyboard: lines are edited, `/help` lists the commands, replies stream.
//! - From a pipe: all of it is one message, commands are not looked for, and only the answer is
//!   written. With [`PipeInput::Lines`] each line is a turn and commands work; the first thing that
//!   fails ends the chat.
//!
//! Everything is handed in: options, engine, terminal, streams, interrupts. Nothing here reads the
//! environment, knows a model file, or keeps a conversation unless it is asked to.
//!
//! The pure parts are `command` (what a line means), `session` (the conversation), `reply` (a
//! reply being written), `render` (text to lines), `report` (tables). Start reading at [`run`] and
//! `Chat::answer`.

mod command;
mod input;
mod interrupt;
mod render;
mod reply;
mod report;
mod screen;
mod session;
mod settings;
mod terminal;
mod transcript;

#[cfg(test)]
mod tests;

use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant};

use rapport_types::{
    AdapterChoice, Control, Event, EventSink, FinishReason, Generate, GenerateError, Outcome,
    OutputFormat, Reader,
};

use command::{Command, Input, SystemChange};
use input::{InputError, Line, LineEditor, LineSource, PlainLines};
use reply::{Interruption, Progress};
use screen::Screen;
use session::{Attempt, Session};

pub use command::ThoughtView;
pub use interrupt::{Interrupts, Listening};
pub use screen::Details;
pub use settings::{SettingError, SettingKey, Settings};
pub use terminal::{InputKind, OutputKind, Terminal};

/// What a chat begins with.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatOptions {
    pub settings: Settings,
    /// What the model is told before the conversation.
    pub system: Option<String>,
    pub thought_view: ThoughtView,
    pub details: Details,
    pub pipe_input: PipeInput,
    /// A saved conversation to go on with.
    pub load: Option<PathBuf>,
    /// Where typed lines are kept; `None` keeps none.
    pub history_file: Option<PathBuf>,
    /// What `~/` stands for in file names.
    pub home: Option<PathBuf>,
}

/// How input that nobody types is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PipeInput {
    /// All of it is one message, as it is.
    Whole,
    /// Each line is a turn, and may be a command.
    Lines,
}

/// Where a chat reads and writes.
pub struct Streams<'a> {
    /// Not used by the line editor, which reads keys.
    pub input: &'a mut dyn BufRead,
    pub output: &'a mut dyn Write,
    pub errors: &'a mut dyn Write,
}

/// What answers, and what else could.
pub trait Backend {
    /// What answers now.
    fn generate(&self) -> &dyn Generate;

    /// The names [`Backend::switch_model`] takes, the present one included.
    fn model_names(&self) -> Vec<String>;

    /// Answers with another model from now on.
    ///
    /// # Errors
    /// The present model stays.
    fn switch_model(&mut self, name: &str) -> Result<(), SwitchModelError>;
}

/// Why the model stays the same.
#[derive(Debug, thiserror::Error)]
pub enum SwitchModelError {
    #[error("there is no model `{name}`{}", known_models(known))]
    Unknown { name: String, known: Vec<String> },
    #[error("the model `{name}` cannot be loaded: {source}")]
    Load { name: String, source: Box<dyn std::error::Error + Send + Sync> },
}

fn known_models(known: &[String]) -> String {
    if known.is_empty() { String::new() } else { format!(": use {}", known.join(", ")) }
}

/// How a chat ended; the number is the program's exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitStatus {
    Success = 0,
    /// No reply, or input or output broke.
    Failure = 1,
    /// A line was neither a message nor a command that works.
    Usage = 2,
    /// Ctrl-C ended a reply that a program waits for.
    Interrupted = 130,
}

impl From<ExitStatus> for std::process::ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(status as u8)
    }
}

/// Why a chat is over.
enum Leave {
    With(ExitStatus),
    /// Nobody reads the output any more, or it cannot be written.
    Output(io::Error),
}

impl From<io::Error> for Leave {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// Chats until the person or the input is done.
pub fn run(
    options: ChatOptions,
    backend: &mut dyn Backend,
    terminal: Terminal,
    streams: Streams<'_>,
    interrupts: &Interrupts,
) -> ExitStatus {
    let began = Instant::now();
    let Streams { input, output, errors } = streams;
    let mut chat = Chat {
        session: Session::new(options.settings, options.system),
        screen: Screen::new(terminal, options.details, options.thought_view, output, errors),
        after_error: if terminal.input == InputKind::Keyboard {
            AfterError::GoOn
        } else {
            AfterError::Leave
        },
        commands: match (terminal.input, options.pipe_input) {
            (InputKind::Pipe, PipeInput::Whole) => Commands::None,
            _ => Commands::Read,
        },
        home: options.home,
        clock: Box::new(move || began.elapsed()),
        backend,
        interrupts,
    };

    let loaded = options.load.map_or(Ok(()), |path| chat.load(&path));
    let done = loaded.and_then(|()| match terminal.input {
        InputKind::Pipe if options.pipe_input == PipeInput::Whole => chat.answer_whole(input),
        InputKind::Keyboard if terminal.can_edit() => {
            let names = chat.backend.model_names();
            match LineEditor::new(terminal.output, options.history_file, names) {
                Ok(mut editor) => chat.converse(&mut editor),
                Err(error) => chat.input_failed(&error),
            }
        }
        kind => {
            let typed = kind == InputKind::Keyboard;
            chat.converse(&mut PlainLines { input, typed })
        }
    });
    chat.end(done)
}

/// A chat that runs.
struct Chat<'a> {
    session: Session,
    screen: Screen<'a>,
    backend: &'a mut dyn Backend,
    interrupts: &'a Interrupts,
    after_error: AfterError,
    commands: Commands,
    home: Option<PathBuf>,
    /// Time since the chat began.
    clock: Box<dyn Fn() -> Duration + 'a>,
}

/// Whether something that failed ends the chat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AfterError {
    GoOn,
    Leave,
}

/// Whether lines that start with a slash are commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Commands {
    Read,
    /// The whole input is one message.
    None,
}

/// What the reply's loop waits for.
enum Incoming {
    Event(Event),
    Interrupt,
    /// The engine let go of the reply; after its last event this means nothing.
    Released,
}

/// How a reply ended.
enum Ended {
    Finished(Outcome),
    Failed(GenerateError),
    Abandoned,
}

impl Chat<'_> {
    /// Says what a person has to know, and turns the end into a status.
    fn end(&mut self, done: Result<(), Leave>) -> ExitStatus {
        match done {
            Ok(()) => ExitStatus::Success,
            Err(Leave::With(status)) => status,
            // The reader has what it wanted, as `head` has.
            Err(Leave::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                ExitStatus::Success
            }
            Err(Leave::Output(error)) => {
                // If errors cannot be written either, the status still says it.
                let _unwritten = self.screen.error(&format!("cannot write the reply: {error}"));
                ExitStatus::Failure
            }
        }
    }

    fn answer_whole(&mut self, input: &mut dyn BufRead) -> Result<(), Leave> {
        match input::read_whole(input) {
            Ok(text) if text.trim().is_empty() => Ok(()),
            Ok(text) => self.answer(self.session.ask(text), None),
            Err(error) => self.input_failed(&error),
        }
    }

    fn converse(&mut self, source: &mut dyn LineSource) -> Result<(), Leave> {
        self.greet()?;
        let mut n_interrupts = 0;
        loop {
            if let Some(problem) = source.take_problem() {
                self.screen.note(&problem.to_string())?;
            }
            if n_interrupts == 0 {
                self.screen.gap()?;
            }
            if source.needs_prompt() {
                self.screen.prompt()?;
            }
            let line = match source.read("") {
                Ok(Line::Text(line)) => line,
                Ok(Line::End) => return Ok(()),
                Ok(Line::Interrupted) => {
                    n_interrupts += 1;
                    if n_interrupts >= 2 {
                        self.screen.note("Ctrl-D or /quit leaves")?;
                    }
                    continue;
                }
                Err(error) => return self.input_failed(&error),
            };
            n_interrupts = 0;
            match command::parse(&line) {
                Ok(Input::Nothing) => {}
                Ok(Input::Message(text)) => self.answer(self.session.ask(text), Some(source))?,
                Ok(Input::Command(Command::Quit)) => return Ok(()),
                Ok(Input::Command(command)) => self.command(command, source)?,
                Err(error) => self.failed(&error, ExitStatus::Usage)?,
            }
        }
    }

    fn greet(&mut self) -> io::Result<()> {
        let model = self.backend.generate().model();
        self.screen.note(&format!(
            "{}, {} tokens of context, {} mode; /help lists the commands, Ctrl-D leaves",
            model.name, model.context_tokens, self.session.settings.mode
        ))
    }

    fn failed(&mut self, error: &dyn std::fmt::Display, status: ExitStatus) -> Result<(), Leave> {
        self.screen.error(&error.to_string())?;
        match self.after_error {
            AfterError::GoOn => Ok(()),
            AfterError::Leave => Err(Leave::With(status)),
        }
    }

    /// There is nothing to go on with, wherever the input comes from.
    fn input_failed(&mut self, error: &InputError) -> Result<(), Leave> {
        self.screen.error(&error.to_string())?;
        Err(Leave::With(ExitStatus::Failure))
    }

    fn command(&mut self, command: Command, source: &mut dyn LineSource) -> Result<(), Leave> {
        match command {
            Command::Help => self.screen.show(&report::help(self.screen.columns()))?,
            Command::Stats => {
                self.screen.show(&report::stats(&self.session, self.screen.columns()))?;
            }
            Command::Mode(mode) => {
                self.session.settings.mode = mode.unwrap_or(self.session.settings.mode);
                self.screen.note(&format!("mode: {}", self.session.settings.mode))?;
            }
            Command::Budget(budget) => {
                let settings = &mut self.session.settings;
                settings.thinking_budget = budget.unwrap_or(settings.thinking_budget);
                let text = format!("thinking budget: {}", settings.thinking_budget);
                self.screen.note(&text)?;
            }
            Command::Thought(Some(view)) => {
                self.screen.thought_view = view;
                self.screen.note(&format!("thoughts: {}", view.as_str()))?;
            }
            Command::Thought(None) => self.show_last_thought()?,
            Command::Set(Some((key, value))) => match self.session.settings.set(key, &value) {
                Ok(()) => {
                    let value = self.session.settings.get(key);
                    self.screen.note(&format!("{}: {value}", key.as_str()))?;
                }
                Err(error) => return self.failed(&error, ExitStatus::Usage),
            },
            Command::Set(None) => {
                let columns = self.screen.columns();
                self.screen.show(&report::settings(&self.session.settings, columns))?;
            }
            Command::System(change) => self.system(change)?,
            Command::Regenerate => match self.session.regenerate() {
                Ok(attempt) => {
                    if self.session.regenerates_the_same() {
                        self.screen
                            .note("the same message, settings and seed give the same reply")?;
                    }
                    return self.answer(attempt, Some(source));
                }
                Err(error) => return self.failed(&error, ExitStatus::Usage),
            },
            Command::Edit(text) => return self.edit(text, source),
            Command::Clear => {
                self.session.clear();
                self.screen.note("a new conversation; system message and settings stay")?;
            }
            Command::Save { path, if_exists } => return self.save(&path, if_exists),
            Command::Load(path) => return self.load(&path),
            Command::Model(Some(name)) => return self.switch_model(&name),
            Command::Model(None) => self.list_models()?,
            Command::Adapter(name) => return self.adapter(name),
            Command::Quit => return Err(Leave::With(ExitStatus::Success)),
        }
        Ok(())
    }

    fn show_last_thought(&mut self) -> io::Result<()> {
        let reply = self.session.last_reply();
        match reply.and_then(|reply| reply.thought.clone()) {
            Some(thought) => self.screen.show_thought(&thought),
            None => self.screen.note("the last reply has no thought"),
        }
    }

    fn system(&mut self, change: Option<SystemChange>) -> io::Result<()> {
        match change {
            Some(SystemChange::Set(text)) => self.session.set_system(Some(text)),
            Some(SystemChange::Remove) => self.session.set_system(None),
            None => {}
        }
        let text = self.session.system().map_or_else(
            || "no system message".to_owned(),
            |system| format!("system message: {system}"),
        );
        self.screen.note(&text)
    }

    fn edit(&mut self, text: Option<String>, source: &mut dyn LineSource) -> Result<(), Leave> {
        let text = match text {
            Some(text) => Ok(text),
            None => match self.session.text_to_edit() {
                Ok(old) if source.can_edit() => match source.read(&old) {
                    Ok(Line::Text(text)) if !text.trim().is_empty() => Ok(text),
                    Ok(_) => return Ok(self.screen.note("the message stays as it was")?),
                    Err(error) => return self.input_failed(&error),
                },
                Ok(old) => {
                    let how = "/edit TEXT replaces the last message, which is: ";
                    return Ok(self.screen.note(&format!("{how}{old}"))?);
                }
                Err(error) => Err(error),
            },
        };
        match text.and_then(|text| self.session.edit(text.trim_end().to_owned())) {
            Ok(attempt) => self.answer(attempt, Some(source)),
            Err(error) => self.failed(&error, ExitStatus::Usage),
        }
    }

    fn save(&mut self, path: &Path, if_exists: command::IfExists) -> Result<(), Leave> {
        let path = self.expand_home(path);
        let conversation = self.session.conversation();
        match transcript::save(&path, &conversation, if_exists) {
            Ok(()) => {
                let n_messages = count(conversation.len(), "message");
                Ok(self.screen.note(&format!("{n_messages} saved in {}", path.display()))?)
            }
            Err(error) => self.failed(&error, ExitStatus::Failure),
        }
    }

    fn load(&mut self, path: &Path) -> Result<(), Leave> {
        let path = self.expand_home(path);
        match transcript::load(&path) {
            Ok(conversation) => {
                let n_messages = count(conversation.len(), "message");
                self.session.load(conversation);
                let mut text = format!("{n_messages} loaded from {}", path.display());
                if self.session.has_unanswered() {
                    text.push_str(
                        "; the last has no reply: /regen answers it, another message replaces it",
                    );
                }
                Ok(self.screen.note(&text)?)
            }
            Err(error) => self.failed(&error, ExitStatus::Failure),
        }
    }

    fn expand_home(&self, path: &Path) -> PathBuf {
        match (&self.home, path.strip_prefix("~")) {
            (Some(home), Ok(rest)) => home.join(rest),
            _ => path.to_owned(),
        }
    }

    fn switch_model(&mut self, name: &str) -> Result<(), Leave> {
        self.screen.note(&format!("loading {name}"))?;
        let before = self.backend.generate().sampling(&self.session.settings.adapter);
        if let Err(error) = self.backend.switch_model(name) {
            return self.failed(&error, ExitStatus::Failure);
        }
        self.session.see_all_again();
        self.session.settings.adapter = AdapterChoice::Default;
        let next = self.backend.generate().sampling(&AdapterChoice::Default);
        self.session.settings.follow(&before, &next);
        let model = self.backend.generate().model();
        let text = format!("{}, {} tokens of context", model.name, model.context_tokens);
        Ok(self.screen.note(&text)?)
    }

    fn list_models(&mut self) -> io::Result<()> {
        let now = self.backend.generate().model().name;
        let others: Vec<String> =
            self.backend.model_names().into_iter().filter(|name| *name != now).collect();
        let others = if others.is_empty() {
            "there is no other".to_owned()
        } else {
            format!("there is also {}", others.join(", "))
        };
        self.screen.note(&format!("model: {now}; {others}"))
    }

    /// Answers with another adapter from now on, and says what there is.
    fn adapter(&mut self, name: Option<String>) -> Result<(), Leave> {
        let generate = self.backend.generate();
        let adapters = generate.adapters();
        let known: Vec<String> = adapters.iter().map(|adapter| adapter.name.clone()).collect();
        let before = generate.sampling(&self.session.settings.adapter);
        match name {
            None => {}
            Some(name) if name == "none" => self.session.settings.adapter = AdapterChoice::None,
            Some(name) if known.contains(&name) => {
                self.session.settings.adapter = AdapterChoice::Named(name);
            }
            Some(name) => {
                let error = GenerateError::UnknownAdapter { name, known };
                return self.failed(&error, ExitStatus::Usage);
            }
        }
        let next = generate.sampling(&self.session.settings.adapter);
        self.session.settings.follow(&before, &next);
        let usual = generate.model().build.adapter;
        let now = match &self.session.settings.adapter {
            AdapterChoice::Default => {
                let usual = adapters.iter().find(|adapter| adapter.build.adapter == usual);
                usual.map_or("none", |adapter| &adapter.name)
            }
            AdapterChoice::None => "none",
            AdapterChoice::Named(name) => name,
        };
        let others: Vec<&str> =
            known.iter().map(String::as_str).chain(["none"]).filter(|name| *name != now).collect();
        let others = match others.join(", ") {
            others if others.is_empty() => "there is no other".to_owned(),
            others => format!("there is also {others}"),
        };
        Ok(self.screen.note(&format!("adapter: {now}; {others}"))?)
    }

    /// Asks for a reply and shows it as it comes.
    fn answer(
        &mut self,
        attempt: Attempt,
        source: Option<&mut dyn LineSource>,
    ) -> Result<(), Leave> {
        let _hushed = source.and_then(|source| source.hush());
        let (attempt, started) = self.start(attempt);
        let running = match started {
            Ok(running) => running,
            Err(error) => {
                self.session.leave_unanswered(attempt);
                return self.failed(&error, ExitStatus::Failure);
            }
        };
        self.screen.begin_reply();
        if let n_dropped @ 1.. = self.session.n_newly_dropped(&attempt) {
            let turns = if n_dropped == 1 { "turn" } else { &format!("{n_dropped} turns") };
            self.screen.note(&format!(
                "the conversation is too long for the model: it no longer sees the oldest {turns}"
            ))?;
        }

        let mut progress = Progress::default();
        let ended = self.follow(&running, &mut progress)?;
        if progress.end_thought((self.clock)()) {
            self.screen.end_thought()?;
        }
        self.screen.end_reply()?;
        self.conclude(attempt, progress, ended)
    }

    /// Starts a reply, leaving out the oldest turns until the model takes the rest.
    fn start(&self, mut attempt: Attempt) -> (Attempt, Result<Running, GenerateError>) {
        loop {
            // A refused reply lets go of its channel, so each try has its own.
            let (sender, incoming) = mpsc::channel();
            let interrupted = sender.clone();
            let listening = self.interrupts.listen(move || {
                // A reply that just ended has nothing to interrupt.
                let _ended = interrupted.send(Incoming::Interrupt);
            });
            let request = self.session.request(&attempt);
            let error = match self.backend.generate().start(request, sink(sender)) {
                Ok(control) => {
                    let running = Running { control, incoming, _listening: listening };
                    return (attempt, Ok(running));
                }
                Err(error) => error,
            };
            match self.session.drop_oldest_turn(&attempt) {
                Some(shorter) if matches!(error, GenerateError::PromptTooLong { .. }) => {
                    attempt = shorter;
                }
                _ => return (attempt, Err(error)),
            }
        }
    }

    /// Shows events until the reply ends.
    fn follow(&mut self, running: &Running, progress: &mut Progress) -> io::Result<Ended> {
        for next in &running.incoming {
            match next {
                Incoming::Event(Event::Started { choice, seed, .. }) => {
                    if self.session.settings.mode == rapport_types::Mode::Auto {
                        self.screen.choice(&choice)?;
                    }
                    progress.start(choice, seed);
                }
                Incoming::Event(Event::Thought(piece)) => {
                    progress.think(&piece, (self.clock)());
                    self.screen.thought(&piece)?;
                }
                Incoming::Event(Event::Text { text, .. }) => {
                    if progress.answer(&text, (self.clock)()) {
                        self.screen.end_thought()?;
                    }
                    self.screen.answer(&text)?;
                }
                // The chat offers no tools.
                Incoming::Event(Event::ToolCall(_)) => {}
                Incoming::Event(Event::Finished(outcome)) => return Ok(Ended::Finished(outcome)),
                Incoming::Event(Event::Failed(error)) => return Ok(Ended::Failed(error)),
                Incoming::Interrupt => match progress.interrupt() {
                    // A program that waits for the whole reply gets none.
                    Interruption::AnswerNow if self.after_error == AfterError::Leave => {
                        running.control.stop();
                    }
                    Interruption::AnswerNow => running.control.answer_now(),
                    Interruption::Stop => running.control.stop(),
                    Interruption::Abandon => return Ok(Ended::Abandoned),
                },
                Incoming::Released => break,
            }
        }
        Ok(Ended::Failed(GenerateError::EngineStopped))
    }

    /// Takes the reply into the conversation and says how it ended.
    fn conclude(
        &mut self,
        attempt: Attempt,
        progress: Progress,
        ended: Ended,
    ) -> Result<(), Leave> {
        let outcome = match ended {
            Ended::Finished(outcome) => outcome,
            Ended::Failed(error) => {
                self.session.leave_unanswered(attempt);
                return self.failed(&error, ExitStatus::Failure);
            }
            Ended::Abandoned => {
                self.session.leave_unanswered(attempt);
                self.screen.note("the engine does not stop: the reply is abandoned")?;
                return self.interrupted();
            }
        };
        if let Some(duration) = progress.thought_took() {
            self.screen.folded_thought(duration, outcome.usage.reasoning_tokens)?;
        }
        let reason = outcome.reason;
        let n_answer_tokens = outcome.usage.completion_tokens;
        let Some(reply) = progress.finish(outcome) else {
            self.session.leave_unanswered(attempt);
            let reason = "it finished a reply that it never started".to_owned();
            return self.failed(&GenerateError::Internal { reason }, ExitStatus::Failure);
        };

        let is_empty = reply.text.trim().is_empty();
        self.session.record(attempt, reply);
        let max_tokens = self.session.settings.max_tokens;
        match reason {
            FinishReason::Cancelled => {
                self.screen.note("stopped")?;
                self.interrupted()
            }
            _ if is_empty => Ok(self.screen.note("the reply is empty: /regen tries again")?),
            FinishReason::Length if n_answer_tokens >= max_tokens.get() => {
                let tokens = count(max_tokens.get() as usize, "token");
                let more = match self.commands {
                    Commands::Read => "/set max_tokens N",
                    Commands::None => "--max-tokens N",
                };
                self.cut(&format!("cut at {tokens}: {more} allows more"))
            }
            FinishReason::Length => self.cut("cut: the conversation fills the model's context"),
            FinishReason::Stop => Ok(()),
        }
    }

    /// The limit ended a reply: text reads on as far as it goes, half a JSON object is none.
    fn cut(&mut self, note: &str) -> Result<(), Leave> {
        if self.session.settings.format == OutputFormat::Text {
            return Ok(self.screen.note(note)?);
        }
        self.failed(&format!("the answer does not fill its format; {note}"), ExitStatus::Failure)
    }

    /// Ctrl-C ended a reply: a person goes on, a program does not.
    fn interrupted(&self) -> Result<(), Leave> {
        match self.after_error {
            AfterError::GoOn => Ok(()),
            AfterError::Leave => Err(Leave::With(ExitStatus::Interrupted)),
        }
    }
}

/// A reply that is being written, stopped once nobody waits for it.
struct Running {
    control: Control,
    incoming: mpsc::Receiver<Incoming>,
    _listening: Listening,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.control.stop();
    }
}

/// Passes events on, and says when the engine lets go of the reply: a channel that interrupts use
/// as well does not close by itself.
fn sink(sender: Sender<Incoming>) -> EventSink {
    let sender = SayRelease(sender);
    Box::new(move |event| match sender.0.send(Incoming::Event(event)) {
        Ok(()) => Reader::Listening,
        Err(_) => Reader::Gone,
    })
}

struct SayRelease(Sender<Incoming>);

impl Drop for SayRelease {
    fn drop(&mut self) {
        // Nobody may wait any more.
        let _gone = self.0.send(Incoming::Released);
    }
}

/// `1 turn`, `2 turns`.
fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}
