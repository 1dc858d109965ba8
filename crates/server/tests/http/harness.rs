//! A server in this process, and a client for it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread::JoinHandle;

use rapport_server::{Accounts, AccountsConfig, Pages, Persona, Plans, Server, ServerConfig};
use rapport_store::{Location, Store, UnixMs};
use rapport_testkit::{Script, ScriptedEngine};
use serde_json::{Value, json};

pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) engine: Arc<ScriptedEngine>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

pub(crate) fn config() -> ServerConfig {
    ServerConfig::new("127.0.0.1:0".parse().unwrap())
}

pub(crate) fn serve(config: ServerConfig, engine: ScriptedEngine) -> Running {
    let engine = Arc::new(engine);
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let (sender, ready) = channel();
    let model = Arc::clone(&engine);
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let server = Server::listen(config, model).await.unwrap();
            sender.send(server.address().unwrap()).unwrap();
            let stopped = async {
                let _ = stopped.await;
            };
            server.run(stopped).await;
        });
    });
    Running { address: ready.recv().unwrap(), engine, stop: Some(stop), thread: Some(thread) }
}

/// A page and a script of it.
const PAGES: &[(&str, &[u8])] =
    &[("/index.html", b"<html><script>start()</script></html>"), ("/_app/immutable/a.js", b"1")];

/// A server that knows people, whose store is the file `database`, and the token of its first link.
pub(crate) fn serve_people(
    database: &std::path::Path,
    plans: Plans,
    engine: ScriptedEngine,
) -> (Running, Option<String>) {
    let engine = Arc::new(engine);
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let (sender, ready) = channel();
    let model = Arc::clone(&engine);
    let location = Location::Sqlite(database.to_owned());
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = Arc::new(Store::open(&location, UnixMs(0)).await.unwrap());
            let personas = vec![Persona {
                id: "plain".to_owned(),
                version: "1".to_owned(),
                name: "Plain".to_owned(),
                tagline: "Says little".to_owned(),
                description: String::new(),
                languages: vec!["en".to_owned()],
                prompt: "Say little.".to_owned(),
            }];
            let pages = Pages::new(PAGES);
            let accounts = AccountsConfig {
                store: Arc::clone(&store),
                plans,
                personas,
                pages,
                has_tls: false,
            };
            let accounts = Accounts::open(accounts).await.unwrap();
            let link = accounts.first_link().await.unwrap();
            let server = Server::listen(config(), model).await.unwrap().with_accounts(accounts);
            let link = link.map(|link| link.reveal().to_owned());
            sender.send((server.address().unwrap(), link)).unwrap();
            let stopped = async {
                let _ = stopped.await;
            };
            server.run(stopped).await;
            store.close().await;
        });
    });
    let (address, link) = ready.recv().unwrap();
    (Running { address, engine, stop: Some(stop), thread: Some(thread) }, link)
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// An answer to a request.
pub(crate) struct Answered {
    pub(crate) status: u16,
    pub(crate) headers: String,
    pub(crate) text: String,
}

impl Answered {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| Value::String(self.text.clone()))
    }
}

/// An event of a stream.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) name: String,
    pub(crate) data: Value,
}

impl Running {
    pub(crate) fn start(answer: &'static str) -> Self {
        serve(config(), ScriptedEngine::answering(move |_| Script::answer(answer)))
    }

    /// Asks the server to end.
    pub(crate) fn stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }

    /// Sends a request as it is and reads to the end.
    pub(crate) fn raw(&self, request: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer)
    }

    pub(crate) fn with_headers(&self, headers: &str) -> (u16, String) {
        self.raw(&format!("GET /v1/models HTTP/1.1\r\nConnection: close\r\n{headers}\r\n"))
    }

    pub(crate) fn send(&self, method: &str, path: &str, body: Option<&str>) -> Answered {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .allow_non_standard_methods(true)
            .build()
            .into();
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address))
            .header("content-type", "application/json");
        let mut response = match body {
            Some(body) => agent.run(request.body(body.to_owned()).unwrap()).unwrap(),
            None => agent.run(request.body(()).unwrap()).unwrap(),
        };
        Answered {
            status: response.status().as_u16(),
            headers: format!("{:?}", response.headers()),
            text: response.body_mut().read_to_string().unwrap(),
        }
    }

    pub(crate) fn get(&self, path: &str) -> (u16, Value) {
        let answered = self.send("GET", path, None);
        (answered.status, answered.json())
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let answered = self.send("POST", path, Some(&body.to_string()));
        (answered.status, answered.json())
    }

    pub(crate) fn chat(&self, body: &Value) -> (u16, Value) {
        self.post("/v1/chat/completions", body)
    }

    /// The events of a stream.
    pub(crate) fn events(&self, path: &str, mut body: Value) -> Vec<Said> {
        body["stream"] = json!(true);
        let answered = self.send("POST", path, Some(&body.to_string()));
        assert_eq!(answered.status, 200, "{}", answered.text);
        let mut events = Vec::new();
        for event in answered.text.split("\n\n").filter(|event| !event.trim().is_empty()) {
            let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
            let Some(data) = field("data: ") else { continue };
            let name = field("event: ").unwrap_or_default().to_owned();
            let data = serde_json::from_str(data).unwrap_or_else(|_| json!(data));
            events.push(Said { name, data });
        }
        events
    }

    /// The data of the events of a streamed chat completion, as text.
    pub(crate) fn stream(&self, body: Value) -> Vec<String> {
        let events = self.events("/v1/chat/completions", body).into_iter();
        let text = |data: Value| data.as_str().map_or_else(|| data.to_string(), str::to_owned);
        events.map(|said| text(said.data)).collect()
    }
}

pub(crate) fn ask(extra: &Value) -> Value {
    let body = json!({ "model": "rapport", "messages": [{ "role": "user", "content": "hi" }] });
    with(body, extra)
}

/// A body with more fields.
pub(crate) fn with(mut body: Value, extra: &Value) -> Value {
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}
