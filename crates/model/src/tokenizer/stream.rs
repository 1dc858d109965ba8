//! Tokens to text while they arrive.

/// Turns bytes that arrive in any portions into whole characters.
///
/// What it gives, put together, is `String::from_utf8_lossy` of all bytes.
#[derive(Debug, Default)]
pub struct StreamDecoder {
    /// The start of a character whose end has not come: at most 3 bytes.
    pending: Vec<u8>,
}

impl StreamDecoder {
    /// Takes more bytes and returns the characters that are complete.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    rest = after;
                    let Some(n_bad) = error.error_len() else { break };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[n_bad..];
                }
            }
        }
        self.pending = rest.to_vec();
        text
    }

    /// What is left when no more comes: an unfinished character is U+FFFD.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn portions_do_not_matter(parts in prop::collection::vec(
            prop_oneof![
                prop::collection::vec(any::<u8>(), 0..6),
                "[a\u{e9}\u{65e5}\u{1f600}]{0,4}".prop_map(String::into_bytes),
            ],
            0..12,
        ), size in 1..5_usize) {
            let all: Vec<u8> = parts.concat();
            let mut decoder = StreamDecoder::default();
            let mut text = String::new();
            for portion in all.chunks(size) {
                text.push_str(&decoder.push(portion));
            }
            text.push_str(&decoder.finish());
            prop_assert_eq!(text, String::from_utf8_lossy(&all).into_owned());
        }
    }
}
