//! Where lines come from: an editor on a terminal, or plain lines from anything else.
//!
//! Not here: what a line means (`command`).

use std::fs;
use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};

use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::Validator;
use rustyline::{
    Cmd, ColorMode, CompletionType, ConditionalEventHandler, Config, Context, Editor, Event,
    EventContext, EventHandler, Helper, KeyCode, KeyEvent, Modifiers, Movement, RepeatCount,
};

use super::command::{self, Completion};
use super::terminal::{HushedKeyboard, OutputKind};

/// Larger input than this is a mistake: no model has such a context.
const MAX_INPUT_BYTES: u64 = 16 << 20;

const MAX_HISTORY_ENTRIES: usize = 1_000;

/// What begins the line that is edited.
pub(super) const PROMPT: &str = "> ";

/// What begins a line that goes on with the one before.
const CONTINUATION_PROMPT: &str = "  ";

/// Gives the lines of a conversation.
pub(super) trait LineSource {
    /// The next line. `initial` is there to be edited, where lines can be edited.
    ///
    /// # Errors
    /// The input broke or is not text.
    fn read(&mut self, initial: &str) -> Result<Line, InputError>;

    /// Whether [`LineSource::read`] lets a person change `initial`.
    fn can_edit(&self) -> bool {
        false
    }

    /// Whether the prompt is to be written before [`LineSource::read`].
    fn needs_prompt(&self) -> bool {
        false
    }

    /// Keeps typed keys off the screen while a reply is written.
    fn hush(&self) -> Option<HushedKeyboard> {
        None
    }

    /// What went wrong besides the input itself, once.
    fn take_problem(&mut self) -> Option<InputError> {
        None
    }
}

/// What a person or a pipe gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    Text(String),
    /// Ctrl-C with nothing typed.
    Interrupted,
    /// Ctrl-D, or the end of a pipe.
    End,
}

/// Why there is no input.
#[derive(Debug, thiserror::Error)]
pub(super) enum InputError {
    #[error("cannot read the input: {0}")]
    Read(#[from] io::Error),
    #[error("the input is not UTF-8 text (at byte {at_byte})")]
    NotText { at_byte: usize },
    #[error("the input is larger than {} MiB: no model takes so much", MAX_INPUT_BYTES >> 20)]
    TooLarge,
    #[error("cannot read keys: {0}")]
    Editor(ReadlineError),
    #[error("cannot keep the history in {}: {source}; it is kept until you leave", path.display())]
    History { path: PathBuf, source: ReadlineError },
}

/// All of a pipe as one message, without the line end at its end.
///
/// # Errors
/// The input broke, is not text, or is too large.
pub(super) fn read_whole(input: &mut dyn BufRead) -> Result<String, InputError> {
    let mut bytes = Vec::new();
    input.take(MAX_INPUT_BYTES + 1).read_to_end(&mut bytes)?;
    let mut text = to_text(bytes)?;
    text.truncate(text.trim_end_matches(['\n', '\r']).len());
    Ok(text)
}

fn to_text(bytes: Vec<u8>) -> Result<String, InputError> {
    if bytes.len() as u64 > MAX_INPUT_BYTES {
        return Err(InputError::TooLarge);
    }
    String::from_utf8(bytes)
        .map_err(|error| InputError::NotText { at_byte: error.utf8_error().valid_up_to() })
}

/// Lines as they are; a backslash at the end of one joins the next.
pub(super) struct PlainLines<'a> {
    pub input: &'a mut dyn BufRead,
    /// A person types them: they want a prompt and a quiet screen.
    pub typed: bool,
}

impl LineSource for PlainLines<'_> {
    fn read(&mut self, _initial: &str) -> Result<Line, InputError> {
        let mut text = String::new();
        loop {
            let mut bytes = Vec::new();
            let left_bytes = MAX_INPUT_BYTES + 1 - text.len() as u64;
            (&mut *self.input).take(left_bytes).read_until(b'\n', &mut bytes)?;
            if bytes.is_empty() {
                return Ok(if text.is_empty() { Line::End } else { Line::Text(text) });
            }
            if text.len() + bytes.len() > MAX_INPUT_BYTES as usize {
                return Err(InputError::TooLarge);
            }
            let line = to_text(bytes)?;
            let line =
                line.strip_suffix('\n').map_or(line.as_str(), |line| line.trim_end_matches('\r'));
            let Some(joined) = line.strip_suffix('\\') else {
                text.push_str(line);
                return Ok(Line::Text(text));
            };
            text.push_str(joined);
            text.push('\n');
        }
    }

    fn needs_prompt(&self) -> bool {
        self.typed
    }

    fn hush(&self) -> Option<HushedKeyboard> {
        if self.typed { HushedKeyboard::new() } else { None }
    }
}

