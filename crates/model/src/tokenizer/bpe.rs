//! Byte-level BPE: words of bytes, the neighbouring pair of lowest rank merged first.
//!
//! Pieces are token ids from the start and a merge is a lookup of two ids, so no text is built or
//! compared on the way. Equal ranks merge from the left, as in llama.cpp and the `tokenizers` of
//! Hugging Face.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rustc_hash::FxHashMap;

use super::TokenId;
use super::arena::{ByteArena, TextIndex};
use super::seen_words::{SeenWord, SeenWords};
use super::split::{PreTokenizer, SplitRule};
use super::vocabulary::{TokenKind, TokenizerError, Vocabulary};

/// Words up to this long are merged by looking at all pairs again after each merge, which is the
/// fastest way for almost every word there is; longer ones through a heap, in n log n.
const MAX_SCANNED_BYTES: usize = 48;

/// Stands for a byte without a token; no merge names it.
const NO_TOKEN: TokenId = TokenId::MAX;

#[derive(Debug)]
pub(super) struct Bpe {
    split: SplitRule,
    byte_tokens: [TokenId; 256],
    /// By [`pair`].
    merges: FxHashMap<u64, Merge>,
    /// Tokens that a whole word is, whatever its merges; only for pre-tokenizers that say so.
    whole_words: Option<TextIndex>,
}

#[derive(Clone, Copy, Debug)]
struct Merge {
    rank: u32,
    result: TokenId,
}

const NO_MERGE: Merge = Merge { rank: u32::MAX, result: NO_TOKEN };

fn pair(left: TokenId, right: TokenId) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

impl Bpe {
    /// `texts` are the tokens' bytes, out of the byte alphabet.
    pub(super) fn new(
        vocabulary: &Vocabulary<'_>,
        pre_tokenizer: PreTokenizer,
        kinds: &[TokenKind],
        texts: &ByteArena,
        by_text: &TextIndex,
    ) -> Result<Self, TokenizerError> {
        let text_of = |id: TokenId| vocabulary.tokens[id as usize];
        let is_mergeable = |id: TokenId| {
            use TokenKind::{Normal, Unused, UserDefined};
            matches!(kinds[id as usize], Normal | Unused | UserDefined)
        };

        let mut byte_tokens = [NO_TOKEN; 256];
        for (token, character) in byte_tokens.iter_mut().zip(BYTE_ALPHABET) {
            let mut buffer = [0; 4];
            let text = character.encode_utf8(&mut buffer).as_bytes();
            if let Some(id) = by_text.get(text, text_of).filter(|&id| is_mergeable(id)) {
                *token = id;
            }
        }

        let mut merges = FxHashMap::default();
        merges.reserve(vocabulary.merges.len());
        let mut result_text = Vec::new();
        let mut last_result = 0;
        for (index, &merge) in vocabulary.merges.iter().enumerate() {
            let (left, right) = split_merge(merge)
                .ok_or_else(|| TokenizerError::MalformedMerge { index, merge: merge.to_vec() })?;
            result_text.clear();
            result_text.extend_from_slice(left);
            result_text.extend_from_slice(right);
            let find = |text: &[u8]| {
                by_text
                    .get(text, text_of)
                    .ok_or_else(|| TokenizerError::UnknownMergeToken { index, text: text.to_vec() })
            };
            let (left, right) = (find(left)?, find(right)?);
            // Nearly always the tokens stand in the order of their merges.
            let is_next = vocabulary.tokens.get(last_result as usize + 1) == Some(&&*result_text);
            let result = if is_next { last_result + 1 } else { find(&result_text)? };
            last_result = result;
            // Text must never turn into a control token, not even by merging.
            if is_mergeable(result) {
                let rank = index as u32;
                merges.entry(pair(left, right)).or_insert(Merge { rank, result });
            }
        }

        let whole_words = pre_tokenizer.ignore_merges.then(|| {
            let mut index = TextIndex::with_capacity(kinds.len());
            for (id, &kind) in (0..).zip(kinds) {
                let text = text_at(texts, id);
                if kind == TokenKind::Normal && !text.is_empty() {
                    index.insert(id, |id| text_at(texts, id));
                }
            }
            index
        });

        Ok(Self { split: pre_tokenizer.rule, byte_tokens, merges, whole_words })
    }

