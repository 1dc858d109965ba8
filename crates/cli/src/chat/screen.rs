//! What the person sees. Text goes in, styled and fitted lines come out; every write ends with the
//! style it began with, so a chat that is cut off leaves a clean terminal.
//!
//! Answers go to the output. A person who types at a terminal sees everything there; otherwise
//! thoughts, notes and errors go to the error output, plain and unwrapped. When nobody types, only
//! errors are written beside the answer, unless more is asked for.

use std::io::{self, Write};
use std::time::Duration;

use rapport_types::ModeChoice;

use super::command::ThoughtView;
use super::count;
use super::input::PROMPT;
use super::render::{Layout, Wrapper, wrap};
use super::terminal::{InputKind, OutputKind, Terminal};

const DIM: &str = "\x1b[2m";
const RED: &str = "\x1b[31m";
const RESET: &str = "\x1b[0m";
const BACK_TO_LINE_START: &str = "\r\x1b[K";

/// Where replies and notes are written.
pub(super) struct Screen<'a> {
    output: &'a mut dyn Write,
    errors: &'a mut dyn Write,
    terminal: Terminal,
    asides: Asides,
    pub thought_view: ThoughtView,
    columns: Option<usize>,
    part: Part,
}

/// Where everything goes that is no answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asides {
    /// Between the answers, styled.
    Output(OutputKind),
    Errors,
    /// Errors to the error output, the rest nowhere.
    OnlyErrors,
}

/// Whether thoughts and notes are written when nobody types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Details {
    AnswersOnly,
    Verbose,
}

/// The part of a reply being written.
enum Part {
    None,
    Thought(Wrapper),
    /// "thinking" is on the screen, to be replaced.
    FoldedThought,
    Answer(Wrapper),
}

#[derive(Clone, Copy)]
enum Style {
    Plain,
    Dim,
    Red,
}

impl<'a> Screen<'a> {
    pub(super) fn new(
        terminal: Terminal,
        details: Details,
        thought_view: ThoughtView,
        output: &'a mut dyn Write,
        errors: &'a mut dyn Write,
    ) -> Self {
        let asides = match (terminal.input, terminal.output) {
            (InputKind::Pipe, _) if details == Details::AnswersOnly => Asides::OnlyErrors,
            (InputKind::Pipe, _) | (_, OutputKind::Pipe) => Asides::Errors,
            (InputKind::Keyboard, kind) => Asides::Output(kind),
        };
        let columns = terminal.line_columns();
        Self { output, errors, terminal, asides, thought_view, columns, part: Part::None }
    }

    /// Columns of a line, for tables.
    pub(super) fn columns(&self) -> usize {
        self.aside_columns().unwrap_or(usize::MAX)
    }

    fn aside_columns(&self) -> Option<usize> {
        self.columns.filter(|_| matches!(self.asides, Asides::Output(_)))
    }

    /// Whether marks beyond ASCII can be shown and lines replaced.
    fn is_capable(&self) -> bool {
        matches!(self.asides, Asides::Output(kind) if kind >= OutputKind::Monochrome)
    }

    /// Writes the prompt, for inputs that do not.
    pub(super) fn prompt(&mut self) -> io::Result<()> {
        self.write_aside(PROMPT, Style::Plain)
    }

    /// Writes an empty line between turns; only where they are read as they come.
    pub(super) fn gap(&mut self) -> io::Result<()> {
        match self.asides {
            Asides::Output(_) => self.write_aside("\n", Style::Plain),
            Asides::Errors | Asides::OnlyErrors => Ok(()),
        }
    }

    /// Makes ready for a reply: the window may have changed.
    pub(super) fn begin_reply(&mut self) {
        self.columns = self.terminal.line_columns();
        self.part = Part::None;
    }

    /// The mode that was chosen, and why.
    pub(super) fn choice(&mut self, choice: &ModeChoice) -> io::Result<()> {
        self.note(&format!("{}: {}", choice.mode, choice.reason))
    }

    /// A piece of the thought.
    pub(super) fn thought(&mut self, piece: &str) -> io::Result<()> {
        if self.is_silent() || self.thought_view == ThoughtView::Hidden {
            return Ok(());
        }
        if self.thought_view == ThoughtView::Folded {
            if matches!(self.part, Part::None) && self.is_capable() {
                self.part = Part::FoldedThought;
                return self.write_aside("▸ thinking…", Style::Dim);
            }
            return Ok(());
        }
        if !matches!(self.part, Part::Thought(_)) {
            self.part = Part::Thought(Wrapper::new(self.thought_layout()));
        }
        let Part::Thought(wrapper) = &mut self.part else { return Ok(()) };
        let lines = wrapper.push(piece);
        self.write_aside(&lines, Style::Dim)
    }

