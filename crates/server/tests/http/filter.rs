//! The input filter and the policy: what is refused, what is kept of that, and what stands first.

use std::sync::Arc;

use rapport_server::{Finding, InputFilter};
use rapport_testkit::{Script, ScriptedEngine};
use serde_json::json;

use crate::harness::ask;
use crate::people::House;

/// Finds one word.
#[derive(Debug)]
struct WordFilter;

impl InputFilter for WordFilter {
    fn version(&self) -> &'static str {
        "word-1"
    }

    fn judge(&self, text: &str) -> Option<Finding> {
        let is_found = text.contains("forbidden");
        is_found.then(|| Finding { category: "test \"words\"".to_owned(), probability: 0.75 })
    }
}

fn house() -> House {
    let filter: Option<Arc<dyn InputFilter>> = Some(Arc::new(WordFilter));
    House::with(ScriptedEngine::answering(|_| Script::answer("ok")), |people| {
        people.filter = filter;
        people.policy = Some("<policy>\nBe kind.\n</policy>");
    })
}

#[test]
fn what_the_filter_finds_is_refused_in_every_protocol_and_recorded_without_its_words() {
    let mut house = house();
    let bea = house.friend("Bea", "free");
    let (keyed, _) = bea.with_key(&house.server, &["api"]);
    let server = &house.server;
    let messages = json!([
        { "role": "user", "content": "something forbidden" },
        { "role": "assistant", "content": "Sure! What next?" },
        { "role": "user", "content": "go on" },
    ]);
    let bodies = [
        ("/v1/chat/completions", json!({ "model": "rapport", "messages": messages })),
        (
            "/v1/chat/completions",
            json!({ "model": "rapport", "messages": messages, "stream": true }),
        ),
        ("/v1/messages", json!({ "model": "rapport", "max_tokens": 5, "messages": messages })),
        ("/v1/responses", json!({ "model": "rapport", "input": messages })),
        ("/v1/completions", json!({ "model": "rapport", "prompt": "forbidden" })),
    ];
    for (path, body) in &bodies {
        let (status, refused) = keyed.ask(server, "POST", path, body);
        assert_eq!(status, 400, "{path}: {refused}");
        assert!(refused["error"]["message"].as_str().unwrap().contains("test \"words\""));
    }
    let (_, refused) = keyed.ask(server, "POST", bodies[0].0, &bodies[0].1);
    assert_eq!(refused["error"]["code"], "content_filter");
    // In the page the reply fails, and says why.
    let (_, turn) = bea.say(server, "forbidden too");
    let reply = turn["reply"]["id"].as_str().unwrap();
    let (_, name, data) = bea.events(server, reply, "").pop().unwrap();
    assert_eq!(name, "failed", "{data}");
    assert!(data["error"]["message"].as_str().unwrap().contains("input filter"), "{data}");
    assert_eq!(server.engine.requests(), [], "no model was asked");

    let (status, answer) = keyed.ask(server, "POST", "/v1/chat/completions", &ask(&json!({})));
    assert_eq!(status, 200, "{answer}");
    let metrics = server.send("GET", "/metrics", None).text;
    let counted = |labels: &str| {
        let name = format!("rapport:input_filter_requests_total{{{labels}}} ");
        metrics.lines().find_map(|line| line.strip_prefix(&name)).map(str::to_owned)
    };
    assert_eq!(counted("verdict=\"passed\"").as_deref(), Some("1"), "{metrics}");
    let refused = "verdict=\"refused\",category=\"test \\\"words\\\"\"";
    assert_eq!(counted(refused).as_deref(), Some("7"), "{metrics}");
    house.with_store(async |store| {
        let events = store.events("input_filter", None, 100).await.unwrap();
        assert_eq!(events.len(), 7);
        let bea = store.user_by_name("Bea").await.unwrap();
        for event in events {
            assert_eq!((event.kind.as_str(), event.user), ("refused", Some(bea.id)));
            let body =
                json!({ "category": "test \"words\"", "probability": 0.75, "filter": "word-1" });
            assert_eq!(event.body, body);
        }
        let used = store.meter(bea.id, rapport_store::UnixMs(0)).await.unwrap();
        assert_eq!(used.reserved_requests, 0);
    });
}

#[test]
fn the_policy_stands_before_the_persona_in_what_a_model_is_told() {
    let house = house();
    let (server, owner) = (&house.server, &house.owner);
    let body = json!({ "persona": "plain", "instructions": "Call me Ada." });
    assert_eq!(owner.ask(server, "PUT", "/api/style", &body).0, 200);
    let (_, turn) = owner.say(server, "hello");
    owner.events(server, turn["reply"]["id"].as_str().unwrap(), "");
    let told = server.engine.requests()[0].messages[0].content.clone();
    let places: Vec<_> = ["<policy>", "Be kind.", "</policy>", "Say little.", "Call me Ada."]
        .map(|part| told.find(part).unwrap_or_else(|| panic!("{part} in {told}")))
        .into();
    assert!(places.is_sorted(), "{told}");
}