    /// Appends the tokens of `text`. A byte that has no token is left out and what stands on its two
    /// sides is not merged, as in llama.cpp (`tokenizers` merges it).
    pub(super) fn encode(&self, text: &str, texts: &ByteArena, tokens: &mut Vec<TokenId>) {
        let mut seen = SeenWords::for_text(text);
        let mut scratch = Scratch::default();
        self.split.split(text, |word| {
            let word = word.as_bytes();
            if let &[byte] = word {
                tokens.extend(Some(self.byte_tokens[usize::from(byte)]).filter(|&t| t != NO_TOKEN));
                return;
            }
            if let Some(whole_words) = &self.whole_words
                && let Some(id) = whole_words.get(word, |id| text_at(texts, id))
            {
                tokens.push(id);
                return;
            }
            let slot = seen.slot(word);
            if slot.word == word {
                tokens.extend_from_within(slot.tokens.clone());
                return;
            }
            let start = tokens.len();
            if word.len() <= MAX_SCANNED_BYTES {
                self.merge_scanning(word, &mut scratch, tokens);
            } else {
                self.merge_by_heap(word, tokens);
            }
            *slot = SeenWord { word, tokens: start..tokens.len() };
        });
    }

    fn merge_of(&self, left: TokenId, right: TokenId) -> Merge {
        self.merges.get(&pair(left, right)).copied().unwrap_or(NO_MERGE)
    }

    fn merge_scanning(&self, word: &[u8], scratch: &mut Scratch, tokens: &mut Vec<TokenId>) {
        let Scratch { pieces, merges } = scratch;
        pieces.clear();
        pieces.extend(word.iter().map(|&byte| self.byte_tokens[usize::from(byte)]));
        // `merges[i]` is of the pieces `i` and `i + 1`.
        merges.clear();
        merges.extend(pieces.windows(2).map(|two| self.merge_of(two[0], two[1])));

        loop {
            let lowest = merges.iter().enumerate().min_by_key(|(_, merge)| merge.rank);
            let Some((at, &Merge { rank, result })) = lowest else { break };
            if rank == NO_MERGE.rank {
                break;
            }
            pieces[at] = result;
            pieces.remove(at + 1);
            merges.remove(at);
            if at < merges.len() {
                merges[at] = self.merge_of(result, pieces[at + 1]);
            }
            if at > 0 {
                merges[at - 1] = self.merge_of(pieces[at - 1], result);
            }
        }
        tokens.extend(pieces.iter().copied().filter(|&token| token != NO_TOKEN));
    }

    fn merge_by_heap(&self, word: &[u8], tokens: &mut Vec<TokenId>) {
        let mut pieces: Vec<Piece> = word
            .iter()
            .enumerate()
            .map(|(at, &byte)| Piece {
                token: self.byte_tokens[usize::from(byte)],
                before: at.checked_sub(1),
                behind: Some(at + 1).filter(|&behind| behind < word.len()),
                merge: NO_MERGE,
            })
            .collect();
        for left in 0..pieces.len() - 1 {
            pieces[left].merge = self.merge_of(pieces[left].token, pieces[left + 1].token);
        }
        // The lowest rank first, then from the left.
        let mut candidates: BinaryHeap<Reverse<(u32, usize)>> = (0..pieces.len())
            .filter(|&left| pieces[left].merge.rank != NO_MERGE.rank)
            .map(|left| Reverse((pieces[left].merge.rank, left)))
            .collect();

        while let Some(Reverse((rank, left))) = candidates.pop() {
            let Merge { rank: current_rank, result } = pieces[left].merge;
            // Either piece may have merged with another neighbour since.
            let Some(right) = pieces[left].behind.filter(|_| rank == current_rank) else {
                continue;
            };
            let behind = pieces[right].behind;
            pieces[right].merge = NO_MERGE;
            pieces[left].token = result;
            pieces[left].behind = behind;
            if let Some(behind) = behind {
                pieces[behind].before = Some(left);
            }
            for left in pieces[left].before.into_iter().chain([left]) {
                let behind = pieces[left].behind.map(|behind| pieces[behind].token);
                let merge = behind.map(|behind| self.merge_of(pieces[left].token, behind));
                pieces[left].merge = merge.unwrap_or(NO_MERGE);
                if pieces[left].merge.rank != NO_MERGE.rank {
                    candidates.push(Reverse((pieces[left].merge.rank, left)));
                }
            }
        }

        let mut next = Some(0);
        while let Some(at) = next {
            tokens.extend(Some(pieces[at].token).filter(|&token| token != NO_TOKEN));
            next = pieces[at].behind;
        }
    }
}

fn text_at(texts: &ByteArena, id: TokenId) -> &[u8] {
    texts.get(id).unwrap_or_default()
}

