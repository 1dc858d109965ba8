//! Strings that remember who wrote them.

use std::ops::Range;

use super::budget::Budget;
use super::fault::Fault;

/// Who wrote a piece of a rendered prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The template itself, or the model's own tokens.
    Template,
    /// The content or the thought of a message.
    Message,
}

/// A string in which every byte knows its [`Origin`].
///
/// Equality and order are those of the characters alone: to a template, text is text.
#[derive(Clone, Debug, Default)]
pub(super) struct Text {
    string: String,
    /// Maximal pieces of one origin, in order; together they cover `string`.
    runs: Vec<Run>,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    end: usize,
    origin: Origin,
}

impl Text {
    pub(super) fn new(string: impl Into<String>, origin: Origin) -> Self {
        let string = string.into();
        let runs =
            if string.is_empty() { Vec::new() } else { vec![Run { end: string.len(), origin }] };
        Self { string, runs }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.string
    }

    pub(super) fn len(&self) -> usize {
        self.string.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.string.is_empty()
    }

    /// The pieces of one origin that lie in `range`.
    pub(super) fn pieces(&self, range: Range<usize>) -> impl Iterator<Item = (&str, Origin)> {
        let first = self.runs.partition_point(|run| run.end <= range.start);
        let mut start = range.start;
        self.runs[first..].iter().map_while(move |run| {
            let end = run.end.min(range.end);
            let piece = (start < end).then(|| (&self.string[start..end], run.origin));
            start = end;
            piece
        })
    }

    /// The characters with their origins.
    pub(super) fn chars(&self) -> impl Iterator<Item = (char, Origin)> {
        self.pieces(0..self.len())
            .flat_map(|(piece, origin)| piece.chars().map(move |character| (character, origin)))
    }
}

/// Writes a [`Text`]; every byte is paid for before it is written.
pub(super) struct Writer<'b> {
    budget: &'b mut Budget,
    text: Text,
}

impl<'b> Writer<'b> {
    pub(super) fn new(budget: &'b mut Budget) -> Self {
        Self { budget, text: Text::default() }
    }

    /// Goes on writing at the end of `text`.
    pub(super) fn append_to(text: Text, budget: &'b mut Budget) -> Self {
        Self { budget, text }
    }

    pub(super) fn push(&mut self, text: &Text) -> Result<(), Fault> {
        self.push_range(text, 0..text.len())
    }

    pub(super) fn push_range(&mut self, text: &Text, range: Range<usize>) -> Result<(), Fault> {
        self.budget.spend_bytes(range.len())?;
        for (piece, origin) in text.pieces(range) {
            self.write(piece, origin);
        }
        Ok(())
    }

    pub(super) fn push_str(&mut self, piece: &str, origin: Origin) -> Result<(), Fault> {
        self.budget.spend_bytes(piece.len())?;
        self.write(piece, origin);
        Ok(())
    }

    pub(super) fn push_char(&mut self, character: char, origin: Origin) -> Result<(), Fault> {
        self.push_str(character.encode_utf8(&mut [0; 4]), origin)
    }

    pub(super) fn budget(&mut self) -> &mut Budget {
        self.budget
    }

    pub(super) fn finish(self) -> Text {
        self.text
    }

    fn write(&mut self, piece: &str, origin: Origin) {
        if piece.is_empty() {
            return;
        }
        self.text.string.push_str(piece);
        let end = self.text.string.len();
        match self.text.runs.last_mut() {
            Some(run) if run.origin == origin => run.end = end,
            _ => self.text.runs.push(Run { end, origin }),
        }
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.string == other.string
    }
}

/// What Python's `str.isspace` calls white space.
pub(super) fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_keep_the_origin_of_every_byte() {
        let mut budget = Budget::unlimited();
        let mut writer = Writer::new(&mut budget);
        writer.push_str("ab", Origin::Template).unwrap();
        writer.push_str("ç", Origin::Message).unwrap();
        writer.push_str("d", Origin::Message).unwrap();
        writer.push_str("e", Origin::Template).unwrap();
        let text = writer.finish();

        let pieces: Vec<_> = text.pieces(0..text.len()).collect();
        assert_eq!(
            pieces,
            [("ab", Origin::Template), ("çd", Origin::Message), ("e", Origin::Template)]
        );
        let inner: Vec<_> = text.pieces(1..5).collect();
        assert_eq!(inner, [("b", Origin::Template), ("çd", Origin::Message)]);
        assert_eq!(text.pieces(2..2).count(), 0);
        assert_eq!(text.pieces(6..6).count(), 0);
    }
}
