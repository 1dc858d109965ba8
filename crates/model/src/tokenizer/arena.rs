//! Many short byte strings in one allocation, and finding one by its bytes.

use std::hash::Hasher;

use rustc_hash::FxHasher;

use super::TokenId;

/// Byte strings by number.
#[derive(Clone, Debug, Default)]
pub(super) struct ByteArena {
    bytes: Vec<u8>,
    /// Where each string ends; it starts where the one before does.
    ends: Vec<usize>,
}

impl ByteArena {
    pub(super) fn with_capacity(n_strings: usize, n_bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(n_bytes), ends: Vec::with_capacity(n_strings) }
    }

    /// Adds the string that `write` appends to the bytes it is given.
    pub(super) fn push_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes);
        self.ends.push(self.bytes.len());
    }

    /// `None` for a number that has no string.
    pub(super) fn get(&self, index: TokenId) -> Option<&[u8]> {
        let index = index as usize;
        let end = *self.ends.get(index)?;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        Some(&self.bytes[start..end])
    }
}

/// Token ids by text: open addressing over ids alone, so that filling it allocates once and copies
/// no text. The keys come from the model and not from users, so the hash needs no secret.
#[derive(Clone, Debug)]
pub(super) struct TextIndex {
    /// A power of two of slots, at most half of them taken.
    slots: Box<[Slot]>,
    /// Longer texts are not looked up.
    max_len: usize,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    /// Part of the text's hash: another text is told apart without reading it.
    tag: u32,
    id: TokenId,
}

const VACANT: TokenId = TokenId::MAX;

impl TextIndex {
    pub(super) fn with_capacity(n_texts: usize) -> Self {
        let n_slots = (n_texts * 2).next_power_of_two();
        Self { slots: vec![Slot { tag: 0, id: VACANT }; n_slots].into_boxed_slice(), max_len: 0 }
    }

    /// Adds a token, unless there is one of the same text: then gives that one.
    pub(super) fn insert<'a>(
        &mut self,
        id: TokenId,
        text_of: impl Fn(TokenId) -> &'a [u8],
    ) -> Option<TokenId> {
        let text = text_of(id);
        self.max_len = self.max_len.max(text.len());
        let (slot, tag) = self.probe(text, text_of);
        match self.slots[slot].id {
            VACANT => {
                self.slots[slot] = Slot { tag, id };
                None
            }
            taken => Some(taken),
        }
    }

    /// The token of this text.
    pub(super) fn get<'a>(
        &self,
        text: &[u8],
        text_of: impl Fn(TokenId) -> &'a [u8],
    ) -> Option<TokenId> {
        if text.len() > self.max_len {
            return None;
        }
        let (slot, _) = self.probe(text, text_of);
        Some(self.slots[slot].id).filter(|&id| id != VACANT)
    }

    /// The slot that holds the text, or else the vacant one where it belongs; and its tag.
    fn probe<'a>(&self, text: &[u8], text_of: impl Fn(TokenId) -> &'a [u8]) -> (usize, u32) {
        let hash = hash(text);
        let tag = (hash >> 32) as u32;
        let mask = self.slots.len() - 1;
        let mut slot = hash as usize & mask;
        loop {
            let found = self.slots[slot];
            if found.id == VACANT || (found.tag == tag && text_of(found.id) == text) {
                return (slot, tag);
            }
            slot = (slot + 1) & mask;
        }
    }
}

/// A hash whose low bits are good.
pub(super) fn hash(text: &[u8]) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write(text);
    hasher.finish()
}
