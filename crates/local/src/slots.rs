//! The thought of a model that has none of its own: a form with fixed slots.
//!
//! A small model's free-text thought is noise (Li et al. 2025, "Small models struggle to learn from
//! strong reasoners"); four closed choices are a reading that a person can check at a glance:
//! `feel: sadness | need: comfort | tone: gentle | do: name the feeling`.
//!
//! A thinking budget takes whole slots, from the first on: as many as fit whatever is chosen in
//! them ([`SlotTokens::form_within`]), so that a thought never ends in the middle of one.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use rapport_engine::Constraint;
use rapport_model::tokenizer::{Tokenizer, Trust};

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

/// The slots: a name and a choice each.
const SLOTS: &[Part] = &[
    Part::Text("feel: "),
    Part::OneOf(FEELINGS),
    Part::Text(" | need: "),
    Part::OneOf(NEEDS),
    Part::Text(" | tone: "),
    Part::OneOf(TONES),
    Part::Text(" | do: "),
    Part::OneOf(ACTIONS),
];
const END: Part = Part::Text("</think>\n\n");

/// The first slots, and the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Form {
    n_slot_parts: usize,
    /// The most tokens it takes, its end included.
    pub(crate) max_tokens: u32,
}

impl Form {
    fn part(self, part_idx: usize) -> Option<&'static Part> {
        match part_idx.cmp(&self.n_slot_parts) {
            Ordering::Less => SLOTS.get(part_idx),
            Ordering::Equal => Some(&END),
            Ordering::Greater => None,
        }
    }
}

/// The tokens that can occur in the form at all.
#[derive(Clone)]
pub(crate) struct SlotTokens {
    by_bytes: HashMap<Box<[u8]>, u32>,
    by_token: HashMap<u32, Box<[u8]>>,
    longest_bytes: usize,
    /// Forms that the vocabulary can write, each with the most tokens that its slots take; the
    /// fewest slots first.
    forms: Vec<(u32, Form)>,
}

impl SlotTokens {
    pub(crate) fn new(tokenizer: &Tokenizer) -> Self {
        let alphabet = |byte: &u8| {
            matches!(byte, b'a'..=b'z' | b' ' | b':' | b'|' | b'<' | b'>' | b'/' | b'\n')
        };
        let mut tokens = Self {
            by_bytes: HashMap::new(),
            by_token: HashMap::new(),
            longest_bytes: 0,
            forms: Vec::new(),
        };
        for token in (0..tokenizer.n_vocab() as u32).filter(|&t| !tokenizer.is_control(t)) {
            let bytes = tokenizer.token_bytes(token).unwrap_or_default();
            if !bytes.is_empty() && bytes.iter().all(alphabet) {
                tokens.longest_bytes = tokens.longest_bytes.max(bytes.len());
                tokens.by_bytes.entry(bytes.into()).or_insert(token);
                tokens.by_token.insert(token, bytes.into());
            }
        }
        for n_slot_parts in (2..=SLOTS.len()).step_by(2) {
            let form = Form { n_slot_parts, max_tokens: 0 };
            if let Some(most) = tokens.most_tokens(form, Place::START, &mut HashMap::new()) {
                let form = Form { max_tokens: most.of_slots + most.of_end, ..form };
                tokens.forms.push((most.of_slots, form));
            }
        }
        tokens
    }

    /// The most slots that fit `budget_tokens` whatever is chosen in them; `None` if not even the
    /// first does.
    pub(crate) fn form_within(&self, budget_tokens: u32) -> Option<Form> {
        let fits = self.forms.iter().rev().find(|(of_slots, _)| *of_slots <= budget_tokens);
        fits.map(|(_, form)| *form)
    }

    /// The least budget that has room for a thought, if the vocabulary can write one.
    pub(crate) fn least_budget_tokens(&self) -> Option<u32> {
        self.forms.first().map(|(of_slots, _)| *of_slots)
    }

    /// The tokens in which a thought is written under the form, its end included; `None` if it is
    /// not one the form takes.
    pub(crate) fn encode(&self, thought: &str) -> Option<Vec<u32>> {
        let n_slots = thought.split(" | ").count();
        let form = Form { n_slot_parts: 2 * n_slots, max_tokens: 0 };
        let text = format!("{thought}{CLOSE}\n\n");
        let mut rest = text.as_bytes();
        let mut place = Place::START;
        let mut tokens = Vec::new();
        while !rest.is_empty() {
            // Of the tokens that may come here, those the text goes on with; the longest is the one
            // that the form allows for this text.
            let allowed = self.allowed(form, place).into_iter().flatten();
            let token = allowed
                .filter(|token| rest.starts_with(&self.by_token[token]))
                .max_by_key(|token| self.by_token[token].len())?;
            let bytes = &self.by_token[&token];
            place = place.after_all(form, bytes)?;
            rest = &rest[bytes.len()..];
            tokens.push(token);
        }
        form.part(place.part_idx).is_none().then_some(tokens)
    }

