//! Text from a model made safe and fitted to a terminal, as it streams.
//!
//! [`Wrapper`] takes pieces as they come and gives lines: wrapped between words (and between
//! characters of scripts without spaces), never inside a grapheme, never moving what was already
//! given. Model text is hostile: control characters come out as visible escapes.
//!
//! Not here: colours and where the lines go (`screen`), markdown (left as it is written).
//!
//! Start reading at [`Wrapper::push`].

use std::borrow::Cow;
use std::fmt::Write as _;

use unicode_segmentation::{GraphemeCursor, UnicodeSegmentation};
use unicode_width::UnicodeWidthStr;

/// A terminal narrower than this is treated as this wide: it cannot be laid out better.
const MIN_COLUMNS: usize = 8;

/// A word is held back until it ends; one that takes more bytes than this is given at once.
const MAX_HELD_BYTES: usize = 1024;

/// Where the terminal's tab stops are.
const TAB_COLUMNS: usize = 8;

/// Characters that do not begin a line: closing marks and small kana.
const NOT_AT_LINE_START: &str = "、。，．・：；？！）」』】〕〉》｝］ーぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮヵヶ々ゝゞヽヾ…‥％)]},.!?:;%”’";

/// Characters that do not end a line: opening marks.
const NOT_AT_LINE_END: &str = "（「『【〔〈《｛［([{“‘";

/// The shape of the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Columns of a line, gutter included; `None` leaves lines as long as they are.
    pub columns: Option<usize>,
    /// Printed at the start of every line.
    pub gutter: &'static str,
}

/// Fits streamed text into lines.
#[derive(Debug)]
pub(super) struct Wrapper {
    layout: Layout,
    /// The column of the cursor; `0` before the gutter is printed.
    column: usize,
    /// Whether the line has text after its gutter.
    line_has_text: bool,
    /// Whether any line was begun.
    begun: bool,
    /// The end of the input, which may still grow into a longer grapheme.
    tail: String,
    /// Line ends that are printed once something follows them.
    held_line_ends: usize,
    /// Spaces and tabs that are printed once something follows them on the line.
    held_space: String,
    /// The word being written.
    word: Word,
    /// The word is longer than a line: it is given as it comes and cut at the edge.
    word_is_cut: bool,
}

/// Graphemes that stay on one line.
#[derive(Debug, Default)]
struct Word {
    text: String,
    columns: usize,
    last_is_wide: bool,
    last_may_not_end_line: bool,
}

impl Wrapper {
    pub(super) fn new(layout: Layout) -> Self {
        let columns = layout.columns.map(|columns| columns.max(MIN_COLUMNS));
        Self {
            layout: Layout { columns, ..layout },
            column: 0,
            line_has_text: false,
            begun: false,
            tail: String::new(),
            held_line_ends: 0,
            held_space: String::new(),
            word: Word::default(),
            word_is_cut: false,
        }
    }

    /// Takes the next piece of text and returns what can be printed.
    ///
    /// Without `columns` that is all of it but the last grapheme. With `columns` the last word is
    /// held back until it is known to fit, and blank lines at either end of the text are left out.
    pub(super) fn push(&mut self, piece: &str) -> String {
        let mut printed = String::with_capacity(piece.len() + 8);
        self.tail.push_str(piece);
        let text = std::mem::take(&mut self.tail);
        let mut settled = last_grapheme_start(&text);
        // A hostile stream of combining marks would be one endless grapheme.
        if text.len() - settled > MAX_HELD_BYTES {
            settled = text.len();
        }
        for grapheme in text[..settled].graphemes(true) {
            self.take(grapheme, &mut printed);
        }
        text[settled..].clone_into(&mut self.tail);
        printed
    }

    /// Returns what was held back, ending with the end of a line unless nothing was ever printed.
    pub(super) fn finish(&mut self) -> String {
        let mut printed = String::new();
        let text = std::mem::take(&mut self.tail);
        for grapheme in text.graphemes(true) {
            self.take(grapheme, &mut printed);
        }
        self.place_word(&mut printed);
        if self.column > 0 {
            self.end_line(&mut printed);
        }
        printed
    }

