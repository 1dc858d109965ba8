//! Every path of the server in the hands of somebody whose it is not.

use std::collections::{BTreeMap, BTreeSet};

use rapport_testkit::{Script, ScriptedEngine};
use serde_json::{Value, json};

use crate::people::{Browser, House};

/// What a stranger to the things in a path is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// As if it were not there.
    NotFound,
    /// It names no thing of a person: what comes back has none of the other's words in it.
    Own,
    /// For administrators alone.
    Forbidden,
    /// It is for whoever has the token.
    Open,
}

use Answer::{Forbidden, NotFound, Open, Own};

/// Every method of every path, with a body where it needs one to get as far as the thing. A path that
/// is served and not named here fails the test, and so does one that is named and not served.
fn expected(hers: &Things) -> Vec<(&'static str, &'static str, Value, Answer)> {
    let none = || Value::Null;
    let again = || json!({ "client_id": "z" });
    let word = || json!({ "client_id": "w", "content": "w" });
    let named = || json!({ "name": "mine now" });
    let hi = json!([{ "role": "user", "content": "hi" }]);
    let tokens = json!({ "model": "rapport", "text": "x" });
    vec![
        ("/v1/chat/completions", "POST", json!({ "model": "rapport", "messages": hi }), Own),
        ("/v1/chat/deferred-completion/{id}", "GET", none(), NotFound),
        ("/v1/completions", "POST", json!({ "model": "rapport", "prompt": "hi" }), Own),
        (
            "/v1/responses",
            "POST",
            json!({ "model": "rapport", "input": "x", "previous_response_id": hers.response }),
            NotFound,
        ),
        ("/v1/responses/{id}", "GET", none(), NotFound),
        ("/v1/responses/{id}", "DELETE", none(), NotFound),
        ("/v1/responses/{id}/input_items", "GET", none(), NotFound),
        (
            "/v1/messages",
            "POST",
            json!({ "model": "rapport", "messages": hi, "max_tokens": 9 }),
            Own,
        ),
        (
            "/v1/messages/count_tokens",
            "POST",
            json!({ "model": "rapport", "messages": hi, "max_tokens": 9 }),
            Own,
        ),
        ("/v1/models", "GET", none(), Own),
        ("/v1/models/{id}", "GET", none(), NotFound),
        ("/v1/language-models", "GET", none(), Own),
        ("/v1/language-models/{id}", "GET", none(), NotFound),
        ("/v1/embeddings", "POST", json!({ "model": "rapport", "input": "x" }), Own),
        ("/v1/embedding-models", "GET", none(), Own),
        ("/v1/embedding-models/{id}", "GET", none(), NotFound),
        ("/v1/image-generation-models", "GET", none(), Own),
        ("/v1/tokenize-text", "POST", tokens, Own),
        ("/v1/api-key", "GET", none(), Own),
        ("/metrics", "GET", none(), Own),
        ("/api/session", "GET", none(), Own),
        ("/api/session", "POST", json!({ "name": "Ada", "password": "guessed it" }), Own),
        ("/api/session", "DELETE", none(), Own),
        ("/api/model", "GET", none(), Own),
        ("/api/model/retry", "POST", none(), Forbidden),
        ("/api/setup", "POST", json!({ "token": "rl-guess" }), Own),
        ("/api/sign-up", "POST", json!({ "name": "Ada", "password": "guessed it" }), Forbidden),
        ("/api/auth/oidc/start", "GET", none(), NotFound),
        ("/api/auth/oidc/callback", "GET", none(), NotFound),
        ("/api/conversations", "GET", none(), Own),
        ("/api/conversations", "POST", json!({ "folder_id": hers.folder }), NotFound),
        ("/api/conversations/{id}", "GET", none(), NotFound),
        ("/api/conversations/{id}", "PATCH", json!({ "title": "mine now" }), NotFound),
        ("/api/conversations/{id}", "DELETE", none(), NotFound),
        ("/api/conversations/{id}/messages", "POST", word(), NotFound),
        ("/api/conversations/{id}/shares", "POST", json!({}), NotFound),
        ("/api/messages/{id}/replies", "POST", again(), NotFound),
        ("/api/messages/{id}/continue", "POST", again(), NotFound),
        ("/api/messages/{id}/reading", "GET", none(), NotFound),
        ("/api/replies/{id}/events", "GET", none(), NotFound),
        ("/api/replies/{id}/stop", "POST", none(), NotFound),
        ("/api/replies/{id}/answer-now", "POST", none(), NotFound),
        ("/api/private/replies", "POST", json!({ "messages": hi }), Own),
        ("/api/private/replies/{id}/answer-now", "POST", none(), NotFound),
        ("/api/search", "GET", none(), Own),
        ("/api/folders", "GET", none(), Own),
        ("/api/folders", "POST", named(), Own),
        ("/api/folders/{id}", "PATCH", named(), NotFound),
        ("/api/folders/{id}", "DELETE", none(), NotFound),
        ("/api/shares", "GET", none(), Own),
        ("/api/shares/{id}", "DELETE", none(), NotFound),
        ("/api/shared/{token}", "GET", none(), Open),
        ("/api/import", "POST", json!([]), Own),
        (
            "/api/feedback",
            "POST",
            json!({ "message_id": hers.reply, "kind": "thumb", "value": 1 }),
            NotFound,
        ),
        ("/api/personas", "GET", none(), Own),
        ("/api/style", "GET", none(), Own),
        ("/api/style", "PUT", json!({ "instructions": "x" }), Own),
        ("/api/style", "DELETE", none(), Own),
        ("/api/style/undo", "POST", json!({}), Own),
        ("/api/memory", "GET", none(), Own),
        ("/api/memory", "POST", json!({ "text": "x" }), Own),
        ("/api/memory", "DELETE", none(), Own),
        ("/api/memory/{id}", "PATCH", json!({ "text": "mine now" }), NotFound),
        ("/api/memory/{id}", "DELETE", none(), NotFound),
        ("/api/account", "GET", none(), Own),
        ("/api/account", "PATCH", json!({ "locale": "ja" }), Own),
        ("/api/account", "DELETE", json!({ "confirm": "Ada" }), Own),
        ("/api/account/password", "POST", json!({ "current": "x", "new": "y" }), Own),
        ("/api/account/consent", "GET", none(), Own),
        ("/api/account/consent", "PUT", json!({ "training": false }), Own),
        ("/api/account/identities", "POST", json!({}), NotFound),
        ("/api/account/keys", "GET", none(), Own),
        ("/api/account/keys", "POST", json!({ "name": "k" }), Own),
        ("/api/account/keys/{id}", "DELETE", none(), NotFound),
        ("/api/account/usage", "GET", none(), Own),
        ("/api/account/usage.csv", "GET", none(), Own),
        ("/api/account/invoices/{month}", "GET", none(), Own),
        ("/api/account/export", "GET", none(), Own),
        ("/api/admin/users", "GET", none(), Forbidden),
        ("/api/admin/users", "POST", named(), Forbidden),
        ("/api/admin/users/{id}", "PATCH", json!({ "role": "user" }), Forbidden),
        ("/api/admin/users/{id}", "DELETE", none(), Forbidden),
        ("/api/admin/keys", "GET", none(), Forbidden),
        ("/api/admin/keys/{id}", "DELETE", none(), Forbidden),
        ("/api/admin/plans", "GET", none(), Forbidden),
        ("/api/admin/models", "GET", none(), Forbidden),
        ("/api/admin/live", "GET", none(), Forbidden),
        ("/api/admin/feedback", "GET", none(), Forbidden),
        ("/api/admin/feedback/days", "GET", none(), Forbidden),
        ("/api/admin/settings", "GET", none(), Forbidden),
        ("/api/admin/settings", "PATCH", json!({ "sign_up": true }), Forbidden),
        ("/api/admin/settings", "PUT", json!({ "sign_up": true }), Forbidden),
    ]
}

