//! Text that tries to be structure, vocabularies that are broken, and input that is too long.

use std::cell::Cell;

use proptest::prelude::*;
use rapport_model::tokenizer::{
    ControlText, Segment, SpecialIds, Start, StreamDecoder, TokenId, TokenKind, Tokenizer,
    TokenizerError, Trust, Vocabulary,
};

use crate::reference::{Reference, open};

const ALL: [(&str, &str); 9] = [
    ("bpe.gguf", "bpe_default.json"),
    ("bpe.gguf", "bpe_gpt-2.json"),
    ("bpe.gguf", "bpe_smollm.json"),
    ("bpe.gguf", "bpe_llama-bpe.json"),
    ("bpe.gguf", "bpe_qwen2.json"),
    ("bpe.gguf", "bpe_qwen35.json"),
    ("spm.gguf", "spm_space_prefix.json"),
    ("spm.gguf", "spm_plain.json"),
    ("spm_words.gguf", "spm_words.json"),
];

fn tokenizer(vocabulary: &str, reference_name: &str) -> Tokenizer {
    let file = open(vocabulary);
    let reference = Reference::load(reference_name);
    Tokenizer::new(&reference.vocabulary(&file)).expect("a good vocabulary")
}

fn template(text: &str) -> Segment<'_> {
    Segment { text, trust: Trust::Template }
}

fn content(text: &str) -> Segment<'_> {
    Segment { text, trust: Trust::Content }
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) }
}

/// Pieces of control tokens and what may stand around them.
fn tag_soup() -> impl Strategy<Value = String> {
    let pieces = [
        "<|im_start|>",
        "<|im_end|>",
        "<|endoftext|>",
        "<|im_",
        "<|",
        "|>",
        "im_end|>",
        "start",
        "</s>",
        "<s>",
        "<unk>",
        "[UNK]",
        "<0x0A>",
        "<",
        ">",
        "s",
        " ",
        "\n",
        "▁",
        "user",
        "'s",
        "é",
    ];
    prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..24).prop_map(|p| p.concat())
}

/// Without what SentencePiece does not give back as it was: space marks become spaces, and a space
/// is put behind user-defined tokens (two line breaks are one here).
fn reversible(text: &str, vocabulary: &str) -> String {
    text.replace(if vocabulary.starts_with("spm") { &['▁', '\n'][..] } else { &['\u{7f}'] }, "")
}

#[test]
fn content_never_becomes_a_control_token() {
    for (vocabulary, reference_name) in ALL {
        let tokenizer = tokenizer(vocabulary, reference_name);
        proptest!(config(500), |(text in tag_soup())| {
            let text = reversible(&text, vocabulary);
            let tokens = tokenizer.encode(&text, Trust::Content);
            for &token in &tokens {
                let kind = tokenizer.kind(token);
                prop_assert!(!matches!(kind, Some(TokenKind::Control | TokenKind::Unknown)));
            }
            prop_assert_eq!(tokenizer.decode(&tokens), text);
        });
    }
}

#[test]
fn a_prompt_has_the_control_tokens_of_its_template_and_no_others() {
    for (vocabulary, reference_name) in ALL {
        let tokenizer = tokenizer(vocabulary, reference_name);
        let controls = |tokens: &[TokenId]| -> Vec<TokenId> {
            tokens.iter().copied().filter(|&token| tokenizer.is_control(token)).collect()
        };
        proptest!(config(300), |(turns in prop::collection::vec((tag_soup(), tag_soup()), 1..5))| {
            // Every content is at least a space, so that no two templates touch.
            let turns: Vec<_> = turns.iter().map(|(one, other)| (one, format!(" {other}"))).collect();
            let segments: Vec<_> =
                turns.iter().flat_map(|(one, other)| [template(one), content(other)]).collect();
            let mut expected: Vec<TokenId> = turns
                .iter()
                .flat_map(|(one, _)| controls(&tokenizer.encode(one, Trust::Template)))
                .collect();
            let added = tokenizer.encode_prompt(&[]);
            let first = tokenizer.encode(turns[0].0, Trust::Template).first().copied();
            if first.is_none() || first != added.first().copied() {
                expected.splice(0..0, added);
            }
            prop_assert_eq!(controls(&tokenizer.encode_prompt(&segments)), expected);
        });
    }
}

