//! Completions of plain texts.

use rapport_testkit::{Script, ScriptedEngine};
use rapport_types::{Mode, PromptForm};
use serde_json::json;

use crate::harness::{Running, config, serve};

const PATH: &str = "/v1/completions";

#[test]
fn a_text_is_gone_on_with_and_streamed_alike() {
    let server = Running::start("upon a time");
    let body = json!({ "model": "rapport", "prompt": "Once ", "max_tokens": 9, "logprobs": 1 });
    let (status, whole) = server.post(PATH, &body);
    assert_eq!(status, 200, "{whole}");
    assert_eq!(whole["object"], "text_completion");
    assert_eq!(whole["choices"][0]["text"], "upon a time");
    assert_eq!(whole["choices"][0]["finish_reason"], "stop");
    let request = server.engine.requests().pop().unwrap();
    assert_eq!((request.prompt_form, request.mode), (PromptForm::Plain, Mode::Fast));
    assert_eq!(request.messages[0].content, "Once ");
    assert_eq!((request.max_tokens, request.sampling.top_logprobs), (9, Some(1)));

    let mut streamed = body;
    streamed["stream_options"] = json!({ "include_usage": true });
    let events = server.events(PATH, streamed);
    let text: String =
        events.iter().filter_map(|said| said.data["choices"][0]["text"].as_str()).collect();
    assert_eq!(text, "upon a time");
    let [usage, done] = &events[events.len() - 2..] else { panic!("{events:?}") };
    assert_eq!(usage.data["usage"]["completion_tokens"], 3);
    assert_eq!(done.data, "[DONE]");
}

#[test]
fn several_prompts_and_several_replies_have_their_places() {
    let engine = ScriptedEngine::answering(|request| Script::answer(&request.messages[0].content));
    let server = serve(config(), engine);
    let body = json!({ "model": "rapport", "prompt": ["a", "b"], "n": 2 });
    let (_, answer) = server.post(PATH, &body);
    let texts: Vec<&str> =
        (0..4).map(|idx| answer["choices"][idx]["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["a", "a", "b", "b"]);
}

#[test]
fn what_is_not_there_is_refused_by_name() {
    let server = Running::start("ok");
    for (extra, param) in [
        (json!({ "echo": true }), "echo"),
        (json!({ "suffix": "end" }), "suffix"),
        (json!({ "best_of": 3 }), "best_of"),
        (json!({ "prompt": [] }), "prompt"),
        (json!({ "prompt": vec!["x"; 17] }), "prompt"),
        (json!({ "logprobs": 99 }), "top_logprobs"),
    ] {
        let body = crate::harness::with(json!({ "model": "rapport", "prompt": "x" }), &extra);
        let (status, answer) = server.post(PATH, &body);
        assert_eq!((status, answer["error"]["param"].as_str()), (400, Some(param)), "{answer}");
    }
}
