//! Whole chats from a keyboard: scripted lines, a scripted engine, everything that was shown.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use insta::assert_snapshot;
use rapport_testkit::{Script, ScriptedEngine};
use rapport_types::{Role, SamplingDraft};

use super::*;

/// Keys that a person would press, line by line.
struct Keyboard {
    lines: VecDeque<Line>,
    /// What each line was asked to begin with.
    initials: Vec<String>,
}

impl LineSource for Keyboard {
    fn read(&mut self, initial: &str) -> Result<Line, InputError> {
        self.initials.push(initial.to_owned());
        Ok(self.lines.pop_front().unwrap_or(Line::End))
    }

    fn can_edit(&self) -> bool {
        true
    }

    fn needs_prompt(&self) -> bool {
        true
    }
}

/// Scripted models by name.
struct Models {
    engines: Vec<ScriptedEngine>,
    present: usize,
}

impl Backend for Models {
    fn generate(&self) -> &dyn Generate {
        &self.engines[self.present]
    }

    fn model_names(&self) -> Vec<String> {
        self.engines.iter().map(|engine| engine.model().name).collect()
    }

    fn switch_model(&mut self, name: &str) -> Result<(), SwitchModelError> {
        let known = self.model_names();
        match known.iter().position(|known| known == name) {
            Some(position) => self.present = position,
            None => return Err(SwitchModelError::Unknown { name: name.to_owned(), known }),
        }
        Ok(())
    }
}

/// A chat to be played, and how it is shown.
struct Scene {
    models: Models,
    interrupts: Interrupts,
    terminal: Terminal,
    thought_view: ThoughtView,
    home: Option<PathBuf>,
}

/// A chat that was played.
struct Played {
    shown: String,
    initials: Vec<String>,
}

impl Played {
    /// Fails unless this was shown, wherever its lines were broken.
    #[track_caller]
    fn assert_says(&self, text: &str) {
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words(&self.shown).contains(&words(text)), "{text:?} is not in {}", self.shown);
    }
}

impl Scene {
    fn new(scripts: impl IntoIterator<Item = Script>) -> Self {
        Self::with_models([ScriptedEngine::new(scripts)])
    }

    fn with_models(engines: impl IntoIterator<Item = ScriptedEngine>) -> Self {
        let (input, output) = (InputKind::Keyboard, OutputKind::Monochrome);
        Self {
            models: Models { engines: engines.into_iter().collect(), present: 0 },
            interrupts: Interrupts::manual(),
            terminal: Terminal { input, output, columns: Some(60) },
            thought_view: ThoughtView::Full,
            home: None,
        }
    }

    fn play(&mut self, lines: &[&str]) -> Played {
        let lines = lines.iter().map(|line| match *line {
            "^C" => Line::Interrupted,
            text => Line::Text(text.to_owned()),
        });
        let mut keyboard = Keyboard { lines: lines.collect(), initials: Vec::new() };
        let (mut output, mut errors) = (Vec::new(), Vec::new());
        let sampling = SamplingDraft::default().validate().unwrap();
        // Every look at the clock is 400 ms after the one before.
        let looks = AtomicU64::new(0);
        let mut chat = Chat {
            session: Session::new(Settings::new(sampling), None),
            screen: Screen::new(
                self.terminal,
                Details::AnswersOnly,
                self.thought_view,
                &mut output,
                &mut errors,
            ),
            backend: &mut self.models,
            interrupts: &self.interrupts,
            after_error: AfterError::GoOn,
            commands: Commands::Read,
            home: self.home.clone(),
            clock: Box::new(move || {
                Duration::from_millis(400 * looks.fetch_add(1, Ordering::Relaxed))
            }),
        };
        let done = chat.converse(&mut keyboard);
        assert_eq!(chat.end(done), ExitStatus::Success);
        drop(chat);
        assert_eq!(String::from_utf8_lossy(&errors), "", "a terminal gets everything in one place");
        Played { shown: String::from_utf8(output).unwrap(), initials: keyboard.initials }
    }

    fn requests(&self) -> Vec<Vec<String>> {
        let text = |request: rapport_types::Request| {
            request.messages.into_iter().map(|message| message.content).collect()
        };
        self.models.engines[self.models.present].requests().into_iter().map(text).collect()
    }
}

fn thinking() -> Script {
    Script::new()
        .thought("feel: glad ")
        .thought("| need: a greeting back, and perhaps a question about the day")
        .text("Hello! ")
        .text("How was your day?")
        .because("a greeting deserves warmth")
}

