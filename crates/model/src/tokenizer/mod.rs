//! Text to tokens and back, from the vocabulary in a model file.
//!
//! Byte-level BPE (Sennrich et al. 2016; Radford et al. 2019): text is cut by the file's
//! [pre-tokenizer](split), each piece starts as bytes, and the best-ranked neighbouring pair is
//! merged until none is left.
//!
//! What a person types is data: [`Tokenizer::encode`] never turns it into a control token. Only
//! [`Tokenizer::encode_segments`] recognises those, in the segments that the caller vouches for.

mod split;
mod stream;

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rustc_hash::FxHashMap;

use crate::chat_template::Segment;
use crate::gguf::{Gguf, GgufError};
use split::Splitter;
pub use stream::StreamDecoder;

/// Why a vocabulary cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    #[error(transparent)]
    File(#[from] GgufError),
    #[error("{file}: tokenizer `{found}` is not supported, expected gpt2 (byte-level BPE)")]
    UnknownModel { file: String, found: String },
    #[error(
        "{file}: pre-tokenizer `{found}` is not supported; Rapport has {}",
        split::SUPPORTED.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    )]
    UnknownSplitter { file: String, found: String },
    #[error("{file}: `{key}` has {found} entries, expected {expected}")]
    Length { file: String, key: &'static str, found: usize, expected: usize },
    #[error("{file}: `{key}` is {found}, and the vocabulary has {n_vocab} tokens")]
    TokenOutOfRange { file: String, key: &'static str, found: u32, n_vocab: usize },
    #[error("{file}: merge {index} (`{found}`) is not two tokens whose join is a token")]
    Merge { file: String, index: usize, found: String },
}

/// What a token is for: `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ordinary,
    /// Structure: never made from a person's text.
    Control,
    /// A whole word of its own, wherever it stands.
    UserDefined,
}

/// Tokens that structure a conversation though files mark them as ordinary words.
const STRUCTURAL: &[&str] =
    &["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"];

/// Tokens that end a turn, by the names that models give them.
const END_OF_TURN: &[&str] = &[
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<end_of_turn>",
    "<EOT>",
    "</s>",
];

/// Encodes and decodes for one model.
#[derive(Debug)]
pub struct Tokenizer {
    splitter: Splitter,
    /// Whether a piece that is a token stays one, whatever the merges say.
    whole_pieces_first: bool,
    /// All tokens' bytes, one after another.
    bytes: Vec<u8>,
    /// Where each token starts in `bytes`, and the end.
    starts: Vec<u32>,
    kinds: Vec<Kind>,
    /// The token of each single byte.
    byte_tokens: [Option<u32>; 256],
    /// (left, right) to (rank, joined).
    merges: FxHashMap<(u32, u32), (u32, u32)>,
    /// Whole pieces; only where `whole_pieces_first`.
    pieces: FxHashMap<Vec<u8>, u32>,
    /// Control and user-defined tokens by first byte, longest first.
    specials: FxHashMap<u8, Vec<u32>>,
    bos: Option<u32>,
    end_tokens: Vec<u32>,
}

impl Tokenizer {
    /// Reads the vocabulary of a model file.
    ///
    /// # Errors
    /// If the tokenizer is of another kind, or its parts do not fit each other.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, TokenizerError> {
        let file = || gguf.path().display().to_string();
        let metadata = gguf.metadata();
        let model = metadata.string("tokenizer.ggml.model")?;
        if model != "gpt2" {
            return Err(TokenizerError::UnknownModel { file: file(), found: model.to_owned() });
        }
        let pre = metadata.optional_string("tokenizer.ggml.pre")?.unwrap_or("default");
        let splitter = split::SUPPORTED
            .iter()
            .find_map(|(name, splitter)| (*name == pre).then_some(*splitter))
            .ok_or_else(|| TokenizerError::UnknownSplitter {
                file: file(),
                found: pre.to_owned(),
            })?;

