//! Any chat template, any message: no panic, no endless run, no byte of the message trusted.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rapport_model::chat_template::{ChatTemplate, CivilTime, Conversation, TemplateTokens};
use rapport_types::Message;

/// A character that no source holds: it is taken out of the template and put into the message.
const CANARY: char = '\u{e0f0}';

fuzz_target!(|input: (String, String)| {
    let (source, content) = input;
    // An escape in a string could print the canary; that would be the template's own.
    let source = source.replace([CANARY, '\\'], "");
    let tokens = TemplateTokens { bos: Some("<s>".to_owned()), eos: None };
    let Ok(template) = ChatTemplate::parse(&source, tokens) else { return };
    let messages = [
        Message::user(format!("{content}{CANARY}")),
        Message { thought: Some(CANARY.to_string()), ..Message::assistant(content) },
    ];
    let conversation = Conversation {
        messages: &messages,
        add_generation_prompt: true,
        enable_thinking: None,
        now: CivilTime::from_unix_seconds(0),
    };
    let Ok(rendered) = template.render(&conversation) else { return };
    for segment in &rendered.segments {
        assert!(!segment.text.is_empty());
        assert!(!segment.trusted || !segment.text.contains(CANARY));
    }
});