    fn take(&mut self, grapheme: &str, printed: &mut String) {
        if self.layout.columns.is_none() {
            self.take_unwrapped(grapheme, printed);
            return;
        }
        match grapheme {
            "\n" | "\r\n" => {
                self.end_word(printed);
                self.held_line_ends += 1;
                self.held_space.clear();
            }
            " " | "\t" => {
                self.end_word(printed);
                self.held_space.push_str(grapheme);
            }
            _ => {
                let visible = visible(grapheme);
                if self.word.may_end_before(&visible) || (self.word_is_cut && is_wide(&visible)) {
                    self.end_word(printed);
                }
                self.word.push(&visible);
                self.word_is_cut |=
                    self.word.columns > self.room() || self.word.text.len() > MAX_HELD_BYTES;
                if self.word_is_cut {
                    self.place_word(printed);
                }
            }
        }
    }

    fn take_unwrapped(&mut self, grapheme: &str, printed: &mut String) {
        if matches!(grapheme, "\n" | "\r\n") {
            self.begin_line(printed);
            self.end_line(printed);
        } else {
            let shown = if grapheme == "\t" { Cow::from(grapheme) } else { visible(grapheme) };
            self.print(&shown, printed);
        }
    }

    fn end_word(&mut self, printed: &mut String) {
        self.place_word(printed);
        self.word_is_cut = false;
    }

    /// Prints the held word, on the next line when it does not fit on this one.
    fn place_word(&mut self, printed: &mut String) {
        if self.word.text.is_empty() {
            return;
        }
        let word = std::mem::take(&mut self.word);
        let space = std::mem::take(&mut self.held_space);
        let line_ends = std::mem::take(&mut self.held_line_ends);
        if self.begun {
            for _ in 0..line_ends {
                self.begin_line(printed);
                self.end_line(printed);
            }
        }

        self.begin_line(printed);
        let limit = self.layout.columns.unwrap_or(usize::MAX);
        let after_space = space.chars().fold(self.column, column_after_space);
        let fits = after_space + word.columns <= limit;
        let fits_alone = word.columns <= self.room() && !self.word_is_cut;
        if self.line_has_text && !fits && (fits_alone || after_space + 2 > limit) {
            self.end_line(printed);
        } else if fits || after_space + 2 <= limit {
            // Indentation that leaves no room for text is the only space left out here.
            self.column = after_space;
            printed.push_str(&space);
        }

        let gutter = self.layout.gutter.width();
        for grapheme in word.text.graphemes(true) {
            if self.column + grapheme.width() > limit && self.column > gutter {
                self.end_line(printed);
            }
            self.print(grapheme, printed);
        }
    }

    fn print(&mut self, text: &str, printed: &mut String) {
        self.begin_line(printed);
        self.column += text.width();
        self.line_has_text = true;
        printed.push_str(text);
    }

    fn begin_line(&mut self, printed: &mut String) {
        self.begun = true;
        if self.column == 0 {
            printed.push_str(self.layout.gutter);
            self.column = self.layout.gutter.width();
        }
    }

    fn end_line(&mut self, printed: &mut String) {
        printed.push('\n');
        self.column = 0;
        self.line_has_text = false;
    }

    /// Columns of a whole line for text.
    fn room(&self) -> usize {
        self.layout.columns.map_or(usize::MAX, |columns| columns - self.layout.gutter.width())
    }
}

impl Word {
    fn may_end_before(&self, grapheme: &str) -> bool {
        !self.text.is_empty()
            && (self.last_is_wide || is_wide(grapheme))
            && !self.last_may_not_end_line
            && !grapheme.starts_with(|c| NOT_AT_LINE_START.contains(c))
    }

    fn push(&mut self, grapheme: &str) {
        self.text.push_str(grapheme);
        self.columns += grapheme.width();
        self.last_is_wide = is_wide(grapheme);
        self.last_may_not_end_line = grapheme.starts_with(|c| NOT_AT_LINE_END.contains(c));
    }
}

/// Text in lines, all at once: a notice or a table cell rather than a stream.
pub(super) fn wrap(text: &str, layout: Layout) -> String {
    let mut wrapper = Wrapper::new(layout);
    let mut lines = wrapper.push(text);
    lines.push_str(&wrapper.finish());
    lines
}

/// Two columns is what scripts that break between any two characters use.
fn is_wide(grapheme: &str) -> bool {
    grapheme.width() == 2 && !grapheme.is_ascii()
}

fn column_after_space(column: usize, space: char) -> usize {
    if space == '\t' { (column / TAB_COLUMNS + 1) * TAB_COLUMNS } else { column + 1 }
}

/// Where the last grapheme begins: until more text comes it may still grow.
fn last_grapheme_start(text: &str) -> usize {
    let mut cursor = GraphemeCursor::new(text.len(), text.len(), true);
    cursor.prev_boundary(text, 0).ok().flatten().unwrap_or(0)
}

