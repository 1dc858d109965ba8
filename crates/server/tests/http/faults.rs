//! Named faults of requests and of serving: each is refused or survived, and the server lives on.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rapport_server::{ServerConfig, TimeLimits};
use rapport_testkit::{Script, ScriptedEngine};
use rapport_types::GenerateError;
use serde_json::{Value, json};

use crate::harness::{Running, ask, config, serve};

const CHAT: &str = "/v1/chat/completions";

fn is_well(server: &Running) {
    assert_eq!(server.chat(&ask(&json!({}))).0, 200);
}

#[test]
fn f09_numbers_out_of_range_are_refused() {
    let server = Running::start("ok");
    let fields =
        ["n", "top_logprobs", "max_tokens", "top_k", "seed", "temperature", "top_p", "min_p"];
    for field in fields {
        for value in ["-1", "9223372036854775808", "1e308", "\"5\"", "[]", "{}", "true", "-0.5"] {
            let body = format!(
                r#"{{"model":"rapport","messages":[{{"role":"user","content":"x"}}],"{field}":{value}}}"#
            );
            let answered = server.send("POST", CHAT, Some(&body));
            let is_seed = field == "seed" && value == "-1";
            let expected = if is_seed { 200 } else { 400 };
            assert_eq!(answered.status, expected, "{field} {value}: {}", answered.text);
        }
        let absent = ask(&json!({ field: null }));
        assert_eq!(server.chat(&absent).0, 200, "{field} null");
    }
    for value in ["NaN", "Infinity", "1e999"] {
        let body = format!(r#"{{"model":"rapport","messages":[],"temperature":{value}}}"#);
        assert_eq!(server.send("POST", CHAT, Some(&body)).status, 400, "{value}");
    }
}

#[test]
fn f10_conversations_without_words_are_answered_or_refused() {
    let server = Running::start("ok");
    let messages = |messages: Value| server.chat(&ask(&json!({ "messages": messages })));
    assert_eq!(messages(json!([])).0, 400);
    assert_eq!(messages(json!([{ "role": "system", "content": "x" }])).0, 200);
    assert_eq!(messages(json!([{ "role": "user", "content": null }])).0, 200);
    assert_eq!(messages(json!([{ "role": "USER", "content": "x" }])).0, 400);
    assert_eq!(messages(json!([{ "content": "x" }])).0, 400);
    assert_eq!(messages(json!("hi")).0, 400);
    let engine = ScriptedEngine::answering(|_| Script::answer("ok")).with_context_tokens(3);
    let small = serve(config(), engine);
    let said = |text: &str| ask(&json!({ "messages": [{ "role": "user", "content": text }] }));
    assert_eq!(small.chat(&said("a b c")).0, 200);
    let (status, body) = small.chat(&said("a b c d"));
    assert_eq!((status, &body["error"]["code"]), (400, &json!("context_length_exceeded")));
}

#[test]
fn f11_strange_characters_go_through_or_are_refused() {
    let server = serve(
        config(),
        ScriptedEngine::answering(|request| Script::new().text(&request.messages[0].content)),
    );
    let deep = format!("a{}", "\u{301}".repeat(10_000));
    for text in ["x".repeat(1 << 20), deep, "👩\u{200d}👧 日本\0".to_owned()] {
        let body = ask(&json!({ "messages": [{ "role": "user", "content": text }] }));
        let (status, answer) = server.chat(&body);
        assert_eq!(
            (status, answer["choices"][0]["message"]["content"].as_str()),
            (200, Some(&*text))
        );
    }
    let lone = r#"{"model":"rapport","messages":[{"role":"user","content":"\ud800"}]}"#;
    assert_eq!(server.send("POST", CHAT, Some(lone)).status, 400);
}

#[test]
fn f13_bodies_that_are_no_request_are_refused() {
    let server = Running::start("ok");
    let deep = "[".repeat(100_000);
    let twice = r#"{"model":"rapport","model":"rapport","messages":[]}"#;
    for body in [deep.as_str(), twice, "", "{", "null", "\u{feff}{}", r#"{"model":"rapport"}"#] {
        let answered = server.send("POST", CHAT, Some(body));
        assert_eq!(answered.status, 400, "{body:.40}: {}", answered.text);
        assert_eq!(answered.json()["error"]["type"], "invalid_request_error");
    }
    let post = |headers: &str, body: &str| {
        server.raw(&format!(
            "POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n{body}"
        ))
    };
    assert_eq!(post("Content-Encoding: gzip\r\nContent-Length: 2\r\n", "{}").0, 415);
    assert_eq!(post("Content-Length: 99999999999\r\n", "{}").0, 413);
    assert_eq!(post("Content-Length: -5\r\n", "{}").0, 400);
    let huge = format!("X-Large: {}\r\n", "x".repeat(1 << 20));
    let mut stream = TcpStream::connect(server.address).unwrap();
    // The server may have hung up before all of it was sent.
    let _ = write!(stream, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n{huge}\r\n");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"));
    is_well(&server);
}

