//! Text to tokens and back, from the vocabulary inside a GGUF file.
//!
//! Two kinds: byte-level BPE (`gpt2`) with the pre-tokenizers listed in `split.rs`, and
//! SentencePiece as Llama and Gemma use it (`llama`). Ids equal those of llama.cpp on the same
//! file; where they differ on purpose, it is to keep a user's text from turning into control
//! tokens or markup (`specials.rs`).
//!
//! What is not here: chat templates (they make the [`Segment`]s), any other tokenizer kind (WordPiece,
//! Unigram), and the `clean_up_tokenization_spaces` of some configurations, which loses spaces.
//!
//! Text that is not UTF-8 does not get in: decode it with `String::from_utf8_lossy` first, or use
//! [`Tokenizer::encode_bytes`], which does.
//!
//! Start reading at [`Tokenizer`]; the way of a text is `specials.rs` (cut out special tokens),
//! `split.rs` (cut into words), `bpe.rs` or `spm.rs` (merge), and `stream.rs` leads back.

mod arena;
mod bpe;
mod char_class;
mod char_class_table;
mod seen_words;
mod specials;
mod split;
mod spm;
mod stream;
mod vocabulary;

use std::borrow::Cow;
use std::ops::Range;

use self::arena::{ByteArena, TextIndex};
use self::bpe::{Bpe, byte_of_char};
use self::specials::{Fragment, Specials, end_ids, kind_in_use};
use self::split::PreTokenizer;
use self::spm::{SPACE_MARK, Spm, byte_of_text};
use self::vocabulary::{GPT2, LLAMA};

pub use self::stream::{ControlText, Start, StreamDecoder};
pub use self::vocabulary::{SpecialIds, TokenKind, TokenizerError, Vocabulary};

/// A token's number: its row in the model's embedding and its place among the logits.
pub type TokenId = u32;

/// What a text may turn into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// A template's own text: control tokens and markup in it are what they seem.
    Template,
    /// Anybody's text: `<|im_end|>` in it is ten characters, `<think>` seven.
    Content,
}

/// A piece of a rendered conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    pub text: &'a str,
    pub trust: Trust,
}

/// Turns text into the tokens of one model and back. Made once, used from any thread.
#[derive(Debug)]
pub struct Tokenizer {
    algorithm: Algorithm,
    specials: Specials,
    kinds: Vec<TokenKind>,
    /// User-defined tokens that only trusted text becomes, in the order of ids.
    markup: Vec<TokenId>,
    /// What each token adds to a text.
    bytes: ByteArena,
    special_ids: SpecialIds,
    /// Put before a prompt.
    prefix: Option<TokenId>,
    /// Put behind a prompt.
    suffix: Option<TokenId>,
    end_ids: Vec<TokenId>,
}

#[derive(Debug)]
enum Algorithm {
    Bpe(Box<Bpe>),
    Spm(Box<Spm>),
}

impl Tokenizer {
    /// # Errors
    /// The vocabulary is of a kind that is not supported, or contradicts itself.
    pub fn new(vocabulary: &Vocabulary<'_>) -> Result<Self, TokenizerError> {
        let n_tokens = vocabulary.tokens.len();
        if n_tokens == 0 {
            return Err(TokenizerError::NoTokens);
        }
        let max_tokens = i32::MAX as usize;
        if n_tokens > max_tokens {
            return Err(TokenizerError::TooManyTokens { n_tokens, max_tokens });
        }
        vocabulary.special_ids.check(n_tokens)?;
        let texts = texts(vocabulary)?;
        let kinds = kinds(vocabulary, &texts)?;
        let by_text = index_by_text(&texts)?;
        let specials = Specials::new(&texts, &kinds, &vocabulary.templates);
        // The unknown token stands for any text that has no tokens, so that it is no markup.
        let is_markup = |id: &TokenId| kinds[*id as usize] == TokenKind::UserDefined;
        let mut markup: Vec<TokenId> = specials.only_trusted().filter(is_markup).collect();
        markup.sort_unstable();
        // Merging must not make markup of text either.
        let mut merge_kinds = kinds.clone();
        for &id in &markup {
            merge_kinds[id as usize] = TokenKind::Control;
        }

        let mut special_ids = vocabulary.special_ids;
        let (algorithm, bytes, adds_bos) = match vocabulary.model {
            GPT2 => {
                let pre_tokenizer = PreTokenizer::named(vocabulary.pre).ok_or_else(|| {
                    TokenizerError::UnsupportedPreTokenizer { found: vocabulary.pre.to_owned() }
                })?;
                let bytes = token_bytes(&texts, &kinds, write_byte_level)?;
                let bpe = Bpe::new(vocabulary, pre_tokenizer, &merge_kinds, &bytes, &by_text)?;
                (Algorithm::Bpe(Box::new(bpe)), bytes, pre_tokenizer.add_bos)
            }
            LLAMA => {
                // What these are in files that do not say.
                let or_usual = |id: Option<TokenId>, usual: TokenId| {
                    id.or(Some(usual)).filter(|&id| (id as usize) < n_tokens)
                };
                special_ids.unknown = or_usual(special_ids.unknown, 0);
                special_ids.bos = or_usual(special_ids.bos, 1);
                special_ids.eos = or_usual(special_ids.eos, 2);
                let bytes = token_bytes(&texts, &kinds, write_space_marked)?;
                let spm = Spm::new(vocabulary, &texts, &merge_kinds, special_ids.unknown)?;
                (Algorithm::Spm(Box::new(spm)), bytes, true)
            }
            other => {
                return Err(TokenizerError::UnsupportedModel { found: other.to_owned() });
            }
        };

        let prefix = around(vocabulary.add_bos, adds_bos, special_ids.bos, "BOS")?;
        let suffix = around(vocabulary.add_eos, false, special_ids.eos, "EOS")?;
        let end_ids = end_ids(&specials, &kinds, &special_ids);
        Ok(Self { algorithm, specials, kinds, markup, bytes, special_ids, prefix, suffix, end_ids })
    }

