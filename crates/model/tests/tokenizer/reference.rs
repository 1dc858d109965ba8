//! The fixtures in `fixtures/tokenizer` and how to compare a tokenizer with them.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use rapport_model::gguf::Gguf;
use rapport_model::tokenizer::{Segment, TokenId, Tokenizer, Trust, Vocabulary};
use serde_json::Value;

pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer").join(name)
}

pub(crate) fn open(name: &str) -> Gguf {
    Gguf::open(&fixture(name)).expect("the fixture is a GGUF file")
}

fn json(name: &str) -> Value {
    let text = fs::read_to_string(fixture(name)).expect("the fixture exists");
    serde_json::from_str(&text).expect("the fixture is JSON")
}

fn ids(value: &Value) -> Vec<TokenId> {
    let ids = value.as_array().expect("a list of ids");
    ids.iter().map(|id| id.as_u64().expect("an id") as TokenId).collect()
}

fn lists(value: &Value) -> Vec<Vec<TokenId>> {
    value.as_array().expect("a list of lists").iter().map(ids).collect()
}

fn hexadecimal(value: &Value) -> Vec<u8> {
    let digits = value.as_str().expect("hexadecimal digits");
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).expect("two digits");
    (0..digits.len()).step_by(2).map(byte).collect()
}

/// The texts of `corpus.json`.
pub(crate) fn corpus_texts() -> Vec<String> {
    let corpus = json("corpus.json");
    let texts = corpus["texts"].as_array().expect("a list of texts");
    texts.iter().map(|text| text.as_str().expect("a text").to_owned()).collect()
}

fn conversations() -> Vec<Vec<(String, Trust)>> {
    let corpus = json("corpus.json");
    let segment = |segment: &Value| {
        let trust = match segment[1].as_str() {
            Some("template") => Trust::Template,
            Some("content") => Trust::Content,
            other => panic!("no such trust: {other:?}"),
        };
        (segment[0].as_str().expect("a text").to_owned(), trust)
    };
    let conversations = corpus["conversations"].as_array().expect("a list of conversations");
    conversations
        .iter()
        .map(|segments| segments.as_array().expect("segments").iter().map(segment).collect())
        .collect()
}

/// What llama.cpp makes of the corpus with one vocabulary.
pub(crate) struct Reference {
    pub(crate) overrides: HashMap<String, Value>,
    pub(crate) ends: Vec<TokenId>,
    content: Vec<Vec<TokenId>>,
    parsed: HashMap<usize, Vec<TokenId>>,
    conversations: Vec<Vec<TokenId>>,
    /// The bytes of each token; only where it is on file.
    pub(crate) pieces: Vec<Vec<u8>>,
}

impl Reference {
    pub(crate) fn load(name: &str) -> Self {
        let fixture = json(name);
        let object = |key: &str| fixture[key].as_object().expect("an object").clone();
        Self {
            overrides: object("overrides").into_iter().collect(),
            ends: ids(&fixture["ends"]),
            content: lists(&fixture["content"]),
            parsed: object("parsed")
                .iter()
                .map(|(at, tokens)| (at.parse().expect("a number"), ids(tokens)))
                .collect(),
            conversations: lists(&fixture["conversations"]),
            pieces: fixture["pieces"].as_array().into_iter().flatten().map(hexadecimal).collect(),
        }
    }

    /// The vocabulary of `file` with the reference's settings.
    pub(crate) fn vocabulary<'a>(&'a self, file: &'a Gguf) -> Vocabulary<'a> {
        let mut vocabulary = Vocabulary::from_gguf(file).expect("the fixture has a vocabulary");
        for (key, value) in &self.overrides {
            match key.as_str() {
                "pre" => vocabulary.pre = value.as_str().expect("a name"),
                "add_space_prefix" => vocabulary.add_space_prefix = value.as_bool(),
                other => panic!("no such setting: {other}"),
            }
        }
        vocabulary
    }

    /// Compares everything; gives how many tokens were equal.
    pub(crate) fn check(&self, name: &str, tokenizer: &Tokenizer) -> usize {
        let mut n_equal = 0;
        let texts = corpus_texts();
        assert_eq!(texts.len(), self.content.len(), "{name}: regenerate the fixtures");
        for (at, text) in texts.iter().enumerate() {
            let content = tokenizer.encode(text, Trust::Content);
            assert_eq!(content, self.content[at], "{name}: content {text:?}");
            let parsed = tokenizer.encode(text, Trust::Template);
            let expected = self.parsed.get(&at).unwrap_or(&self.content[at]);
            assert_eq!(&parsed, expected, "{name}: parsed {text:?}");
            n_equal += content.len() + parsed.len();
        }
        let conversations = conversations();
        assert_eq!(conversations.len(), self.conversations.len(), "{name}");
        for (conversation, expected) in conversations.iter().zip(&self.conversations) {
            let segments: Vec<Segment<'_>> =
                conversation.iter().map(|(text, trust)| Segment { text, trust: *trust }).collect();
            let tokens = tokenizer.encode_prompt(&segments);
            assert_eq!(&tokens, expected, "{name}: conversation {conversation:?}");
            n_equal += tokens.len();
        }
        n_equal
    }
}
