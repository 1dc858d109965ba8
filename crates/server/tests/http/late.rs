//! A model that is still on its way: what clients and pages are told, and that nothing is lost by it.

use rapport_types::Readiness;
use serde_json::{Value, json};

use crate::harness::{Running, ask};
use crate::people::{Browser, House};
use crate::web::answering;

const PULLING: Readiness = Readiness::Pulling { done_bytes: Some(41), total_bytes: Some(98) };

#[test]
fn f30_requests_are_told_to_come_back_while_the_model_is_brought() {
    let server = Running::start("ok");
    server.engine.set_readiness(PULLING);
    let ready = server.send("GET", "/readyz", None);
    assert_eq!(ready.status, 503);
    assert_eq!(ready.text, "scripted is being brought to this machine, 41 of 98 bytes\n");
    for path in ["/readyz?model=rapport-fast", "/readyz?model=scripted"] {
        assert_eq!(server.send("GET", path, None).status, 503, "{path}");
    }
    assert_eq!(server.get("/readyz?model=other").0, 404);
    assert_eq!(server.send("GET", "/healthz", None).status, 200);

    let refused = server.send("POST", "/v1/chat/completions", Some(&ask(&json!({})).to_string()));
    assert_eq!(refused.status, 503);
    assert!(refused.headers.contains("\"retry-after\": \"5\""), "{}", refused.headers);
    assert_eq!(refused.json()["error"]["code"], "model_not_ready");
    let messages = json!([{ "role": "user", "content": "hi" }]);
    let bodies = [
        ("/v1/messages", json!({ "model": "rapport", "max_tokens": 5, "messages": messages })),
        ("/v1/messages/count_tokens", json!({ "model": "rapport", "messages": messages })),
        ("/v1/responses", json!({ "model": "rapport", "input": "hi" })),
        ("/v1/completions", json!({ "model": "rapport", "prompt": "hi" })),
        ("/v1/tokenize-text", json!({ "model": "rapport", "text": "hi" })),
    ];
    for (path, body) in &bodies {
        assert_eq!(server.post(path, body).0, 503, "{path}");
    }
    assert_eq!(server.engine.requests(), [], "nothing was begun");
    // What a failure was is for whoever runs the server.
    server.engine.set_readiness(Readiness::Failed { reason: "no /secret/place".to_owned() });
    assert!(!server.send("GET", "/readyz", None).text.contains("secret"));
    assert!(!server.chat(&ask(&json!({}))).1.to_string().contains("secret"));

    server.engine.set_readiness(Readiness::Ready);
    assert_eq!(server.send("GET", "/readyz", None).text, "scripted is ready\n");
    for (path, body) in &bodies {
        assert_eq!(server.post(path, body).0, 200, "{path}");
    }
}

#[test]
fn the_page_sees_the_model_come_and_an_administrator_tries_again() {
    let mut house = House::open(answering("hello"));
    let friend = house.friend("Kim", "free");
    let (server, owner) = (&house.server, &house.owner);
    server.engine.set_readiness(PULLING);
    let model = owner.get(server, "/api/model");
    let pulling = json!({
        "state": "pulling", "name": "scripted", "bytes": 41, "total_bytes": 98, "error": null,
        "context_tokens": null,
    });
    assert_eq!(model, pulling);
    assert_eq!(owner.get(server, "/api/session")["model"], pulling);
    assert_eq!(owner.get(server, "/api/admin/models")[0]["state"], "pulling");
    let (status, conversation) = owner.ask(server, "POST", "/api/conversations", &json!({}));
    assert_eq!(status, 201);
    let path = format!("/api/conversations/{}", conversation["id"].as_str().unwrap());
    let turn = json!({ "client_id": "c-1", "content": "hi", "mode": "fast" });
    let refused = owner.send(server, "POST", &format!("{path}/messages"), Some(&turn));
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (503, &json!("not_ready")));
    assert!(refused.headers.contains("\"retry-after\": \"5\""), "{}", refused.headers);
    assert_eq!(owner.get(server, &path)["messages"], json!([]), "nothing of it is stored");
    let account = friend.get(server, "/api/account");
    assert_eq!(account["usage_today"]["requests"], 0);

    let retry = |browser: &Browser| browser.ask(server, "POST", "/api/model/retry", &Value::Null);
    assert_eq!(retry(&owner.clone()).0, 409, "it has not failed");
    server.engine.set_readiness(Readiness::Failed { reason: "no route to the hub".to_owned() });
    let reason = |browser: &Browser| browser.get(server, "/api/model")["error"].clone();
    assert_eq!(reason(owner), "no route to the hub");
    assert!(!reason(&friend).as_str().unwrap().contains("route"));
    assert_eq!(retry(&friend).0, 403);
    let (status, model) = retry(owner);
    assert_eq!((status, &model["state"]), (202, &json!("loading")));
    server.engine.set_readiness(Readiness::Ready);
    let (status, _) = owner.ask(server, "POST", &format!("{path}/messages"), &turn);
    assert_eq!(status, 202);
}

#[test]
fn f37_an_engine_out_of_reach_is_not_ready_and_may_be_tried_all_the_same() {
    let server = Running::start("ok");
    server.engine.set_readiness(Readiness::Away { retry_after_s: 7 });
    for path in ["/readyz", "/readyz?model=rapport-fast"] {
        let ready = server.send("GET", path, None);
        assert_eq!(ready.status, 503, "{path}");
        assert!(ready.text.contains("out of reach"), "{}", ready.text);
    }
    assert_eq!(server.chat(&ask(&json!({}))).0, 200, "one request has to find out");
}