/// The grapheme with everything that could steer a terminal written out: control characters, and
/// the marks that reorder or split a line (as in "Trojan source" attacks).
pub(super) fn visible(grapheme: &str) -> Cow<'_, str> {
    let steers = |c: char| {
        c.is_control()
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
    };
    if !grapheme.contains(steers) {
        return grapheme.into();
    }
    let mut escaped = String::new();
    for c in grapheme.chars() {
        let code = u32::from(c);
        let written = match c {
            '\r' => write!(escaped, "\\r"),
            c if steers(c) && code < 0x100 => write!(escaped, "\\x{code:02x}"),
            c if steers(c) => write!(escaped, "\\u{{{code:x}}}"),
            c => write!(escaped, "{c}"),
        };
        written.expect("a String takes every text");
    }
    escaped.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLAIN: Layout = Layout { columns: None, gutter: "" };

    fn at(columns: usize) -> Layout {
        Layout { columns: Some(columns), gutter: "" }
    }

    fn stream(pieces: &[&str], layout: Layout) -> String {
        let mut wrapper = Wrapper::new(layout);
        let mut lines: String = pieces.iter().map(|piece| wrapper.push(piece)).collect();
        lines.push_str(&wrapper.finish());
        lines
    }

    #[test]
    fn words_wrap_at_the_width() {
        let text = "The quick brown fox jumps over the lazy dog.";
        assert_eq!(wrap(text, at(16)), "The quick brown\nfox jumps over\nthe lazy dog.\n");
    }

    #[test]
    fn paragraphs_and_indentation_stay() {
        let text = "\n\nA list:\n\n  - one\n  - two\n\n";
        assert_eq!(wrap(text, at(20)), "A list:\n\n  - one\n  - two\n");
    }

    #[test]
    fn a_long_word_is_cut_at_the_edge() {
        assert_eq!(wrap("see abcdefghijklmnop now", at(8)), "see abcd\nefghijkl\nmnop now\n");
    }

    #[test]
    fn japanese_wraps_between_characters_but_not_before_closing_marks() {
        assert_eq!(wrap("今日は「良い」天気です。", at(12)), "今日は「良\nい」天気で\nす。\n");
        assert_eq!(wrap("あいうえ。か", at(8)), "あいう\nえ。か\n");
    }

    #[test]
    fn graphemes_split_over_pieces_stay_whole() {
        // A family emoji and an accent, cut at every character.
        let text = "ab 👩\u{200d}👩\u{200d}👧 e\u{301}e\u{301} 🇯🇵🇫🇷";
        let pieces: Vec<String> = text.chars().map(String::from).collect();
        let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
        assert_eq!(stream(&pieces, at(8)), wrap(text, at(8)));
        assert_eq!(wrap(text, at(8)), "ab 👩\u{200d}👩\u{200d}👧 e\u{301}e\u{301}\n🇯🇵🇫🇷\n");
    }

    #[test]
    fn words_come_as_soon_as_they_end() {
        let mut wrapper = Wrapper::new(at(40));
        assert_eq!(wrapper.push("Hello"), "");
        assert_eq!(wrapper.push(", wor"), "Hello,");
        assert_eq!(wrapper.push("ld\n"), "");
        assert_eq!(wrapper.push("今日は"), " world\n今");
        assert_eq!(wrapper.finish(), "日は\n");
    }

    #[test]
    fn the_gutter_begins_every_line() {
        let layout = Layout { columns: Some(12), gutter: "| " };
        assert_eq!(wrap("one two three\n\nfour", layout), "| one two\n| three\n| \n| four\n");
    }

    #[test]
    fn control_characters_become_visible() {
        let hostile = "a\u{1b}[31mred\u{7}\u{8}\rb\u{9b}2J\u{202e}c\u{0}";
        let shown = "a\\x1b[31mred\\x07\\x08\\rb\\x9b2J\\u{202e}c\\x00\n";
        assert_eq!(wrap(hostile, PLAIN), shown);
        assert_eq!(wrap(hostile, at(200)), shown);
    }

    #[test]
    fn unwrapped_text_is_exact() {
        let text = "\n a\tb  \r\n\nlast ";
        assert_eq!(wrap(text, PLAIN), "\n a\tb  \n\nlast \n");
        assert_eq!(wrap("", PLAIN), "");
    }

    #[test]
    fn endless_graphemes_and_words_are_not_held_back() {
        let mut wrapper = Wrapper::new(at(20));
        let printed: usize = (0..5_000).map(|_| wrapper.push("\u{301}\u{301}").len()).sum();
        assert!(printed > 5_000, "{printed} bytes");
        let mut wrapper = Wrapper::new(at(20));
        let printed: usize = (0..5_000).map(|_| wrapper.push("x").len()).sum();
        assert!(printed > 4_900, "{printed} bytes");
    }

    /// Text with what makes wrapping hard: runs of space, wide and joined characters, marks.
    fn hard_text() -> impl Strategy<Value = String> {
        let part = prop_oneof![
            4 => "[a-zA-Z.,()]{1,9}",
            4 => Just(" ".to_owned()),
            1 => Just("   ".to_owned()),
            1 => Just("\n".to_owned()),
            1 => Just("\t".to_owned()),
            3 => "[ぁ-ん漢字、。「」]{1,6}",
            1 => Just("👩\u{200d}👩\u{200d}👧".to_owned()),
            1 => Just("e\u{301}\u{323}".to_owned()),
            1 => Just("🇯🇵".to_owned()),
            1 => Just("한국어".to_owned()),
            1 => "[a-z]{10,40}",
            1 => any::<char>().prop_map(String::from),
        ];
        proptest::collection::vec(part, 0..40).prop_map(|parts| parts.concat())
    }

    fn without_controls(text: &str) -> String {
        text.graphemes(true)
            .map(|grapheme| match grapheme {
                "\r\n" | "\n" => "\n".into(),
                "\t" => "\t".into(),
                other => visible(other),
            })
            .collect()
    }

    /// Follows the printed lines through the text: they hold all of it, in order, but blank lines
    /// at the ends, space at the end of a line, space where wrapping broke a line, and indentation
    /// too deep for the width.
    fn assert_same_text(printed: &str, text: &str) {
        let text = text.trim_end_matches([' ', '\t', '\n']);
        let n_blank = text.find(|c| !" \t\n".contains(c)).unwrap_or(text.len());
        let text = &text[text[..n_blank].rfind('\n').map_or(0, |end| end + 1)..];

        // By graphemes: a space that carries a mark is no space.
        let is_space = |grapheme: &&str| matches!(*grapheme, " " | "\t");
        let mut expected = text.graphemes(true).peekable();
        let mut at_line_start = true;
        for grapheme in printed.strip_suffix('\n').unwrap_or(printed).graphemes(true) {
            if grapheme == "\n" || (at_line_start && !is_space(&grapheme)) {
                while expected.next_if(is_space).is_some() {}
            }
            let same = expected.next_if_eq(&grapheme).is_some();
            assert!(
                same || grapheme == "\n",
                "{printed:?} at {grapheme:?}, where {text:?} has {expected:?}"
            );
            at_line_start = grapheme == "\n";
        }
        assert_eq!(expected.next(), None, "left out of {printed:?}");
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_no_line_is_too_wide(text in hard_text(), columns in 8_usize..50) {
            let printed = wrap(&text, at(columns));
            assert_same_text(&printed, &without_controls(&text));
            for line in printed.lines() {
                let wide = line.graphemes(true).fold(0, |column, grapheme| {
                    if grapheme == "\t" { column_after_space(column, '\t') } else { column + grapheme.width() }
                });
                prop_assert!(wide <= columns, "{line:?} has {wide} columns of {columns}");
            }
        }

        #[test]
        fn pieces_do_not_matter(text in hard_text(), columns in 8_usize..50, cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..8)) {
            let mut ends: Vec<usize> = cuts.iter().map(|cut| text.floor_char_boundary(cut.index(text.len() + 1))).collect();
            ends.extend([0, text.len()]);
            ends.sort_unstable();
            let pieces: Vec<&str> = ends.windows(2).map(|ends| &text[ends[0]..ends[1]]).collect();
            prop_assert_eq!(stream(&pieces, at(columns)), wrap(&text, at(columns)));
            prop_assert_eq!(stream(&pieces, PLAIN), wrap(&text, PLAIN));
        }

        #[test]
        fn only_line_ends_and_tabs_are_control_characters(text in any::<String>(), columns in proptest::option::of(8_usize..50)) {
            let printed = wrap(&text, Layout { columns, gutter: "" });
            let is_unexpected = |c: char| c.is_control() && c != '\n' && c != '\t';
            prop_assert!(!printed.contains(is_unexpected), "{printed:?}");
        }
    }
}