/// Lines edited on a terminal, with history and completion.
pub(super) struct LineEditor {
    editor: Editor<CommandHelper, FileHistory>,
    history_file: Option<PathBuf>,
    problem: Option<InputError>,
    styled_prompt: String,
}

impl LineEditor {
    /// An editor that keeps its history in `history_file`.
    ///
    /// # Errors
    /// Standard input cannot be read key by key. A history that cannot be kept is no error here:
    /// [`LineSource::take_problem`] gives it.
    pub(super) fn new(
        output: OutputKind,
        history_file: Option<PathBuf>,
        model_names: Vec<String>,
    ) -> Result<Self, InputError> {
        let has_colour = output == OutputKind::Colour;
        let config = Config::builder()
            .auto_add_history(false)
            .color_mode(if has_colour { ColorMode::Forced } else { ColorMode::Disabled })
            .completion_type(CompletionType::List)
            .history_ignore_space(true)
            .max_history_size(MAX_HISTORY_ENTRIES)
            .map_err(InputError::Editor)?
            .build();
        let mut editor = Editor::with_config(config).map_err(InputError::Editor)?;
        editor.set_helper(Some(CommandHelper { model_names }));

        let alt_enter = KeyEvent(KeyCode::Enter, Modifiers::ALT);
        editor.bind_sequence(alt_enter, Cmd::Newline);
        editor.bind_sequence(
            KeyEvent::ctrl('C'),
            EventHandler::Conditional(Box::new(ClearBeforeInterrupt)),
        );

        let styled_prompt =
            if has_colour { format!("\x1b[1;36m{PROMPT}\x1b[0m") } else { PROMPT.to_owned() };
        let mut line_editor = Self { editor, history_file, problem: None, styled_prompt };
        line_editor.keep_history(|editor, path| {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            if path.exists() { editor.load_history(path) } else { Ok(()) }
        });
        Ok(line_editor)
    }

    /// Does something with the history file; after a failure it is left alone.
    fn keep_history(
        &mut self,
        action: impl FnOnce(&mut Editor<CommandHelper, FileHistory>, &Path) -> rustyline::Result<()>,
    ) {
        let Some(path) = self.history_file.take() else { return };
        match action(&mut self.editor, &path) {
            Ok(()) => self.history_file = Some(path),
            Err(source) => self.problem = Some(InputError::History { path, source }),
        }
    }
}

impl LineSource for LineEditor {
    fn read(&mut self, initial: &str) -> Result<Line, InputError> {
        let mut text = String::new();
        let mut prompt = (PROMPT, self.styled_prompt.as_str());
        let mut initial = initial;
        loop {
            let line = match self.editor.readline_with_initial(&prompt, (initial, "")) {
                Ok(line) => line,
                Err(ReadlineError::Eof) => return Ok(Line::End),
                Err(ReadlineError::Interrupted) => return Ok(Line::Interrupted),
                Err(error) => return Err(InputError::Editor(error)),
            };
            let Some(joined) = line.strip_suffix('\\') else {
                text.push_str(&line);
                break;
            };
            text.push_str(joined);
            text.push('\n');
            prompt = (CONTINUATION_PROMPT, CONTINUATION_PROMPT);
            initial = "";
        }
        let is_new = !text.trim().is_empty()
            && self.editor.add_history_entry(text.as_str()).map_err(InputError::Editor)?;
        if is_new {
            self.keep_history(Editor::append_history);
        }
        Ok(Line::Text(text))
    }

    fn can_edit(&self) -> bool {
        true
    }

    fn hush(&self) -> Option<HushedKeyboard> {
        HushedKeyboard::new()
    }

    fn take_problem(&mut self) -> Option<InputError> {
        self.problem.take()
    }
}

/// Ctrl-C clears a line that has text; only on an empty one it interrupts.
struct ClearBeforeInterrupt;