    /// The tokens that may be written at `place`, one for each text that may follow.
    fn allowed(&self, form: Form, place: Place) -> Vec<Option<u32>> {
        let mut allowed = Vec::new();
        place.for_each_continuation(form, &mut |text| allowed.push(self.longest_prefix(text)));
        allowed.sort_unstable();
        allowed.dedup();
        allowed
    }

    /// The most tokens from `place` on; `None` if some text has no tokens.
    fn most_tokens(
        &self,
        form: Form,
        place: Place,
        known: &mut HashMap<Place, Option<MostTokens>>,
    ) -> Option<MostTokens> {
        if form.part(place.part_idx).is_none() {
            return Some(MostTokens::default());
        }
        if let Some(most) = known.get(&place) {
            return *most;
        }
        let in_slot = u32::from(place.part_idx < form.n_slot_parts);
        let mut most = Some(MostTokens::default());
        for token in self.allowed(form, place) {
            let next = token
                .and_then(|token| place.after_all(form, &self.by_token[&token]))
                .and_then(|next| self.most_tokens(form, next, known));
            most = most.zip(next).map(|(most, next)| MostTokens {
                of_slots: most.of_slots.max(next.of_slots + in_slot),
                of_end: most.of_end.max(next.of_end + 1 - in_slot),
            });
        }
        known.insert(place, most);
        most
    }

    /// The longest token that `text` starts with: the form in as few tokens as it goes.
    fn longest_prefix(&self, text: &[u8]) -> Option<u32> {
        let mut lengths = (1..=self.longest_bytes.min(text.len())).rev();
        lengths.find_map(|n| self.by_bytes.get(&text[..n]).copied())
    }
}

/// The most tokens that a form takes; one that begins in a slot counts for the slots.
#[derive(Clone, Copy, Default)]
struct MostTokens {
    of_slots: u32,
    of_end: u32,
}

/// Writes thoughts as the form makes a model write them: for whoever trains one.
pub struct ThoughtForm {
    tokens: SlotTokens,
    opening: Vec<u32>,
}

impl ThoughtForm {
    pub fn new(tokenizer: &Tokenizer) -> Self {
        let opening = tokenizer.encode(OPEN, Trust::Template);
        Self { tokens: SlotTokens::new(tokenizer), opening }
    }

    /// What is put before a thought; the model does not write it.
    pub fn opening(&self) -> &[u32] {
        &self.opening
    }

    /// A thought such as `feel: joy | need: celebrate | tone: warm | do: celebrate with them` in
    /// the tokens that the model writes, its end included; `None` if it is not one that the form
    /// takes. The last slots may be missing, as they are when the budget is short.
    pub fn encode(&self, thought: &str) -> Option<Vec<u32>> {
        self.tokens.encode(thought)
    }
}

/// A place in the form: a part, and what of it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Place {
    part_idx: usize,
    /// For a choice: the range of options that fit so far is those that start as this one does.
    option: &'static str,
    n_written: usize,
}

impl Place {
    const START: Self = Self { part_idx: 0, option: "", n_written: 0 };

