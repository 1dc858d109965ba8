//! A server that does to each request what a script says.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

/// What happens to one reply.
#[derive(Clone)]
pub(crate) enum Act {
    Send(Vec<u8>),
    /// One byte at a time.
    Dribble(Vec<u8>),
    /// Until the client hangs up, which is told.
    AwaitClose,
}

pub(crate) type Script = Vec<Act>;

/// A request as it came.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) head: String,
    pub(crate) body: Value,
}

struct State {
    scripts: Mutex<VecDeque<Script>>,
    asked: Mutex<Vec<Asked>>,
    closed: Mutex<Sender<()>>,
    owner: &'static str,
}

pub(crate) struct BadServer {
    pub(crate) url: String,
    state: Arc<State>,
    closed: Receiver<()>,
}

impl BadServer {
    /// Plays a script for each request for a reply; has a fault after the last.
    pub(crate) fn start(owner: &'static str, scripts: impl IntoIterator<Item = Script>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let (sender, closed) = channel();
        let state = Arc::new(State {
            scripts: Mutex::new(scripts.into_iter().collect()),
            asked: Mutex::default(),
            closed: Mutex::new(sender),
            owner,
        });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || converse(stream, &state));
            }
        });
        Self { url, state, closed }
    }

    /// The requests for replies so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.state.asked.lock().unwrap())
    }

    /// Waits until a client has hung up on [`Act::AwaitClose`].
    pub(crate) fn await_close(&self) {
        self.closed.recv_timeout(std::time::Duration::from_secs(30)).unwrap();
    }
}

/// Answers one request, then hangs up.
fn converse(mut stream: TcpStream, state: &State) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let path = head.split(' ').nth(1)?.to_owned();
    let lower = head.to_lowercase();
    let length = lower.lines().find_map(|line| line.strip_prefix("content-length:"));
    let mut body = vec![0; length.map_or(0, |length| length.trim().parse().unwrap())];
    reader.read_exact(&mut body).ok()?;
    if path == "/v1/models" {
        let list = json!({ "data": [{ "id": "m", "owned_by": state.owner }] }).to_string();
        return stream.write_all(whole(200, "", &list).as_slice()).ok();
    }
    let body = serde_json::from_slice(&body).unwrap();
    state.asked.lock().unwrap().push(Asked { path, head, body });
    let script = state.scripts.lock().unwrap().pop_front();
    let fault = || vec![Act::Send(whole(500, "", "{}"))];
    for act in script.unwrap_or_else(fault) {
        match act {
            Act::Send(bytes) => stream.write_all(&bytes).ok()?,
            Act::Dribble(bytes) => {
                bytes.iter().try_for_each(|byte| stream.write_all(&[*byte])).ok()?;
            }
            Act::AwaitClose => {
                let _ = reader.read(&mut [0; 64]);
                let _ = state.closed.lock().unwrap().send(());
                return None;
            }
        }
    }
    // Whoever sends no length ends by hanging up.
    stream.shutdown(std::net::Shutdown::Write).ok()
}

/// A whole answer. It says, as every one does, that the server hangs up after it: a client that
/// thought otherwise would now and then send its next request into a closed connection.
pub(crate) fn whole(status: u16, headers: &str, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{headers}Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// The head of a stream of events.
pub(crate) const STREAM: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";

/// A part of a chunked body.
pub(crate) fn chunk(text: &str) -> Vec<u8> {
    format!("{:x}\r\n{text}\r\n", text.len()).into_bytes()
}

pub(crate) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// A piece of an answer as an event.
pub(crate) fn piece(text: &str) -> Vec<u8> {
    chunk(&format!("data: {}\n\n", json!({ "choices": [{ "delta": { "content": text } }] })))
}

/// The event that ends a reply.
pub(crate) fn finish() -> Vec<u8> {
    let choice = json!({ "delta": {}, "finish_reason": "stop" });
    chunk(&format!("data: {}\n\n", json!({ "choices": [choice] })))
}

/// A reply as it should be.
pub(crate) fn good(words: &[&str]) -> Script {
    let usage = json!({ "prompt_tokens": 3, "completion_tokens": words.len() });
    let usage = format!("data: {}\n\ndata: [DONE]\n\n", json!({ "choices": [], "usage": usage }));
    let mut bytes = STREAM.to_vec();
    for word in words {
        bytes.extend(piece(word));
    }
    bytes.extend(finish());
    bytes.extend(chunk(&usage));
    bytes.extend(LAST_CHUNK);
    vec![Act::Send(bytes)]
}
