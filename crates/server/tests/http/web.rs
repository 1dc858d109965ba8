//! The web app's routes over a real store: the contract, and what must never cross between people.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use rapport_store::Plans;
use rapport_testkit::{Script, ScriptedEngine};
use rapport_types::{GenerateError, OutputFormat, PromptForm, Role};
use serde_json::{Value, json};

use crate::people::{Browser, House, words};

pub(crate) fn answering(text: &'static str) -> ScriptedEngine {
    ScriptedEngine::answering(move |_| Script::answer(text))
}

#[test]
fn a_first_run_ends_in_a_conversation_that_is_kept_and_charged_once() {
    let house = House::open(answering("I am well"));
    let (server, owner) = (&house.server, &house.owner);
    let session = owner.get(server, "/api/session");
    assert_eq!(session["user"]["role"], "admin");
    assert_eq!(session["model"]["state"], "ready");
    let (id, turn) = owner.say(server, "How are you?");
    let reply = turn["reply"]["id"].as_str().unwrap();
    let events = owner.events(server, reply, "?from=0");
    assert_eq!(events.first().unwrap().1, "started");
    assert_eq!(words(&events), "I am well");
    let (_, last, data) = events.last().unwrap();
    assert_eq!((last.as_str(), &data["message"]["status"]), ("finished", &json!("done")));
    assert_eq!(data["message"]["usage"]["completion_tokens"], 3);

    let kept = owner.get(server, &format!("/api/conversations/{id}"));
    assert_eq!(kept["conversation"]["title"], "How are you?");
    assert_eq!(kept["conversation"]["head"], reply);
    assert_eq!(kept["messages"][1]["content"], "I am well");
    // Asked again under the same name, it is the same turn.
    let again = json!({ "client_id": "c-How are you?", "content": "How are you?", "mode": "fast" });
    let path = format!("/api/conversations/{id}/messages");
    let (status, same) = owner.ask(server, "POST", &path, &again);
    assert_eq!((status, &same["reply"]["id"]), (202, &turn["reply"]["id"]));
    assert_eq!(server.engine.requests().len(), 1);
    let account = owner.get(server, "/api/account");
    assert_eq!(account["usage_today"]["requests"], 1);
    let usage = owner.get(server, "/api/account/usage?days=2");
    assert_eq!(usage["days"][1]["completion_tokens"], 3);
}

