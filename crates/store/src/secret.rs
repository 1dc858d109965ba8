//! Secrets that open something: shown once, stored as a hash.
//!
//! Each is 32 random bytes, so a plain SHA-256 is enough to store: there is nothing to guess that
//! a slow hash or a salt would protect. Passwords are another matter, see [`crate::password`].

use std::fmt;
use std::fmt::Write as _;

use sha2::{Digest, Sha256};

/// A secret on its way to the person it is for. Not printed by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A new secret: `prefix` tells people and leak scanners what it opens.
    pub(crate) fn draw(prefix: &str) -> Self {
        let mut text = prefix.to_owned();
        write_hex(&random_bytes::<32>(), &mut text);
        Self(text)
    }

    /// The secret's text; whoever calls this shows it once and keeps nothing.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What is stored of a secret.
pub(crate) fn hash(secret: &str) -> String {
    let mut text = String::with_capacity(64);
    write_hex(&Sha256::digest(secret.as_bytes()), &mut text);
    text
}

/// Enough of a key for its owner to tell it from others, if that leaves enough to guess.
pub(crate) fn prefix(secret: &str) -> String {
    const SHOWN: usize = 8;
    if secret.chars().count() < 4 * SHOWN {
        return String::new();
    }
    secret.chars().take(SHOWN).collect()
}

pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system gives random numbers");
    bytes
}

fn write_hex(bytes: &[u8], text: &mut String) {
    for byte in bytes {
        let _infallible = write!(text, "{byte:02x}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_sha256() {
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hash("abc"), expected);
    }

    #[test]
    fn a_secret_is_long_new_and_not_printed() {
        let (a, b) = (Secret::draw("rk-"), Secret::draw("rk-"));
        assert_ne!(a, b);
        assert_eq!(a.reveal().len(), 3 + 64);
        assert!(!format!("{a:?}").contains(&a.reveal()[3..]));
    }

    #[test]
    fn a_prefix_gives_no_short_secret_away() {
        assert_eq!(prefix(&"0123456789abcdef".repeat(2)), "01234567");
        assert_eq!(prefix("0123456789abcdef"), "");
    }
}