/// One of everything that has an id.
struct Things {
    user: String,
    conversation: String,
    question: String,
    reply: String,
    folder: String,
    memory: String,
    key: String,
    share: String,
    token: String,
    response: String,
    deferred: String,
}

/// Ada's words, which must never come to anybody else.
const SECRET: &str = "xyzzy of Ada";

fn things_of(house: &House, ada: &Browser) -> Things {
    let server = &house.server;
    let (keyed, _) = ada.with_key(server, &["api"]);
    let made = |who: &Browser, path: &str, body: Value| {
        let (status, form) = who.ask(server, "POST", path, &body);
        assert!(status < 300, "{path}: {form}");
        form
    };
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let (conversation, turn) = ada.say(server, SECRET);
    ada.events(server, turn["reply"]["id"].as_str().unwrap(), "");
    let reply = text(&turn["reply"]["id"]);
    let share = made(ada, &format!("/api/conversations/{conversation}/shares"), json!({}));
    let messages = json!([{ "role": "user", "content": SECRET }]);
    let deferred = json!({ "model": "rapport", "messages": messages, "deferred": true });
    let response = json!({ "model": "rapport", "input": SECRET });
    let deferred = text(&made(&keyed, "/v1/chat/completions", deferred)["request_id"]);
    let is_made = || {
        let export = ada.send(server, "GET", "/api/account/export", None).text;
        export.contains("\"status\":\"done\",\"body\":")
    };
    while !is_made() {
        std::thread::yield_now();
    }
    Things {
        user: text(&ada.get(server, "/api/session")["user"]["id"]),
        conversation,
        question: text(&turn["user"]["id"]),
        reply,
        folder: text(&made(ada, "/api/folders", json!({ "name": SECRET }))["id"]),
        memory: text(&made(ada, "/api/memory", json!({ "text": SECRET }))["id"]),
        key: text(&made(ada, "/api/account/keys", json!({ "name": SECRET }))["id"]),
        share: text(&share["id"]),
        token: text(&share["token"]),
        response: text(&made(&keyed, "/v1/responses", response)["id"]),
        deferred,
    }
}