#[test]
fn f13_paths_and_queries_that_cannot_be_read_are_refused_as_everything_is() {
    let server = Running::start("ok");
    for path in [
        "/v1/responses/x/input_items?order=asc&order=asc",
        "/v1/responses/x/input_items?limit=many",
        "/v1/responses/%FF/input_items",
        "/v1/models/%FF%FE",
        "/v1/chat/deferred-completion/%C0",
    ] {
        let answered = server.send("GET", path, None);
        assert_eq!(answered.status, 400, "{path}: {}", answered.text);
        assert_eq!(answered.json()["error"]["type"], "invalid_request_error", "{path}");
    }
}

#[test]
fn f16_wrong_content_types_are_refused_and_unknown_fields_change_nothing() {
    let server = Running::start("ok");
    let body = ask(&json!({ "chat_template_kwargs": { "messages": [] }, "discard": -1 }));
    assert_eq!(server.chat(&body).0, 200);
    assert_eq!(server.engine.requests()[0].messages.len(), 1);
    for (kind, status) in [
        ("application/json; charset=utf-8", 200),
        ("application/vnd.api+json", 200),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
    ] {
        let text = body.to_string();
        let (found, _) = server.raw(&format!(
            "POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: {kind}\r\n\
             Content-Length: {}\r\n\r\n{text}",
            text.len()
        ));
        assert_eq!(found, status, "{kind}");
    }
}

#[test]
fn f27_a_panic_ends_its_own_request_only() {
    let engine = ScriptedEngine::answering(|request| {
        assert!(request.messages[0].content != "panic", "as asked");
        Script::answer("ok")
    });
    let server = serve(config(), engine);
    let body = ask(&json!({ "messages": [{ "role": "user", "content": "panic" }] }));
    let (status, answer) = server.chat(&body);
    assert_eq!((status, answer["error"]["type"].as_str()), (500, Some("server_error")));
    assert!(!answer.to_string().contains("as asked"), "what broke is no business of the client");
    is_well(&server);
}

#[test]
fn f30_replies_may_end_while_the_server_ends() {
    let (sender, go) = channel::<()>();
    let go = Arc::new(Mutex::new(go));
    let engine = ScriptedEngine::answering(move |_| {
        let go = Arc::clone(&go);
        Script::new().text("first ").run(move || go.lock().unwrap().recv().unwrap()).text("last")
    });
    let mut server = serve(config(), engine);
    let mut lines = stream_lines(&server);
    assert!(lines.any(|line| line.contains("first")));
    server.stop();
    // New connections are refused from some moment on; then the reply goes on to its end.
    while TcpStream::connect(server.address).is_ok() {
        std::thread::yield_now();
    }
    sender.send(()).unwrap();
    let rest: Vec<String> = lines.collect();
    assert!(rest.iter().any(|line| line.contains("last")), "{rest:?}");
    assert!(rest.iter().any(|line| line.contains("[DONE]")), "{rest:?}");
}

#[test]
fn f30_a_reply_that_takes_too_long_is_cut_with_an_error() {
    let engine = ScriptedEngine::answering(|_| Script::new().text("first ").await_stop());
    let mut server = serve(ServerConfig { drain: Duration::ZERO, ..config() }, engine);
    let mut lines = stream_lines(&server);
    assert!(lines.any(|line| line.contains("first")));
    server.stop();
    let rest: Vec<String> = lines.collect();
    assert!(rest.iter().any(|line| line.starts_with("event: error")), "{rest:?}");
    assert!(!rest.iter().any(|line| line.contains("[DONE]")), "{rest:?}");
}

