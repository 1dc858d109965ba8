//! Reading a message: what the person feels and how strongly, what they need, whether they may be
//! in danger, how formally they write; and the tone of a reply.
//!
//! English is read by a model that comes along ([`Reader::builtin`]), learned with [`fit`] from the
//! data that its card names. Japanese is read by short lists of words alone
//! ([`Basis::Lexicon`]), any other script not at all ([`Basis::None`]). A reading says what to take
//! care of, never what is true: nothing but tone, mode and help may follow from it.
//!
//! Start reading at [`Reader::read`]; then `features.rs`, `head.rs`, and `fit.rs` for the learning.

mod asked;
pub mod features;
pub mod fit;
mod head;
mod intensity;
mod japanese;
pub mod labels;
pub mod score;

use std::sync::OnceLock;

use serde::Serialize;
use sha2::{Digest, Sha256};

pub use asked::{AskedClassifier, HEAD as ASKED_HEAD};
pub use head::{Head, Heads, Output, ReaderError};

use labels::{FEELINGS, NEEDS, NEUTRAL_IDX};

/// Names of the heads in the file.
pub mod heads {
    pub const FEELING: &str = "feeling";
    pub const NEED: &str = "need";
    pub const RISK: &str = "risk";
    pub const FORMAL: &str = "formal";
    pub const TONE: &str = "tone";
}

/// What a reading rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Basis {
    /// Learned from labelled texts, with probabilities that were checked.
    Trained,
    /// Lists of words: what is found is likely there, what is not found may be there too.
    Lexicon,
    /// Nothing: the language is not read.
    None,
}

/// A label and how likely it is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Likely {
    pub label: &'static str,
    pub probability: f32,
}

/// What was read in a message.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reading {
    pub basis: Basis,
    /// The feelings that are said to be there, likeliest first.
    pub feelings: Vec<Likely>,
    /// All feelings, in the order of [`FEELINGS`]; each is or is not there on its own.
    pub all_feelings: Vec<Likely>,
    /// How strongly it is felt, 0 to 1.
    pub intensity: f32,
    /// What is asked for, likeliest first; the probabilities sum to 1.
    pub needs: Vec<Likely>,
    pub risk: Risk,
    /// 0 is casual, 1 formal; `None` where it is not read.
    pub formality: Option<f32>,
}

/// Whether the person may be in danger.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Risk {
    pub probability: f32,
    /// Likely enough to answer it first. Meant to err on this side.
    pub is_cue: bool,
}

impl Reading {
    fn none() -> Self {
        Self {
            basis: Basis::None,
            feelings: Vec::new(),
            all_feelings: Vec::new(),
            intensity: 0.0,
            needs: Vec::new(),
            risk: Risk { probability: 0.0, is_cue: false },
            formality: None,
        }
    }

    /// The likeliest feeling that is no neutral one.
    pub fn feeling(&self) -> Option<Likely> {
        self.feelings.iter().copied().find(|likely| likely.label != FEELINGS[NEUTRAL_IDX])
    }

    /// The likeliest need.
    pub fn need(&self) -> Option<Likely> {
        self.needs.first().copied()
    }
}

/// What reads messages.
#[derive(Debug)]
pub struct Reader {
    feeling: Head,
    need: Head,
    risk: Head,
    formal: Head,
    tone: Head,
    version: String,
}