    /// The thought is over.
    pub(super) fn end_thought(&mut self) -> io::Result<()> {
        match std::mem::replace(&mut self.part, Part::None) {
            Part::Thought(mut wrapper) => {
                let lines = wrapper.finish();
                self.write_aside(&lines, Style::Dim)?;
                self.gap()
            }
            Part::FoldedThought => self.write_aside(BACK_TO_LINE_START, Style::Plain),
            part => {
                self.part = part;
                Ok(())
            }
        }
    }

    /// What a folded thought took. This comes after the answer, since only the end of a reply says
    /// how many tokens its thought had.
    pub(super) fn folded_thought(&mut self, duration: Duration, n_tokens: u32) -> io::Result<()> {
        if self.thought_view != ThoughtView::Folded || self.is_silent() {
            return Ok(());
        }
        let mark = if self.is_capable() { "▸" } else { ">" };
        let seconds = duration.as_secs_f64();
        let tokens = count(n_tokens as usize, "token");
        self.write_aside(&format!("{mark} thought for {seconds:.1} s ({tokens})\n"), Style::Dim)
    }

    /// A piece of the answer.
    pub(super) fn answer(&mut self, piece: &str) -> io::Result<()> {
        if !matches!(self.part, Part::Answer(_)) {
            self.part = Part::Answer(Wrapper::new(Layout { columns: self.columns, gutter: "" }));
        }
        let Part::Answer(wrapper) = &mut self.part else { return Ok(()) };
        let lines = wrapper.push(piece);
        self.write_answer(&lines)
    }

    /// Ends whatever part of the reply was being written.
    pub(super) fn end_reply(&mut self) -> io::Result<()> {
        match std::mem::replace(&mut self.part, Part::None) {
            Part::None => Ok(()),
            Part::FoldedThought => self.write_aside(BACK_TO_LINE_START, Style::Plain),
            Part::Thought(mut wrapper) => {
                let lines = wrapper.finish();
                self.write_aside(&lines, Style::Dim)
            }
            Part::Answer(mut wrapper) => {
                let lines = wrapper.finish();
                self.write_answer(&lines)
            }
        }
    }

    /// A whole thought, whatever the view.
    pub(super) fn show_thought(&mut self, thought: &str) -> io::Result<()> {
        self.write_aside(&wrap(thought, self.thought_layout()), Style::Dim)
    }

    /// Something the person asked to see.
    pub(super) fn show(&mut self, text: &str) -> io::Result<()> {
        self.write_aside(text, Style::Plain)
    }

    /// Something good to know.
    pub(super) fn note(&mut self, text: &str) -> io::Result<()> {
        if self.is_silent() {
            return Ok(());
        }
        let mark = if self.is_capable() { "· " } else { "- " };
        self.write_aside(&hanging(mark, text, self.aside_columns()), Style::Dim)
    }

    /// Something that went wrong; never silent.
    pub(super) fn error(&mut self, text: &str) -> io::Result<()> {
        self.write_aside(&hanging("error: ", text, self.aside_columns()), Style::Red)
    }

    fn thought_layout(&self) -> Layout {
        let gutter = if self.is_capable() { "│ " } else { "| " };
        Layout { columns: self.aside_columns(), gutter }
    }

    fn is_silent(&self) -> bool {
        self.asides == Asides::OnlyErrors
    }

    fn write_answer(&mut self, text: &str) -> io::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        self.output.write_all(text.as_bytes())?;
        self.output.flush()
    }

    fn write_aside(&mut self, text: &str, style: Style) -> io::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let begin = match style {
            Style::Dim => DIM,
            Style::Red => RED,
            Style::Plain => "",
        };
        let styled = if self.asides == Asides::Output(OutputKind::Colour) && !begin.is_empty() {
            // The line end stays outside: a style that reaches over it can colour the next line.
            let (lines, end) = text.strip_suffix('\n').map_or((text, ""), |lines| (lines, "\n"));
            format!("{begin}{lines}{RESET}{end}")
        } else {
            text.to_owned()
        };
        let place = match self.asides {
            Asides::Output(_) => &mut *self.output,
            Asides::Errors | Asides::OnlyErrors => &mut *self.errors,
        };
        place.write_all(styled.as_bytes())?;
        place.flush()
    }
}

/// Wrapped text whose first line begins with `mark` and whose others are indented.
pub(super) fn hanging(mark: &str, text: &str, columns: Option<usize>) -> String {
    const INDENT: &str = "  ";
    let columns = columns.map(|columns| columns.saturating_sub(INDENT.len()));
    let lines = wrap(&format!("{mark}{text}"), Layout { columns, gutter: "" });
    lines.trim_end().replace('\n', &format!("\n{INDENT}")) + "\n"
}
