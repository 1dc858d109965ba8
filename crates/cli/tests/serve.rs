//! `rapport serve` with the default model over HTTP: adapters, and the cache on disk.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail their test")]

use std::io::{BufRead, BufReader};
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rapport_kernels::{Compute, Isa};
use rapport_model::Transformer;
use rapport_model::adapter::{Routing, Storage};
use rapport_model::gguf::Gguf;
use rapport_testkit::RandomAdapter;
use serde_json::{Value, json};

struct Server {
    process: Child,
    url: String,
    lines: Option<std::thread::JoinHandle<Vec<String>>>,
}

impl Server {
    fn start(home: &Path, arguments: &[&str]) -> Self {
        let model = rapport_testkit::default_model();
        let mut process = Command::new(env!("CARGO_BIN_EXE_rapport"))
            .args(["serve", "--port", "0", "--model", model.to_str().unwrap()])
            .args(arguments)
            .env("RAPPORT_HOME", home)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines().map(Result::unwrap);
        let mut said = Vec::new();
        let url = lines.by_ref().find_map(|line| {
            let url = line.split_once(" at http://").map(|(_, rest)| format!("http://{rest}/v1"));
            said.push(line);
            url
        });
        let url = url.unwrap_or_else(|| panic!("the server says where it listens: {said:?}"));
        let is_ready = lines.by_ref().any(|line| {
            let is_it = line.ends_with(" is ready");
            said.push(line);
            is_it
        });
        assert!(is_ready, "the server says when it can answer: {said:?}");
        // The rest is read so that the server never waits for it.
        let lines = std::thread::spawn(move || said.into_iter().chain(lines).collect());
        Self { process, url, lines: Some(lines) }
    }

    fn chat(&self, model: &str, messages: &Value) -> Value {
        let body = json!({
            "model": model, "messages": messages, "temperature": 0, "max_tokens": 24,
            "logprobs": true, "reasoning_effort": "none",
        });
        let agent: ureq::Agent =
            ureq::Agent::config_builder().http_status_as_error(false).proxy(None).build().into();
        let mut answer = agent
            .post(format!("{}/chat/completions", self.url))
            .header("content-type", "application/json")
            .send(body.to_string())
            .unwrap();
        serde_json::from_str(&answer.body_mut().read_to_string().unwrap()).unwrap()
    }

    /// Asks it to end, waits for that, and tells what it said.
    fn end(mut self) -> Vec<String> {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        assert!(self.process.wait().unwrap().success());
        self.lines.take().unwrap().join().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What was written, and the log-probability of each token.
fn choice(answer: &Value) -> &Value {
    assert!(answer["choices"][0]["logprobs"]["content"][0].is_object(), "{answer}");
    &answer["choices"][0]
}

#[test]
fn replies_made_at_once_with_different_adapters_are_those_made_alone() {
    let home = tempfile::tempdir().unwrap();
    let compute = Compute::new(Isa::detect(), NonZeroUsize::new(2).unwrap());
    let path = rapport_testkit::default_model();
    let model = Transformer::load(&Gguf::open(&path).unwrap(), &compute).unwrap();
    let folder = home.path().join("adapters");
    let routing = Some(Routing { n_experts: 4, top_k: 2 });
    for (name, seed, routing) in [("one", 1, routing), ("two", 2, None)] {
        let random = RandomAdapter { seed, rank: 4, routing, strength: 0.05 };
        let adapter = random.for_model(model.architecture());
        adapter.save(&folder.join(name), Storage::F16).unwrap();
    }
    drop(model);
    let server = Server::start(home.path(), &["--adapter", folder.to_str().unwrap()]);
    let messages = json!([{ "role": "user", "content": "Tell me a story about a lighthouse." }]);
    let models = ["rapport", "rapport@one", "rapport-fast@two", "rapport@none"];
    let alone = models.map(|model| server.chat(model, &messages));
    let together = std::thread::scope(|scope| {
        let (server, messages) = (&server, &messages);
        let asked = models.map(|model| scope.spawn(move || server.chat(model, messages)));
        asked.map(|reply| reply.join().unwrap())
    });
    for (idx, (together, alone)) in together.iter().zip(&alone).enumerate() {
        assert_eq!(choice(together), choice(alone), "{}", models[idx]);
        assert_eq!(together["system_fingerprint"], alone["system_fingerprint"]);
    }
    // Of a folder none answers unless it is chosen.
    assert_eq!(choice(&alone[0]), choice(&alone[3]));
    assert_ne!(choice(&alone[1]), choice(&alone[0]));
    assert_ne!(choice(&alone[2]), choice(&alone[0]));
    assert_ne!(alone[1]["system_fingerprint"], alone[0]["system_fingerprint"]);
    let refused = server.chat("rapport@three", &messages);
    assert_eq!(refused["error"]["code"], "model_not_found", "{refused}");
}

#[test]
fn a_conversation_goes_on_from_disk_after_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let arguments = ["--data", data.to_str().unwrap(), "--cache-bytes", "200MB"];
    let question = "Say in one sentence what each of these is for: a lighthouse, a harbour, an \
                    anchor, a compass, a rudder, a keel, a mast, a sail, a rope, and a chart.";
    let mut messages = json!([{ "role": "user", "content": question }]);
    let cached = |answer: &Value| {
        answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
    };
    let first = Server::start(home.path(), &arguments);
    let answer = first.chat("rapport", &messages);
    assert_eq!(cached(&answer), 0);
    first.end();
    assert!(data.join("cache").is_dir());

    let turns = messages.as_array_mut().unwrap();
    turns.push(
        json!({ "role": "assistant", "content": answer["choices"][0]["message"]["content"] }),
    );
    turns.push(json!({ "role": "user", "content": "And which of them is the oldest?" }));
    let second = Server::start(home.path(), &arguments);
    let warm = second.chat("rapport", &messages);
    assert!(cached(&warm) >= 32, "{warm}");
    second.end();

    // As it is without: another build's pages are not used, and the text is the same.
    let other = Server::start(home.path(), &[&arguments[..], &["--kv", "q8_0"]].concat());
    assert_eq!(cached(&other.chat("rapport", &messages)), 0);
    let said = other.end().join("\n");
    assert!(said.contains("files of other builds"), "{said}");
    let none = Server::start(home.path(), &[&arguments[..2], &["--cache-bytes", "0"]].concat());
    let cold = none.chat("rapport", &messages);
    assert_eq!(cached(&cold), 0);
    assert_eq!(choice(&cold), choice(&warm));
}

#[test]
fn a_model_that_guesses_ahead_changes_no_text() {
    let home = tempfile::tempdir().unwrap();
    let path = rapport_testkit::default_model();
    let messages = json!([{ "role": "user", "content": "Name three birds." }]);
    let plain = Server::start(home.path(), &["--cache-bytes", "0"]);
    let expected = plain.chat("rapport", &messages);
    drop(plain);
    let arguments = ["--cache-bytes", "0", "--draft", path.to_str().unwrap()];
    let guessing = Server::start(home.path(), &arguments);
    let found = guessing.chat("rapport", &messages);
    assert_eq!(choice(&found), choice(&expected));
}
