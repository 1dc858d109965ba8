//! Names of rows, and time.

use std::fmt;
use std::str::FromStr;

/// A point in time, in milliseconds since 1970 in UTC. The store never reads a clock: every
/// function that needs the time takes it.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct UnixMs(pub i64);

impl UnixMs {
    pub const DAY_MS: i64 = 86_400_000;

    /// This time and `milliseconds` more.
    #[must_use]
    pub fn plus_ms(self, milliseconds: i64) -> Self {
        Self(self.0.saturating_add(milliseconds))
    }

    /// When the UTC day of this time began.
    #[must_use]
    pub fn day_start(self) -> Self {
        Self(self.0 - self.0.rem_euclid(Self::DAY_MS))
    }
}

/// A text that is not an id of the kind asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is not an id: expected `{expected}_` and 26 letters and digits")]
pub struct InvalidId {
    pub expected: &'static str,
    pub found: String,
}

/// Crockford's base 32: no I, L, O or U. Its order is the order of ASCII, so texts sort as numbers.
const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const N_DIGITS: usize = 26;

fn write_digits(value: u128, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for place in (0..N_DIGITS).rev() {
        let digit = (value >> (5 * place)) as usize & 31;
        fmt::Write::write_char(f, char::from(DIGITS[digit]))?;
    }
    Ok(())
}

fn parse_digits(text: &str) -> Option<u128> {
    // 26 digits hold 130 bits: the first may be at most 7.
    if text.len() != N_DIGITS || text.as_bytes()[0] > b'7' {
        return None;
    }
    text.bytes().try_fold(0_u128, |value, byte| {
        let digit = DIGITS.iter().position(|&known| known == byte)?;
        Some(value << 5 | digit as u128)
    })
}

/// 48 bits of time, then 80 random bits, as in a ULID.
fn draw(now: UnixMs) -> u128 {
    let time = (now.0.max(0) as u128) & ((1 << 48) - 1);
    let random = u128::from_le_bytes(crate::secret::random_bytes()) >> 48;
    time << 80 | random
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u128);

        impl $name {
            /// A new id; ids sort by the time they were made at.
            pub fn new(now: UnixMs) -> Self {
                Self(draw(now))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!($prefix, "_"))?;
                write_digits(self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                text.strip_prefix(concat!($prefix, "_")).and_then(parse_digits).map(Self).ok_or_else(
                    || InvalidId { expected: $prefix, found: text.to_owned() },
                )
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

ids! {
    UserId = "user";
    ApiKeyId = "key";
    ConversationId = "conv";
    MessageId = "msg";
    ShareId = "share";
    FolderId = "folder";
    MemoryId = "mem";
    FeedbackId = "fb";
    /// One reply of a model, whatever protocol asked for it: what is charged.
    ReplyId = "reply";
    ReservationId = "hold";
    EventId = "event";
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_id_survives_its_text_and_sorts_as_it(a in any::<u128>(), b in any::<u128>()) {
            let (a, b) = (MessageId(a), MessageId(b));
            prop_assert_eq!(a.to_string().parse::<MessageId>(), Ok(a));
            prop_assert_eq!(a.to_string().cmp(&b.to_string()), a.cmp(&b));
        }

        #[test]
        fn no_text_breaks_the_parser(text in "(msg_)?.{0,30}") {
            if let Ok(id) = text.parse::<MessageId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }

    #[test]
    fn ids_sort_by_time_and_kinds_do_not_mix() {
        let ids: Vec<_> = (0..100).map(|ms| UserId::new(UnixMs(ms << 20))).collect();
        assert!(ids.is_sorted());
        assert!(ids[0].to_string().parse::<MessageId>().is_err());
    }

    #[test]
    fn a_day_starts_at_midnight_utc() {
        assert_eq!(UnixMs(UnixMs::DAY_MS - 1).day_start(), UnixMs(0));
        assert_eq!(UnixMs(UnixMs::DAY_MS).day_start(), UnixMs(UnixMs::DAY_MS));
        assert_eq!(UnixMs(-1).day_start(), UnixMs(-UnixMs::DAY_MS));
    }
}