/// A connection on which a stream was asked for.
fn stream_of(server: &Running) -> TcpStream {
    let body = ask(&json!({ "stream": true })).to_string();
    let mut stream = TcpStream::connect(server.address).unwrap();
    write!(
        stream,
        "POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    stream
}

fn stream_lines(server: &Running) -> impl Iterator<Item = String> + use<> {
    BufReader::new(stream_of(server)).lines().map_while(Result::ok)
}

#[test]
fn f39_a_bearer_and_an_x_api_key_decide_alike() {
    let keyed = ServerConfig { api_key: Some("secret".to_owned()), ..config() };
    let server = serve(keyed, ScriptedEngine::answering(|_| Script::answer("ok")));
    let with = |headers: &str| server.with_headers(&format!("Host: localhost\r\n{headers}")).0;
    assert_eq!(with("x-api-key: secret\r\n"), 200);
    assert_eq!(with("x-api-key: secre\r\n"), 401);
    assert_eq!(with("Authorization: Bearer secret\r\nx-api-key: other\r\n"), 401);
    assert_eq!(with("Authorization: Bearer other\r\nx-api-key: secret\r\n"), 401);
    assert_eq!(with("Authorization: Basic secret\r\n"), 401);
    assert_eq!(with("Authorization: Bearer secret\r\nx-api-key: secret\r\n"), 200);
}

#[test]
fn f42_errors_name_neither_keys_nor_prompts() {
    let keyed = ServerConfig { api_key: Some("hidden-key".to_owned()), ..config() };
    let server = serve(keyed, ScriptedEngine::answering(|_| Script::answer("ok")));
    let (status, answer) =
        server.with_headers("Host: localhost\r\nAuthorization: Bearer guessed-key\r\n");
    assert_eq!(status, 401);
    assert!(!answer.contains("hidden-key") && !answer.contains("guessed-key"));
    let (_, answer) = server.raw(
        "GET /v1/api-key HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer hidden-key\r\n\r\n",
    );
    assert!(answer.contains("hid...") && !answer.contains("hidden-key"), "{answer}");
}

#[test]
fn every_answer_has_an_id_to_speak_of_it_by() {
    let server = Running::start("ok");
    assert!(server.send("GET", "/healthz", None).headers.contains("x-request-id"));
    let ask =
        |id: &str| server.with_headers(&format!("Host: localhost\r\nX-Request-Id: {id}\r\n")).1;
    assert!(ask("mine-1").to_lowercase().contains("x-request-id: mine-1\r\n"));
    for odd in ["a b", &"x".repeat(200), "<script>"] {
        let answer = ask(odd).to_lowercase();
        assert!(answer.contains("x-request-id: req_") && !answer.contains(odd), "{answer}");
    }
}

#[test]
fn f13_bodies_that_come_little_by_little_are_cut_off() {
    let time_limits = TimeLimits { body: Duration::from_millis(50), ..TimeLimits::default() };
    let engine = ScriptedEngine::answering(|_| Script::answer("ok"));
    let server = serve(ServerConfig { time_limits, ..config() }, engine);
    let body = ask(&json!({})).to_string();
    for (path, kind) in [
        (CHAT, "application/json"),
        ("/v1/messages", "application/json"),
        ("/xai_api.Chat/GetCompletion", "application/grpc"),
    ] {
        let mut stream = TcpStream::connect(server.address).unwrap();
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n\
             Content-Length: {}\r\n\r\n{}",
            body.len(),
            &body[..body.len() / 2]
        )
        .unwrap();
        // The connection ends although this side keeps it open.
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let is_told = answer.starts_with("HTTP/1.1 408") || answer.contains("grpc-status: 4");
        assert!(is_told, "{path}: {answer}");
    }
    assert_eq!(server.engine.requests(), []);
    is_well(&server);
}

#[test]
fn f17_stop_strings_are_counted_and_go_to_the_engine_as_they_are() {
    let server = Running::start("ok");
    let with = |stop: Value| server.chat(&ask(&json!({ "stop": stop })));
    let (status, body) = with(json!(vec!["x"; 1000]));
    assert_eq!((status, &body["error"]["param"]), (400, &json!("stop")));
    assert_eq!(with(json!(["", "日本", "a\u{0}b"])).0, 200);
    assert_eq!(with(Value::Null).0, 200);
    assert_eq!(server.engine.requests()[0].stop, ["", "日本", "a\u{0}b"]);
}

#[test]
fn f20_addresses_that_a_client_sends_are_never_opened() {
    let server = Running::start("ok");
    let victim = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    victim.set_nonblocking(true).unwrap();
    let url = format!("http://{}/x.png", victim.local_addr().unwrap());
    let image = json!({ "type": "image_url", "image_url": { "url": url } });
    let block = json!({ "type": "image", "source": { "type": "url", "url": url } });
    let input = json!({ "type": "input_image", "image_url": url });
    for (path, body) in [
        (CHAT, json!({ "messages": [{ "role": "user", "content": [image] }] })),
        (
            "/v1/messages",
            json!({ "max_tokens": 4, "messages": [{ "role": "user", "content": [block] }] }),
        ),
        ("/v1/responses", json!({ "input": [{ "role": "user", "content": [input] }] })),
        ("/v1/responses", json!({ "input": "x", "tools": [{ "type": "mcp", "server_url": url }] })),
    ] {
        let mut body = body;
        body["model"] = json!("rapport");
        let (status, answer) = server.post(path, &body);
        assert_eq!(status, 400, "{path}: {answer}");
    }
    let words = ask(&json!({ "messages": [{ "role": "user", "content": url }] }));
    assert_eq!(server.chat(&words).0, 200);
    assert!(victim.accept().is_err(), "somebody called");
}

