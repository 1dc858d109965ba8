//! Chats through pipes: what a program reads, on which output, with which exit status.

use std::io::{self, BufRead, Read, Write};
use std::num::NonZeroU32;

use rapport_cli::chat::{
    self, Backend, ChatOptions, Details, ExitStatus, InputKind, Interrupts, OutputKind, PipeInput,
    Settings, Streams, SwitchModelError, Terminal, ThoughtView,
};
use rapport_testkit::{Script, ScriptedEngine};
use rapport_types::{Generate, GenerateError, OutputFormat, SamplingDraft};

struct OneModel(ScriptedEngine);

impl Backend for OneModel {
    fn generate(&self) -> &dyn Generate {
        &self.0
    }

    fn model_names(&self) -> Vec<String> {
        vec![self.0.model().name]
    }

    fn switch_model(&mut self, name: &str) -> Result<(), SwitchModelError> {
        Err(SwitchModelError::Unknown { name: name.to_owned(), known: self.model_names() })
    }
}

fn options() -> ChatOptions {
    ChatOptions {
        settings: Settings::new(SamplingDraft::default().validate().expect("defaults are valid")),
        system: None,
        thought_view: ThoughtView::Full,
        details: Details::AnswersOnly,
        pipe_input: PipeInput::Whole,
        load: None,
        history_file: None,
        home: None,
    }
}

const PIPES: Terminal =
    Terminal { input: InputKind::Pipe, output: OutputKind::Pipe, columns: Some(20) };

struct Ran {
    status: ExitStatus,
    output: String,
    errors: String,
    messages: Vec<String>,
}

fn run(options: ChatOptions, terminal: Terminal, input: &[u8], engine: ScriptedEngine) -> Ran {
    run_with(options, terminal, input, engine, &Interrupts::manual())
}

fn run_with(
    options: ChatOptions,
    terminal: Terminal,
    mut input: &[u8],
    engine: ScriptedEngine,
    interrupts: &Interrupts,
) -> Ran {
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let mut backend = OneModel(engine);
    let streams = Streams { input: &mut input, output: &mut output, errors: &mut errors };
    let status = chat::run(options, &mut backend, terminal, streams, interrupts);
    let asked = backend.0.requests();
    let messages = asked.into_iter().filter_map(|mut request| request.messages.pop());
    Ran {
        status,
        output: String::from_utf8(output).expect("answers are text"),
        errors: String::from_utf8(errors).expect("notes are text"),
        messages: messages.map(|message| message.content).collect(),
    }
}

fn thinking() -> Script {
    Script::new().thought("feel: glad").text("A long answer ").text("that is not wrapped.")
}

#[test]
fn a_pipe_gets_the_answer_and_nothing_else() {
    let input = b"/usr/bin is a folder.\n\n// What is it for?\n";
    let ran = run(options(), PIPES, input, ScriptedEngine::new([thinking()]));
    assert_eq!(ran.output, "A long answer that is not wrapped.\n");
    assert_eq!(ran.errors, "");
    assert_eq!(ran.status, ExitStatus::Success);
    assert_eq!(ran.messages, ["/usr/bin is a folder.\n\n// What is it for?"]);
}

#[test]
fn verbose_writes_thoughts_and_notes_apart() {
    let options = ChatOptions { details: Details::Verbose, ..options() };
    let ran = run(options, PIPES, b"hi", ScriptedEngine::new([thinking()]));
    assert_eq!(ran.output, "A long answer that is not wrapped.\n");
    assert_eq!(ran.errors, "- thinking: the script answers in thinking mode\n| feel: glad\n");
}

#[test]
fn a_pipe_into_a_terminal_is_wrapped_and_still_only_the_answer() {
    let terminal = Terminal { output: OutputKind::Colour, ..PIPES };
    let ran = run(options(), terminal, b"hi", ScriptedEngine::new([thinking()]));
    assert_eq!(ran.output, "A long answer that\nis not wrapped.\n");
    assert_eq!(ran.errors, "");
}

