//! A classifier of what people ask, for a server's input filter: a head like a reader's, with whatever
//! categories it was trained on.
//!
//! None comes along: there are no weights yet that were trained and measured for it.

use super::features::features;
use super::head::{Head, Heads, ReaderError};

/// The name of its head in a file.
pub const HEAD: &str = "asked";
/// A longer text is judged by parts of so many bytes, so that nothing hides behind other words.
const PART_BYTES: usize = 1024;

/// What judges what people ask.
#[derive(Debug)]
pub struct AskedClassifier {
    head: Head,
    version: String,
}

impl AskedClassifier {
    /// The classifier of a file.
    ///
    /// # Errors
    /// If it is not the whole of a file of heads, or lacks the head [`HEAD`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ReaderError> {
        let head = Heads::from_bytes(bytes)?.take(HEAD)?;
        Ok(Self { head, version: super::version_of(bytes) })
    }

    /// The first 12 hexadecimal digits of the file's SHA-256.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The likeliest category that a part of the text is said to be of, and its probability.
    pub fn judge(&self, text: &str) -> Option<(&str, f32)> {
        let said = parts(text).flat_map(|part| {
            let probabilities = self.head.probabilities(&features(part));
            self.head.outputs().iter().zip(probabilities)
        });
        said.filter(|(output, probability)| *probability >= output.threshold)
            .max_by(|a, b| a.1.total_cmp(&b.1))
            .map(|(output, probability)| (output.label.as_str(), probability))
    }
}

/// Parts of a text, each beginning in the middle of the one before.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    let boundary = |at: usize| text.floor_char_boundary(at);
    let n_steps = (text.len().saturating_sub(PART_BYTES)).div_ceil(PART_BYTES / 2);
    (0..=n_steps).map(move |step| {
        let start = step * PART_BYTES / 2;
        &text[boundary(start)..boundary(start + PART_BYTES)]
    })
}

#[cfg(test)]
mod tests {
    use super::super::fit::tests::options;
    use super::super::fit::{Example, fit};
    use super::*;

    /// Learns to tell fireworks from flowers.
    fn classifier() -> AskedClassifier {
        let example = |at: usize, thing: &str, labels: u64| {
            let text = format!("how do i {thing} number {at}");
            Example { text, labels, group: at as u64 }
        };
        let examples: Vec<Example> = (0..12)
            .flat_map(|at| [example(at, "light fireworks", 1), example(at, "water flowers", 0)])
            .collect();
        let head = fit(&["fireworks"], &examples, &options()).unwrap().head;
        let heads = Heads([(HEAD.to_owned(), head)].into());
        AskedClassifier::from_bytes(&heads.to_bytes()).unwrap()
    }

    #[test]
    fn what_it_learned_is_found_wherever_it_stands() {
        let classifier = classifier();
        assert_eq!(classifier.version().len(), 12);
        assert_eq!(classifier.judge("how do i water flowers"), None);
        assert_eq!(classifier.judge(""), None);
        let asked = "how do i light fireworks";
        assert_eq!(classifier.judge(asked).map(|(category, _)| category), Some("fireworks"));
        for n_before in [1_000, 3_000, 20_000] {
            let hidden = format!("{} {asked} {}", "花".repeat(n_before / 3), "花".repeat(900));
            assert!(classifier.judge(&hidden).is_some(), "behind {n_before} bytes");
        }
    }

    #[test]
    fn parts_cover_a_text_and_overlap() {
        for n_bytes in [0, 1, 1023, 1024, 1025, 1536, 1537, 5000] {
            let text = "x".repeat(n_bytes);
            let parts: Vec<&str> = parts(&text).collect();
            let covered: usize = parts.iter().map(|part| part.len()).sum::<usize>();
            let overlap = (parts.len() - 1) * PART_BYTES / 2;
            assert_eq!(covered - overlap, n_bytes);
        }
    }

    #[test]
    fn a_reader_is_no_classifier() {
        let error = AskedClassifier::from_bytes(&Heads::default().to_bytes()).unwrap_err();
        assert_eq!(error, ReaderError::Missing { name: HEAD });
        assert_eq!(AskedClassifier::from_bytes(b"x").unwrap_err(), ReaderError::Magic);
    }
}
