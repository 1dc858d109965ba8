//! What xAI's clients ask beside chat.

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use rapport_testkit::{Script, ScriptedEngine};
use serde_json::json;

use crate::harness::{Running, ask, config, serve};

#[test]
fn models_keys_and_tokens_are_described() {
    let server = Running::start("ok");
    let (_, models) = server.get("/v1/language-models");
    assert_eq!(models["models"][0]["id"], "rapport");
    assert_eq!(models["models"][0]["input_modalities"], json!(["text"]));
    assert_eq!(server.get("/v1/language-models/rapport-fast").1["id"], "rapport-fast");
    assert_eq!(server.get("/v1/language-models/nobody").0, 404);
    assert_eq!(server.get("/v1/embedding-models").1["models"][0]["id"], "rapport");
    assert_eq!(server.get("/v1/image-generation-models").1, json!({ "models": [] }));
    assert_eq!(server.get("/v1/api-key").1["api_key_blocked"], false);
    let body = json!({ "model": "rapport", "text": "one two", "user": "u" });
    let (_, tokens) = server.post("/v1/tokenize-text", &body);
    assert_eq!(tokens["token_ids"][1]["string_token"], "two");
    assert_eq!(tokens["token_ids"][0]["token_bytes"], json!(b"one "));
}

#[test]
fn a_deferred_completion_is_made_while_nobody_waits_and_read_once() {
    let (sender, go) = channel::<()>();
    let go = Arc::new(Mutex::new(go));
    let engine = ScriptedEngine::answering(move |_| {
        let go = Arc::clone(&go);
        Script::new().text("later").run(move || go.lock().unwrap().recv().unwrap())
    });
    let server = serve(config(), engine);
    let (status, body) = server.chat(&ask(&json!({ "deferred": true })));
    assert_eq!(status, 200, "{body}");
    let path = format!("/v1/chat/deferred-completion/{}", body["request_id"].as_str().unwrap());
    let pending = server.send("GET", &path, None);
    assert_eq!((pending.status, pending.text.as_str()), (202, ""));
    sender.send(()).unwrap();
    let done = loop {
        let answered = server.send("GET", &path, None);
        if answered.status != 202 {
            break answered;
        }
        std::thread::yield_now();
    };
    assert_eq!(
        (done.status, &done.json()["choices"][0]["message"]["content"]),
        (200, &json!("later"))
    );
    assert_eq!(server.get(&path).0, 404, "it is read once");
    assert_eq!(server.get("/v1/chat/deferred-completion/unknown").0, 404);
}

#[test]
fn search_is_taken_where_it_need_not_happen() {
    let server = Running::start("ok");
    for (mode, status) in [("off", 200), ("auto", 200), ("on", 400)] {
        let body = ask(&json!({ "search_parameters": { "mode": mode } }));
        assert_eq!(server.chat(&body).0, status, "{mode}");
    }
}