#[test]
fn a_whole_session() {
    let mut scene = Scene::new([
        Script::answer("It is a dark grey stone, and it is on every roof of the town.")
            .because("a plain question"),
        thinking(),
        Script::answer("Slate."),
    ]);
    let played = scene.play(&[
        "What is slate?",
        "  ",
        "/thought folded",
        "hello",
        "/thought",
        "/mode fast",
        "/moed",
        "/set temperature 3",
        "/set max_tokens 1",
        "/regen",
        "/stats",
        "/quit",
        "never sent",
    ]);
    assert_snapshot!(played.shown);
    assert_eq!(scene.requests().len(), 3);
}

#[test]
fn thoughts_are_shown_as_the_person_likes() {
    let mut shown = String::new();
    for view in ThoughtView::ALL {
        for output in [OutputKind::Dumb, OutputKind::Monochrome, OutputKind::Colour] {
            let mut scene = Scene::new([thinking()]);
            scene.thought_view = view;
            scene.terminal.output = output;
            scene.terminal.columns = Some(40);
            let played = scene.play(&["hi"]).shown.replace('\x1b', "ESC").replace('\r', "CR");
            writeln!(shown, "=== {} {output:?}\n{played}", view.as_str()).unwrap();
        }
    }
    assert_snapshot!(shown);
}

#[test]
fn the_last_message_is_edited_in_place() {
    let mut scene = Scene::new([Script::answer("one"), Script::answer("two")]);
    let played = scene.play(&["frist", "/edit", "first"]);
    assert_eq!(played.initials, ["", "", "frist", ""]);
    assert_eq!(scene.requests(), [["frist"], ["first"]]);

    let mut scene = Scene::new([Script::answer("one"), Script::answer("two")]);
    let played = scene.play(&["/edit", "one", "/edit", "^C", "/edit  uno"]);
    played.assert_says("error: there is no message to edit yet");
    played.assert_says("the message stays as it was");
    assert_eq!(scene.requests(), [["one"], ["uno"]]);
}

#[test]
fn ctrl_c_ends_the_thought_then_the_reply() {
    let interrupts = Interrupts::manual();
    let raise = |script: Script| {
        let interrupts = interrupts.clone();
        script.run(move || interrupts.raise())
    };
    let thought = raise(Script::new().thought("feel ")).await_answer_now();
    let answer = raise(thought.thought("never ").text("Hello ")).await_stop().text("never");
    let stopped_in_thought = raise(Script::new().thought("feel ")).await_answer_now();
    let stopped_in_thought = raise(stopped_in_thought).await_stop();
    let mut scene = Scene::new([answer, stopped_in_thought, Script::answer("again")]);
    scene.interrupts = interrupts.clone();

    let played = scene.play(&["hi", "and?", "/regen"]);
    assert!(!played.shown.contains("never"), "{}", played.shown);
    assert_eq!(played.shown.matches("· stopped").count(), 2, "{}", played.shown);
    let and = ["hi", "Hello ", "and?"].map(str::to_owned);
    assert_eq!(scene.requests()[1..], [and.clone(), and]);
}

#[test]
fn an_engine_that_does_not_stop_is_abandoned() {
    let interrupts = Interrupts::manual();
    let raised = interrupts.clone();
    let (release, released) = mpsc::channel::<()>();
    let released = Arc::new(std::sync::Mutex::new(released));
    let deaf = Script::new().text("on ").run(move || {
        raised.raise();
        raised.raise();
        // Deaf until the chat has ended.
        let _ended = released.lock().unwrap().recv();
    });
    let mut scene = Scene::new([deaf]);
    scene.interrupts = interrupts;
    let played = scene.play(&["hi"]);
    drop(release);
    played.assert_says("on\n· the engine does not stop");
}

#[test]
fn ctrl_c_twice_at_the_prompt_says_how_to_leave() {
    let mut scene = Scene::new([]);
    let once = scene.play(&["^C", "/mode", "^C"]).shown;
    assert!(!once.contains("/quit leaves"), "{once}");
    let twice = scene.play(&["^C", "^C"]).shown;
    assert!(twice.contains("· Ctrl-D or /quit leaves"), "{twice}");
}

#[test]
fn the_oldest_turns_make_room() {
    let engine = ScriptedEngine::answering(|_| Script::answer("a b c d")).with_context_tokens(12);
    let mut scene = Scene::with_models([engine]);
    let played = scene.play(&[
        "1 2 3",
        "4 5 6",
        "7 8 9",
        "/stats",
        "10 20 30 40 50 60 70 80 90 100 110 120 130",
    ]);
    played.assert_says("no longer sees the oldest turn");
    played.assert_says("(the model sees all but the first 2)");
    played.assert_says("error: the prompt has 13 tokens");
    let requests = scene.requests();
    let accepted = requests.iter().rfind(|texts| texts.last().unwrap() == "7 8 9").unwrap();
    assert_eq!(accepted, &["4 5 6", "a b c d", "7 8 9"]);
}