        let tokens = metadata.strings("tokenizer.ggml.tokens")?;
        let n_vocab = tokens.len();
        let types = metadata.optional_i32s("tokenizer.ggml.token_type")?;
        let kinds: Vec<Kind> = match &types {
            None => vec![Kind::Ordinary; n_vocab],
            Some(types) if types.len() == n_vocab => types
                .iter()
                .map(|kind| match kind {
                    2 | 3 | 5 => Kind::Control,
                    4 => Kind::UserDefined,
                    _ => Kind::Ordinary,
                })
                .collect(),
            Some(types) => {
                return Err(TokenizerError::Length {
                    file: file(),
                    key: "tokenizer.ggml.token_type",
                    found: types.len(),
                    expected: n_vocab,
                });
            }
        };

        let byte_of_char = byte_of_char();
        let mut written: FxHashMap<&[u8], u32> = FxHashMap::default();
        written.reserve(n_vocab);
        let (mut bytes, mut starts) = (Vec::new(), Vec::with_capacity(n_vocab + 1));
        for (token, (text, kind)) in tokens.zip(&kinds).enumerate() {
            starts.push(bytes.len() as u32);
            match kind {
                Kind::Ordinary => push_plain_bytes(text, &byte_of_char, &mut bytes),
                Kind::Control | Kind::UserDefined => bytes.extend_from_slice(text),
            }
            written.entry(text).or_insert(token as u32);
        }
        starts.push(bytes.len() as u32);

        let mut merges = FxHashMap::default();
        let mut joined = Vec::new();
        let written_merges = metadata.strings("tokenizer.ggml.merges")?;
        merges.reserve(written_merges.len());
        for (rank, merge) in written_merges.enumerate() {
            let entry = merge_parts(merge).and_then(|(left, right)| {
                joined.clear();
                joined.extend_from_slice(left);
                joined.extend_from_slice(right);
                let pair = (*written.get(left)?, *written.get(right)?);
                Some((pair, *written.get(joined.as_slice())?))
            });
            let Some((pair, whole)) = entry else {
                return Err(TokenizerError::Merge {
                    file: file(),
                    index: rank,
                    found: String::from_utf8_lossy(merge).into_owned(),
                });
            };
            merges.entry(pair).or_insert((rank as u32, whole));
        }

