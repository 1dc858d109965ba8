//! SentencePiece as the `llama` vocabularies use it: characters, the neighbouring pair whose token
//! has the highest score merged first, and bytes for characters without a token.
//!
//! Not the Unigram search of the library of that name: the order of merges by score is what
//! llama.cpp does and what these vocabularies (trained as BPE) mean.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use super::TokenId;
use super::arena::{ByteArena, TextIndex};
use super::seen_words::{SeenWord, SeenWords};
use super::vocabulary::{TokenKind, TokenizerError, Vocabulary};

/// What stands for a space in the vocabulary.
pub(super) const SPACE_MARK: char = '▁';

#[derive(Debug)]
pub(super) struct Spm {
    /// The tokens that text can become, by text.
    by_text: TextIndex,
    /// All token texts, with [`SPACE_MARK`].
    marked_texts: ByteArena,
    scores: Vec<f32>,
    byte_tokens: [Option<TokenId>; 256],
    add_space_prefix: bool,
    /// No token goes on behind a space: what is before it and what is behind never merge.
    words_end_at_spaces: bool,
}

impl Spm {
    pub(super) fn new(
        vocabulary: &Vocabulary<'_>,
        texts: &[&str],
        kinds: &[TokenKind],
        unknown: Option<TokenId>,
    ) -> Result<Self, TokenizerError> {
        let n_tokens = texts.len();
        if vocabulary.scores.len() != n_tokens {
            return Err(TokenizerError::LengthMismatch {
                key: Vocabulary::SCORES,
                expected: n_tokens,
                found: vocabulary.scores.len(),
            });
        }
        let n_bytes = texts.iter().map(|text| text.len()).sum();
        let mut marked_texts = ByteArena::with_capacity(n_tokens, n_bytes);
        let mut by_text = TextIndex::with_capacity(n_tokens);
        let mut byte_tokens = [None; 256];
        for (id, (&text, &kind)) in (0..).zip(texts.iter().zip(kinds)) {
            marked_texts.push_with(|bytes| bytes.extend_from_slice(text.as_bytes()));
            match kind {
                TokenKind::Normal | TokenKind::UserDefined | TokenKind::Unused => {
                    if !text.is_empty() {
                        by_text.insert(id, |id| marked_texts.get(id).unwrap_or_default());
                    }
                }
                TokenKind::Byte => {
                    if let Some(byte) = byte_of_text(text) {
                        byte_tokens[usize::from(byte)] = Some(id);
                    }
                }
                TokenKind::Control | TokenKind::Unknown => {}
            }
        }
        let words_end_at_spaces = texts.iter().zip(kinds).all(|(text, kind)| {
            let is_cut = || text.trim_start_matches(SPACE_MARK).contains(SPACE_MARK);
            matches!(kind, TokenKind::Control | TokenKind::Unknown) || !is_cut()
        });
        // Some files name a control token, which text must not turn into.
        let unknown = unknown.filter(|&id| kinds[id as usize] != TokenKind::Control);
        for (byte, token) in (0..=u8::MAX).zip(&mut byte_tokens) {
            let of_text = || by_text.get(&[byte], |id| marked_texts.get(id).unwrap_or_default());
            *token = token.or_else(of_text).or(unknown);
        }
        Ok(Self {
            by_text,
            marked_texts,
            // Zero has no sign here: it would order pairs that llama.cpp takes for equal.
            scores: vocabulary.scores.iter().map(|score| score + 0.0).collect(),
            byte_tokens,
            add_space_prefix: vocabulary.add_space_prefix.unwrap_or(true),
            words_end_at_spaces,
        })
    }

    pub(super) fn adds_space_prefix(&self) -> bool {
        self.add_space_prefix
    }

    /// Appends the tokens of `text`, which starts a text or comes behind a special token if
    /// `after_special`.
    pub(super) fn encode(&self, text: &str, after_special: bool, tokens: &mut Vec<TokenId>) {
        let mut marked = String::with_capacity(text.len() * 5 / 4 + 3);
        if after_special && self.add_space_prefix {
            marked.push(SPACE_MARK);
        }
        marked.extend(text.chars().map(|char| if char == ' ' { SPACE_MARK } else { char }));
        self.encode_marked(&marked, tokens);
    }

    fn encode_marked(&self, text: &str, tokens: &mut Vec<TokenId>) {
        let mut scratch = Scratch::default();
        if !self.words_end_at_spaces {
            self.merge(text.as_bytes(), &mut scratch, tokens);
            return;
        }
        let mut seen = SeenWords::for_text(text);
        split_before_spaces(text, |word| {
            let word = word.as_bytes();
            let slot = seen.slot(word);
            if slot.word == word {
                tokens.extend_from_within(slot.tokens.clone());
                return;
            }
            let start = tokens.len();
            self.merge(word, &mut scratch, tokens);
            *slot = SeenWord { word, tokens: start..tokens.len() };
        });
    }