#[test]
fn a_reply_that_fails_can_be_tried_again() {
    let reason = "a tensor is gone".to_owned();
    let mut scene = Scene::new([
        Script::new().text("Hel").fail(GenerateError::Internal { reason }),
        Script::new().text("Hel").vanish(),
        Script::refused(GenerateError::Overloaded),
        Script::new(),
        Script::answer("Hello"),
    ]);
    let played = scene.play(&["hi", "/regen", "/regen", "/regen", "/regen", "more"]);
    for said in [
        "Hel\nerror: the reply failed inside the engine",
        "Hel\nerror: the engine has stopped",
        "error: too many replies are being made",
        "· the reply is empty: /regen tries again",
    ] {
        played.assert_says(said);
    }
    let requests = scene.requests();
    assert_eq!(requests[..5], [["hi"]; 5].map(|texts| texts.map(str::to_owned).to_vec()));
    assert_eq!(requests[5], ["hi", "Hello", "more"]);
}

#[test]
fn conversations_are_saved_and_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let mut scene = Scene::new([thinking(), Script::answer("Fine.")]);
    scene.home = Some(folder.path().to_owned());
    let lines = ["/system Be kind.", "hi", "/save ~/chat.jsonl", "/save ~/chat.jsonl", "/clear"];
    let played = scene.play(&[&lines[..], &["/load ~/chat.jsonl", "and you?"]].concat());

    played.assert_says("3 messages saved in");
    played.assert_says("/save! replaces it");
    assert_eq!(scene.requests()[1][..2], ["Be kind.", "hi"]);
    assert_eq!(scene.requests()[1].len(), 4);
    let saved = fs::read_to_string(folder.path().join("chat.jsonl")).unwrap();
    assert_eq!(saved.lines().count(), 3);
    assert!(saved.contains(r#""thought":"feel: glad | need"#), "{saved}");
}

#[test]
fn models_are_switched() {
    let small = ScriptedEngine::new([Script::answer("small")]).named("small");
    let big = ScriptedEngine::new([Script::answer("big")]).named("big");
    let mut scene = Scene::with_models([small, big]);
    let played = scene.play(&["hi", "/model huge", "/model", "/model big", "hi", "/model"]);
    for said in [
        "error: there is no model `huge`: use small, big",
        "· model: small; there is also big",
        "· big, 1024 tokens of context",
        "· model: big; there is also small",
    ] {
        played.assert_says(said);
    }
    assert_eq!(scene.requests(), [["hi", "small", "hi"]]);
}

#[test]
fn adapters_are_chosen_by_name() {
    let engine = ScriptedEngine::answering(|_| Script::answer("ok")).with_adapters(&["warm"]);
    let mut scene = Scene::with_models([engine]);
    let played = scene.play(&["/adapter", "/adapter warm", "hi", "/adapter cold", "/adapter none"]);
    for said in [
        "· adapter: none; there is also warm",
        "· adapter: warm; there is also none",
        "error: there is no adapter `cold` here: use warm, or none",
    ] {
        played.assert_says(said);
    }
    let asked = scene.models.engines[0].requests();
    assert_eq!(asked[0].adapter, AdapterChoice::Named("warm".to_owned()));
}

#[test]
fn settings_reach_the_engine() {
    let mut scene = Scene::new([Script::answer("a b c"), Script::answer("a b c")]);
    let commands =
        ["/mode thinking", "/budget 40", "/set seed 5", "/set temperature 0", "/set max_tokens 2"];
    let played = scene.play(&[&commands[..], &["//hi", "/regen"]].concat());
    let request = &scene.models.engines[0].requests()[0];
    assert_eq!(request.mode, rapport_types::Mode::Thinking);
    assert_eq!(request.thinking_budget, rapport_types::ThinkingBudget::Tokens(40));
    assert_eq!(request.sampling.seed, Some(5));
    assert!(request.sampling.is_greedy());
    assert_eq!((request.max_tokens, request.messages[0].role), (2, Role::User));
    assert_eq!(request.messages[0].content, "/hi");
    played.assert_says("cut at 2 tokens");
    played.assert_says("give the same reply");
    assert!(!played.shown.contains("thinking:"), "the mode was asked for: {}", played.shown);
}

#[test]
fn hostile_replies_cannot_steer_the_terminal() {
    let hostile = "\x1b]0;owned\x07\x1b[2J\u{9b}31m\rgone\x08";
    let script = Script::new().thought(hostile).text(hostile).because(hostile);
    let mut scene = Scene::new([script]);
    scene.models.engines[0] =
        ScriptedEngine::new([Script::new().thought(hostile).text(hostile).because(hostile)])
            .named(hostile);
    let played = scene.play(&["hi", "/thought", "/stats", "/model", hostile, "/system \x1b[31m"]);
    let steers = |c: char| c.is_control() && c != '\n';
    assert!(!played.shown.contains(steers), "{:?}", played.shown);
    played.assert_says("\\x1b[2J");
}
