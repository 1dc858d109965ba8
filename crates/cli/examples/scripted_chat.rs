//! The chat with a script in place of a model, to try its looks by hand:
//! `cargo run -p rapport-cli --example scripted_chat [-- --lines|--verbose]`.
//!
//! Messages that hold `long`, `japanese`, `hostile`, `endless` or `broken` get such replies.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use rapport_cli::chat::{
    self, Backend, ChatOptions, Details, Interrupts, PipeInput, Settings, Streams,
    SwitchModelError, Terminal, ThoughtView,
};
use rapport_testkit::{Script, ScriptedEngine};
use rapport_types::{Generate, GenerateError, Request, SamplingDraft};

const LONG: &str = "A long reply wraps at the width of the terminal, between words.\n\n\
    - A list item that is long enough to reach the right edge of most terminals, and go on.\n\
    - https://example.org/a/very/long/address/that/does/not/fit/on/one/line/of/a/narrow/terminal\n\n\
    ```\nfn main() {\n    println!(\"indented\");\n}\n```\n";

const JAPANESE: &str = "今日はお疲れさまでした。「大変だった」と言えるだけで、少し軽くなることもあります。\
    よければ、何が一番つらかったか教えてください。👩\u{200d}👩\u{200d}👧 e\u{301}";

const HOSTILE: &str =
    "red \x1b[31mtext\x1b[0m, a title \x1b]0;owned\x07, back\x08\x08\x08 and\rover";

struct Scripted {
    engine: ScriptedEngine,
    names: [&'static str; 2],
}

impl Backend for Scripted {
    fn generate(&self) -> &dyn Generate {
        &self.engine
    }

    fn model_names(&self) -> Vec<String> {
        self.names.map(str::to_owned).into()
    }

    fn switch_model(&mut self, name: &str) -> Result<(), SwitchModelError> {
        if !self.names.contains(&name) {
            let known = self.model_names();
            return Err(SwitchModelError::Unknown { name: name.to_owned(), known });
        }
        self.engine = engine().named(name);
        Ok(())
    }
}

fn engine() -> ScriptedEngine {
    ScriptedEngine::answering(answer).with_context_tokens(300)
}

fn answer(request: &Request) -> Script {
    let asked = request.messages.last().map_or("", |message| message.content.as_str());
    let text = match asked {
        _ if asked.contains("long") => LONG,
        _ if asked.contains("japanese") => JAPANESE,
        _ if asked.contains("hostile") => HOSTILE,
        _ => "Hello! What would you like to talk about?",
    };
    let thought = "feel: curious | need: to see the chat at work, from the first word to the last \
        | tone: plain | do: answer";
    let mut script = Script::new().because("the message asks for some thought");
    for word in thought.split_inclusive(' ') {
        script = slow(script).thought(word);
    }
    for character in text.chars() {
        script = slow(script).text(character.encode_utf8(&mut [0; 4]));
    }
    if asked.contains("endless") {
        script = script.text(" And now it waits for Ctrl-C. ").await_stop();
    }
    if asked.contains("broken") {
        let reason = "the script says so".to_owned();
        script = script.fail(GenerateError::Internal { reason });
    }
    script
}

fn slow(script: Script) -> Script {
    script.run(|| thread::sleep(Duration::from_millis(25)))
}

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let has_flag = |flag: &str| std::env::args().any(|argument| argument == flag);
    let mut settings = Settings::new(SamplingDraft::default().validate()?);
    settings.set(chat::SettingKey::MaxTokens, "4000")?;
    #[expect(clippy::disallowed_methods, reason = "stands in for the program, which reads it")]
    let variable = |name: &str| std::env::var(name).ok();
    let options = ChatOptions {
        settings,
        system: None,
        thought_view: ThoughtView::Full,
        details: if has_flag("--verbose") { Details::Verbose } else { Details::AnswersOnly },
        pipe_input: if has_flag("--lines") { PipeInput::Lines } else { PipeInput::Whole },
        load: None,
        history_file: variable("RAPPORT_HISTORY").map(PathBuf::from),
        home: variable("HOME").map(PathBuf::from),
    };
    let mut backend = Scripted {
        engine: engine().named("scripted-small"),
        names: ["scripted-small", "scripted-big"],
    };
    let interrupts = Interrupts::from_signal()?;
    let streams = Streams {
        input: &mut io::stdin().lock(),
        output: &mut io::stdout().lock(),
        errors: &mut io::stderr().lock(),
    };
    let terminal = Terminal::detect(variable);
    Ok(chat::run(options, &mut backend, terminal, streams, &interrupts).into())
}
