//! `rapport serve` before its model is there: it answers at once, shows the pull, and tries again.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail their test")]

#[expect(dead_code, reason = "other tests use more of it")]
mod hub_server;
#[expect(dead_code, reason = "other tests use more of it")]
mod running;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;

use hub_server::{Answer, HubServer};
use running::Server;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// A browser's session with the server.
struct Client {
    agent: ureq::Agent,
    url: String,
    csrf: String,
    cookie: String,
}

impl Client {
    fn new(url: &str) -> Self {
        let agent = ureq::Agent::config_builder().http_status_as_error(false).proxy(None).build();
        let (csrf, cookie) = (String::new(), String::new());
        Self { agent: agent.into(), url: url.to_owned(), csrf, cookie }
    }

    fn send(&self, method: &str, path: &str, body: &Value) -> (u16, String, Value) {
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header("content-type", "application/json")
            .header("x-rapport-csrf", &self.csrf)
            .header("cookie", &self.cookie);
        let mut response = match body {
            Value::Null => self.agent.run(request.body(()).unwrap()).unwrap(),
            body => self.agent.run(request.body(body.to_string()).unwrap()).unwrap(),
        };
        let headers = format!("{:?}", response.headers());
        let text = response.body_mut().read_to_string().unwrap();
        let json = serde_json::from_str(&text).unwrap_or(Value::String(text));
        (response.status().as_u16(), headers, json)
    }

    fn get(&self, path: &str) -> Value {
        self.send("GET", path, &Value::Null).2
    }

    /// Makes the first account by the link that the server printed.
    fn become_owner(&mut self, token: &str) {
        self.get("/api/session")["csrf"].as_str().unwrap().clone_into(&mut self.csrf);
        let body = json!({ "token": token, "name": "Ada", "password": "correct horse" });
        let (status, headers, session) = self.send("POST", "/api/setup", &body);
        assert_eq!(status, 200, "{session}");
        let start = headers.find("rapport_session=").unwrap();
        let cookie = &headers[start..];
        cookie[..cookie.find(';').unwrap()].clone_into(&mut self.cookie);
        session["csrf"].as_str().unwrap().clone_into(&mut self.csrf);
    }
}

#[test]
fn the_server_answers_while_the_model_is_pulled_and_pulls_again_when_told() {
    let content = std::fs::read(rapport_testkit::default_model()).unwrap();
    let digits = |byte: &u8| [byte >> 4, byte & 15].map(|digit| char::from_digit(digit.into(), 16));
    let sum: String = Sha256::digest(&content).iter().flat_map(digits).flatten().collect();
    let n_bytes = content.len();
    let (asked, was_asked) = channel();
    let (go, gone) = channel::<()>();
    let (n_asked, gone) = (AtomicUsize::new(0), Mutex::new(gone));
    let hub = HubServer::start(move |request| {
        // The first try fails; the second waits in the middle of the pull.
        if n_asked.fetch_add(1, Ordering::SeqCst) == 0 {
            return Answer::status(404);
        }
        asked.send(()).unwrap();
        gone.lock().unwrap().recv().unwrap();
        Answer::file(&content, request)
    });
    let home = tempfile::tempdir().unwrap();
    let catalog = format!(
        "[[model]]\nname = \"afar\"\ndescription = \"A model on a hub\"\nlicence = \"Apache-2.0\"\n\
         file = \"Far-1B.gguf\"\nsize_bytes = {n_bytes}\nsha256 = \"{sum}\"\n\
         sources = [{{ hub = \"owner/repo\", file = \"far.gguf\", revision = \"v1\" }}]\n"
    );
    std::fs::write(home.path().join("catalog.toml"), catalog).unwrap();
    std::fs::write(
        home.path().join("config.toml"),
        format!("[hub]\nendpoint = \"{}\"\n", hub.endpoint()),
    )
    .unwrap();

    let server = Server::start(home.path(), "afar", &[]);
    let line = server.says(" at http://");
    let mut client = Client::new(&format!("http://{}", line.split("http://").nth(1).unwrap()));
    let link = server.says("/setup#");
    let ask = json!({
        "model": "rapport-fast", "max_tokens": 5,
        "messages": [{ "role": "user", "content": "Say hello." }],
    });
    server.says("no model yet");
    let model = client.get("/api/model");
    assert_eq!((&model["state"], &model["name"]), (&json!("failed"), &json!("Far-1B")));
    assert!(model["error"].as_str().unwrap().contains("404"), "{model}");
    client.become_owner(link.split('#').nth(1).unwrap());
    let (status, _, model) = client.send("POST", "/api/model/retry", &Value::Null);
    assert_eq!(status, 202, "{model}");

    was_asked.recv().unwrap();
    let model = client.get("/api/model");
    assert_eq!((&model["state"], &model["error"]), (&json!("pulling"), &Value::Null), "{model}");
    assert_eq!(client.send("GET", "/readyz", &Value::Null).0, 503);
    assert_eq!(client.send("GET", "/healthz", &Value::Null).0, 200);
    let (status, headers, _) = client.send("POST", "/v1/chat/completions", &ask);
    assert_eq!(status, 503);
    assert!(headers.contains("retry-after"), "{headers}");
    go.send(()).unwrap();

    server.says("afar is ready");
    assert_eq!(client.send("GET", "/readyz?model=rapport", &Value::Null).0, 200);
    let (status, _, answer) = client.send("POST", "/v1/chat/completions", &ask);
    assert_eq!(status, 200, "{answer}");
    assert_eq!(client.get("/api/session")["model"]["state"], "ready");
}

#[test]
fn a_file_that_is_no_model_ends_the_server_with_the_reason() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("no-model.gguf");
    std::fs::write(&path, "not a model").unwrap();
    for (model, reason) in [(path.to_str().unwrap(), "no-model.gguf"), ("nonesuch", "nonesuch")] {
        let mut server = Server::start(home.path(), model, &[]);
        assert!(!server.process.wait().unwrap().success());
        assert!(server.says(reason).starts_with("rapport: "), "{model}");
    }
}