impl Things {
    /// A path with the thing in it that it is about.
    fn fill(&self, path: &str) -> String {
        let id = match path.split('/').collect::<Vec<_>>().as_slice() {
            ["", "v1", "responses", ..] => &self.response,
            ["", "v1", "chat", ..] => &self.deferred,
            ["", "api", "conversations", ..] => &self.conversation,
            ["", "api", "messages", .., "replies" | "reading"] => &self.question,
            ["", "api", "messages" | "replies" | "private", ..] => &self.reply,
            ["", "api", "folders", ..] => &self.folder,
            ["", "api", "shares", ..] => &self.share,
            ["", "api", "memory", ..] => &self.memory,
            ["", "api", "account" | "admin", "keys", ..] => &self.key,
            ["", "v1", ..] | ["", "api", "admin", "users", ..] => &self.user,
            _ => "",
        };
        let path = path.replace("{id}", id).replace("{token}", &self.token);
        let path = path.replace("{month}", "2026-11").replace("/api/search", "/api/search?q=xyzzy");
        assert!(!path.contains('{'), "{path} is about something that this test does not know");
        path
    }

    fn ids(&self) -> [&str; 10] {
        [
            &self.user,
            &self.conversation,
            &self.question,
            &self.reply,
            &self.folder,
            &self.memory,
            &self.key,
            &self.share,
            &self.response,
            &self.deferred,
        ]
    }
}