        let mut tokenizer = Self {
            splitter,
            whole_pieces_first: splitter == Splitter::Words { max_digits: 3 },
            bytes,
            starts,
            kinds,
            byte_tokens: [None; 256],
            merges,
            pieces: FxHashMap::default(),
            specials: FxHashMap::default(),
            bos: None,
            end_tokens: Vec::new(),
        };
        tokenizer.index();
        tokenizer.read_marks(gguf)?;
        Ok(tokenizer)
    }

    fn index(&mut self) {
        for token in 0..self.n_vocab() as u32 {
            let bytes = self.token_bytes(token);
            match (self.kinds[token as usize], bytes) {
                (Kind::Ordinary, &[byte]) => {
                    self.byte_tokens[usize::from(byte)].get_or_insert(token);
                }
                (Kind::Ordinary, _) | (_, []) => {}
                (Kind::Control | Kind::UserDefined, &[first, ..]) => {
                    self.specials.entry(first).or_default().push(token);
                }
            }
            if self.whole_pieces_first && self.kinds[token as usize] == Kind::Ordinary {
                let bytes = self.token_bytes(token).to_vec();
                self.pieces.entry(bytes).or_insert(token);
            }
        }
        let mut specials = std::mem::take(&mut self.specials);
        for tokens in specials.values_mut() {
            tokens.sort_by_key(|&token| Reverse(self.token_bytes(token).len()));
        }
        self.specials = specials;
    }

    fn read_marks(&mut self, gguf: &Gguf) -> Result<(), TokenizerError> {
        let n_vocab = self.n_vocab();
        let metadata = gguf.metadata();
        let mark = |key: &'static str| match metadata.optional_u32(key)? {
            Some(found) if found as usize >= n_vocab => Err(TokenizerError::TokenOutOfRange {
                file: gguf.path().display().to_string(),
                key,
                found,
                n_vocab,
            }),
            mark => Ok(mark),
        };
        if metadata.optional_bool("tokenizer.ggml.add_bos_token")?.unwrap_or(false) {
            self.bos = mark("tokenizer.ggml.bos_token_id")?;
        }
        for key in ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"] {
            self.end_tokens.extend(mark(key)?);
        }
        let named = (0..n_vocab as u32).filter(|&token| {
            self.is_control(token)
                && END_OF_TURN.iter().any(|name| name.as_bytes() == self.token_bytes(token))
        });
        let named: Vec<u32> = named.collect();
        self.end_tokens.extend(named);
        self.end_tokens.sort_unstable();
        self.end_tokens.dedup();
        Ok(())
    }

    /// V
    pub fn n_vocab(&self) -> usize {
        self.kinds.len()
    }

    /// The bytes a token stands for; a token may be part of a character. Empty for unknown ids.
    pub fn token_bytes(&self, token: u32) -> &[u8] {
        match self.starts.get(token as usize..token as usize + 2) {
            Some(&[start, end]) => &self.bytes[start as usize..end as usize],
            _ => &[],
        }
    }

    pub fn is_control(&self, token: u32) -> bool {
        self.kinds.get(token as usize) == Some(&Kind::Control)
    }

    /// The control or user-defined token of this name.
    pub fn special(&self, name: &str) -> Option<u32> {
        let candidates = self.specials.get(name.as_bytes().first()?)?;
        candidates.iter().copied().find(|&token| self.token_bytes(token) == name.as_bytes())
    }

    /// The token that every prompt starts with, where the file asks for one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// Tokens that end a turn.
    pub fn end_tokens(&self) -> &[u32] {
        &self.end_tokens
    }

    /// Encodes text as data: no control token comes out, whatever it says.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        self.encode_segments(&[Segment { text: text.to_owned(), trusted: false }])
    }

    /// Encodes a rendered conversation: control tokens come from trusted segments alone.
    ///
    /// Segments are one text to the merges: where one ends leaves no mark.
    pub fn encode_segments(&self, segments: &[Segment]) -> Vec<u32> {
        let text: String = segments.iter().map(|segment| segment.text.as_str()).collect();
        // Where each stretch of trusted text ends, and where it began.
        let mut trusted = Vec::new();
        let mut at = 0;
        for segment in segments {
            if segment.trusted {
                trusted.push(at..at + segment.text.len());
            }
            at += segment.text.len();
        }
        let is_trusted = |start: usize, end: usize| {
            trusted.iter().any(|range| range.start <= start && end <= range.end)
        };

        let mut tokens = Vec::with_capacity(text.len() / 3);
        let (mut plain_start, mut at) = (0, 0);
        while at < text.len() {
            let found = self.specials.get(&text.as_bytes()[at]).and_then(|candidates| {
                candidates.iter().copied().find(|&token| {
                    let name = self.token_bytes(token);
                    let structural = self.kinds[token as usize] == Kind::Control
                        || STRUCTURAL.iter().any(|text| text.as_bytes() == name);
                    text.as_bytes()[at..].starts_with(name)
                        && (!structural || is_trusted(at, at + name.len()))
                })
            });
            match found {
                Some(token) => {
                    self.encode_plain(&text[plain_start..at], &mut tokens);
                    tokens.push(token);
                    at += self.token_bytes(token).len();
                    plain_start = at;
                }
                None => at += 1,
            }
        }
        self.encode_plain(&text[plain_start..], &mut tokens);
        tokens
    }

    fn encode_plain(&self, text: &str, tokens: &mut Vec<u32>) {
        let mut merger = Merger::default();
        self.splitter.split(text, &mut |piece| {
            if self.whole_pieces_first
                && let Some(&token) = self.pieces.get(piece.as_bytes())
            {
                tokens.push(token);
            } else {
                merger.merge(self, piece.as_bytes(), tokens);
            }
        });
    }

    /// The text of some tokens; bytes that are no characters become U+FFFD.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let bytes: Vec<u8> =
            tokens.iter().flat_map(|&token| self.token_bytes(token).iter().copied()).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// A space that is not the first character: a token may itself start with one.