    /// The tokens of one text, without any around it. [`Tokenizer::encode_prompt`] adds those.
    pub fn encode(&self, text: &str, trust: Trust) -> Vec<TokenId> {
        let whole = 0..text.len();
        match trust {
            Trust::Template => self.encode_trusting(text, &[whole]),
            Trust::Content => self.encode_trusting(text, &[]),
        }
    }

    /// As [`Tokenizer::encode`] of `String::from_utf8_lossy(bytes)`.
    ///
    /// llama.cpp's BPE gives one replacement character for each byte of a broken sequence, and its
    /// SentencePiece keeps such bytes; the Hugging Face library takes only valid text.
    pub fn encode_bytes(&self, bytes: &[u8], trust: Trust) -> Vec<TokenId> {
        self.encode(&String::from_utf8_lossy(bytes), trust)
    }

    /// The tokens of a whole prompt: of the segments' joined text, with the BOS and EOS tokens that
    /// the model's metadata ask for (a BOS that the template has written itself is not doubled).
    ///
    /// Words run across the seams of segments, so the ids are those of the joined text. A control
    /// token is found only where all of it comes from [`Trust::Template`].
    pub fn encode_prompt(&self, segments: &[Segment<'_>]) -> Vec<TokenId> {
        let mut text = String::with_capacity(segments.iter().map(|s| s.text.len()).sum());
        let mut trusted: Vec<Range<usize>> = Vec::new();
        for segment in segments {
            let start = text.len();
            text.push_str(segment.text);
            if segment.trust == Trust::Template && start < text.len() {
                match trusted.last_mut() {
                    Some(last) if last.end == start => last.end = text.len(),
                    _ => trusted.push(start..text.len()),
                }
            }
        }
        let mut tokens = self.encode_trusting(&text, &trusted);
        if let Some(bos) = self.prefix
            && tokens.first() != Some(&bos)
        {
            tokens.insert(0, bos);
        }
        tokens.extend(self.suffix);
        tokens
    }

    fn encode_trusting(&self, text: &str, trusted: &[Range<usize>]) -> Vec<TokenId> {
        // English is about four bytes a token.
        let mut tokens = Vec::with_capacity(text.len() / 4 + 2);
        let mut after_special = true;
        for fragment in self.specials.partition(text, trusted) {
            match fragment {
                Fragment::Text(range) => {
                    match &self.algorithm {
                        Algorithm::Bpe(bpe) => bpe.encode(&text[range], &self.bytes, &mut tokens),
                        Algorithm::Spm(spm) => spm.encode(&text[range], after_special, &mut tokens),
                    }
                    after_special = false;
                }
                Fragment::Token(id) => {
                    tokens.push(id);
                    after_special = true;
                }
            }
        }
        tokens
    }

    /// The text of the tokens, control tokens left out; the inverse of [`Tokenizer::encode`] for
    /// text without special tokens.
    pub fn decode(&self, tokens: &[TokenId]) -> String {
        let mut decoder = StreamDecoder::new(Start::OfText, ControlText::Hidden);
        let mut text = String::with_capacity(tokens.len() * 4);
        for &token in tokens {
            decoder.push_to(self, token, &mut text);
        }
        text.push_str(&decoder.finish());
        text
    }

    /// What the token adds to a text: maybe part of a character, maybe nothing. `None` for an id
    /// outside the vocabulary.
    pub fn token_bytes(&self, token: TokenId) -> Option<&[u8]> {
        self.bytes.get(token)
    }

    /// As [`Tokenizer::token_bytes`], for people to read.
    pub fn token_text_lossy(&self, token: TokenId) -> Option<Cow<'_, str>> {
        self.token_bytes(token).map(String::from_utf8_lossy)
    }

    pub fn kind(&self, token: TokenId) -> Option<TokenKind> {
        self.kinds.get(token as usize).copied()
    }

    /// Whether the token is structure that no reader sees.
    pub fn is_control(&self, token: TokenId) -> bool {
        self.kind(token) == Some(TokenKind::Control)
    }

