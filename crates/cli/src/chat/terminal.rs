//! What the chat talks to: what kind of input and output, how wide, what it can show.
//!
//! The environment is handed in, never read here.

use std::io::{self, IsTerminal};

use rustix::termios::{self, LocalModes, OptionalActions, Termios};

/// Width where nothing says another.
const DEFAULT_COLUMNS: usize = 80;

/// The two ends of the chat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terminal {
    pub input: InputKind,
    pub output: OutputKind,
    /// A width the person asked for; otherwise the terminal is asked before each reply.
    pub columns: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputKind {
    Pipe,
    Keyboard,
}

/// What may be written, each kind more than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OutputKind {
    /// A file or a program: text only, lines as long as they are.
    Pipe,
    /// A terminal that understands nothing (`TERM=dumb`): text only.
    Dumb,
    /// A terminal without colours (`NO_COLOR`): the cursor moves, nothing is styled.
    Monochrome,
    Colour,
}

impl Terminal {
    /// Looks at standard input and output, and at `NO_COLOR`, `TERM` and `COLUMNS` through
    /// `variable`, which gives the value of an environment variable.
    pub fn detect(variable: impl Fn(&str) -> Option<String>) -> Self {
        let input = if io::stdin().is_terminal() { InputKind::Keyboard } else { InputKind::Pipe };
        Self {
            input,
            output: OutputKind::new(io::stdout().is_terminal(), &variable),
            columns: variable("COLUMNS")
                .and_then(|columns| columns.parse().ok())
                .filter(|columns| *columns > 0),
        }
    }

    /// Columns of a line now; `None` when lines are not to be broken.
    pub fn line_columns(&self) -> Option<usize> {
        let ask = || {
            let size = termios::tcgetwinsize(io::stdout()).ok()?;
            Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
        };
        let columns = || self.columns.or_else(ask).unwrap_or(DEFAULT_COLUMNS);
        (self.output != OutputKind::Pipe).then(columns)
    }

    /// Whether lines can be edited: the editor moves the cursor.
    pub fn can_edit(&self) -> bool {
        self.input == InputKind::Keyboard && self.output >= OutputKind::Monochrome
    }
}

impl OutputKind {
    fn new(is_terminal: bool, variable: impl Fn(&str) -> Option<String>) -> Self {
        let is_set = |name| variable(name).is_some_and(|value| !value.is_empty());
        if !is_terminal {
            Self::Pipe
        } else if !is_set("TERM") || variable("TERM").as_deref() == Some("dumb") {
            Self::Dumb
        } else if is_set("NO_COLOR") {
            Self::Monochrome
        } else {
            Self::Colour
        }
    }
}

/// Typed keys do not show until this is dropped; they are kept for the next prompt.
#[derive(Debug)]
pub(super) struct HushedKeyboard {
    before: Termios,
}

impl HushedKeyboard {
    /// `None` when standard input is no terminal: there is nothing to hush.
    pub(super) fn new() -> Option<Self> {
        let before = termios::tcgetattr(io::stdin()).ok()?;
        let mut hushed = before.clone();
        hushed.local_modes.remove(LocalModes::ECHO);
        termios::tcsetattr(io::stdin(), OptionalActions::Now, &hushed).ok()?;
        Some(Self { before })
    }
}

impl Drop for HushedKeyboard {
    fn drop(&mut self) {
        // A terminal that went away has nothing left to restore.
        let _gone = termios::tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(is_terminal: bool, variables: &[(&str, &str)]) -> OutputKind {
        OutputKind::new(is_terminal, |name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn output_is_styled_only_where_it_is_wanted() {
        assert_eq!(output(true, &[("TERM", "xterm")]), OutputKind::Colour);
        assert_eq!(output(true, &[("TERM", "xterm"), ("NO_COLOR", "")]), OutputKind::Colour);
        assert_eq!(output(true, &[("TERM", "xterm"), ("NO_COLOR", "1")]), OutputKind::Monochrome);
        assert_eq!(output(true, &[("TERM", "dumb"), ("NO_COLOR", "1")]), OutputKind::Dumb);
        assert_eq!(output(true, &[]), OutputKind::Dumb);
        assert_eq!(output(false, &[("TERM", "xterm")]), OutputKind::Pipe);
    }

    #[test]
    fn columns_are_the_persons_choice() {
        let input = InputKind::Keyboard;
        let wide = Terminal { input, output: OutputKind::Colour, columns: Some(132) };
        assert_eq!(wide.line_columns(), Some(132));
        assert!(wide.can_edit());
        let piped = Terminal { output: OutputKind::Pipe, ..wide };
        assert_eq!(piped.line_columns(), None);
        assert!(!piped.can_edit());
    }
}
