//! What kind of character a code point is, as far as pre-tokenizers ask.

use std::sync::LazyLock;

use super::char_class_table::{LETTER, MARK, NUMBER, PUNCTUATION, WHITESPACE};

/// The classes that the regular expressions of pre-tokenizers name. They are disjoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CharClass {
    /// `\p{L}`
    Letter,
    /// `\p{N}`
    Number,
    /// `\p{M}`
    Mark,
    /// `\p{P}`
    Punctuation,
    /// `\s`: the White_Space property
    Whitespace,
    /// Symbols, controls, and all that is not assigned.
    Other,
}

/// Code points below this one are looked up directly, those above by binary search: 128 KiB hold
/// every script in daily use and the emoji; above are rare ideographs and variation selectors.
const N_DIRECT: usize = 0x2_0000;

const RANGES_BY_CLASS: [(CharClass, &[(u32, u32)]); 5] = [
    (CharClass::Letter, LETTER),
    (CharClass::Number, NUMBER),
    (CharClass::Mark, MARK),
    (CharClass::Punctuation, PUNCTUATION),
    (CharClass::Whitespace, WHITESPACE),
];

static DIRECT: LazyLock<Box<[CharClass]>> = LazyLock::new(|| {
    let mut classes = vec![CharClass::Other; N_DIRECT].into_boxed_slice();
    for (class, ranges) in RANGES_BY_CLASS {
        for &(first, last) in ranges {
            let end = N_DIRECT.min(last as usize + 1);
            if let Some(range) = classes.get_mut(first as usize..end) {
                range.fill(class);
            }
        }
    }
    classes
});

/// A handle on the table, so that a scan asks for it once.
#[derive(Clone, Copy, Debug)]
pub(super) struct CharClasses {
    direct: &'static [CharClass],
}

impl CharClasses {
    pub(super) fn get() -> Self {
        Self { direct: &DIRECT }
    }

    pub(super) fn of(self, character: char) -> CharClass {
        let code_point = u32::from(character);
        match self.direct.get(code_point as usize) {
            Some(&class) => class,
            None => search(code_point),
        }
    }
}

fn search(code_point: u32) -> CharClass {
    let holds = |ranges: &[(u32, u32)]| {
        let next = ranges.partition_point(|&(first, _)| first <= code_point);
        next > 0 && code_point <= ranges[next - 1].1
    };
    RANGES_BY_CLASS
        .into_iter()
        .find(|(_, ranges)| holds(ranges))
        .map_or(CharClass::Other, |(class, _)| class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_has_the_class_its_ranges_say() {
        let classes = CharClasses::get();
        for character in '\0'..=char::MAX {
            assert_eq!(classes.of(character), search(character.into()), "{character:?}");
        }
    }

    #[test]
    fn agrees_with_the_standard_library_where_it_has_an_opinion() {
        // Its Unicode is newer: it may know characters that the table calls unassigned.
        let classes = CharClasses::get();
        for character in '\0'..=char::MAX {
            let class = classes.of(character);
            assert_eq!(class == CharClass::Whitespace, character.is_whitespace(), "{character:?}");
            if class == CharClass::Number {
                assert!(character.is_numeric(), "{character:?}");
            }
            if class == CharClass::Letter {
                assert!(character.is_alphabetic(), "{character:?}");
            }
        }
    }
}