#[test]
fn a_line_end_is_added_once() {
    let script = Script::new().text("\n  done").text(" \n\n");
    let ran = run(options(), PIPES, b"hi", ScriptedEngine::new([script]));
    assert_eq!(ran.output, "\n  done \n\n");
}

#[test]
fn nothing_in_is_nothing_out() {
    let ran = run(options(), PIPES, b" \n\n", ScriptedEngine::new([]));
    assert_eq!(
        (ran.status, ran.output.as_str(), ran.errors.as_str()),
        (ExitStatus::Success, "", "")
    );
    assert_eq!(ran.messages, Vec::<String>::new());
}

#[test]
fn each_line_can_be_a_turn() {
    let options = ChatOptions { pipe_input: PipeInput::Lines, ..options() };
    let input = b"/system Be kind.\none\\\nmore\n\n//two\n/quit\nthree\n";
    let engine = ScriptedEngine::answering(|request| {
        Script::answer(&format!("{} messages", request.messages.len()))
    });
    let ran = run(options, PIPES, input, engine);
    assert_eq!(ran.output, "2 messages\n4 messages\n");
    assert_eq!(ran.errors, "");
    assert_eq!(ran.messages, ["one\nmore", "/two"]);
}

#[test]
fn the_first_failing_line_ends_a_script() {
    let lines = || ChatOptions { pipe_input: PipeInput::Lines, ..options() };
    let ran = run(lines(), PIPES, b"/set seed x\nhi\n", ScriptedEngine::new([]));
    assert_eq!(ran.status, ExitStatus::Usage);
    assert!(ran.errors.starts_with("error: `seed` takes a whole number"), "{}", ran.errors);
    assert_eq!(ran.messages, Vec::<String>::new());

    let ran = run(lines(), PIPES, b"/load missing.jsonl\nhi\n", ScriptedEngine::new([]));
    assert_eq!(ran.status, ExitStatus::Failure);
    assert!(ran.errors.contains("cannot read missing.jsonl"), "{}", ran.errors);
}

#[test]
fn failures_have_a_status_and_a_reason() {
    let reason = "out of pages".to_owned();
    let broken = Script::new().text("Hel").fail(GenerateError::Internal { reason });
    let ran = run(options(), PIPES, b"hi", ScriptedEngine::new([broken]));
    assert_eq!(ran.status, ExitStatus::Failure);
    assert_eq!(ran.output, "Hel\n");
    assert_eq!(ran.errors, "error: the reply failed inside the engine: out of pages\n");

    let engine = ScriptedEngine::new([]).with_context_tokens(2);
    let ran = run(options(), PIPES, b"one two three", engine);
    assert_eq!(ran.status, ExitStatus::Failure);
    assert!(ran.errors.starts_with("error: the prompt has 3 tokens"), "{}", ran.errors);

    let ran = run(options(), PIPES, b"caf\xe9", ScriptedEngine::new([]));
    assert_eq!(ran.status, ExitStatus::Failure);
    assert_eq!(ran.errors, "error: the input is not UTF-8 text (at byte 3)\n");
}

#[test]
fn an_interrupted_reply_is_a_failure_for_a_program() {
    let interrupts = Interrupts::manual();
    let raised = interrupts.clone();
    let script = Script::new().thought("hm").run(move || raised.raise()).await_stop().text("never");
    let engine = ScriptedEngine::new([script]);
    let ran = run_with(options(), PIPES, b"hi", engine, &interrupts);
    assert_eq!(ran.status, ExitStatus::Interrupted);
    assert_eq!(ran.output, "");
}

#[test]
fn a_reader_that_goes_away_cancels_the_reply_quietly() {
    let (mut reader, mut writer) = io::pipe().unwrap();
    let mut input: &[u8] = b"hi";
    let mut errors = Vec::new();
    let script = Script::new().text("first ").text("second ").await_stop().text("never");
    let mut backend = OneModel(ScriptedEngine::new([script]));

    let mut first = [0; 5];
    let status = std::thread::scope(|scope| {
        scope.spawn(move || {
            reader.read_exact(&mut first).unwrap();
            drop(reader);
        });
        // Each piece comes once the one before is read or refused, so the write fails in the end.
        let mut output = Impatient(&mut writer);
        let streams = Streams { input: &mut input, output: &mut output, errors: &mut errors };
        chat::run(options(), &mut backend, PIPES, streams, &Interrupts::manual())
    });
    assert_eq!(status, ExitStatus::Success);
    assert_eq!(String::from_utf8(errors).unwrap(), "");
}

