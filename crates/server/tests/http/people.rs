//! People with accounts: their browsers and keys.

use std::sync::Arc;

use rapport_store::{Location, Plans, Store, UnixMs};
use rapport_testkit::ScriptedEngine;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Answered, People, Running};

/// A server and its first admin.
pub(crate) struct House {
    pub(crate) server: Running,
    pub(crate) owner: Browser,
    pub(crate) people: People,
    folder: TempDir,
}

/// Somebody's browser: a cookie and a token.
#[derive(Clone, Default)]
pub(crate) struct Browser {
    pub(crate) cookie: String,
    pub(crate) csrf: String,
    pub(crate) key: Option<String>,
}

impl House {
    pub(crate) fn open(engine: ScriptedEngine) -> Self {
        Self::with_plans(Plans::default(), engine)
    }

    pub(crate) fn with_plans(plans: Plans, engine: ScriptedEngine) -> Self {
        Self::with(engine, |people| people.plans = plans)
    }

    /// One whose server is not as usual.
    pub(crate) fn with(engine: ScriptedEngine, change: impl FnOnce(&mut People)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut people = People::new(folder.path().join("rapport.db"));
        change(&mut people);
        let (server, link) = people.serve(Arc::new(engine));
        let mut owner = Browser::default();
        owner.look(&server);
        let body = json!({ "token": link.unwrap(), "name": "Ada", "password": "correct horse" });
        let set_up = owner.send(&server, "POST", "/api/setup", Some(&body));
        assert_eq!(set_up.status, 200, "{}", set_up.text);
        owner.take_cookie(&set_up);
        Self { server, owner, people, folder }
    }

    /// Ends the server and starts another over what it has left.
    pub(crate) fn restart(self) -> Self {
        let Self { server, owner, people, folder } = self;
        let engine = Arc::clone(&server.engine);
        drop(server);
        let (server, link) = people.serve(engine);
        assert_eq!(link, None, "there is an admin with a password");
        Self { server, owner, people, folder }
    }

    /// What another program on the same machine sees of the store.
    pub(crate) fn with_store<T>(&self, work: impl AsyncFnOnce(&Store) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let location = Location::Sqlite(self.people.database.clone());
            let store = Store::open(&location, UnixMs(0)).await.unwrap();
            let found = work(&store).await;
            store.close().await;
            found
        })
    }

    /// Another person with an account.
    pub(crate) fn friend(&mut self, name: &str, plan: &str) -> Browser {
        let body = json!({ "name": name, "password": "battery staple", "plan": plan });
        let made = self.owner.send(&self.server, "POST", "/api/admin/users", Some(&body));
        assert_eq!(made.status, 201, "{}", made.text);
        let mut friend = Browser::default();
        friend.look(&self.server);
        let body = json!({ "name": name, "password": "battery staple" });
        let signed_in = friend.send(&self.server, "POST", "/api/session", Some(&body));
        assert_eq!(signed_in.status, 200, "{}", signed_in.text);
        friend.take_cookie(&signed_in);
        friend
    }
}

impl Browser {
    pub(crate) fn send(
        &self,
        server: &Running,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Answered {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .allow_non_standard_methods(true)
            .build()
            .into();
        let mut request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", server.address))
            .header("content-type", "application/json")
            .header("x-rapport-csrf", &self.csrf)
            .header("cookie", &self.cookie);
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let mut response = match body {
            Some(body) => agent.run(request.body(body.to_string()).unwrap()).unwrap(),
            None => agent.run(request.body(()).unwrap()).unwrap(),
        };
        Answered {
            status: response.status().as_u16(),
            headers: format!("{:?}", response.headers()),
            text: response.body_mut().read_to_string().unwrap(),
        }
    }

    pub(crate) fn ask(
        &self,
        server: &Running,
        method: &str,
        path: &str,
        body: &Value,
    ) -> (u16, Value) {
        let body = Some(body).filter(|body| !body.is_null());
        let answered = self.send(server, method, path, body);
        (answered.status, answered.json())
    }

    pub(crate) fn get(&self, server: &Running, path: &str) -> Value {
        let (status, body) = self.ask(server, "GET", path, &Value::Null);
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// The token that the page was given.
    pub(crate) fn look(&mut self, server: &Running) {
        let session = self.get(server, "/api/session");
        session["csrf"].as_str().unwrap().clone_into(&mut self.csrf);
    }

    pub(crate) fn take_cookie(&mut self, answered: &Answered) {
        let start = answered.headers.find("rapport_session=").unwrap();
        let cookie = &answered.headers[start..];
        cookie[..cookie.find(';').unwrap()].clone_into(&mut self.cookie);
        answered.json()["csrf"].as_str().unwrap().clone_into(&mut self.csrf);
    }

    /// The same person with a new key, which opens `scopes`; and its id.
    pub(crate) fn with_key(&self, server: &Running, scopes: &[&str]) -> (Self, String) {
        let body = json!({ "name": "k", "scopes": scopes, "expires_days": 1 });
        let (status, key) = self.ask(server, "POST", "/api/account/keys", &body);
        assert_eq!(status, 201, "{key}");
        let text = |name: &str| key[name].as_str().unwrap().to_owned();
        (Self { key: Some(text("key")), ..self.clone() }, text("id"))
    }

    /// A new conversation with one message in it, and what the server said to that.
    pub(crate) fn say(&self, server: &Running, content: &str) -> (String, Value) {
        let (status, conversation) = self.ask(server, "POST", "/api/conversations", &json!({}));
        assert_eq!(status, 201, "{conversation}");
        let id = conversation["id"].as_str().unwrap().to_owned();
        let body =
            json!({ "client_id": format!("c-{content}"), "content": content, "mode": "fast" });
        let (status, turn) =
            self.ask(server, "POST", &format!("/api/conversations/{id}/messages"), &body);
        assert_eq!(status, 202, "{turn}");
        (id, turn)
    }

    /// The events of a reply from a place on, to its end.
    pub(crate) fn events(
        &self,
        server: &Running,
        id: &str,
        from: &str,
    ) -> Vec<(u64, String, Value)> {
        let answered = self.send(server, "GET", &format!("/api/replies/{id}/events{from}"), None);
        assert_eq!(answered.status, 200, "{}", answered.text);
        answered.text.split("\n\n").filter_map(event).collect()
    }
}

/// A number, a name and the data.
pub(crate) fn event(text: &str) -> Option<(u64, String, Value)> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    let data = serde_json::from_str(field("data: ")?).unwrap();
    Some((field("id: ")?.parse().unwrap(), field("event: ")?.to_owned(), data))
}

pub(crate) fn words(events: &[(u64, String, Value)]) -> String {
    events
        .iter()
        .filter(|(_, name, _)| name == "text")
        .map(|(_, _, data)| data["text"].as_str().unwrap())
        .collect()
}