#[test]
fn f23_readers_that_stop_reading_harm_nobody() {
    const N_READERS: usize = 50;
    let engine = ScriptedEngine::answering(|request| {
        let n_words = if request.messages[0].content == "hi" { 2_000 } else { 2 };
        (0..n_words).fold(Script::new(), |script, _| script.text("word "))
    });
    let server = serve(config(), engine);
    let body = ask(&json!({ "stream": true, "max_tokens": 4_000 })).to_string();
    let lazy: Vec<TcpStream> = (0..N_READERS)
        .map(|_| {
            let mut stream = TcpStream::connect(server.address).unwrap();
            let length = body.len();
            write!(
                stream,
                "POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}"
            )
            .unwrap();
            stream
        })
        .collect();
    let other = ask(&json!({ "messages": [{ "role": "user", "content": "another" }] }));
    let (status, answer) = server.chat(&other);
    assert_eq!(
        (status, answer["choices"][0]["message"]["content"].as_str()),
        (200, Some("word word "))
    );
    // Those that read on later have lost nothing.
    let mut lines = BufReader::new(lazy.into_iter().next().unwrap()).lines().map_while(Result::ok);
    let n_words = lines
        .by_ref()
        .take_while(|line| !line.contains("[DONE]"))
        .filter(|line| line.contains("word "))
        .count();
    assert_eq!(n_words, 2_000);
    is_well(&server);
}

#[test]
fn f13_a_body_of_a_refused_request_is_not_waited_for() {
    let keyed = ServerConfig { api_key: Some("secret".to_owned()), ..config() };
    let server = serve(keyed, ScriptedEngine::answering(|_| Script::answer("ok")));
    let mut stream = TcpStream::connect(server.address).unwrap();
    write!(stream, "POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n\r\n{{")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
}

#[test]
fn a_client_that_does_not_read_loses_its_connection() {
    // More than the system's buffers hold.
    let engine = ScriptedEngine::answering(|_| {
        (0..64).fold(Script::new(), |script, _| script.text(&"x".repeat(1 << 20)))
    });
    let time_limits = TimeLimits { reading: Duration::from_millis(50), ..TimeLimits::default() };
    let server = serve(ServerConfig { time_limits, ..config() }, engine);
    let mut stream = stream_of(&server);
    // Nothing is read until the server has hung up.
    let is_open = || {
        let metrics = server.send("GET", "/metrics", None).text;
        !metrics.contains("rapport:http_connections 1\n")
    };
    let mut first = [0];
    stream.read_exact(&mut first).unwrap();
    while is_open() {
        std::thread::yield_now();
    }
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(rest.len() < 64 << 20, "it was cut: {}", rest.len());
    assert!(!rest.ends_with(b"data: [DONE]\n\n0\r\n\r\n"));
}

#[test]
fn f24_a_full_queue_is_told_with_when_to_come_back() {
    let error = Arc::new(Mutex::new(GenerateError::Overloaded));
    let shared = Arc::clone(&error);
    let engine =
        ScriptedEngine::answering(move |_| Script::refused(shared.lock().unwrap().clone()));
    let server = serve(config(), engine);
    for (refusal, status, seconds) in [
        (GenerateError::Overloaded, 429, "1"),
        (GenerateError::Busy { retry_after_s: 7 }, 429, "7"),
        (GenerateError::Unavailable { reason: "x".to_owned(), retry_after_s: 9 }, 503, "9"),
    ] {
        *error.lock().unwrap() = refusal;
        for stream in [false, true] {
            let body = ask(&json!({ "stream": stream })).to_string();
            let answered = server.send("POST", CHAT, Some(&body));
            assert_eq!(answered.status, status, "{}", answered.text);
            let header = format!("\"retry-after\": \"{seconds}\"");
            assert!(answered.headers.contains(&header), "{}", answered.headers);
        }
    }
}

#[test]
fn f37_a_reply_that_breaks_before_its_first_word_is_told_by_its_status() {
    let engine = ScriptedEngine::broken_at_once(GenerateError::Busy { retry_after_s: 7 });
    let server = serve(config(), engine);
    for path in [CHAT, "/v1/responses", "/v1/messages"] {
        let body = json!({
            "model": "rapport", "stream": true, "max_tokens": 4, "input": "hi",
            "messages": [{ "role": "user", "content": "hi" }],
        });
        let answered = server.send("POST", path, Some(&body.to_string()));
        assert_eq!(answered.status, 429, "{path}: {}", answered.text);
        assert!(answered.headers.contains("\"retry-after\": \"7\""), "{}", answered.headers);
    }
}
