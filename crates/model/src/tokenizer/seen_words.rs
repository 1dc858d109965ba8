//! The words of a text that were encoded before.

use std::ops::Range;

use super::arena::hash;

/// Where the words of one text were last encoded, so that a word that comes again is copied. A new
/// word takes the place of another with the same slot: bounded, and no choice of words makes it
/// slower than not having it.
pub(super) struct SeenWords<'t> {
    slots: Box<[SeenWord<'t>]>,
}

#[derive(Clone, Default)]
pub(super) struct SeenWord<'t> {
    pub(super) word: &'t [u8],
    /// In the tokens of the text.
    pub(super) tokens: Range<usize>,
}

impl<'t> SeenWords<'t> {
    const MAX_SLOTS: usize = 1 << 14;
    /// About what a new word takes in a long text.
    const TEXT_BYTES_A_SLOT: usize = 16;

    pub(super) fn for_text(text: &str) -> Self {
        let n_slots = (text.len() / Self::TEXT_BYTES_A_SLOT).clamp(1, Self::MAX_SLOTS);
        Self { slots: vec![SeenWord::default(); n_slots.next_power_of_two()].into_boxed_slice() }
    }

    /// Where the word is, if it is; another word or none otherwise.
    pub(super) fn slot(&mut self, word: &[u8]) -> &mut SeenWord<'t> {
        let mask = self.slots.len() - 1;
        &mut self.slots[hash(word) as usize & mask]
    }
}