impl ConditionalEventHandler for ClearBeforeInterrupt {
    fn handle(&self, _: &Event, _: RepeatCount, _: bool, context: &EventContext) -> Option<Cmd> {
        (!context.line().is_empty()).then_some(Cmd::Kill(Movement::WholeBuffer))
    }
}

/// Completes commands.
struct CommandHelper {
    model_names: Vec<String>,
}

impl Completer for CommandHelper {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        cursor: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let before_cursor = &line[..cursor];
        Ok(match command::complete(before_cursor, &self.model_names) {
            Completion::Words { start, words } => (start, words),
            Completion::File { start } => (start, files_beginning(&before_cursor[start..])),
        })
    }
}

impl Hinter for CommandHelper {
    type Hint = String;
}

impl Highlighter for CommandHelper {}
impl Validator for CommandHelper {}
impl Helper for CommandHelper {}

/// The paths that a path typed so far can become, folders with a slash.
fn files_beginning(typed: &str) -> Vec<String> {
    let (folder, name) = typed.rfind('/').map_or(("", typed), |slash| typed.split_at(slash + 1));
    let listed = fs::read_dir(if folder.is_empty() { "." } else { folder });
    let mut paths: Vec<String> = listed
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let file = entry.file_name().into_string().ok()?;
            let is_meant = file.starts_with(name) && (!file.starts_with('.') || !name.is_empty());
            let slash = if entry.path().is_dir() { "/" } else { "" };
            is_meant.then(|| format!("{folder}{file}{slash}"))
        })
        .collect();
    paths.sort_unstable();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(mut bytes: &[u8]) -> Vec<Line> {
        let mut source = PlainLines { input: &mut bytes, typed: false };
        let mut lines = Vec::new();
        while lines.last() != Some(&Line::End) {
            lines.push(source.read("").unwrap());
        }
        lines
    }

    #[test]
    fn plain_lines_join_at_a_backslash() {
        let text = |text: &str| Line::Text(text.to_owned());
        assert_eq!(lines(b"one\r\n\ntwo"), [text("one"), text(""), text("two"), Line::End]);
        assert_eq!(lines(b"one\\\ntwo\\\n\nx"), [text("one\ntwo\n"), text("x"), Line::End]);
        assert_eq!(lines(b"cut\\"), [text("cut\n"), Line::End]);
    }

    #[test]
    fn a_whole_pipe_is_one_message() {
        assert_eq!(read_whole(&mut &b"  /a\n\nb\r\n\n"[..]).unwrap(), "  /a\n\nb");
    }

    #[test]
    fn input_that_is_not_text_or_never_ends_is_refused() {
        let broken = read_whole(&mut &b"ab\xff"[..]).unwrap_err();
        assert_eq!(broken.to_string(), "the input is not UTF-8 text (at byte 2)");
        let mut endless = io::BufReader::new(io::repeat(b'a'));
        assert!(matches!(read_whole(&mut endless), Err(InputError::TooLarge)));
        let mut source = PlainLines { input: &mut endless, typed: false };
        assert!(matches!(source.read(""), Err(InputError::TooLarge)));
        let mut endless = io::BufReader::new(Backslashes);
        let mut source = PlainLines { input: &mut endless, typed: false };
        assert!(matches!(source.read(""), Err(InputError::TooLarge)));
    }

    /// Lines of 4 KiB, each ending with a backslash, without end.
    struct Backslashes;

    impl Read for Backslashes {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            buffer.fill(b'a');
            if let [.., backslash, end] = buffer {
                (*backslash, *end) = (b'\\', b'\n');
            }
            Ok(buffer.len())
        }
    }

    #[test]
    fn files_are_completed() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["chat one.jsonl", "chat two.jsonl", ".hidden"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        fs::create_dir(folder.path().join("chats")).unwrap();
        let base = folder.path().to_str().unwrap();
        let completed = |typed: &str| files_beginning(&format!("{base}/{typed}"));
        assert_eq!(completed("chat o"), [format!("{base}/chat one.jsonl")]);
        assert_eq!(completed("chats"), [format!("{base}/chats/")]);
        assert_eq!(completed("").len(), 3);
        assert_eq!(completed("none"), Vec::<String>::new());
    }
}