#[test]
fn a_reply_goes_on_without_its_reader_and_is_resumed_without_loss() {
    let (sender, go) = channel::<()>();
    let go = Arc::new(Mutex::new(go));
    let engine = ScriptedEngine::answering(move |_| {
        let go = Arc::clone(&go);
        Script::answer("one two ")
            .run(move || go.lock().unwrap().recv().unwrap())
            .text("three ")
            .text("four")
    });
    let house = House::open(engine);
    let (server, owner) = (&house.server, &house.owner);
    let (_, turn) = owner.say(server, "count");
    let reply = turn["reply"]["id"].as_str().unwrap();
    let mut stream = TcpStream::connect(server.address).unwrap();
    let head = format!(
        "GET /api/replies/{reply}/events?from=0 HTTP/1.1\r\nHost: {}\r\nCookie: {}\r\n\r\n",
        server.address, owner.cookie
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut seen = String::new();
    let mut reader = BufReader::new(stream);
    while !seen.contains("\"two \"") {
        assert!(reader.read_line(&mut seen).unwrap() > 0, "{seen}");
    }
    drop(reader);
    sender.send(()).unwrap();
    // `started`, `one ` and `two ` were 0, 1 and 2.
    let rest = owner.events(server, reply, "?from=3");
    assert_eq!(words(&rest), "three four");
    let numbers: Vec<u64> = rest.iter().map(|(number, ..)| *number).collect();
    assert_eq!(numbers, [3, 4, 5]);
    assert_eq!(words(&owner.events(server, reply, "?from=0")), "one two three four");
}

#[test]
fn a_stopped_reply_goes_on_from_where_it_was() {
    let (said, has_begun) = channel();
    let engine = ScriptedEngine::answering(move |request| {
        if request.prompt_form == PromptForm::Prefilled {
            return Script::answer("and on");
        }
        let said = said.clone();
        Script::answer("on ").run(move || said.send(()).unwrap()).await_stop()
    });
    let house = House::open(engine);
    let (server, owner) = (&house.server, &house.owner);
    let (_, turn) = owner.say(server, "go");
    let reply = turn["reply"]["id"].as_str().unwrap();
    // Stopped before its first word it would have nothing to go on from.
    has_begun.recv().unwrap();
    assert_eq!(owner.ask(server, "POST", &format!("/api/replies/{reply}/stop"), &json!({})).0, 202);
    let events = owner.events(server, reply, "?from=0");
    assert_eq!(events.last().unwrap().2["message"]["status"], "stopped");
    let path = format!("/api/messages/{reply}/continue");
    let (status, body) = owner.ask(server, "POST", &path, &json!({ "client_id": "more" }));
    assert_eq!((status, &body["reply"]["id"]), (202, &turn["reply"]["id"]));
    let events = owner.events(server, reply, "?from=0");
    let message = &events.last().unwrap().2["message"];
    let begun = message["content"].as_str().unwrap().to_owned();
    assert!(begun.ends_with("and on"), "{begun}");
    assert_eq!(words(&events), begun);
    assert_eq!(message["status"], "done");
}

#[test]
fn f33_a_reply_that_fails_says_so_and_costs_nothing() {
    let error = GenerateError::Internal { reason: "a test".to_owned() };
    let engine = ScriptedEngine::answering(move |_| Script::answer("half ").fail(error.clone()));
    let house = House::open(engine);
    let (server, owner) = (&house.server, &house.owner);
    let (_, turn) = owner.say(server, "break");
    let reply = turn["reply"]["id"].as_str().unwrap();
    let events = owner.events(server, reply, "");
    let (_, name, data) = events.last().unwrap();
    assert_eq!((name.as_str(), &data["message"]["status"]), ("failed", &json!("failed")));
    assert_eq!(owner.get(server, "/api/account")["usage_today"]["requests"], 0);
}

#[test]
fn f32_a_limit_is_told_and_an_api_key_is_charged_to_its_account() {
    let plans = "[small]\nrequests_per_day = 2\ndollars_per_million_tokens = 1\n\
                 dollars_per_million_completion_tokens = 0\n[unlimited]\n[free]\n";
    let plans = Plans::parse(plans).unwrap();
    let mut house = House::with_plans(plans, answering("ok"));
    let mut bea = house.friend("Bea", "small");
    let server = &house.server;
    let (_, key) = bea.ask(server, "POST", "/api/account/keys", &json!({ "name": "mine" }));
    bea.key = Some(key["key"].as_str().unwrap().to_owned());
    let body = json!({ "model": "rapport", "messages": [{ "role": "user", "content": "a b" }] });
    let answered = bea.send(server, "POST", "/v1/chat/completions", Some(&body));
    assert_eq!(answered.status, 200, "{}", answered.text);
    assert!(answered.headers.contains("x-ratelimit-remaining-requests"), "{}", answered.headers);
    let account = bea.get(server, "/api/account");
    assert_eq!(account["usage_today"]["requests"], 1);
    assert_eq!(account["usage_today"]["cost_microdollars"], 2);
    let (_, turn) = bea.say(server, "second");
    bea.events(server, turn["reply"]["id"].as_str().unwrap(), "");
    let refused = bea.send(server, "POST", "/v1/chat/completions", Some(&body));
    assert_eq!(refused.status, 429, "{}", refused.text);
    assert!(refused.headers.contains("retry-after"), "{}", refused.headers);
    let (_, conversation) = bea.ask(server, "POST", "/api/conversations", &json!({}));
    let path = format!("/api/conversations/{}/messages", conversation["id"].as_str().unwrap());
    let third = json!({ "client_id": "third", "content": "third" });
    let (status, body_of) = bea.ask(server, "POST", &path, &third);
    assert_eq!((status, &body_of["error"]["code"]), (429, &json!("limited")));
    // A key that was revoked opens nothing: its words are those of nobody.
    let path = format!("/api/account/keys/{}", key["id"].as_str().unwrap());
    assert_eq!(bea.ask(server, "DELETE", &path, &Value::Null).0, 204);
    assert_eq!(bea.get(server, "/api/account/keys"), json!([]));
    assert_eq!(bea.get(server, "/api/account")["usage_today"]["requests"], 2);
}

#[test]
fn changes_need_the_token_of_the_page_and_sessions_are_new_at_each_sign_in() {
    let mut house = House::open(answering("ok"));
    let bea = house.friend("Bea", "free");
    let server = &house.server;
    let mut forged = bea.clone();
    for csrf in ["", "x", house.owner.csrf.as_str()] {
        csrf.clone_into(&mut forged.csrf);
        let (status, body) = forged.ask(server, "POST", "/api/conversations", &json!({}));
        assert_eq!((status, &body["error"]["code"]), (403, &json!("forbidden")));
    }
    let body = json!({ "name": "bea", "password": "battery staple" });
    let signed_in = bea.send(server, "POST", "/api/session", Some(&body));
    let mut again = bea.clone();
    again.take_cookie(&signed_in);
    assert_ne!(again.cookie, bea.cookie);
    assert_eq!(bea.get(server, "/api/session")["user"], Value::Null, "the session before is over");
    assert!(signed_in.headers.contains("HttpOnly; SameSite=Lax"), "{}", signed_in.headers);
    let mut stranger = Browser::default();
    stranger.look(server);
    for _ in 0..10 {
        let body = json!({ "name": "Bea", "password": "wrong password" });
        assert_eq!(stranger.ask(server, "POST", "/api/session", &body).0, 401);
    }
    let body = json!({ "name": "Bea", "password": "battery staple" });
    assert_eq!(stranger.ask(server, "POST", "/api/session", &body).0, 429);
    assert_eq!(stranger.ask(server, "GET", "/api/conversations", &Value::Null).0, 401);
}

#[test]
fn f39_nobody_finds_what_belongs_to_somebody_else() {
    let mut house = House::open(answering("ok"));
    let bea = house.friend("Bea", "unlimited");
    let (server, ada) = (&house.server, &house.owner);
    let (conversation, turn) = ada.say(server, "secret of Ada");
    let reply = turn["reply"]["id"].as_str().unwrap();
    let user = turn["user"]["id"].as_str().unwrap();
    ada.events(server, reply, "");
    let made = |path: &str, body: Value| ada.ask(server, "POST", path, &body).1;
    let id_of = |form: Value| form["id"].as_str().unwrap().to_owned();
    let folder = id_of(made("/api/folders", json!({ "name": "mine" })));
    let memory = id_of(made("/api/memory", json!({ "text": "likes tea" })));
    let key = id_of(made("/api/account/keys", json!({ "name": "k" })));
    let share =
        made(&format!("/api/conversations/{conversation}/shares"), json!({ "head": reply }));
    let share_id = share["id"].as_str().unwrap();

    let own = id_of(bea.ask(server, "POST", "/api/conversations", &json!({})).1);
    let message = json!({ "client_id": "x", "content": "x" });
    let under = json!({ "client_id": "y", "content": "y", "parent_id": reply });
    let again = json!({ "client_id": "z" });
    let judged = json!({ "message_id": reply, "kind": "thumb", "value": 1 });
    let none = Value::Null;
    let tries: Vec<(&str, String, &Value)> = vec![
        ("GET", format!("/api/conversations/{conversation}"), &none),
        ("PATCH", format!("/api/conversations/{conversation}"), &again),
        ("DELETE", format!("/api/conversations/{conversation}"), &none),
        ("POST", format!("/api/conversations/{conversation}/messages"), &message),
        ("POST", format!("/api/conversations/{own}/messages"), &under),
        ("POST", format!("/api/conversations/{conversation}/shares"), &none),
        ("POST", format!("/api/messages/{user}/replies"), &again),
        ("POST", format!("/api/messages/{reply}/continue"), &again),
        ("GET", format!("/api/replies/{reply}/events"), &none),
        ("POST", format!("/api/replies/{reply}/stop"), &none),
        ("POST", format!("/api/replies/{reply}/answer-now"), &none),
        ("POST", "/api/feedback".to_owned(), &judged),
        ("DELETE", format!("/api/folders/{folder}"), &none),
        ("DELETE", format!("/api/memory/{memory}"), &none),
        ("DELETE", format!("/api/account/keys/{key}"), &none),
        ("DELETE", format!("/api/shares/{share_id}"), &none),
    ];
    for (method, path, body) in tries {
        let empty = json!({});
        let body = if method == "POST" && body.is_null() { &empty } else { body };
        let (status, answer) = bea.ask(server, method, &path, body);
        assert_eq!(
            (status, &answer["error"]["code"]),
            (404, &json!("not_found")),
            "{method} {path}"
        );
    }
    for path in ["/api/conversations", "/api/search?q=secret"] {
        let items = bea.get(server, path)["items"].to_string();
        assert!(!items.contains("secret"), "{path}: {items}");
    }
    for path in ["users", "keys", "plans", "models", "feedback", "settings", "live"] {
        assert_eq!(bea.ask(server, "GET", &format!("/api/admin/{path}"), &none).0, 403, "{path}");
    }
    let exported = bea.send(server, "GET", "/api/account/export", None).text;
    assert!(!exported.contains("secret of Ada"));
    // Only the link opens it, to anybody, until it is taken back.
    let token = share["token"].as_str().unwrap();
    let shared = Browser::default().get(server, &format!("/api/shared/{token}"));
    assert_eq!(shared["messages"][1]["content"], "ok");
    assert_eq!(ada.ask(server, "DELETE", &format!("/api/shares/{share_id}"), &none).0, 204);
    let gone = Browser::default().ask(server, "GET", &format!("/api/shared/{token}"), &none);
    assert_eq!(gone.0, 404);
}

#[test]
fn style_memory_and_persona_are_told_to_the_model() {
    let house = House::open(answering("ok"));
    let (server, ada) = (&house.server, &house.owner);
    let style = json!({
        "persona": "plain",
        "instructions": "Call me Captain.",
        "sliders": { "warmth": 2, "length": -1, "formality": 0, "humour": 0, "directness": 0 },
    });
    let (status, style) = ada.ask(server, "PUT", "/api/style", &style);
    assert_eq!((status, &style["can_undo"]), (200, &json!(true)), "{style}");
    let about: Vec<&Value> =
        style["explanation"].as_array().unwrap().iter().map(|line| &line["about"]).collect();
    assert_eq!(about, ["persona", "slider", "slider", "instructions"]);
    assert_eq!(style["explanation"][1]["slider"], "warmth");
    ada.ask(server, "POST", "/api/memory", &json!({ "text": "has a dog" }));
    let (_, turn) = ada.say(server, "hi");
    ada.events(server, turn["reply"]["id"].as_str().unwrap(), "");
    let request = server.engine.requests().pop().unwrap();
    assert_eq!(request.messages[0].role, Role::System);
    for part in ["Say little.", "very warm", "short", "Captain", "has a dog"] {
        assert!(request.messages[0].content.contains(part), "{part}");
    }
    let (_, undone) = ada.ask(server, "POST", "/api/style/undo", &json!({}));
    assert_eq!(undone["instructions"], "");
    let wrong = json!({ "sliders": { "warmth": 3 } });
    let (status, body) = ada.ask(server, "PUT", "/api/style", &wrong);
    assert_eq!((status, &body["error"]["field"]), (422, &json!("sliders.warmth")));
}

#[test]
fn a_message_is_read_for_its_writer_and_danger_reaches_the_model() {
    let mut house = House::open(answering("ok"));
    let bob = house.friend("Bob", "free");
    let (server, ada) = (&house.server, &house.owner);
    let (_, turn) = ada.say(server, "a fine day");
    ada.events(server, turn["reply"]["id"].as_str().unwrap(), "");
    let plain = server.engine.requests().pop().unwrap();
    assert!(plain.messages.iter().all(|message| message.role != Role::System), "{plain:?}");
    for side in ["user", "reply"] {
        let path = format!("/api/messages/{}/reading", turn[side]["id"].as_str().unwrap());
        let read = ada.get(server, &path);
        assert_eq!(read["message_id"], turn["user"]["id"], "{side}: {read}");
        assert_eq!(read["reading"]["n_bytes"], 10, "{side}: {read}");
        assert_eq!(bob.send(server, "GET", &path, None).status, 404, "{side}");
    }
    let (_, turn) = ada.say(server, "I am in danger");
    ada.events(server, turn["reply"]["id"].as_str().unwrap(), "");
    let request = server.engine.requests().pop().unwrap();
    assert_eq!(request.messages[0].role, Role::System);
    assert!(request.messages[0].content.ends_with("Help first."), "{request:?}");
    let written = OutputFormat::Regex("Are you safe\\?".to_owned());
    assert_eq!(request.format, written, "nothing else may be said");
    assert_eq!(plain.format, OutputFormat::Text);
}

#[test]
fn feedback_is_kept_and_seen() {
    let house = House::open(answering("ok"));
    let (server, ada) = (&house.server, &house.owner);
    let (conversation, turn) = ada.say(server, "hi");
    let reply = turn["reply"]["id"].as_str().unwrap();
    ada.events(server, reply, "");
    for (kind, value) in [
        ("thumb", json!(-1)),
        ("chip", json!("too_long")),
        ("comment", json!("hm")),
        ("edit", json!("better")),
        ("copy", Value::Null),
    ] {
        let body = json!({ "message_id": reply, "kind": kind, "value": value });
        let (status, kept) = ada.ask(server, "POST", "/api/feedback", &body);
        assert_eq!((status, &kept["kept_for"]), (200, &json!("you")), "{kept}");
    }
    let kept = ada.get(server, &format!("/api/conversations/{conversation}"));
    let marks = json!({ "thumb": -1, "chips": ["too_long"], "comment": "hm" });
    assert_eq!(kept["messages"][1]["feedback"], marks);
    let stream = ada.get(server, "/api/admin/feedback");
    assert_eq!(stream["items"].as_array().unwrap().len(), 5);
    assert_eq!(ada.get(server, "/api/admin/feedback/days")["days"][0]["total"], 5);
    let wrong = json!({ "message_id": reply, "kind": "thumb", "value": 7 });
    assert_eq!(ada.ask(server, "POST", "/api/feedback", &wrong).0, 422);
}

#[test]
fn conversations_come_in_from_other_programs_and_our_own() {
    let mut house = House::open(answering("ok"));
    let bea = house.friend("Bea", "free");
    let (server, ada) = (&house.server, &house.owner);
    let part = |role: &str, text: &str| json!({ "author": { "role": role }, "content": { "parts": [text] } });
    let chatgpt = json!([{ "title": "Trees", "create_time": 1.7e9, "current_node": "d", "mapping": {
        "a": { "id": "a", "parent": null, "message": null },
        "b": { "id": "b", "parent": "a", "message": part("user", "why green?") },
        "c": { "id": "c", "parent": "b", "message": part("tool", "searching") },
        "d": { "id": "d", "parent": "c", "message": part("assistant", "chlorophyll") },
    } }, { "title": "Empty", "mapping": {} }]);
    let (status, report) = ada.ask(server, "POST", "/api/import", &chatgpt);
    assert_eq!((status, &report["imported"]), (200, &json!(1)), "{report}");
    assert_eq!(report["skipped"][0]["title"], "Empty");
    let webui = json!([{ "title": "Sea", "created_at": 1_700_000_000, "chat": { "history": {
        "currentId": "y",
        "messages": {
            "x": { "id": "x", "parentId": null, "role": "user", "content": "why salt?" },
            "y": { "id": "y", "parentId": "x", "role": "assistant", "content": "rivers" },
        },
    } } }]);
    assert_eq!(ada.ask(server, "POST", "/api/import", &webui).1["imported"], 1);
    let exported = ada.send(server, "GET", "/api/account/export", None).json();
    let (_, again) = ada.ask(server, "POST", "/api/import", &exported);
    assert_eq!((&again["format"], &again["imported"]), (&json!("rapport"), &json!(0)), "{again}");
    let (_, taken) = bea.ask(server, "POST", "/api/import", &exported);
    assert_eq!(taken["imported"], 2, "{taken}");
    let found = bea.get(server, "/api/search?q=chlorophyll");
    assert_eq!(found["items"][0]["snippet"], "\u{2}chlorophyll\u{3}");
    assert_eq!(ada.ask(server, "POST", "/api/import", &json!({ "what": 1 })).0, 422);
}

#[test]
fn a_private_chat_leaves_nothing_but_its_cost() {
    let house = House::open(answering("hush hush"));
    let (server, ada) = (&house.server, &house.owner);
    let body = json!({ "messages": [{ "role": "user", "content": "secret" }], "mode": "fast" });
    let answered = ada.send(server, "POST", "/api/private/replies", Some(&body));
    assert_eq!(answered.status, 200, "{}", answered.text);
    assert!(answered.text.contains("event: finished"), "{}", answered.text);
    assert_eq!(ada.get(server, "/api/conversations")["items"], json!([]));
    assert_eq!(ada.get(server, "/api/account")["usage_today"]["requests"], 1);
    assert!(!ada.send(server, "GET", "/api/account/export", None).text.contains("secret"));
}

#[test]
fn a_private_thought_ends_when_its_own_page_wants_the_answer() {
    let engine = ScriptedEngine::answering(|_| {
        Script::new().thought("hm ").await_answer_now().text("so be it")
    });
    let mut house = House::open(engine);
    let bea = house.friend("Bea", "free");
    let (server, ada) = (&house.server, &house.owner);
    let said = json!([{ "role": "user", "content": "secret" }]);
    let body = json!({ "id": "p1", "messages": said, "mode": "thinking", "persona": "plain" });
    let mut stream = TcpStream::connect(server.address).unwrap();
    let body_text = body.to_string();
    let head = format!(
        "POST /api/private/replies HTTP/1.1\r\nHost: {}\r\nCookie: {}\r\nx-rapport-csrf: {}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body_text}",
        server.address,
        ada.cookie,
        ada.csrf,
        body_text.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut seen = String::new();
    let mut reader = BufReader::new(stream);
    while !seen.contains("event: thought") {
        assert!(reader.read_line(&mut seen).unwrap() > 0, "{seen}");
    }
    let path = "/api/private/replies/p1/answer-now";
    assert_eq!(bea.ask(server, "POST", path, &json!({})).0, 404, "it is somebody else's");
    assert_eq!(ada.ask(server, "POST", path, &json!({})).0, 202);
    while !seen.contains("event: finished") {
        assert!(reader.read_line(&mut seen).unwrap() > 0, "{seen}");
    }
    assert!(seen.contains("so "), "{seen}");
    let request = server.engine.requests().pop().unwrap();
    assert!(request.messages[0].content.contains("Say little."), "{:?}", request.messages[0]);
    // Its name went with it, once the stream is closed.
    drop(reader);
    while ada.ask(server, "POST", path, &json!({})).0 != 404 {
        std::thread::yield_now();
    }
    let unknown = json!({ "messages": said, "persona": "nobody" });
    let (status, body) = ada.ask(server, "POST", "/api/private/replies", &unknown);
    assert_eq!((status, &body["error"]["field"]), (422, &json!("persona")));
}

#[test]
fn pages_carry_a_policy_and_paths_of_the_app_lead_to_it() {
    let house = House::open(answering("ok"));
    let page = |path: &str| {
        house.server.raw(&format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\nConnection: close\r\n\r\n"
        ))
    };
    let (status, text) = page("/c/conv_1");
    assert_eq!(status, 200, "{text}");
    assert!(text.contains("start()") && text.contains("script-src 'self' 'sha256-"), "{text}");
    let (_, script) = page("/_app/immutable/a.js");
    assert!(script.contains("immutable") && script.contains("text/javascript"), "{script}");
    assert_eq!(house.server.get("/v1/nothing").0, 404);
    assert_eq!(house.server.get("/api/nothing").1["error"]["code"], "not_found");
}

#[test]
fn an_account_and_everything_in_it_can_be_deleted() {
    let mut house = House::open(answering("ok"));
    let bea = house.friend("Bea", "free");
    let server = &house.server;
    let (_, turn) = bea.say(server, "hi");
    bea.events(server, turn["reply"]["id"].as_str().unwrap(), "");
    assert_eq!(bea.ask(server, "DELETE", "/api/account", &json!({ "confirm": "no" })).0, 422);
    assert_eq!(bea.ask(server, "DELETE", "/api/account", &json!({ "confirm": "Bea" })).0, 200);
    assert_eq!(bea.ask(server, "GET", "/api/account", &Value::Null).0, 401);
    let refused = house.owner.ask(server, "DELETE", "/api/account", &json!({ "confirm": "Ada" }));
    assert_eq!(refused.0, 409, "somebody stays in charge: {}", refused.1);
}