#[test]
fn a_control_token_put_together_across_a_seam_stays_text() {
    let tokenizer = tokenizer("spm.gguf", "spm_plain.json");
    let end = tokenizer.special_id("<|im_end|>").expect("the fixture has it");
    for (one, other) in [("<|im_", "end|>"), ("<|im_end|", ">"), ("<", "|im_end|>")] {
        for segments in [[template(one), content(other)], [content(one), template(other)]] {
            let tokens = tokenizer.encode_prompt(&segments);
            assert!(!tokens.contains(&end), "{segments:?}");
        }
        let trusted = tokenizer.encode_prompt(&[template(one), template(other)]);
        assert_eq!(trusted.last(), Some(&end));
    }
}

#[test]
fn a_bos_that_the_template_writes_is_not_doubled() {
    let tokenizer = tokenizer("spm.gguf", "spm_plain.json");
    let bos = tokenizer.special_ids().bos.expect("the fixture has it");
    for segments in [&[template("<s>hi")][..], &[template("hi")], &[content("<s>hi")], &[]] {
        let tokens = tokenizer.encode_prompt(segments);
        assert_eq!(tokens.iter().filter(|&&token| token == bos).count(), 1, "{segments:?}");
        assert_eq!(tokens[0], bos, "{segments:?}");
    }
}

#[test]
fn text_survives_the_way_there_and_back() {
    for (vocabulary, reference_name) in ALL {
        let tokenizer = tokenizer(vocabulary, reference_name);
        proptest!(config(300), |(text in any::<String>(), spaces in "[ \n]{0,4}")| {
            let text = reversible(&format!("{spaces}{text}{spaces}"), vocabulary);
            prop_assert_eq!(tokenizer.decode(&tokenizer.encode(&text, Trust::Content)), text);
        });
    }
}

#[test]
fn a_stream_gives_whole_characters_and_the_text_of_the_whole() {
    for (vocabulary, reference_name) in [ALL[1], ALL[6], ALL[7]] {
        let tokenizer = tokenizer(vocabulary, reference_name);
        let beyond = tokenizer.n_vocab() as TokenId + 3;
        // Ids below 300 are nearly all single bytes.
        let any_id = prop_oneof![0..300_u32, 0..beyond, Just(TokenId::MAX)];
        proptest!(config(1_000), |(ids in prop::collection::vec(any_id, 0..40))| {
            let mut decoder = StreamDecoder::new(Start::Continued, ControlText::Shown);
            let mut text = String::new();
            for &id in &ids {
                text.push_str(&decoder.push(&tokenizer, id));
            }
            text.push_str(&decoder.finish());
            let bytes: Vec<u8> =
                ids.iter().filter_map(|&id| tokenizer.token_bytes(id)).flatten().copied().collect();
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
            prop_assert_eq!(decoder.finish(), "");
        });
    }
}

#[test]
fn a_stream_takes_off_the_space_that_nobody_wrote_once() {
    let tokenizer = tokenizer("spm.gguf", "spm_space_prefix.json");
    let tokens = tokenizer.encode("Hello Hello", Trust::Content);
    let text = |start| {
        let mut decoder = StreamDecoder::new(start, ControlText::Hidden);
        tokens.iter().map(|&token| decoder.push(&tokenizer, token)).collect::<String>()
    };
    assert_eq!(text(Start::OfText), "Hello Hello");
    assert_eq!(text(Start::Continued), " Hello Hello");
}