fn merge_parts(merge: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = merge.iter().skip(1).position(|byte| *byte == b' ')? + 1;
    Some((&merge[..at], &merge[at + 1..]))
}

/// GPT-2 writes each byte as a printable character; this is the way back.
fn byte_of_char() -> FxHashMap<char, u8> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut next = 256;
    (0..=255_u8)
        .map(|byte| {
            if printable(byte) {
                return (char::from(byte), byte);
            }
            next += 1;
            (char::from_u32(next - 1).expect("below the surrogates"), byte)
        })
        .collect()
}

fn push_plain_bytes(text: &[u8], byte_of_char: &FxHashMap<char, u8>, bytes: &mut Vec<u8>) {
    let start = bytes.len();
    let Ok(text_str) = std::str::from_utf8(text) else {
        return bytes.extend_from_slice(text);
    };
    for c in text_str.chars() {
        let Some(byte) = byte_of_char.get(&c) else {
            bytes.truncate(start);
            return bytes.extend_from_slice(text);
        };
        bytes.push(*byte);
    }
}

/// Room for merging one piece, kept from piece to piece.
#[derive(Default)]
struct Merger {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Reverse<(u32, u32, u32, u32)>>,
}

#[derive(Clone, Copy)]
struct Symbol {
    token: u32,
    previous: u32,
    next: u32,
}

const NONE: u32 = u32::MAX;

impl Merger {
    /// Merges the best-ranked pair, the leftmost of equals, until none is left: n log n.
    fn merge(&mut self, tokenizer: &Tokenizer, piece: &[u8], tokens: &mut Vec<u32>) {
        self.symbols.clear();
        self.queue.clear();
        for byte in piece {
            // A vocabulary without this byte cannot say it.
            let Some(token) = tokenizer.byte_tokens[usize::from(*byte)] else { continue };
            let idx = self.symbols.len() as u32;
            self.symbols.push(Symbol { token, previous: idx.wrapping_sub(1), next: idx + 1 });
        }
        let Some(last) = self.symbols.last_mut() else { return };
        last.next = NONE;
        for idx in 0..self.symbols.len() as u32 {
            self.offer(tokenizer, idx);
        }
        while let Some(Reverse((_, left, left_token, right_token))) = self.queue.pop() {
            let symbol = self.symbols[left as usize];
            // An entry is stale once either side has merged with another.
            if symbol.token != left_token || symbol.next == NONE {
                continue;
            }
            let right = self.symbols[symbol.next as usize];
            if right.token != right_token {
                continue;
            }
            let Some(&(_, whole)) = tokenizer.merges.get(&(left_token, right_token)) else {
                continue;
            };
            self.symbols[symbol.next as usize].token = NONE;
            self.symbols[left as usize] =
                Symbol { token: whole, previous: symbol.previous, next: right.next };
            if right.next != NONE {
                self.symbols[right.next as usize].previous = left;
            }
            self.offer(tokenizer, left);
            if symbol.previous != NONE {
                self.offer(tokenizer, symbol.previous);
            }
        }
        tokens.extend(self.symbols.iter().map(|symbol| symbol.token).filter(|&t| t != NONE));
    }

    fn offer(&mut self, tokenizer: &Tokenizer, left: u32) {
        let symbol = self.symbols[left as usize];
        if symbol.next == NONE {
            return;
        }
        let right = self.symbols[symbol.next as usize].token;
        if let Some(&(rank, _)) = tokenizer.merges.get(&(symbol.token, right)) {
            self.queue.push(Reverse((rank, left, symbol.token, right)));
        }
    }
}
