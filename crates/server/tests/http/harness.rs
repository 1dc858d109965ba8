//! A server in this process, and a client for it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

use futures_util::future::BoxFuture;
use rapport_server::{
    Accounts, AccountsConfig, Clock, InputFilter, Oidc, OidcConfig, Pages, Persona, ReadMessages,
    Server, ServerConfig, SystemClock,
};
use rapport_store::{Location, Plans, Store, UnixMs};
use rapport_testkit::{Script, ScriptedEngine};
use serde_json::{Value, json};
use tokio::sync::watch;

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
    serve_with(config, engine, |server| server)
}

/// A server with something more.
pub(crate) fn serve_with(
    config: ServerConfig,
    engine: ScriptedEngine,
    dress: impl FnOnce(Server) -> Server + Send + 'static,
) -> Running {
    let engine = Arc::new(engine);
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let (sender, ready) = channel();
    let model = Arc::clone(&engine);
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let server = dress(Server::listen(config, model).await.unwrap());
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

/// Reads one word in messages.
#[derive(Debug)]
struct WordReader;

impl ReadMessages for WordReader {
    fn read(&self, message: &str) -> Value {
        json!({ "n_bytes": message.len() })
    }

    fn guidance(&self, message: &str) -> Option<String> {
        message.contains("danger").then(|| "Help first.".to_owned())
    }

    fn written(&self, message: &str) -> Option<String> {
        message.contains("danger").then(|| "Are you safe\\?".to_owned())
    }
}

/// A clock that a test moves. It begins with the real time.
#[derive(Debug)]
pub(crate) struct TestClock {
    ahead_ms: watch::Sender<i64>,
    /// How often somebody has begun to wait.
    n_waits: Mutex<u64>,
    waits: Condvar,
}

impl TestClock {
    fn new() -> Arc<Self> {
        let ahead_ms = watch::Sender::new(0);
        Arc::new(Self { ahead_ms, n_waits: Mutex::default(), waits: Condvar::new() })
    }

    /// Moves the clock, and returns when whoever waited for the new time has done what it had to do
    /// and waits again.
    pub(crate) fn advance(&self, milliseconds: i64) {
        let before = *self.n_waits.lock().unwrap();
        self.ahead_ms.send_modify(|ahead_ms| *ahead_ms += milliseconds);
        let waiting = self.n_waits.lock().unwrap();
        let patience = std::time::Duration::from_mins(1);
        let (_held, timed_out) =
            self.waits.wait_timeout_while(waiting, patience, |n_waits| *n_waits == before).unwrap();
        assert!(!timed_out.timed_out(), "nobody waits for this clock");
    }

    /// Moves the clock where nobody waits for it.
    pub(crate) fn jump(&self, milliseconds: i64) {
        self.ahead_ms.send_modify(|ahead_ms| *ahead_ms += milliseconds);
    }
}

impl Clock for TestClock {
    fn now(&self) -> UnixMs {
        SystemClock.now().plus_ms(*self.ahead_ms.borrow())
    }

    fn reach(&self, time: UnixMs) -> BoxFuture<'static, ()> {
        *self.n_waits.lock().unwrap() += 1;
        self.waits.notify_all();
        let mut ahead_ms = self.ahead_ms.subscribe();
        Box::pin(async move {
            // Only the test makes it later: the seconds that pass meanwhile do not count.
            let rest_ms = time.0 - SystemClock.now().0;
            drop(ahead_ms.wait_for(|ahead_ms| *ahead_ms >= rest_ms).await);
        })
    }
}

/// A server that knows people.
pub(crate) struct People {
    /// The file of its store.
    pub(crate) database: PathBuf,
    pub(crate) plans: Plans,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) oidc: Option<OidcConfig>,
    pub(crate) config: ServerConfig,
    pub(crate) filter: Option<Arc<dyn InputFilter>>,
    pub(crate) policy: Option<&'static str>,
}

impl People {
    pub(crate) fn new(database: PathBuf) -> Self {
        let (plans, clock) = (Plans::default(), TestClock::new());
        Self { database, plans, clock, oidc: None, config: config(), filter: None, policy: None }
    }

    /// Starts it; also the token of its first link, where it gives one.
    pub(crate) fn serve(&self, engine: Arc<ScriptedEngine>) -> (Running, Option<String>) {
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (sender, ready) = channel();
        let model = Arc::clone(&engine);
        let location = Location::Sqlite(self.database.clone());
        let (plans, clock, config) =
            (self.plans.clone(), Arc::clone(&self.clock), self.config.clone());
        let (filter, policy) = (self.filter.clone(), self.policy);
        let oidc = self.oidc.clone().map(|oidc| Oidc::new(oidc).unwrap());
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
                    texts: BTreeMap::new(),
                    prompt: "Say little.".to_owned(),
                }];
                let accounts = AccountsConfig {
                    store: Arc::clone(&store),
                    plans,
                    personas,
                    pages: Pages::new(PAGES),
                    has_tls: false,
                    retention_days: None,
                    clock,
                    oidc,
                };
                let accounts = Accounts::open(accounts).await.unwrap();
                let accounts = accounts.with_reader(Arc::new(WordReader));
                let accounts = match policy {
                    Some(policy) => accounts.with_policy(policy.to_owned()),
                    None => accounts,
                };
                let link = accounts.first_link().await.unwrap();
                let mut server =
                    Server::listen(config, model).await.unwrap().with_accounts(accounts);
                if let Some(filter) = filter {
                    server = server.with_input_filter(filter);
                }
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