    /// The place after one more byte, if it may come.
    fn after(self, form: Form, byte: u8) -> Option<Self> {
        match form.part(self.part_idx)? {
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
    fn for_each_continuation(self, form: Form, each: &mut dyn FnMut(&[u8])) {
        let mut text = Vec::new();
        let mut with_rest = |start: &str, next: &[&str]| {
            for rest in next {
                text.clear();
                text.extend_from_slice(start.as_bytes());
                text.extend_from_slice(rest.as_bytes());
                each(&text);
            }
        };
        let next: &[&str] = match form.part(self.part_idx + 1) {
            Some(Part::Text(text)) => &[text],
            Some(Part::OneOf(options)) => options,
            None => &[""],
        };
        match form.part(self.part_idx) {
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

    fn after_all(self, form: Form, bytes: &[u8]) -> Option<Self> {
        bytes.iter().try_fold(self, |place, byte| place.after(form, *byte))
    }
}

/// Keeps a thought to its form.
pub(crate) struct SlotForm {
    tokens: Arc<SlotTokens>,
    form: Form,
    place: Place,
}

impl SlotForm {
    /// `form` is one of those that `tokens` can write.
    pub(crate) fn new(tokens: Arc<SlotTokens>, form: Form) -> Self {
        Self { tokens, form, place: Place::START }
    }
}

impl Constraint for SlotForm {
    fn mask(&mut self, logits: &mut [f32]) {
        let allowed = self.tokens.allowed(self.form, self.place);
        let allowed: Vec<(usize, f32)> = allowed
            .into_iter()
            .flatten()
            .filter_map(|token| Some((token as usize, *logits.get(token as usize)?)))
            .collect();
        logits.fill(f32::NEG_INFINITY);
        for (token, logit) in allowed {
            logits[token] = logit;
        }
    }

    fn accept(&mut self, token: u32) {
        let bytes = self.tokens.by_token.get(&token);
        if let Some(place) = bytes.and_then(|bytes| self.place.after_all(self.form, bytes)) {
            self.place = place;
        }
    }

    fn is_complete(&self) -> bool {
        self.form.part(self.place.part_idx).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rapport_model::tokenizer::Vocabulary;

    #[test]
    fn no_option_starts_another() {
        for options in [FEELINGS, NEEDS, TONES, ACTIONS] {
            for a in options {
                assert!(!options.iter().any(|b| a != b && b.starts_with(a)), "{a}");
            }
        }
    }

    const ALL_SLOTS: Form = Form { n_slot_parts: SLOTS.len(), max_tokens: 0 };

    #[test]
    fn the_form_takes_readings_and_nothing_else() {
        let after = |text: &str| Place::START.after_all(ALL_SLOTS, text.as_bytes());
        let thought =
            "feel: sadness | need: comfort | tone: gentle | do: name the feeling</think>\n\n";
        let end = after(thought).unwrap();
        assert!(ALL_SLOTS.part(end.part_idx).is_none());
        assert_eq!(end.after(ALL_SLOTS, b'x'), None);
        for wrong in ["feel: hungry", "need: ", "feel: joy |  ", "feel: joy | need: facts."] {
            assert_eq!(after(wrong), None, "{wrong}");
        }
        // Two options with the same start stay open until they differ.
        assert!(after("feel: an").is_some());
        assert!(after("feel: annoyance | need: c").is_some());
    }

    /// A vocabulary of single letters and of `words`.
    fn slot_tokens(words: &[&str]) -> Arc<SlotTokens> {
        let letters: Vec<String> =
            "abcdefghijklmnopqrstuvwxyz:|<>/ \n".chars().map(String::from).collect();
        let texts: Vec<String> = letters
            .iter()
            .map(String::as_str)
            .chain(words.iter().copied())
            .map(|text| text.replace(' ', "Ġ").replace('\n', "Ċ"))
            .collect();
        let vocabulary = Vocabulary {
            model: "gpt2",
            pre: "gpt-2",
            tokens: texts.iter().map(String::as_bytes).collect(),
            ..Vocabulary::default()
        };
        Arc::new(SlotTokens::new(&Tokenizer::new(&vocabulary).unwrap()))
    }

    /// Writes a thought, drawing among what is allowed; gives its text and number of tokens.
    fn write(
        tokens: &Arc<SlotTokens>,
        form: Form,
        draw: &mut impl FnMut(usize) -> usize,
    ) -> (String, u32) {
        let mut constraint = SlotForm::new(Arc::clone(tokens), form);
        let (mut text, mut n_tokens) = (Vec::new(), 0);
        while !constraint.is_complete() {
            let mut logits = vec![0.0; 1 + *tokens.by_token.keys().max().unwrap() as usize];
            constraint.mask(&mut logits);
            let allowed: Vec<u32> =
                (0..).zip(&logits).filter(|(_, x)| **x == 0.0).map(|(t, _)| t).collect();
            let token = allowed[draw(allowed.len())];
            text.extend_from_slice(&tokens.by_token[&token]);
            constraint.accept(token);
            n_tokens += 1;
        }
        (String::from_utf8(text).unwrap(), n_tokens)
    }

    #[test]
    fn every_budget_gives_whole_slots_or_no_thought() {
        let words = [
            "feel",
            " need",
            " tone",
            " do",
            ": ",
            " |",
            "</think>",
            "\n\n",
            "neutral | ",
            "warm",
            "ing",
            "joy</",
            " step",
            "anger | need: ",
        ];
        for tokens in [slot_tokens(&[]), slot_tokens(&words), slot_tokens(&words[..8])] {
            let least = tokens.least_budget_tokens().unwrap();
            proptest!(|(budget in 0..200_u32, draws in prop::collection::vec(any::<usize>(), 1..40))| {
                let Some(form) = tokens.form_within(budget) else {
                    prop_assert!(budget < least);
                    return Ok(());
                };
                prop_assert!(budget >= least);
                let mut draws = draws.iter().cycle();
                let (text, n_tokens) = write(&tokens, form, &mut |n| draws.next().unwrap() % n);
                prop_assert!(n_tokens <= form.max_tokens);
                let thought = text.strip_suffix("</think>\n\n").unwrap();
                let slots: Vec<&str> = thought.split(" | ").collect();
                prop_assert_eq!(slots.len() * 2, form.n_slot_parts);
                for (slot, name) in slots.iter().zip(["feel: ", "need: ", "tone: ", "do: "]) {
                    prop_assert!(slot.len() > name.len() && slot.starts_with(name), "{}", text);
                }
            });
            let n_slots: Vec<_> = (0..200)
                .map(|budget| tokens.form_within(budget).map_or(0, |form| form.n_slot_parts / 2))
                .collect();
            assert!(n_slots.is_sorted() && n_slots[0] == 0 && n_slots[199] == 4, "{n_slots:?}");
        }
    }

    #[test]
    fn a_form_takes_exactly_its_budget_at_worst() {
        // With one letter a token, the longest of each choice.
        let tokens = slot_tokens(&[]);
        let longest = |options: &[&str]| options.iter().map(|option| option.len()).max().unwrap();
        let of_slots = "feel: ".len() + longest(FEELINGS) + " | need: ".len() + longest(NEEDS);
        let form = tokens.form_within(of_slots as u32).unwrap();
        assert_eq!(
            form,
            Form { n_slot_parts: 4, max_tokens: (of_slots + "</think>\n\n".len()) as u32 }
        );
        assert_eq!(tokens.form_within(of_slots as u32 - 1).unwrap().n_slot_parts, 2);
    }

    #[test]
    fn a_thought_is_encoded_as_the_form_would_write_it() {
        let words = ["feel", " need", ": ", " |", "</think>", "\n\n", "neutral | ", "warm", "ing"];
        for tokens in [slot_tokens(&[]), slot_tokens(&words)] {
            let form = ThoughtForm { tokens: SlotTokens::clone(&tokens), opening: Vec::new() };
            proptest!(|(draws in prop::collection::vec(any::<usize>(), 1..40))| {
                // What the form lets a model write is found again from its text alone.
                let mut constraint = SlotForm::new(Arc::clone(&tokens), ALL_SLOTS);
                let (mut text, mut draws) = (Vec::new(), draws.iter().cycle());
                while !constraint.is_complete() {
                    let allowed: Vec<u32> = tokens.allowed(ALL_SLOTS, constraint.place).into_iter().flatten().collect();
                    let token = allowed[draws.next().unwrap() % allowed.len()];
                    text.extend_from_slice(&tokens.by_token[&token]);
                    constraint.accept(token);
                }
                let text = String::from_utf8(text).unwrap();
                let encoded = form.encode(text.strip_suffix("</think>\n\n").unwrap()).unwrap();
                let mut constraint = SlotForm::new(Arc::clone(&tokens), ALL_SLOTS);
                let mut again = String::new();
                for token in encoded {
                    prop_assert!(tokens.allowed(ALL_SLOTS, constraint.place).contains(&Some(token)));
                    constraint.accept(token);
                    again.push_str(std::str::from_utf8(&tokens.by_token[&token]).unwrap());
                }
                prop_assert!(constraint.is_complete());
                prop_assert_eq!(again, text);
            });
            assert!(form.encode("feel: joy | need: facts").is_some(), "the first slots alone");
            for wrong in ["", "feel: hungry", "feel: joy | tone: warm", "feel: joy |", "hello"] {
                assert_eq!(form.encode(wrong), None, "{wrong}");
            }
        }
    }

    #[test]
    fn a_vocabulary_without_the_letters_has_no_form() {
        let vocabulary = Vocabulary {
            model: "gpt2",
            pre: "gpt-2",
            tokens: vec![b"f", b"e", b"l"],
            ..Vocabulary::default()
        };
        let tokens = SlotTokens::new(&Tokenizer::new(&vocabulary).unwrap());
        assert_eq!((tokens.form_within(u32::MAX), tokens.least_budget_tokens()), (None, None));
    }
}
