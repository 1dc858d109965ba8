//! Any vocabulary: an error, or a tokenizer that encodes any text to ids of its vocabulary, lets no
//! text but a template's become a control token or markup, and decodes what it made.
//!
//! The input is lines: a line of letters that set the options, the text, then the tokens, each with
//! the digit of its type before it, and after an empty line the merges.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rapport_model::tokenizer::{Segment, SpecialIds, Tokenizer, Trust, Vocabulary};

const PRE_TOKENIZERS: [&str; 6] = ["default", "gpt-2", "smollm", "llama-bpe", "qwen2", "qwen35"];

fuzz_target!(|bytes: &[u8]| {
    let mut lines = bytes.split(|&byte| byte == b'\n');
    let options = lines.next().unwrap_or_default();
    let option = |at: usize| usize::from(options.get(at).copied().unwrap_or_default());
    let text = lines.next().unwrap_or_default();

    let mut tokens = Vec::new();
    let mut token_types = Vec::new();
    for line in lines.by_ref().take_while(|line| !line.is_empty()) {
        token_types.push(i32::from(line[0]) - i32::from(b'0'));
        tokens.push(&line[1..]);
    }
    let is_bpe = option(0) % 2 == 0;
    let vocabulary = Vocabulary {
        model: if is_bpe { "gpt2" } else { "llama" },
        pre: PRE_TOKENIZERS[option(1) % PRE_TOKENIZERS.len()],
        // Scores in the order of the tokens, some of them equal.
        scores: (0..tokens.len()).map(|id| -((id / 2) as f32)).collect(),
        tokens,
        token_types,
        merges: lines.collect(),
        special_ids: SpecialIds { bos: Some(option(2) as u32 % 8), ..SpecialIds::default() },
        add_space_prefix: Some(option(3) % 2 == 0),
        // The text is a template as well, so that what it names is markup.
        templates: str::from_utf8(text).ok().filter(|_| option(4) % 2 == 1).into_iter().collect(),
        ..Vocabulary::default()
    };
    let Ok(tokenizer) = Tokenizer::new(&vocabulary) else { return };

    let content = tokenizer.encode_bytes(text, Trust::Content);
    assert!(!content.iter().any(|&id| tokenizer.needs_trust(id)));

    let text = String::from_utf8_lossy(text);
    let middle = text.floor_char_boundary(text.len() / 2);
    let prompt = tokenizer.encode_prompt(&[
        Segment { text: &text[..middle], trust: Trust::Template },
        Segment { text: &text[middle..], trust: Trust::Content },
    ]);
    for ids in [content, prompt, tokenizer.encode(&text, Trust::Template)] {
        assert!(ids.iter().all(|&id| (id as usize) < tokenizer.n_vocab()));
        tokenizer.decode(&ids);
    }
});