#[test]
fn f39_every_path_keeps_what_is_somebody_elses() {
    let mut house = House::open(ScriptedEngine::answering(|_| Script::answer("ok")));
    let bea = house.friend("Bea", "unlimited");
    let hers = things_of(&house, &house.owner);
    let server = &house.server;
    let (bea, _) = bea.with_key(server, &["api"]);
    let before = house.owner.send(server, "GET", "/api/account/export", None).text;

    // What is served: a path says in its refusal which methods it takes.
    let mut served = BTreeSet::new();
    for path in rapport_server::paths() {
        let refused = bea.send(server, "TRACE", &hers.fill(&path), None);
        assert_eq!(refused.status, 405, "{path}: {}", refused.text);
        let allowed = refused.headers.split("\"allow\": \"").nth(1).expect("it says what it takes");
        for method in allowed.split('"').next().unwrap().split(',') {
            if method != "HEAD" {
                served.insert((path.clone(), method.to_owned()));
            }
        }
    }
    let expected = expected(&hers);
    let known =
        expected.iter().map(|(path, method, ..)| ((*path).to_owned(), (*method).to_owned()));
    let known: BTreeSet<_> = known.collect();
    let new: Vec<_> = served.difference(&known).collect();
    assert!(new.is_empty(), "say what strangers are answered at {new:?}");
    let gone: Vec<_> = known.difference(&served).collect();
    assert!(gone.is_empty(), "not served any more: {gone:?}");

    let mut seen = BTreeMap::new();
    for (path, method, body, answer) in &expected {
        // Signing out, and what a stranger asks, changes who asks: each has a browser of its own.
        let mut stranger = Browser::default();
        let is_of_session = ["/api/session", "/api/setup", "/api/sign-up"].contains(path);
        let who = if is_of_session && *method != "GET" {
            stranger.look(server);
            &stranger
        } else {
            &bea
        };
        let body = Some(body).filter(|body| !body.is_null());
        if (*path, *answer) == ("/api/admin/live", Own) {
            continue;
        }
        let answered = who.send(server, method, &hers.fill(path), body);
        let said = format!("{method} {path}: {} {:.200}", answered.status, answered.text);
        match answer {
            NotFound => assert_eq!(answered.status, 404, "{said}"),
            Forbidden => assert_eq!(answered.status, 403, "{said}"),
            Open => assert_eq!(answered.status, 200, "{said}"),
            Own => {
                assert!(![404, 405].contains(&answered.status) && answered.status < 500, "{said}");
            }
        }
        if *answer != Open {
            assert!(!answered.text.contains("xyzzy"), "{said}");
            let asked = hers.fill(path);
            let leaked = hers.ids().into_iter().find(|id| {
                answered.text.contains(id)
                    && !asked.contains(id)
                    && !body.is_some_and(|b| b.to_string().contains(id))
            });
            assert_eq!(leaked, None, "{said}");
        }
        *seen.entry(*answer as u8).or_insert(0) += 1;
    }
    assert_eq!(seen.len(), 4);

    // Nothing of Ada's has changed, and it all is still there for her.
    assert_eq!(house.owner.send(server, "GET", "/api/account/export", None).text, before);
    // The same ids in bodies, where they lead from Bea's own things into hers.
    let (own, _) = bea.say(server, "mine");
    let into = |path: &str, method: &str, body: Value| bea.ask(server, method, path, &body).0;
    let own = format!("/api/conversations/{own}");
    for (path, method, body) in [
        (own.clone(), "PATCH", json!({ "folder_id": hers.folder })),
        (own.clone(), "PATCH", json!({ "head": hers.reply })),
        (format!("{own}/shares"), "POST", json!({ "head": hers.reply })),
        (
            format!("{own}/messages"),
            "POST",
            json!({ "client_id": "y", "content": "y", "parent_id": hers.reply }),
        ),
    ] {
        assert_eq!(into(&path, method, body.clone()), 404, "{method} {path} {body}");
    }
    let listed = bea.get(server, &format!("/api/conversations?folder={}", hers.folder));
    assert_eq!(listed["items"], json!([]));
    // Without a key, and with one that is wrong.
    for key in [None, Some("rk-0000".to_owned())] {
        let nobody = Browser { key, ..Browser::default() };
        let found = nobody.send(server, "GET", &format!("/v1/responses/{}", hers.response), None);
        assert!([401, 404].contains(&found.status), "{}", found.text);
    }
}
