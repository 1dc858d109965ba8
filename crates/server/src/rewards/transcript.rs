//! A conversation out of the text that a chat template made of it.
//!
//! Trainers send what the model saw, special tokens and all. Known are the markers of ChatML, Llama
//! 3, Gemma, Zephyr and Phi, and Llama 2 and Mistral; a text without any of them is one message.

use rapport_types::{Message, Role};

/// What stands before a turn, and where its role's name ends.
const OPENERS: &[(&str, &str)] = &[
    ("<|im_start|>", "\n"),
    ("<|start_header_id|>", "<|end_header_id|>"),
    ("<start_of_turn>", "\n"),
];
/// Markers that are the role themselves.
const ROLE_MARKERS: &[(&str, Role)] = &[
    ("<|system|>", Role::System),
    ("<|user|>", Role::User),
    ("<|assistant|>", Role::Assistant),
    ("[INST]", Role::User),
    ("[/INST]", Role::Assistant),
];
const ENDS: &[&str] = &[
    "<|im_end|>",
    "<|eot_id|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|end|>",
    "</s>",
    "<eos>",
];
const BEGINS: &[&str] = &["<|begin_of_text|>", "<s>", "<bos>", "<|startoftext|>"];

/// The messages before the reply and the reply: `query` is both, `prompt` what it should begin with.
/// `None` where there is no message of a person.
pub(super) fn read(query: &str, prompt: &str) -> Option<(Vec<Message>, String)> {
    let after_prompt = query.strip_prefix(prompt).filter(|_| !prompt.is_empty());
    let (mut before, reply) = if let Some(reply) = after_prompt {
        (turns(prompt), reply.to_owned())
    } else {
        // Decoding need not give the prompt back to the letter: the last turn is the reply.
        let mut all = turns(query);
        let last = all.pop().filter(|turn| turn.role == Role::Assistant)?;
        (all, last.content)
    };
    // The header of the reply's own turn.
    if before.last().is_some_and(|turn| turn.role == Role::Assistant && turn.content.is_empty()) {
        before.pop();
    }
    let reply = without_thought(until_end(&reply)).trim().to_owned();
    before.iter().any(|turn| turn.role == Role::User).then_some((before, reply))
}

/// The answer behind a thought; a thought that never ended has none.
pub(super) fn without_thought(reply: &str) -> &str {
    match reply.rsplit_once("</think>") {
        Some((_, answer)) => answer.trim_start(),
        None if reply.trim_start().starts_with("<think>") => "",
        None => reply,
    }
}

fn until_end(text: &str) -> &str {
    let end = ENDS.iter().filter_map(|end| text.find(end)).min();
    end.map_or(text, |end| &text[..end])
}

fn turns(text: &str) -> Vec<Message> {
    let mut text = text.trim_start();
    while let Some(rest) = BEGINS.iter().find_map(|begin| text.strip_prefix(begin)) {
        text = rest.trim_start();
    }
    if let Some((opener, role_end)) = OPENERS.iter().find(|(opener, _)| text.contains(opener)) {
        return text
            .split(opener)
            .filter_map(|part| {
                let (role, content) = part.split_once(role_end).unwrap_or((part, ""));
                Some(message(role_of(role.trim())?, content))
            })
            .collect();
    }
    let mut found: Vec<Message> = Vec::new();
    let mut rest = text;
    while let Some((at, marker, role)) = next_marker(rest) {
        if let Some(last) = found.last_mut() {
            until_end(&rest[..at]).trim().clone_into(&mut last.content);
        }
        found.push(Message::new(role, ""));
        rest = &rest[at + marker.len()..];
    }
    match found.last_mut() {
        Some(last) => until_end(rest).trim().clone_into(&mut last.content),
        None => found.push(message(Role::User, text)),
    }
    found
}

fn next_marker(text: &str) -> Option<(usize, &'static str, Role)> {
    ROLE_MARKERS
        .iter()
        .filter_map(|(marker, role)| Some((text.find(marker)?, *marker, *role)))
        .min_by_key(|(at, ..)| *at)
}

fn role_of(name: &str) -> Option<Role> {
    if name == "model" { Some(Role::Assistant) } else { Role::parse(name) }
}

fn message(role: Role, content: &str) -> Message {
    Message::new(role, until_end(content).trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(messages: &[Message]) -> Vec<(&str, &str)> {
        messages.iter().map(|turn| (turn.role.as_str(), turn.content.as_str())).collect()
    }

    #[test]
    fn every_known_template_gives_the_conversation_back() {
        let prompts = [
            "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi.\nI lost.<|im_end|>\n\
             <|im_start|>assistant\nOh.<|im_end|>\n<|im_start|>user\nYes.<|im_end|>\n\
             <|im_start|>assistant\n",
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>\
             <|start_header_id|>user<|end_header_id|>\n\nHi.\nI lost.<|eot_id|>\
             <|start_header_id|>assistant<|end_header_id|>\n\nOh.<|eot_id|>\
             <|start_header_id|>user<|end_header_id|>\n\nYes.<|eot_id|>\
             <|start_header_id|>assistant<|end_header_id|>\n\n",
            "<|system|>\nBe kind.</s>\n<|user|>\nHi.\nI lost.</s>\n<|assistant|>\nOh.</s>\n\
             <|user|>\nYes.</s>\n<|assistant|>\n",
        ];
        for prompt in prompts {
            let query = format!("{prompt}<think>\nhm\n</think>\n\nTell me more.<|im_end|></s>");
            // The second prompt is one that decoding changed.
            for given in [prompt, "<s>something else"] {
                let (messages, reply) = read(&query, given).unwrap();
                assert_eq!(
                    said(&messages),
                    [
                        ("system", "Be kind."),
                        ("user", "Hi.\nI lost."),
                        ("assistant", "Oh."),
                        ("user", "Yes.")
                    ],
                    "{prompt}"
                );
                assert_eq!(reply, "Tell me more.", "{prompt}");
            }
        }
        let (messages, reply) =
            read("<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nHo<eos>", "")
                .unwrap();
        assert_eq!(
            (said(&messages).as_slice(), reply.as_str()),
            ([("user", "Hi")].as_slice(), "Ho")
        );
        let (messages, reply) =
            read("<s>[INST] Hi [/INST] Ho</s>", "<s>[INST] Hi [/INST]").unwrap();
        assert_eq!(
            (said(&messages).as_slice(), reply.as_str()),
            ([("user", "Hi")].as_slice(), "Ho")
        );
    }

    #[test]
    fn a_text_without_markers_is_one_message() {
        let (messages, reply) = read("How are you? Fine.", "How are you?").unwrap();
        assert_eq!(said(&messages), [("user", "How are you?")]);
        assert_eq!(reply, "Fine.");
        assert_eq!(read("How are you? Fine.", ""), None);
        assert_eq!(read("", ""), None);
        assert_eq!(without_thought("<think>and so on"), "");
    }
}