impl Reader {
    /// The reader of a file.
    ///
    /// # Errors
    /// If it is not the whole of a reader's file, or lacks one of the heads.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ReaderError> {
        let mut found = Heads::from_bytes(bytes)?;
        let reader = Self {
            feeling: labelled(found.take(heads::FEELING)?, &FEELINGS)?,
            need: labelled(found.take(heads::NEED)?, &NEEDS)?,
            risk: labelled(found.take(heads::RISK)?, &["risk"])?,
            formal: labelled(found.take(heads::FORMAL)?, &["formal"])?,
            tone: labelled(found.take(heads::TONE)?, crate::TONES)?,
            version: version_of(bytes),
        };
        Ok(reader)
    }

    /// The reader that comes along.
    pub fn builtin() -> &'static Self {
        static READER: OnceLock<Reader> = OnceLock::new();
        READER.get_or_init(|| {
            let bytes = include_bytes!("../../../../models/reader/reader.bin");
            // A test reads it; a file that is wrong does not reach a build.
            Self::from_bytes(bytes).expect("the reader that comes along is whole")
        })
    }

    /// The first 12 hexadecimal digits of the file's SHA-256.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Reads a message of a person.
    pub fn read(&self, text: &str) -> Reading {
        if japanese::is_japanese(text) {
            return japanese::read(text);
        }
        if !text.chars().any(|letter| letter.is_ascii_alphabetic()) {
            return Reading::none();
        }
        let features = features::features(text);
        let probabilities = self.feeling.probabilities(&features);
        let all_feelings = likely(&FEELINGS, &probabilities);
        let mut feelings: Vec<Likely> = all_feelings
            .iter()
            .zip(self.feeling.outputs())
            .filter(|(likely, output)| likely.probability >= output.threshold)
            .map(|(likely, _)| *likely)
            .collect();
        if feelings.is_empty() {
            feelings.extend(all_feelings.iter().min_by(|a, b| by_probability(a, b)));
        }
        feelings.sort_by(by_probability);
        let mut needs = likely(&NEEDS, &self.need.shares(&features));
        needs.sort_by(by_probability);
        let risk = self.risk.probabilities(&features)[0];
        Reading {
            basis: Basis::Trained,
            intensity: intensity::intensity(text, &probabilities),
            feelings,
            all_feelings,
            needs,
            risk: Risk { probability: risk, is_cue: risk >= self.risk.outputs()[0].threshold },
            formality: Some(self.formal.probabilities(&features)[0]),
        }
    }

    /// Reads the tone of a reply: the tones of a thought, likeliest first; empty where the language
    /// is not read.
    pub fn tone(&self, reply: &str) -> Vec<Likely> {
        if japanese::is_japanese(reply) {
            return Vec::new();
        }
        let mut tones = likely(crate::TONES, &self.tone.shares(&features::features(reply)));
        tones.sort_by(by_probability);
        tones
    }
}

/// The first 12 hexadecimal digits of a file's SHA-256.
fn version_of(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    let number = digest[..6].iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    format!("{number:012x}")
}

fn labelled(head: Head, labels: &[&str]) -> Result<Head, ReaderError> {
    if head.outputs().iter().map(|output| output.label.as_str()).eq(labels.iter().copied()) {
        return Ok(head);
    }
    Err(ReaderError::Damaged { part: "the labels" })
}

fn likely(labels: &[&'static str], probabilities: &[f32]) -> Vec<Likely> {
    let pairs = labels.iter().zip(probabilities);
    pairs.map(|(label, probability)| Likely { label, probability: *probability }).collect()
}

/// The likelier first.
fn by_probability(a: &Likely, b: &Likely) -> std::cmp::Ordering {
    b.probability.total_cmp(&a.probability)
}

/// The language to answer a message in, as far as it is told apart.
pub fn language_of(message: &str) -> crate::Language {
    if japanese::is_japanese(message) { crate::Language::Ja } else { crate::Language::En }
}

/// What a model is told when its person may be in danger: common guidance for whoever is there
/// first (ask straight, stay, pass on to people), and no number, which differs by country.
pub fn crisis_guidance(language: crate::Language) -> &'static str {
    match language {
        crate::Language::En => {
            "The person may be in danger. Answer that first, calmly and in few words: take it \
             seriously, ask straight whether they are safe and whether they think of ending their \
             life, and point to the emergency number or a crisis line and to one person they trust. \
             Give no method and no lecture, and promise no secrecy. You are a program and cannot \
             come yourself."
        }
        crate::Language::Ja => {
            "相手に危険が迫っているかもしれません。まずそのことに、落ち着いて短く答えてください。\
             真剣に受け止め、今安全かどうか、死にたいと思っているかを率直に尋ね、緊急通報や\
             相談窓口、信頼できる人ひとりに連絡するよう伝えてください。方法には触れず、\
             説教をせず、秘密にすると約束しないでください。あなたはプログラムで、駆けつけることはできません。"
        }
    }
}

