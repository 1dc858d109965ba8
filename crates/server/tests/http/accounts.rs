//! Keys that end while they are used, what outlives a restart, and what is deleted when.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};

use rapport_store::UnixMs;
use rapport_testkit::{Script, ScriptedEngine};
use rapport_types::Role;
use serde_json::{Value, json};

use crate::harness::Running;
use crate::people::{Browser, House};

const CHAT: &str = "/v1/chat/completions";
const RESPONSES: &str = "/v1/responses";
const DAY_MS: i64 = UnixMs::DAY_MS;

fn answering(text: &'static str) -> ScriptedEngine {
    ScriptedEngine::answering(move |_| Script::answer(text))
}

/// Says `first `, waits for the test, and goes on with ever more.
fn waiting() -> (ScriptedEngine, Sender<()>) {
    let (sender, go) = channel::<()>();
    let go = Arc::new(Mutex::new(go));
    let engine = ScriptedEngine::answering(move |_| {
        let go = Arc::clone(&go);
        let begun = Script::answer("first ").run(move || go.lock().unwrap().recv().unwrap());
        (0..100).fold(begun, |script, _| script.text("leaked "))
    });
    (engine, sender)
}

fn asked(stream: bool) -> [(&'static str, Value); 3] {
    let messages = json!([{ "role": "user", "content": "hi" }]);
    [
        (CHAT, json!({ "model": "rapport", "messages": messages, "stream": stream })),
        (RESPONSES, json!({ "model": "rapport", "input": "hi", "stream": stream })),
        (
            "/v1/messages",
            json!({ "model": "rapport", "messages": messages, "stream": stream, "max_tokens": 99 }),
        ),
    ]
}

/// The lines of a stream that a key asks for.
fn stream(
    server: &Running,
    path: &str,
    body: &Value,
    key: &str,
) -> impl Iterator<Item = String> + use<> {
    let body = body.to_string();
    let mut stream = TcpStream::connect(server.address).unwrap();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nx-api-key: {key}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    BufReader::new(stream).lines().map_while(Result::ok)
}

/// Streams in every protocol and ends the key after the first word; nothing may follow but an error,
/// and nothing is paid or held.
fn ends_within_a_token(end: impl Fn(&House, &Browser, &str)) {
    for (path, body) in asked(true) {
        let (engine, go) = waiting();
        let mut house = House::open(engine);
        let bea = house.friend("Bea", "free");
        let (keyed, id) = bea.with_key(&house.server, &["api"]);
        let mut lines = stream(&house.server, path, &body, keyed.key.as_deref().unwrap());
        assert!(lines.any(|line| line.contains("first")), "{path}");
        end(&house, &bea, &id);
        go.send(()).unwrap();
        let rest: Vec<String> = lines.collect();
        assert!(!rest.iter().any(|line| line.contains("leaked")), "{path}: {rest:?}");
        assert!(rest.iter().any(|line| line.contains("api_key")), "{path}: {rest:?}");
        let user = "Bea";
        house.with_store(async |store| {
            let Ok(bea) = store.user_by_name(user).await else { return };
            // It is given back beside the answer.
            let used = store.usage(Some(bea.id), UnixMs(0), UnixMs(i64::MAX)).await.unwrap();
            assert!(used.is_empty(), "{path}: {used:?}");
            let mut meter = store.meter(bea.id, UnixMs(0)).await.unwrap();
            for _ in 0..10_000 {
                if meter.reserved_requests == 0 {
                    break;
                }
                tokio::task::yield_now().await;
                meter = store.meter(bea.id, UnixMs(0)).await.unwrap();
            }
            assert_eq!(meter.reserved_requests, 0, "{path}");
        });
    }
}

#[test]
fn f40_a_key_that_is_revoked_ends_its_streams_within_a_token() {
    ends_within_a_token(|house, bea, id| {
        let path = format!("/api/account/keys/{id}");
        assert_eq!(bea.ask(&house.server, "DELETE", &path, &Value::Null).0, 204);
    });
}

#[test]
fn f40_a_key_that_expires_ends_its_streams_within_a_token() {
    ends_within_a_token(|house, _, _| house.people.clock.jump(DAY_MS));
}

#[test]
fn f40_a_user_who_is_disabled_or_deleted_is_heard_no_more() {
    let user = |house: &House| {
        let users = house.owner.get(&house.server, "/api/admin/users");
        let bea = users.as_array().unwrap().iter().find(|user| user["name"] == "Bea").unwrap();
        format!("/api/admin/users/{}", bea["id"].as_str().unwrap())
    };
    ends_within_a_token(|house, _, _| {
        let body = json!({ "disabled": true });
        assert_eq!(house.owner.ask(&house.server, "PATCH", &user(house), &body).0, 200);
    });
    ends_within_a_token(|house, _, _| {
        assert_eq!(house.owner.ask(&house.server, "DELETE", &user(house), &Value::Null).0, 204);
    });
}

#[test]
fn f40_a_key_that_another_server_revokes_ends_a_stream_that_says_nothing() {
    let engine = ScriptedEngine::answering(|_| Script::answer("first ").await_stop());
    let house = House::open(engine);
    let (ada, id) = house.owner.with_key(&house.server, &["api"]);
    let [(path, body), ..] = asked(true);
    let mut lines = stream(&house.server, path, &body, ada.key.as_deref().unwrap());
    assert!(lines.any(|line| line.contains("first")));
    house.with_store(async |store| {
        let key = store.api_key(id.parse().unwrap()).await.unwrap();
        store.revoke_api_key(key.user, key.id, UnixMs(1)).await.unwrap();
    });
    let rest: Vec<String> = lines.collect();
    assert!(rest.iter().any(|line| line.contains("api_key")), "{rest:?}");
}

#[test]
fn f40_a_key_opens_what_its_scopes_say_and_nothing_when_it_has_ended() {
    let house = House::open(answering("ok"));
    let server = &house.server;
    let (reader, _) = house.owner.with_key(server, &["read"]);
    let (writer, id) = house.owner.with_key(server, &["api"]);
    let status = |who: &Browser, method: &str, path: &str, body: &Value| {
        who.ask(server, method, path, body).0
    };
    let [(_, chat), (_, response), (_, message)] = asked(false);
    let (_, kept) = writer.ask(server, "POST", RESPONSES, &response);
    let kept = format!("{RESPONSES}/{}", kept["id"].as_str().unwrap());
    let none = Value::Null;
    for path in ["/v1/models", "/v1/models/rapport", "/v1/api-key", "/metrics", kept.as_str()] {
        assert_eq!(status(&reader, "GET", path, &none), 200, "{path}");
    }
    for (path, body) in [(CHAT, &chat), (RESPONSES, &response), ("/v1/messages", &message)] {
        assert_eq!(status(&reader, "POST", path, body), 403, "{path}");
        assert_eq!(status(&writer, "POST", path, body), 200, "{path}");
    }
    let tokens = json!({ "model": "rapport", "text": "x" });
    assert_eq!(status(&reader, "POST", "/v1/tokenize-text", &tokens), 403);
    assert_eq!(status(&reader, "DELETE", &kept, &none), 403);
    let wrong = json!({ "name": "x", "scopes": ["everything"] });
    assert_eq!(house.owner.ask(server, "POST", "/api/account/keys", &wrong).0, 422);
    // A key is for programs: it is nobody at the page.
    let program = Browser { cookie: String::new(), ..writer.clone() };
    assert_eq!(status(&program, "GET", "/api/account", &none), 401);

    let path = format!("/api/account/keys/{id}");
    assert_eq!(house.owner.ask(server, "DELETE", &path, &none).0, 204);
    assert_eq!(status(&writer, "GET", "/v1/models", &none), 401);
    house.people.clock.jump(DAY_MS);
    assert_eq!(status(&reader, "GET", "/v1/models", &none), 401);
}

#[test]
fn responses_outlive_a_restart_and_go_with_their_account() {
    let mut house = House::open(answering("Good morning"));
    let bea = house.friend("Bea", "unlimited");
    let (bea, _) = bea.with_key(&house.server, &["api"]);
    let (ada, _) = house.owner.with_key(&house.server, &["api"]);
    let nobody = Browser::default();
    let ask = json!({ "model": "rapport", "input": "hi", "metadata": { "a": "b" } });
    let path_of = |response: &Value| format!("{RESPONSES}/{}", response["id"].as_str().unwrap());
    let (status, hers) = bea.ask(&house.server, "POST", RESPONSES, &ask);
    assert_eq!(status, 200, "{hers}");
    let (_, local) = nobody.ask(&house.server, "POST", RESPONSES, &ask);
    let (hers_at, local_at) = (path_of(&hers), path_of(&local));

    let house = house.restart();
    let server = &house.server;
    let get = |who: &Browser, path: &str| who.ask(server, "GET", path, &Value::Null);
    assert_eq!(get(&bea, &hers_at), (200, hers.clone()));
    assert_eq!(get(&nobody, &local_at), (200, local));
    let items = get(&bea, &format!("{hers_at}/input_items")).1;
    assert_eq!(items["data"][0]["content"][0]["text"], "hi");
    let more = json!({ "model": "rapport", "input": "more", "previous_response_id": hers["id"] });
    assert_eq!(bea.ask(server, "POST", RESPONSES, &more).0, 200);
    let messages = server.engine.requests().pop().unwrap().messages;
    let roles: Vec<Role> = messages.iter().map(|message| message.role).collect();
    assert_eq!(roles, [Role::User, Role::Assistant, Role::User]);
    assert_eq!(messages[1].content, "Good morning");

    // Bound to who asked.
    for (who, path) in [(&ada, &hers_at), (&nobody, &hers_at), (&bea, &local_at)] {
        assert_eq!(get(who, path).0, 404);
        assert_eq!(who.ask(server, "DELETE", path, &Value::Null).0, 404);
        assert_eq!(get(who, &format!("{path}/input_items")).0, 404);
    }
    assert_eq!(ada.ask(server, "POST", RESPONSES, &more).0, 404);

    // Gone with the account, and the others' stay.
    assert!(bea.send(server, "GET", "/api/account/export", None).text.contains("Good morning"));
    assert_eq!(bea.ask(server, "DELETE", "/api/account", &json!({ "confirm": "Bea" })).0, 200);
    let left = house.with_store(async |store| {
        let mut dump = Vec::new();
        store.dump(&mut dump).await.unwrap();
        String::from_utf8(dump).unwrap()
    });
    assert_eq!(left.matches("\"table\":\"responses\"").count(), 1);
    assert!(!left.contains(hers["id"].as_str().unwrap()));
    // After a month it is gone too.
    house.people.clock.advance(31 * DAY_MS);
    assert_eq!(get(&nobody, &local_at).0, 404);
    let left = house.with_store(async |store| {
        let mut dump = Vec::new();
        store.dump(&mut dump).await.unwrap();
        String::from_utf8(dump).unwrap()
    });
    assert!(!left.contains("\"table\":\"responses\""), "the chores have deleted it");
}

#[test]
fn a_deferred_completion_outlives_a_restart_and_is_never_waited_for_in_vain() {
    let engine = ScriptedEngine::answering(|request| match request.messages[0].content.as_str() {
        "never" => Script::new().text("half").await_stop(),
        _ => Script::answer("later"),
    });
    let house = House::open(engine);
    let (ada, _) = house.owner.with_key(&house.server, &["api"]);
    let nobody = Browser::default();
    let defer = |who: &Browser, text: &str| {
        let messages = json!([{ "role": "user", "content": text }]);
        let body = json!({ "model": "rapport", "messages": messages, "deferred": true });
        let (status, body) = who.ask(&house.server, "POST", CHAT, &body);
        assert_eq!(status, 200, "{body}");
        format!("/v1/chat/deferred-completion/{}", body["request_id"].as_str().unwrap())
    };
    let (done, never) = (defer(&ada, "hi"), defer(&ada, "never"));
    // Until it is in the store.
    let is_charged =
        || house.owner.get(&house.server, "/api/account")["usage_today"]["requests"] == 1;
    let is_made = || {
        house.with_store(async |store| {
            let mut dump = Vec::new();
            store.dump(&mut dump).await.unwrap();
            String::from_utf8(dump).unwrap().contains("later")
        })
    };
    while !is_charged() || !is_made() {
        std::thread::yield_now();
    }
    let house = house.restart();
    let get = |who: &Browser, path: &str| who.ask(&house.server, "GET", path, &Value::Null);
    assert_eq!(get(&nobody, &done).0, 404);
    let (status, body) = get(&ada, &done);
    assert_eq!((status, &body["choices"][0]["message"]["content"]), (200, &json!("later")));
    assert_eq!(get(&ada, &done).0, 404, "it is read once");
    // Its server ended, whether or not it could still say so.
    house.people.clock.jump(31_000);
    let (status, body) = get(&ada, &never);
    assert_eq!((status, &body["error"]["type"]), (503, &json!("server_error")), "{body}");
    assert_eq!(get(&ada, &never).0, 404);
}

#[test]
fn conversations_are_kept_for_as_long_as_it_was_said() {
    let house = House::open(answering("ok"));
    let (server, ada) = (&house.server, &house.owner);
    let say = |text: &str| {
        let (id, turn) = ada.say(server, text);
        ada.events(server, turn["reply"]["id"].as_str().unwrap(), "");
        format!("/api/conversations/{id}")
    };
    let (old, pinned) = (say("old"), say("pinned"));
    assert_eq!(ada.ask(server, "PATCH", &pinned, &json!({ "pinned": true })).0, 200);
    let has = |path: &str| ada.ask(server, "GET", path, &Value::Null).0 == 200;
    // Nobody has said how long.
    house.people.clock.advance(20 * DAY_MS);
    assert!(has(&old));
    let set = |value: Value| {
        let body = json!({ "retention_days": value });
        ada.ask(server, "PATCH", "/api/admin/settings", &body)
    };
    assert_eq!(set(json!(21)).1["retention_days"], 21);
    let young = say("young");
    house.people.clock.advance(2 * 3_600_000);
    assert!(has(&old), "it is 20 days old");
    house.people.clock.advance(2 * DAY_MS);
    assert!(!has(&old), "it is 22 days old");
    assert!(has(&young) && has(&pinned));
    assert_eq!(set(json!(0)).0, 422);
    assert_eq!(set(Value::Null).1["retention_days"], Value::Null);
}

#[test]
fn links_of_earlier_starts_are_over_when_somebody_is_in_charge() {
    let folder = tempfile::tempdir().unwrap();
    let people = crate::harness::People::new(folder.path().join("rapport.db"));
    let engine = Arc::new(answering("ok"));
    let (first, first_link) = people.serve(Arc::clone(&engine));
    let (second, second_link) = people.serve(engine);
    let set_up = |server: &Running, link: &Option<String>, name: &str| {
        let mut browser = Browser::default();
        browser.look(server);
        let body = json!({ "token": link, "name": name, "password": "correct horse" });
        browser.ask(server, "POST", "/api/setup", &body).0
    };
    // Two servers on one store know each other's secret: a page of one may ask the other.
    let csrf = |server: &Running| Browser::default().get(server, "/api/session")["csrf"].clone();
    assert_eq!(csrf(&first), csrf(&second));
    assert_eq!(set_up(&second, &second_link, "Ada"), 200);
    assert_eq!(set_up(&first, &first_link, "Eve"), 422);
}

#[test]
fn a_key_is_told_which_it_is() {
    let house = House::open(answering("ok"));
    let (server, owner) = (&house.server, &house.owner);
    let (keyed, id) = owner.with_key(server, &["api"]);
    let (reader, reader_id) = owner.with_key(server, &["read"]);
    let me = owner.get(server, "/api/session")["user"]["id"].clone();
    let (status, key) = keyed.ask(server, "GET", "/v1/api-key", &Value::Null);
    assert_eq!(status, 200, "{key}");
    assert_eq!((&key["api_key_id"], &key["name"], &key["user_id"]), (&json!(id), &json!("k"), &me));
    assert_eq!(key["rapport"]["scopes"], json!(["api"]));
    assert!(key["rapport"]["expire_time"].as_str().unwrap() > key["create_time"].as_str().unwrap());
    let secret = keyed.key.clone().unwrap();
    let shown = key["redacted_api_key"].as_str().unwrap();
    assert!(secret.starts_with(shown.trim_end_matches("...")) && shown.len() < 16, "{shown}");
    assert!(!key.to_string().contains(&secret));
    let (_, key) = reader.ask(server, "GET", "/v1/api-key", &Value::Null);
    assert_eq!(key["api_key_id"], reader_id);
    assert_ne!(key["acls"], json!(["api-key:endpoint:*", "api-key:model:*"]));
}
