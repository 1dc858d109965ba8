//! The thought of a model that has none of its own: a form with fixed slots.
//!
//! A small model's free-text thought is noise (Li et al. 2025, "Small models struggle to learn from
//! strong reasoners"); four closed choices are a reading that a person can check at a glance:
//! `feel: sadness | need: comfort | tone: gentle | do: name the feeling`.

use std::collections::HashMap;
use std::sync::Arc;

use rapport_engine::Constraint;
use rapport_model::tokenizer::Tokenizer;

pub(crate) const OPEN: &str = "<think>";
pub(crate) const CLOSE: &str = "</think>";

/// The labels of GoEmotions (Demszky et al. 2020).
const FEELINGS: &[&str] = &[
    "admiration",
    "amusement",
    "anger",
    "annoyance",
    "approval",
    "caring",
    "confusion",
    "curiosity",
    "desire",
    "disappointment",
    "disapproval",
    "disgust",
    "embarrassment",
    "excitement",
    "fear",
    "gratitude",
    "grief",
    "joy",
    "love",
    "nervousness",
    "optimism",
    "pride",
    "realization",
    "relief",
    "remorse",
    "sadness",
    "surprise",
    "neutral",
];
const NEEDS: &[&str] =
    &["vent", "comfort", "advice", "facts", "celebrate", "company", "decide", "create"];
const TONES: &[&str] = &[
    "gentle",
    "warm",
    "plain",
    "cheerful",
    "playful",
    "calm",
    "direct",
    "encouraging",
    "serious",
    "curious",
    "respectful",
    "brief",
];
const ACTIONS: &[&str] = &[
    "name the feeling",
    "ask one question",
    "listen without advice",
    "give the facts",
    "say what is not known",
    "offer two options",
    "explain step by step",
    "celebrate with them",
    "answer in one line",
    "disagree kindly",
    "point to help",
    "write it",
];

enum Part {
    Text(&'static str),
    OneOf(&'static [&'static str]),
}

const FORM: &[Part] = &[
    Part::Text("feel: "),
    Part::OneOf(FEELINGS),
    Part::Text(" | need: "),
    Part::OneOf(NEEDS),
    Part::Text(" | tone: "),
    Part::OneOf(TONES),
    Part::Text(" | do: "),
    Part::OneOf(ACTIONS),
    Part::Text("</think>\n\n"),
];

/// The tokens that can occur in the form at all.
pub(crate) struct SlotTokens {
    by_bytes: HashMap<Box<[u8]>, u32>,
    by_token: HashMap<u32, Box<[u8]>>,
    longest_bytes: usize,
}

impl SlotTokens {
    pub(crate) fn new(tokenizer: &Tokenizer) -> Self {
        let alphabet = |byte: &u8| {
            matches!(byte, b'a'..=b'z' | b' ' | b':' | b'|' | b'<' | b'>' | b'/' | b'\n')
        };
        let mut tokens =
            Self { by_bytes: HashMap::new(), by_token: HashMap::new(), longest_bytes: 0 };
        for token in (0..tokenizer.n_vocab() as u32).filter(|&t| !tokenizer.is_control(t)) {
            let bytes = tokenizer.token_bytes(token).unwrap_or_default();
            if !bytes.is_empty() && bytes.iter().all(alphabet) {
                tokens.longest_bytes = tokens.longest_bytes.max(bytes.len());
                tokens.by_bytes.entry(bytes.into()).or_insert(token);
                tokens.by_token.insert(token, bytes.into());
            }
        }
        tokens
    }

    /// The longest token that `text` starts with: the form in as few tokens as it goes.
    fn longest_prefix(&self, text: &[u8]) -> Option<u32> {
        let mut lengths = (1..=self.longest_bytes.min(text.len())).rev();
        lengths.find_map(|n| self.by_bytes.get(&text[..n]).copied())
    }
}

/// A place in the form: a part, and what of it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    part_idx: usize,
    /// For a choice: the range of options that fit so far is those that start as this one does.
    option: &'static str,
    n_written: usize,
}

impl Place {
    fn start() -> Self {
        Self { part_idx: 0, option: "", n_written: 0 }
    }

    fn is_end(self) -> bool {
        self.part_idx == FORM.len()
    }