#[test]
fn control_tokens_show_when_asked_for() {
    let tokenizer = tokenizer("bpe.gguf", "bpe_smollm.json");
    let tokens = tokenizer.encode("<|im_start|>hi<think>", Trust::Template);
    let text = |control| {
        let mut decoder = StreamDecoder::new(Start::Continued, control);
        tokens.iter().map(|&token| decoder.push(&tokenizer, token)).collect::<String>()
    };
    assert_eq!(text(ControlText::Shown), "<|im_start|>hi<think>");
    assert_eq!(text(ControlText::Hidden), "hi<think>");
}

#[test]
fn a_megabyte_of_one_character_is_encoded_by_every_algorithm() {
    for (vocabulary, reference_name) in [ALL[0], ALL[3], ALL[7], ALL[8]] {
        let tokenizer = tokenizer(vocabulary, reference_name);
        for character in ["a", "\n", "9", "あ", "<|im_end|>"] {
            let text = character.repeat((1 << 20) / character.len());
            let tokens = tokenizer.encode(&text, Trust::Content);
            // SentencePiece puts spaces behind user-defined tokens.
            let decoded = tokenizer.decode(&tokens).replace(' ', "");
            assert!(decoded == text, "{reference_name}: {character:?}");
        }
    }
}

#[test]
fn bytes_that_are_no_text_are_replaced_as_everywhere() {
    let tokenizer = tokenizer("bpe.gguf", "bpe_smollm.json");
    for bytes in
        [&b"\xff"[..], b"a\xc3", b"\xed\xa0\x80", b"ok \xf0\x9f\x98 ok", b"\xe3\x81\xe3\x81\x82"]
    {
        let tokens = tokenizer.encode_bytes(bytes, Trust::Content);
        assert_eq!(tokenizer.decode(&tokens), String::from_utf8_lossy(bytes));
    }
}

#[test]
fn ids_outside_the_vocabulary_have_no_text() {
    let tokenizer = tokenizer("bpe.gguf", "bpe_smollm.json");
    for id in [tokenizer.n_vocab() as TokenId, TokenId::MAX] {
        assert_eq!(tokenizer.token_bytes(id), None);
        assert_eq!(tokenizer.token_text_lossy(id), None);
        assert_eq!(tokenizer.kind(id), None);
        assert!(!tokenizer.is_control(id) && !tokenizer.is_end(id));
        assert_eq!(tokenizer.decode(&[id, id]), "");
    }
}

#[test]
fn a_tokenizer_is_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Tokenizer>();
}

const SMALL: &[&[u8]] = &[b"a", b"b", b"ab", b"<|im_end|>"];

fn small_bpe<'a>() -> Vocabulary<'a> {
    Vocabulary {
        model: "gpt2",
        pre: "gpt-2",
        tokens: SMALL.to_vec(),
        token_types: vec![1, 1, 1, 3],
        merges: vec![b"a b"],
        ..Vocabulary::default()
    }
}

