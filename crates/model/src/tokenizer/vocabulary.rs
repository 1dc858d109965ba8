//! A vocabulary as a model file gives it, and what can be wrong with one.

use crate::gguf::{Gguf, GgufError};

use super::TokenId;
use super::split::PreTokenizer;

/// The parts of a tokenizer as they stand in a file, borrowed from it and not yet checked:
/// `Tokenizer::new` does that.
#[derive(Clone, Debug, Default)]
pub struct Vocabulary<'a> {
    /// `gpt2` (byte-level BPE) or `llama` (SentencePiece).
    pub model: &'a str,
    /// The name of the pre-tokenizer, for `gpt2`; empty if the file has none.
    pub pre: &'a str,
    /// The text of each token: in GPT-2's byte alphabet for `gpt2`, with `▁` for spaces for `llama`.
    pub tokens: Vec<&'a [u8]>,
    /// One [`TokenKind`] number a token, or empty: then all are normal.
    pub token_types: Vec<i32>,
    /// One score a token, for `llama`.
    pub scores: Vec<f32>,
    /// Pairs of token texts with a space between, the first merged first; for `gpt2`.
    pub merges: Vec<&'a [u8]>,
    pub special_ids: SpecialIds,
    /// Whether text starts with the BOS token; `None` leaves it to what the model kind usually does.
    pub add_bos: Option<bool>,
    /// Whether text ends with the EOS token.
    pub add_eos: Option<bool>,
    /// Whether text gets a leading space, for `llama`.
    pub add_space_prefix: Option<bool>,
    /// The chat templates: what they write as markup, content does not become. With none, tokens
    /// are those of llama.cpp.
    pub templates: Vec<&'a str>,
}

/// The tokens that metadata name by id.
#[derive(Clone, Copy, Debug, Default)]
pub struct SpecialIds {
    /// Beginning of a text.
    pub bos: Option<TokenId>,
    /// End of a text.
    pub eos: Option<TokenId>,
    /// End of a turn.
    pub eot: Option<TokenId>,
    /// End of a message that awaits a tool's answer.
    pub eom: Option<TokenId>,
    pub unknown: Option<TokenId>,
    pub pad: Option<TokenId>,
}

impl SpecialIds {
    const BOS: &str = "tokenizer.ggml.bos_token_id";
    const EOS: &str = "tokenizer.ggml.eos_token_id";
    const EOT: &str = "tokenizer.ggml.eot_token_id";
    const EOM: &str = "tokenizer.ggml.eom_token_id";
    const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";
    const PAD: &str = "tokenizer.ggml.padding_token_id";

    pub(super) fn check(&self, n_tokens: usize) -> Result<(), TokenizerError> {
        let by_key = [
            (Self::BOS, self.bos),
            (Self::EOS, self.eos),
            (Self::EOT, self.eot),
            (Self::EOM, self.eom),
            (Self::UNKNOWN, self.unknown),
            (Self::PAD, self.pad),
        ];
        for (key, id) in by_key {
            if let Some(id) = id
                && id as usize >= n_tokens
            {
                return Err(TokenizerError::IdOutOfRange { key, id, n_tokens });
            }
        }
        Ok(())
    }
}

impl<'a> Vocabulary<'a> {
    const MODEL: &'static str = "tokenizer.ggml.model";
    const PRE: &'static str = "tokenizer.ggml.pre";
    const TOKENS: &'static str = "tokenizer.ggml.tokens";
    pub(super) const TOKEN_TYPES: &'static str = "tokenizer.ggml.token_type";
    pub(super) const SCORES: &'static str = "tokenizer.ggml.scores";
    const MERGES: &'static str = "tokenizer.ggml.merges";
    const ADD_BOS: &'static str = "tokenizer.ggml.add_bos_token";
    const ADD_EOS: &'static str = "tokenizer.ggml.add_eos_token";
    const ADD_SPACE_PREFIX: &'static str = "tokenizer.ggml.add_space_prefix";
    /// The template in use; others are under this key with a dot and a name.
    const TEMPLATE: &'static str = "tokenizer.chat_template";