/// The two sides of a merge. A token may itself be a space, so the first byte never separates.
fn split_merge(merge: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = merge.iter().skip(1).position(|&byte| byte == b' ')? + 1;
    let (left, right) = (&merge[..space], &merge[space + 1..]);
    (!right.is_empty()).then_some((left, right))
}

/// Buffers of [`Bpe::merge_scanning`], kept from word to word.
#[derive(Default)]
struct Scratch {
    pieces: Vec<TokenId>,
    merges: Vec<Merge>,
}

/// A piece of a long word in a chain.
struct Piece {
    token: TokenId,
    before: Option<usize>,
    behind: Option<usize>,
    /// With the piece behind.
    merge: Merge,
}

/// The character that stands for each byte in vocabularies of byte-level BPE: itself where it is
/// printable, else one of those from U+0100 on, in order.
const BYTE_ALPHABET: [char; 256] = {
    let mut alphabet = ['\0'; 256];
    let mut n_moved = 0;
    let mut byte = 0;
    while byte < 256 {
        let is_printable = matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
        let code_point = if is_printable { byte } else { 0x100 + n_moved };
        if !is_printable {
            n_moved += 1;
        }
        alphabet[byte as usize] = char::from_u32(code_point).expect("far below the surrogates");
        byte += 1;
    }
    alphabet
};

/// The inverse of [`BYTE_ALPHABET`] up to its last character.
const BYTE_OF_CHAR: [Option<u8>; 0x144] = {
    let mut bytes = [None; 0x144];
    let mut byte = 0;
    while byte < 256 {
        bytes[BYTE_ALPHABET[byte] as usize] = Some(byte as u8);
        byte += 1;
    }
    bytes
};

/// The byte a character of a byte-level vocabulary stands for.
pub(super) fn byte_of_char(character: char) -> Option<u8> {
    BYTE_OF_CHAR.get(character as usize).copied().flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_byte_alphabet_is_that_of_gpt2() {
        assert_eq!(BYTE_ALPHABET[usize::from(b' ')], 'Ġ');
        assert_eq!(BYTE_ALPHABET[usize::from(b'\n')], 'Ċ');
        assert_eq!(BYTE_ALPHABET[0], 'Ā');
        assert_eq!(BYTE_ALPHABET[0xAD], 'Ń');
        for (byte, character) in (0..=u8::MAX).zip(BYTE_ALPHABET) {
            assert_eq!(byte_of_char(character), Some(byte));
        }
        assert_eq!(byte_of_char(' '), None);
        assert_eq!(byte_of_char('日'), None);
    }

    #[test]
    fn a_merge_is_split_at_its_first_space_but_never_before_it() {
        assert_eq!(split_merge(b"a b"), Some((&b"a"[..], &b"b"[..])));
        assert_eq!(split_merge(b"  b"), Some((&b" "[..], &b"b"[..])));
        assert_eq!(split_merge(b"a b c"), Some((&b"a"[..], &b"b c"[..])));
        for malformed in [&b""[..], b"ab", b" ", b"a ", b" b"] {
            assert_eq!(split_merge(malformed), None, "{malformed:?}");
        }
    }

    #[test]
    fn long_words_are_merged_as_short_ones_are() {
        let merges: [&[u8]; 6] = [b"a a", b"b a", b"aa ba", b"a b", b"aa aa", b"ab c"];
        let tokens: [&[u8]; 9] = [b"a", b"b", b"c", b"aa", b"ba", b"aaba", b"ab", b"aaaa", b"abc"];
        let vocabulary =
            Vocabulary { tokens: tokens.into(), merges: merges.into(), ..Vocabulary::default() };
        let mut by_text = TextIndex::with_capacity(tokens.len());
        let mut texts = ByteArena::default();
        for (id, text) in (0..).zip(tokens) {
            by_text.insert(id, |id| tokens[id as usize]);
            texts.push_with(|bytes| bytes.extend_from_slice(text));
        }
        let kinds = [TokenKind::Normal; 9];
        let pre_tokenizer = PreTokenizer::named("gpt-2").expect("it is supported");
        let bpe = Bpe::new(&vocabulary, pre_tokenizer, &kinds, &texts, &by_text)
            .expect("the vocabulary is sound");

        let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
        proptest!(config, |(word in "[abcx]{1,60}")| {
            let (mut scanned, mut by_heap) = (Vec::new(), Vec::new());
            bpe.merge_scanning(word.as_bytes(), &mut Scratch::default(), &mut scanned);
            bpe.merge_by_heap(word.as_bytes(), &mut by_heap);
            prop_assert_eq!(scanned, by_heap);
        });
    }
}