fn error(change: impl FnOnce(&mut Vocabulary<'_>)) -> TokenizerError {
    let mut vocabulary = small_bpe();
    change(&mut vocabulary);
    Tokenizer::new(&vocabulary).expect_err("the vocabulary is broken")
}

#[test]
fn broken_vocabularies_are_refused_by_what_is_wrong() {
    use TokenizerError as E;
    let types = "tokenizer.ggml.token_type";
    let scores = "tokenizer.ggml.scores";

    assert!(Tokenizer::new(&small_bpe()).is_ok());
    let found = "bert".to_owned();
    assert_eq!(error(|v| v.model = "bert"), E::UnsupportedModel { found });
    let found = "gpt-5".to_owned();
    assert_eq!(error(|v| v.pre = "gpt-5"), E::UnsupportedPreTokenizer { found });
    assert_eq!(error(|v| v.tokens.clear()), E::NoTokens);
    let length = E::LengthMismatch { key: types, expected: 4, found: 2 };
    assert_eq!(error(|v| v.token_types.truncate(2)), length);
    let length = E::LengthMismatch { key: scores, expected: 4, found: 0 };
    assert_eq!(error(|v| v.model = "llama"), length);
    assert_eq!(error(|v| v.token_types[2] = 9), E::UnknownTokenType { id: 2, found: 9 });
    assert_eq!(error(|v| v.token_types[2] = -1), E::UnknownTokenType { id: 2, found: -1 });
    let text = b"\xff".to_vec();
    assert_eq!(error(|v| v.tokens[1] = b"\xff"), E::InvalidUtf8 { id: 1, text });
    let text = "a".to_owned();
    let twice = E::DuplicateToken { first: 0, second: 1, text };
    assert_eq!(error(|v| v.tokens[1] = b"a"), twice);
    let text = "b".to_owned();
    assert_eq!(error(|v| v.token_types[1] = 6), E::MalformedByteToken { id: 1, text });
    for merge in [&b"ab"[..], b"a ", b"", b" "] {
        let malformed = E::MalformedMerge { index: 0, merge: merge.to_vec() };
        assert_eq!(error(|v| v.merges[0] = merge), malformed);
    }
    for (merge, text) in
        [(b"a c", b"c".to_vec()), (b"c a", b"c".to_vec()), (b"b a", b"ba".to_vec())]
    {
        let unknown = E::UnknownMergeToken { index: 1, text };
        assert_eq!(error(|v| v.merges.push(merge)), unknown);
    }
    let eos = Some(4);
    let range = E::IdOutOfRange { key: "tokenizer.ggml.eos_token_id", id: 4, n_tokens: 4 };
    assert_eq!(error(|v| v.special_ids = SpecialIds { eos, ..SpecialIds::default() }), range);
    assert_eq!(error(|v| v.add_bos = Some(true)), E::MissingSpecialToken { token: "BOS" });
    assert_eq!(error(|v| v.add_eos = Some(true)), E::MissingSpecialToken { token: "EOS" });
}

#[test]
fn an_error_says_what_is_supported() {
    let text = error(|v| v.pre = "gpt-5").to_string();
    assert!(text.contains("`gpt-5`") && text.contains("smollm, starcoder"), "{text}");
}

#[test]
fn empty_tokens_and_nul_are_harmless() {
    let mut vocabulary = small_bpe();
    vocabulary.tokens.extend([&b""[..], b"", b"\0"]);
    vocabulary.token_types.extend([1, 3, 4]);
    let tokenizer = Tokenizer::new(&vocabulary).expect("empty tokens only pad");
    assert_eq!(tokenizer.encode("ab\0ab", Trust::Template), [2, 6, 2]);
    assert_eq!(tokenizer.decode(&[4, 2, 5]), "ab");
}

#[test]
fn merges_into_a_control_token_are_not_made() {
    let mut vocabulary = small_bpe();
    vocabulary.token_types[2] = 3;
    let tokenizer = Tokenizer::new(&vocabulary).expect("a merge may be useless");
    assert_eq!(tokenizer.encode("ab", Trust::Content), [0, 1]);
    assert_eq!(tokenizer.encode("ab", Trust::Template), [2]);
}

#[test]
fn text_without_tokens_becomes_the_unknown_token_unless_that_is_a_control_token() {
    for (unknown_type, expected) in [(2, &[0, 3, 0][..]), (3, &[0, 0])] {
        let vocabulary = Vocabulary {
            model: "llama",
            tokens: vec![b"a", b"<s>", b"</s>", b"<unk>"],
            token_types: vec![1, 3, 3, unknown_type],
            scores: vec![0.0; 4],
            special_ids: SpecialIds { unknown: Some(3), ..SpecialIds::default() },
            add_space_prefix: Some(false),
            ..Vocabulary::default()
        };
        let tokenizer = Tokenizer::new(&vocabulary).expect("a good vocabulary");
        assert_eq!(tokenizer.encode("a?a", Trust::Content), expected);
        // Found by fuzzing: what any text may become needs no trust.
        assert_eq!(tokenizer.needs_trust(3), unknown_type == 3);
    }
}

#[test]
fn tokens_that_look_like_structure_are_control_tokens_whatever_the_file_says() {
    use TokenKind::{Control, UserDefined};

    let mut vocabulary = small_bpe();
    vocabulary.tokens.extend([&b"<|user|>"[..], b"<end_of_turn>", b"<think>", b"</s>"]);
    vocabulary.token_types = vec![1, 1, 1, 1, 4, 1, 4, 4];
    let tokenizer = Tokenizer::new(&vocabulary).expect("a good vocabulary");
    let kinds = [3, 4, 5, 6, 7].map(|id| tokenizer.kind(id).expect("an id of the vocabulary"));
    assert_eq!(kinds, [Control, Control, Control, UserDefined, UserDefined]);
    assert_eq!(tokenizer.end_ids(), [3, 5]);
}

/// The user-defined tokens `tokens`, with letters and merges enough to put them together.
fn with_user_defined<'a>(tokens: &[&'a str], templates: &[&'a str], model: &'a str) -> Tokenizer {
    let letters: Vec<[u8; 1]> = (b'!'..=b'~').map(|byte| [byte]).collect();
    let spellings: Vec<Vec<u8>> = tokens
        .iter()
        .flat_map(|token| (2..token.len()).map(|n| token.as_bytes()[..n].to_vec()))
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .filter(|part| !tokens.iter().any(|token| token.as_bytes() == part))
        .collect();
    let merges: Vec<Vec<u8>> = spellings
        .iter()
        .map(Vec::as_slice)
        .chain(tokens.iter().map(|token| token.as_bytes()))
        .filter(|text| text.is_ascii() && !text.contains(&b' '))
        .map(|text| [&text[..text.len() - 1], b" ", &text[text.len() - 1..]].concat())
        .collect();
    let normal = letters.iter().map(<[u8; 1]>::as_slice).chain(spellings.iter().map(Vec::as_slice));
    let mut all: Vec<&[u8]> = normal.filter(|text| !text.contains(&b' ')).collect();
    let mut token_types = vec![1; all.len()];
    all.extend(tokens.iter().map(|token| token.as_bytes()));
    token_types.resize(all.len(), 4);
    Tokenizer::new(&Vocabulary {
        model,
        pre: "gpt-2",
        scores: (0..all.len()).map(|id| id as f32).collect(),
        tokens: all,
        token_types,
        merges: if model == "gpt2" { merges.iter().map(Vec::as_slice).collect() } else { vec![] },
        add_bos: Some(false),
        add_space_prefix: Some(false),
        templates: templates.to_vec(),
        ..Vocabulary::default()
    })
    .expect("a good vocabulary")
}

