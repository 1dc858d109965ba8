//! Tokens to text while they arrive.

use super::{TokenId, TokenKind, Tokenizer};

/// Where in a text the first token stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At its beginning: a leading space that the tokenizer itself has added is taken off.
    OfText,
    /// Behind other text, as a reply behind its prompt.
    Continued,
}

/// Whether control tokens show in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlText {
    Hidden,
    Shown,
}

/// Turns tokens into text, whole characters at a time: a token may end inside a character, and the
/// rest is awaited before any of it is given out.
///
/// All pieces and [`StreamDecoder::finish`] together are what `String::from_utf8_lossy` makes of
/// all bytes together, however they were cut.
#[derive(Clone, Debug)]
pub struct StreamDecoder {
    control: ControlText,
    at_start: bool,
    /// The beginning of a character; at most three bytes between calls.
    pending: Vec<u8>,
}

impl StreamDecoder {
    pub fn new(start: Start, control: ControlText) -> Self {
        Self { control, at_start: start == Start::OfText, pending: Vec::new() }
    }

    /// The text that `token` completes; often empty. An id outside the vocabulary has no text.
    pub fn push(&mut self, tokenizer: &Tokenizer, token: TokenId) -> String {
        let mut text = String::new();
        self.push_to(tokenizer, token, &mut text);
        text
    }

    /// As [`StreamDecoder::push`], appending to `text`.
    pub fn push_to(&mut self, tokenizer: &Tokenizer, token: TokenId, text: &mut String) {
        let is_control = tokenizer.kind(token) == Some(TokenKind::Control);
        if is_control && self.control == ControlText::Hidden {
            return;
        }
        let mut bytes = tokenizer.token_bytes(token).unwrap_or_default();
        if self.at_start && !bytes.is_empty() {
            self.at_start = false;
            if tokenizer.adds_space_prefix() {
                bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
            }
        }
        match str::from_utf8(bytes) {
            Ok(whole) if self.pending.is_empty() => text.push_str(whole),
            _ => self.push_bytes_to(bytes, text),
        }
    }

    fn push_bytes_to(&mut self, bytes: &[u8], text: &mut String) {
        self.pending.extend_from_slice(bytes);
        let mut rest = self.pending.as_slice();
        for chunk in self.pending.utf8_chunks() {
            text.push_str(chunk.valid());
            rest = &rest[chunk.valid().len()..];
            if chunk.invalid().is_empty() {
                continue;
            }
            // Cut short rather than wrong: the rest of the character may still come.
            if chunk.invalid().len() == rest.len() && may_continue(rest) {
                break;
            }
            text.push(char::REPLACEMENT_CHARACTER);
            rest = &rest[chunk.invalid().len()..];
        }
        let n_given = self.pending.len() - rest.len();
        self.pending.drain(..n_given);
    }

    /// What is left when no more tokens come: a replacement character if one was cut short.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        text
    }
}

/// Whether these bytes are the beginning of a character.
fn may_continue(bytes: &[u8]) -> bool {
    str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}
