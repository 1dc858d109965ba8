//! Numbers of bytes as people write them: `512MB`, `2GiB`, `1000000`.

use std::fmt;
use std::str::FromStr;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ByteCount(pub(crate) u64);

const UNITS: [(&str, u64); 9] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
    ("", 1),
];

/// Why a text is no number of bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a number of bytes: write 0, 500MB or 2GB")]
pub(crate) struct NotBytes;

impl FromStr for ByteCount {
    type Err = NotBytes;

    fn from_str(text: &str) -> Result<Self, NotBytes> {
        let (unit, bytes) =
            UNITS.into_iter().find(|(unit, _)| text.ends_with(unit)).ok_or(NotBytes)?;
        let number: u64 =
            text[..text.len() - unit.len()].trim_end().parse().map_err(|_| NotBytes)?;
        number.checked_mul(bytes).map(Self).ok_or(NotBytes)
    }
}

impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |(_, bytes): &(&str, u64)| self.0.is_multiple_of(*bytes) && self.0 >= *bytes;
        let largest = UNITS.into_iter().filter(whole).max_by_key(|(_, bytes)| *bytes);
        match largest {
            Some((unit, bytes)) if bytes > 1 => write!(f, "{}{unit}", self.0 / bytes),
            _ => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("500MB", 500_000_000),
            ("2GiB", 2 << 30),
            ("3TB", 3_000_000_000_000),
        ] {
            assert_eq!(text.parse(), Ok(ByteCount(bytes)));
            assert_eq!(ByteCount(bytes).to_string(), text);
        }
        assert_eq!("5 kB".parse(), Ok(ByteCount(5_000)));
        for text in ["", "GB", "-1", "2.5GB", "many", "99999999TB", "3Gb"] {
            assert_eq!(text.parse::<ByteCount>(), Err(NotBytes), "{text}");
        }
    }
}