    /// Whether only trusted text becomes this token: control tokens and markup as `<think>`.
    pub fn needs_trust(&self, token: TokenId) -> bool {
        self.is_control(token) || self.markup.binary_search(&token).is_ok()
    }

    pub fn n_vocab(&self) -> usize {
        self.kinds.len()
    }

    /// The control or user-defined token of this text, as `<|im_start|>`.
    pub fn special_id(&self, text: &str) -> Option<TokenId> {
        self.specials.find(text.as_bytes())
    }

    /// The tokens that metadata name.
    pub fn special_ids(&self) -> &SpecialIds {
        &self.special_ids
    }

    /// The tokens that end a reply, in the order of ids.
    pub fn end_ids(&self) -> &[TokenId] {
        &self.end_ids
    }

    pub fn is_end(&self, token: TokenId) -> bool {
        self.end_ids.binary_search(&token).is_ok()
    }

    /// Whether text starts with a space that nobody wrote.
    fn adds_space_prefix(&self) -> bool {
        match &self.algorithm {
            Algorithm::Bpe(_) => false,
            Algorithm::Spm(spm) => spm.adds_space_prefix(),
        }
    }
}

fn texts<'a>(vocabulary: &Vocabulary<'a>) -> Result<Vec<&'a str>, TokenizerError> {
    (0..)
        .zip(&vocabulary.tokens)
        .map(|(id, &text)| {
            str::from_utf8(text)
                .map_err(|_| TokenizerError::InvalidUtf8 { id, text: text.to_vec() })
        })
        .collect()
}

fn kinds(vocabulary: &Vocabulary<'_>, texts: &[&str]) -> Result<Vec<TokenKind>, TokenizerError> {
    let types = &vocabulary.token_types;
    if types.is_empty() {
        return Ok(texts.iter().map(|text| kind_in_use(text, TokenKind::Normal)).collect());
    }
    if types.len() != texts.len() {
        return Err(TokenizerError::LengthMismatch {
            key: Vocabulary::TOKEN_TYPES,
            expected: texts.len(),
            found: types.len(),
        });
    }
    (0..)
        .zip(texts.iter().zip(types))
        .map(|(id, (text, &found))| match TokenKind::from_gguf(found) {
            Some(kind) => Ok(kind_in_use(text, kind)),
            None => Err(TokenizerError::UnknownTokenType { id, found }),
        })
        .collect()
}

/// All texts that are not empty. Files pad vocabularies with empty tokens, and nothing is lost by
/// having them: no text becomes one and none comes of it.
fn index_by_text(texts: &[&str]) -> Result<TextIndex, TokenizerError> {
    let mut index = TextIndex::with_capacity(texts.len());
    for (id, &text) in (0..).zip(texts).filter(|(_, text)| !text.is_empty()) {
        if let Some(first) = index.insert(id, |id| texts[id as usize].as_bytes()) {
            let text = text.to_owned();
            return Err(TokenizerError::DuplicateToken { first, second: id, text });
        }
    }
    Ok(index)
}

/// What each token adds to a text; `write_normal` knows how the vocabulary spells it.
fn token_bytes(
    texts: &[&str],
    kinds: &[TokenKind],
    write_normal: impl Fn(&mut Vec<u8>, &str),
) -> Result<ByteArena, TokenizerError> {
    let n_bytes = texts.iter().map(|text| text.len()).sum();
    let mut arena = ByteArena::with_capacity(texts.len(), n_bytes);
    for (id, (&text, &kind)) in (0..).zip(texts.iter().zip(kinds)) {
        match kind {
            TokenKind::Normal => arena.push_with(|bytes| write_normal(bytes, text)),
            TokenKind::Control | TokenKind::Unknown | TokenKind::UserDefined => {
                arena.push_with(|bytes| bytes.extend_from_slice(text.as_bytes()));
            }
            TokenKind::Unused => arena.push_with(|_| ()),
            TokenKind::Byte => {
                let byte = byte_of_text(text).ok_or_else(|| {
                    TokenizerError::MalformedByteToken { id, text: text.to_owned() }
                })?;
                arena.push_with(|bytes| bytes.push(byte));
            }
        }
    }
    Ok(arena)
}

/// A character outside the byte alphabet stands for itself.
fn write_byte_level(bytes: &mut Vec<u8>, text: &str) {
    for character in text.chars() {
        match byte_of_char(character) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

fn write_space_marked(bytes: &mut Vec<u8>, text: &str) {
    let mut parts = text.split(SPACE_MARK);
    bytes.extend(parts.next().unwrap_or_default().bytes());
    for part in parts {
        bytes.push(b' ');
        bytes.extend_from_slice(part.as_bytes());
    }
}

/// The token to put around a prompt, if metadata ask for one or, where they do not say, it is usual.
fn around(
    asked: Option<bool>,
    is_usual: bool,
    id: Option<TokenId>,
    token: &'static str,
) -> Result<Option<TokenId>, TokenizerError> {
    if asked == Some(true) && id.is_none() {
        return Err(TokenizerError::MissingSpecialToken { token });
    }
    Ok(id.filter(|_| asked.unwrap_or(is_usual)))
}
