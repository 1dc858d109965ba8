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
        if tokenizer.kind(token) == Some(TokenKind::Control) && self.control == ControlText::Hidden
        {
            return String::new();
        }
        let mut bytes = tokenizer.token_bytes(token).unwrap_or_default();
        if self.at_start && !bytes.is_empty() {
            self.at_start = false;
            if tokenizer.adds_space_prefix() {
                bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
            }
        }
        self.push_bytes(bytes)
    }

    fn push_bytes(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        let mut rest = self.pending.as_slice();
        loop {
            match str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, behind) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    rest = behind;
                    // Without a length the character is only cut short: the rest may still come.
                    let Some(invalid_len) = error.error_len() else { break };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[invalid_len..];
                }
            }
        }
        let n_given = self.pending.len() - rest.len();
        self.pending.drain(..n_given);
        text
    }

    /// What is left when no more tokens come: a replacement character if one was cut short.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        text
    }
}