    /// Reads the `tokenizer.*` keys of a file.
    ///
    /// # Errors
    /// A key is missing or of another type.
    pub fn from_gguf(file: &'a Gguf) -> Result<Self, GgufError> {
        let metadata = file.metadata();
        let model = metadata.string(Self::MODEL)?;
        let strings = |key| Ok::<_, GgufError>(metadata.strings(key)?.collect());
        let is_template = |key: &str| {
            let name = key.strip_prefix(Self::TEMPLATE);
            name.is_some_and(|name| name.is_empty() || name.starts_with('.'))
        };
        let template_keys = metadata.iter().map(|(key, _)| key).filter(|key| is_template(key));
        Ok(Self {
            model,
            pre: metadata.optional_string(Self::PRE)?.unwrap_or_default(),
            tokens: strings(Self::TOKENS)?,
            token_types: metadata.optional_i32s(Self::TOKEN_TYPES)?.unwrap_or_default(),
            scores: match model {
                LLAMA => metadata.f32s(Self::SCORES)?,
                _ => Vec::new(),
            },
            merges: match model {
                GPT2 => strings(Self::MERGES)?,
                _ => Vec::new(),
            },
            special_ids: SpecialIds {
                bos: metadata.optional_u32(SpecialIds::BOS)?,
                eos: metadata.optional_u32(SpecialIds::EOS)?,
                eot: metadata.optional_u32(SpecialIds::EOT)?,
                eom: metadata.optional_u32(SpecialIds::EOM)?,
                unknown: metadata.optional_u32(SpecialIds::UNKNOWN)?,
                pad: metadata.optional_u32(SpecialIds::PAD)?,
            },
            add_bos: metadata.optional_bool(Self::ADD_BOS)?,
            add_eos: metadata.optional_bool(Self::ADD_EOS)?,
            add_space_prefix: metadata.optional_bool(Self::ADD_SPACE_PREFIX)?,
            templates: template_keys.map(|key| metadata.string(key)).collect::<Result<_, _>>()?,
        })
    }
}

/// The [`Vocabulary::model`] of byte-level BPE.
pub(super) const GPT2: &str = "gpt2";
/// The [`Vocabulary::model`] of SentencePiece.
pub(super) const LLAMA: &str = "llama";

/// What a token is for, numbered as in GGUF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// Text.
    Normal,
    /// Stands for text that has no tokens.
    Unknown,
    /// Structure of the conversation; text never turns into it unless it is trusted.
    Control,
    /// Text that is always one token; markup is only where it is trusted.
    UserDefined,
    /// Never trained; means nothing.
    Unused,
    /// One byte of a character that has no token, as `<0x0A>`.
    Byte,
}

impl TokenKind {
    pub(super) fn from_gguf(number: i32) -> Option<Self> {
        Some(match number {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            0 | 5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }
}

/// Why a vocabulary cannot be used.
///
/// The first group is for another model file (or a newer Rapport); all others are a damaged file or
/// a faulty converter.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    #[error(
        "the tokenizer kind `{found}` is not supported, only `{GPT2}` (byte-level BPE) and \
         `{LLAMA}` (SentencePiece) are; use a model with one of these"
    )]
    UnsupportedModel { found: String },
    #[error(
        "the pre-tokenizer `{found}` is not supported; use a model with one of these: {}",
        PreTokenizer::names().collect::<Vec<_>>().join(", ")
    )]
    UnsupportedPreTokenizer { found: String },

    #[error("the vocabulary has no tokens; convert the model again")]
    NoTokens,
    #[error("the vocabulary has {n_tokens} tokens and at most {max_tokens} can be numbered")]
    TooManyTokens { n_tokens: usize, max_tokens: usize },
    #[error("`{key}` has {found} values for {expected} tokens; convert the model again")]
    LengthMismatch { key: &'static str, expected: usize, found: usize },
    #[error("token {id} has the type {found}, which GGUF does not define; convert the model again")]
    UnknownTokenType { id: TokenId, found: i32 },
    #[error("token {id} is not UTF-8: `{}`; convert the model again", text.escape_ascii())]
    InvalidUtf8 { id: TokenId, text: Vec<u8> },
    #[error("tokens {first} and {second} have the same text `{text}`; convert the model again")]
    DuplicateToken { first: TokenId, second: TokenId, text: String },
    #[error("byte token {id} is `{text}`, not `<0x00>` to `<0xFF>`; convert the model again")]
    MalformedByteToken { id: TokenId, text: String },
    #[error(
        "merge {index} is `{}`, not two tokens with a space between; convert the model again",
        merge.escape_ascii()
    )]
    MalformedMerge { index: usize, merge: Vec<u8> },
    #[error("merge {index} names `{}`, which is no token; convert the model again", text.escape_ascii())]
    UnknownMergeToken { index: usize, text: Vec<u8> },
    #[error("`{key}` is {id} and the vocabulary has {n_tokens} tokens; convert the model again")]
    IdOutOfRange { key: &'static str, id: TokenId, n_tokens: usize },
    #[error(
        "the metadata ask for a {token} token around each text and name none; convert the model again"
    )]
    MissingSpecialToken { token: &'static str },
}