    /// The place after one more byte, if it may come.
    fn after(self, byte: u8) -> Option<Self> {
        match FORM.get(self.part_idx)? {
            Part::Text(text) => (text.as_bytes()[self.n_written] == byte)
                .then(|| self.wrote(text.len(), self.option)),
            Part::OneOf(options) => {
                let written = &self.option.as_bytes()[..self.n_written];
                let fits = |option: &&&str| {
                    option.as_bytes().starts_with(written)
                        && option.as_bytes().get(self.n_written) == Some(&byte)
                };
                let option = options.iter().find(fits)?;
                let place = self.wrote(usize::MAX, option);
                // No option starts another, so one that is written out is the one.
                Some(if place.n_written == option.len() { place.next_part() } else { place })
            }
        }
    }

    fn wrote(self, len: usize, option: &'static str) -> Self {
        let place = Self { option, n_written: self.n_written + 1, ..self };
        if place.n_written == len { place.next_part() } else { place }
    }

    fn next_part(self) -> Self {
        Self { part_idx: self.part_idx + 1, option: "", n_written: 0 }
    }

    /// Calls `each` with every text that may follow, up to the end of the part after this one.
    fn for_each_continuation(self, each: &mut dyn FnMut(&[u8])) {
        let mut text = Vec::new();
        let mut with_rest = |start: &str, next: &[&str]| {
            for rest in next {
                text.clear();
                text.extend_from_slice(start.as_bytes());
                text.extend_from_slice(rest.as_bytes());
                each(&text);
            }
        };
        let next: &[&str] = match FORM.get(self.part_idx + 1) {
            Some(Part::Text(text)) => &[text],
            Some(Part::OneOf(options)) => options,
            None => &[""],
        };
        match FORM.get(self.part_idx) {
            None => {}
            Some(Part::Text(text)) => with_rest(&text[self.n_written..], next),
            Some(Part::OneOf(options)) => {
                let written = &self.option[..self.n_written];
                for option in options.iter().filter(|option| option.starts_with(written)) {
                    with_rest(&option[self.n_written..], next);
                }
            }
        }
    }

    fn after_all(self, bytes: &[u8]) -> Option<Self> {
        bytes.iter().try_fold(self, |place, byte| place.after(*byte))
    }
}

/// Keeps a thought to the form.
pub(crate) struct SlotForm {
    tokens: Arc<SlotTokens>,
    place: Place,
}

impl SlotForm {
    pub(crate) fn new(tokens: Arc<SlotTokens>) -> Self {
        Self { tokens, place: Place::start() }
    }
}

impl Constraint for SlotForm {
    fn mask(&mut self, logits: &mut [f32]) {
        let mut allowed: Vec<(usize, f32)> = Vec::new();
        self.place.for_each_continuation(&mut |text| {
            let token = self.tokens.longest_prefix(text).map(|token| token as usize);
            if let Some((token, logit)) = token.and_then(|t| Some((t, *logits.get(t)?))) {
                allowed.push((token, logit));
            }
        });
        // Every letter is a token of its own, so there is always one; a vocabulary without them
        // goes unconstrained rather than nowhere.
        if allowed.is_empty() {
            return;
        }
        logits.fill(f32::NEG_INFINITY);
        for (token, logit) in allowed {
            logits[token] = logit;
        }
    }

    fn accept(&mut self, token: u32) {
        let bytes = self.tokens.by_token.get(&token);
        if let Some(place) = bytes.and_then(|bytes| self.place.after_all(bytes)) {
            self.place = place;
        }
    }

    fn is_complete(&self) -> bool {
        self.place.is_end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_option_starts_another() {
        for options in [FEELINGS, NEEDS, TONES, ACTIONS] {
            for a in options {
                assert!(!options.iter().any(|b| a != b && b.starts_with(a)), "{a}");
            }
        }
    }

    #[test]
    fn the_form_takes_readings_and_nothing_else() {
        let thought =
            "feel: sadness | need: comfort | tone: gentle | do: name the feeling</think>\n\n";
        let end = Place::start().after_all(thought.as_bytes()).unwrap();
        assert!(end.is_end());
        assert_eq!(end.after(b'x'), None);
        for wrong in ["feel: hungry", "need: ", "feel: joy |  ", "feel: joy | need: facts."] {
            assert_eq!(Place::start().after_all(wrong.as_bytes()), None, "{wrong}");
        }
        // Two options with the same start stay open until they differ.
        assert!(Place::start().after_all(b"feel: an").is_some());
        assert!(Place::start().after_all(b"feel: annoyance | need: c").is_some());
    }
}