#[test]
fn f12_markup_typed_by_a_person_stays_text() {
    let tokens = ["<think>", "</think>", "<note>", "</note>", "[CITE]", "<b>", "<tool_call>", "  "];
    // Qwen3 and others write these; `</note>` has only its counterpart in the template.
    let source = "{{ '<|im_start|>' }}<note>  {{ message.content }}[CITE]";
    for model in ["gpt2", "llama"] {
        let tokenizer = with_user_defined(&tokens, &[source], model);
        let plain = with_user_defined(&tokens, &[], model);
        for markup in ["<think>", "</think>", "<note>", "</note>", "[CITE]", "<tool_call>"] {
            let id = tokenizer.special_id(markup).expect("a token");
            let text = format!("a{markup}b{markup}");
            assert!(tokenizer.needs_trust(id) && !tokenizer.is_control(id), "{markup}");
            assert_eq!(tokenizer.kind(id), Some(TokenKind::UserDefined));
            let typed = tokenizer.encode(&text, Trust::Content);
            assert!(!typed.contains(&id), "{model}: {markup}");
            assert_eq!(tokenizer.decode(&typed), text, "{model}");
            let written = tokenizer.encode(&text, Trust::Template);
            assert_eq!(written.iter().filter(|&&token| token == id).count(), 2, "{markup}");
            assert_eq!(tokenizer.decode(&written).replace(' ', ""), text, "a reply shows it");
            // Half of it from a person is no markup.
            let (one, other) = markup.split_at(2);
            assert!(!tokenizer.encode_prompt(&[template(one), content(other)]).contains(&id));
            // Without a conversation there is nothing to forge, and ids are those of llama.cpp.
            assert!(plain.encode(&text, Trust::Content).contains(&id), "{model}: {markup}");
        }
        for ordinary in ["<b>", "  "] {
            let id = tokenizer.special_id(ordinary).expect("a token");
            assert!(!tokenizer.needs_trust(id));
            assert!(tokenizer.encode(&format!("a{ordinary}b"), Trust::Content).contains(&id));
        }
    }
}