/// Writes again and again until the reader has gone.
struct Impatient<'a>(&'a mut io::PipeWriter);

impl Write for Impatient<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            self.0.write_all(bytes)?;
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[test]
fn a_keyboard_without_a_terminal_to_write_to_gets_no_escape_codes() {
    let terminal = Terminal { input: InputKind::Keyboard, ..PIPES };
    let ran = run(options(), terminal, b"hi\n/moed\n", ScriptedEngine::new([thinking()]));
    assert_eq!(ran.status, ExitStatus::Success);
    assert_eq!(ran.output, "A long answer that is not wrapped.\n");
    let asides: Vec<&str> = ran.errors.lines().collect();
    assert_eq!(asides[1..3], ["> - thinking: the script answers in thinking mode", "| feel: glad"]);
    assert!(asides[3].starts_with("> error: there is no command `/moed`"), "{}", ran.errors);
    assert!(!ran.errors.contains('\x1b') && !ran.output.contains('\x1b'));
}

#[test]
fn a_dumb_terminal_is_wrapped_and_plain() {
    let terminal =
        Terminal { input: InputKind::Keyboard, output: OutputKind::Dumb, columns: Some(20) };
    let ran = run(options(), terminal, b"hi\n", ScriptedEngine::new([thinking()]));
    assert!(ran.output.contains("\nA long answer that\nis not wrapped.\n"), "{}", ran.output);
    assert!(!ran.output.contains('\x1b') && ran.output.is_ascii(), "{}", ran.output);
}

#[test]
fn a_conversation_goes_on_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chat.jsonl");
    std::fs::write(
        &path,
        "{\"role\":\"user\",\"content\":\"1\"}\n{\"role\":\"assistant\",\"content\":\"2\"}\n",
    )
    .unwrap();
    let mut settings = options().settings;
    settings.max_tokens = NonZeroU32::MIN;
    let options = ChatOptions { load: Some(path), settings, ..options() };
    let engine = ScriptedEngine::answering(|request| {
        Script::new().text(&request.messages.len().to_string()).text("never")
    });
    let ran = run(options, PIPES, b"3", engine);
    assert_eq!((ran.output.as_str(), ran.status), ("3\n", ExitStatus::Success));
}

#[test]
fn a_cut_answer_names_the_flag_and_fails_where_it_breaks_its_format() {
    let cut = |format| {
        let mut settings = options().settings;
        settings.max_tokens = NonZeroU32::MIN;
        settings.format = format;
        let options = ChatOptions { settings, details: Details::Verbose, ..options() };
        let engine = ScriptedEngine::answering(|_| Script::new().text("{").text("}"));
        run(options, PIPES, b"json, please", engine)
    };
    let free = cut(OutputFormat::Text);
    assert_eq!((free.output.as_str(), free.status), ("{\n", ExitStatus::Success));
    assert!(free.errors.contains("--max-tokens N allows more"), "{}", free.errors);
    let formed = cut(OutputFormat::JsonObject);
    assert_eq!((formed.output.as_str(), formed.status), ("{\n", ExitStatus::Failure));
    assert!(formed.errors.contains("does not fill its format"), "{}", formed.errors);
}

#[test]
fn input_that_cannot_be_read_is_said() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the disk is gone"))
        }
    }
    let mut input = io::BufReader::new(Broken);
    let input: &mut dyn BufRead = &mut input;
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let mut backend = OneModel(ScriptedEngine::new([]));
    let streams = Streams { input, output: &mut output, errors: &mut errors };
    let status = chat::run(options(), &mut backend, PIPES, streams, &Interrupts::manual());
    assert_eq!(status, ExitStatus::Failure);
    assert_eq!(errors, b"error: cannot read the input: the disk is gone\n");
}