/// What is said to somebody who may be in danger where the model is too small to be trusted with it:
/// any one of these, word for word. They were written by people, for a message that speaks of death or
/// harm to oneself as for one of violence, and bear being said to somebody who was misread.
pub fn crisis_answers(language: crate::Language) -> &'static [&'static str] {
    match language {
        crate::Language::En => &[
            "What you wrote sounds serious, and I'm glad that you said it. Are you safe right now? If \
             you might hurt yourself, have taken something, or somebody might hurt you, please call \
             your emergency number now, or a crisis line, and tell one person who can come to you. \
             I'm a program and can't come, but you matter. If I misread you, tell me.",
            "I take that seriously. Are you thinking of ending your life, or is somebody hurting you? \
             Please call your emergency number or a crisis line now, and tell one person near you what \
             you told me. I'm a program and can't come myself, but I'd like you to be safe. If I \
             misread you, say so.",
        ],
        crate::Language::Ja => &[
            "大切なことを話してくれて、ありがとうございます。今、安全ですか。自分を傷つけそうなとき、\
             何かを飲んでしまったとき、誰かに傷つけられそうなときは、今すぐ緊急通報や相談窓口に電話し、\
             来てくれる人ひとりに伝えてください。私はプログラムで駆けつけられませんが、あなたは大切な人です。\
             読み違いでしたら、そう言ってください。",
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn feelings_needs_and_danger_are_read() {
        let reader = Reader::builtin();
        let sad = reader.read("I miss my sister so much it hurts");
        assert_eq!(sad.feeling().unwrap().label, "sadness", "{sad:?}");
        assert!(!sad.risk.is_cue, "{sad:?}");
        let thanks = reader.read("Thank you so much, this is amazing!!");
        assert!(thanks.feelings.iter().any(|likely| likely.label == "gratitude"), "{thanks:?}");
        assert!(thanks.intensity > reader.read("ok thanks").intensity);
        let facts = reader.read("What is the capital of New Zealand?");
        assert_eq!(facts.need().unwrap().label, "facts");
        let sum: f32 = facts.needs.iter().map(|likely| likely.probability).sum();
        assert!((sum - 1.0).abs() < 1e-4, "{facts:?}");
        assert!(reader.read("i want to kill myself").risk.is_cue);
    }

    #[test]
    fn manners_of_speaking_are_no_danger() {
        for text in
            ["this game is killing me", "I could kill for a coffee", "that exam destroyed me"]
        {
            let reading = Reader::builtin().read(text);
            assert!(!reading.risk.is_cue, "{text}: {:?}", reading.risk);
        }
    }

    #[test]
    fn formality_follows_the_writing() {
        let formality = |text| Reader::builtin().read(text).formality.unwrap();
        let formal = formality("Good evening. Could you kindly tell me when the museum opens?");
        let casual = formality("yo when does the museum open lol");
        assert!(formal > casual, "{formal} {casual}");
    }

    #[test]
    fn other_languages_say_what_they_rest_on() {
        let reader = Reader::builtin();
        let ja = reader.read("とても悲しい。");
        assert_eq!(ja.basis, Basis::Lexicon);
        assert_eq!(ja.feeling().unwrap().label, "sadness");
        assert!(reader.read("もう死にたい").risk.is_cue);
        for text in ["", "…", "Мне грустно", "12345"] {
            assert_eq!(reader.read(text).basis, Basis::None, "{text}");
        }
    }

    #[test]
    fn a_reader_survives_its_file_and_no_damage_passes() {
        let bytes = include_bytes!("../../../../models/reader/reader.bin");
        let heads = Heads::from_bytes(bytes).unwrap();
        assert_eq!(heads.to_bytes(), bytes);
        assert_eq!(Heads::from_bytes(b"GGUF").unwrap_err(), ReaderError::Magic);
        for n_bytes in [8, 40, 1000, bytes.len() - 1] {
            assert!(Heads::from_bytes(&bytes[..n_bytes]).is_err(), "cut at {n_bytes}");
        }
        let mut damaged = bytes.to_vec();
        damaged[bytes.len() / 2] ^= 1;
        assert!(Heads::from_bytes(&damaged).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_text_has_a_reading(text in ".{0,300}") {
            let reading = Reader::builtin().read(&text);
            proptest::prop_assert!((0.0..=1.0).contains(&reading.intensity));
            for likely in reading.all_feelings.iter().chain(&reading.needs) {
                proptest::prop_assert!((0.0..=1.0).contains(&likely.probability));
            }
        }
    }
}