#[test]
fn f12_markup_is_found_in_every_template_of_a_file() {
    let tokens = ["<one>", "</one>", "[TWO]", "<not here>"];
    let tokenizer =
        with_user_defined(&tokens, &["x", "{{ '</one>' }}", "[TWO] <not here>"], "llama");
    let needs_trust = |text| tokenizer.needs_trust(tokenizer.special_id(text).expect("a token"));
    assert_eq!(tokens.map(needs_trust), [true, true, true, false]);
}

/// Any vocabulary at all, most of them broken.
fn any_vocabulary() -> impl Strategy<Value = (Vec<String>, Vec<i32>, Vec<f32>, Vec<String>)> {
    let token = prop_oneof![
        8 => "[ab▁Ġ<>|é]{0,4}",
        1 => "<0x[0-9A-F]{2}>",
        1 => any::<String>(),
    ];
    prop::collection::vec(token, 1..24).prop_flat_map(|tokens| {
        let n = tokens.len();
        let side = prop::sample::select(tokens.clone());
        let merge = (side.clone(), side).prop_map(|(left, right)| format!("{left} {right}"));
        let types = prop_oneof![
            4 => prop::collection::vec(1..5_i32, n),
            1 => prop::collection::vec(-1..8_i32, 0..n + 1),
        ];
        let scores = prop::collection::vec(prop_oneof![-9.0..9.0_f32, Just(f32::NAN)], n);
        let merges = prop_oneof![
            Just(Vec::new()),
            prop::collection::vec(merge, 0..4),
            prop::collection::vec(any::<String>(), 1),
        ];
        (Just(tokens), types, scores, merges)
    })
}

#[test]
fn no_vocabulary_and_no_text_panics() {
    let n_good = Cell::new(0);
    proptest!(config(4_000), |(
        (tokens, token_types, scores, merges) in any_vocabulary(),
        model in prop::sample::select(vec!["gpt2", "llama"]),
        pre in prop::sample::select(vec!["default", "gpt-2", "smollm", "llama-bpe", "qwen35"]),
        bos in prop::option::of(0..30_u32),
        text in "[ab▁ <>|é\n9]{0,60}",
    )| {
        let vocabulary = Vocabulary {
            model,
            pre,
            tokens: tokens.iter().map(String::as_bytes).collect(),
            token_types,
            scores,
            merges: merges.iter().map(String::as_bytes).collect(),
            special_ids: SpecialIds { bos, ..SpecialIds::default() },
            ..Vocabulary::default()
        };
        if let Ok(tokenizer) = Tokenizer::new(&vocabulary) {
            n_good.set(n_good.get() + 1);
            for trust in [Trust::Content, Trust::Template] {
                let ids = tokenizer.encode(&text, trust);
                prop_assert!(ids.iter().all(|&id| (id as usize) < tokenizer.n_vocab()));
                tokenizer.decode(&ids);
            }
        }
    });
    assert!(n_good.get() > 100, "only {} vocabularies could be used", n_good.get());
}