    fn merge(&self, text: &[u8], scratch: &mut Scratch, tokens: &mut Vec<TokenId>) {
        let Scratch { pieces, candidates } = scratch;
        chain_characters(text, pieces);

        let candidate = |pieces: &[Piece], left: usize| {
            let end = pieces[pieces[left].behind?].end;
            let id = self.find(&text[pieces[left].start..end])?;
            Some(Candidate { score: self.scores[id as usize], left: Reverse(left), end })
        };
        candidates.extend((0..pieces.len()).filter_map(|left| candidate(pieces, left)));

        while let Some(Candidate { left: Reverse(left), end, .. }) = candidates.pop() {
            // Either piece may have merged with another neighbour since.
            let right = pieces[left].behind.filter(|&right| pieces[right].end == end);
            let Some(right) = right else { continue };
            let behind = pieces[right].behind;
            pieces[left].end = end;
            pieces[left].behind = behind;
            // Out of the chain: an older candidate that starts here is no longer current.
            pieces[right].behind = None;
            if let Some(behind) = behind {
                pieces[behind].before = Some(left);
            }
            if let Some(before) = pieces[left].before {
                candidates.extend(candidate(pieces, before));
            }
            candidates.extend(candidate(pieces, left));
        }

        let mut next = (!pieces.is_empty()).then_some(0);
        while let Some(at) = next {
            let piece = &text[pieces[at].start..pieces[at].end];
            if let Some(id) = self.find(piece) {
                tokens.push(id);
            } else {
                let bytes = piece.iter().map(|&byte| usize::from(byte));
                tokens.extend(bytes.filter_map(|byte| self.byte_tokens[byte]));
            }
            next = pieces[at].behind;
        }
    }

    fn find(&self, text: &[u8]) -> Option<TokenId> {
        self.by_text.get(text, |id| self.marked_texts.get(id).unwrap_or_default())
    }
}

/// The byte that `<0x0A>` stands for.
pub(super) fn byte_of_text(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    let is_hexadecimal = digits.len() == 2 && digits.bytes().all(|d| d.is_ascii_hexdigit());
    is_hexadecimal.then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

/// A piece of the text in a chain: a character, later a token.
struct Piece {
    start: usize,
    end: usize,
    before: Option<usize>,
    behind: Option<usize>,
}

/// Fills `pieces` with the characters of `text`.
fn chain_characters(text: &[u8], pieces: &mut Vec<Piece>) {
    let is_start = |byte: u8| byte & 0xC0 != 0x80;
    pieces.clear();
    for start in (0..text.len()).filter(|&at| is_start(text[at])) {
        let before = pieces.len().checked_sub(1);
        let here = pieces.len();
        if let Some(last) = pieces.last_mut() {
            last.end = start;
            last.behind = Some(here);
        }
        pieces.push(Piece { start, end: text.len(), before, behind: None });
    }
}

/// Cuts before every [`SPACE_MARK`] that is not behind another one.
fn split_before_spaces<'t>(text: &'t str, mut emit: impl FnMut(&'t str)) {
    let mut start = 0;
    let mut last_end = 0;
    for (at, mark) in text.match_indices(SPACE_MARK) {
        if last_end < at {
            emit(&text[start..at]);
            start = at;
        }
        last_end = at + mark.len();
    }
    if start < text.len() {
        emit(&text[start..]);
    }
}

/// Buffers of [`Spm::merge`], kept from word to word.
#[derive(Default)]
struct Scratch {
    pieces: Vec<Piece>,
    /// Empty between words.
    candidates: BinaryHeap<Candidate>,
}

/// A merge that may be made: the highest score first, then from the left.
struct Candidate {
    score: f32,
    left: Reverse<usize>,
    /// Where the token ends that the merge makes.
    end: usize,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(self.left.cmp(&other.left))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Candidate {}

#[cfg(test)]
mod tests {
    use super::{byte_of_text, split_before_spaces};

    #[test]
    fn words_start_with_their_spaces() {
        let split = |text| {
            let mut words = Vec::new();
            split_before_spaces(text, |word| words.push(word));
            words
        };
        assert_eq!(split(""), [""; 0]);
        assert_eq!(split("a"), ["a"]);
        assert_eq!(split("▁▁"), ["▁▁"]);
        assert_eq!(split("a▁b"), ["a", "▁b"]);
        assert_eq!(split("▁a▁▁b▁"), ["▁a", "▁▁b", "▁"]);
    }

    #[test]
    fn a_byte_token_is_two_hexadecimal_digits() {
        assert_eq!(byte_of_text("<0x0A>"), Some(10));
        assert_eq!(byte_of_text("<0xff>"), Some(255));
        for malformed in ["<0x>", "<0x+1>", "<0x0AA>", "0x0A", "<0x0G>", ""] {
            assert_eq!(byte_of_text(malformed), None, "{malformed:?}");
        }
    }
}
