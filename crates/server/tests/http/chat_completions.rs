//! Chat completions.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::mpsc::channel;

use rapport_server::{ServeError, Server, ServerConfig};
use rapport_testkit::{Script, ScriptedEngine};
use rapport_types::{GenerateError, Mode, OutputFormat};
use serde_json::{Value, json};

use crate::harness::Running;
use crate::harness::{ask, config, serve};

#[test]
fn a_whole_reply_has_text_thought_usage_and_where_it_came_from() {
    let engine = ScriptedEngine::answering(move |_| {
        Script::new().thought("feel: calm").text("Good ").text("morning!").because("a greeting")
    });
    let server = serve(config(), engine);
    let (status, body) = server.chat(&ask(&json!({ "seed": 7 })));
    assert_eq!(status, 200, "{body}");
    let choice = &body["choices"][0];
    assert_eq!(choice["message"]["content"], "Good morning!");
    assert_eq!(choice["message"]["reasoning_content"], "feel: calm");
    assert_eq!(choice["finish_reason"], "stop");
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["rapport"]["mode"]["reason"], "a greeting");
    assert_eq!(body["rapport"]["seed"], 7);
    let usage = &body["usage"];
    let [prompt, completion] =
        ["prompt_tokens", "completion_tokens"].map(|key| usage[key].as_u64().unwrap());
    assert_eq!(usage["total_tokens"], prompt + completion);
    assert!(usage["completion_tokens_details"]["reasoning_tokens"].as_u64().unwrap() > 0);
    let build = server.engine.requests().len();
    assert_eq!((build, body["system_fingerprint"].is_string()), (1, true));
}

#[test]
fn a_stream_says_the_same_piece_by_piece_and_ends_with_usage_and_done() {
    let server = Running::start("one two three");
    let events = server.stream(ask(&json!({ "stream_options": { "include_usage": true } })));
    assert_eq!(events.last().unwrap(), "[DONE]");
    let chunks: Vec<Value> =
        events[..events.len() - 1].iter().map(|text| serde_json::from_str(text).unwrap()).collect();
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    let text: String = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(text, "one two three");
    let ids: Vec<&Value> = chunks.iter().map(|chunk| &chunk["id"]).collect();
    assert!(ids.windows(2).all(|pair| pair[0] == pair[1]));
    let [end, usage] = &chunks[chunks.len() - 2..] else { unreachable!("more than two chunks") };
    assert_eq!(end["choices"][0]["finish_reason"], "stop");
    assert!(usage["choices"].as_array().unwrap().is_empty());
    assert_eq!(usage["usage"]["completion_tokens"], 3);
}

#[test]
fn several_replies_are_kept_apart() {
    let engine = ScriptedEngine::answering(|request| {
        let seed = request.sampling.seed.unwrap();
        Script::answer(&format!("reply {seed}"))
    });
    let server = serve(config(), engine);
    let (_, body) = server.chat(&ask(&json!({ "n": 3, "seed": 10 })));
    for idx in 0..3 {
        assert_eq!(body["choices"][idx]["index"], idx);
        assert_eq!(body["choices"][idx]["message"]["content"], format!("reply {}", 10 + idx));
    }
    let mut texts = [String::new(), String::new(), String::new()];
    for event in server.stream(ask(&json!({ "n": 3, "seed": 10 }))) {
        let Ok(chunk) = serde_json::from_str::<Value>(&event) else { continue };
        let choice = &chunk["choices"][0];
        let idx = choice["index"].as_u64().unwrap() as usize;
        texts[idx] += choice["delta"]["content"].as_str().unwrap_or_default();
    }
    assert_eq!(texts, ["reply 10", "reply 11", "reply 12"]);
}

#[test]
fn the_models_name_and_the_effort_choose_the_mode() {
    let server = Running::start("ok");
    for (model, effort, mode) in [
        ("rapport", None, Mode::Auto),
        ("rapport-fast", None, Mode::Fast),
        ("rapport-thinking", Some("high"), Mode::Thinking),
        ("scripted", None, Mode::Auto),
        ("rapport-thinking", Some("none"), Mode::Fast),
    ] {
        let (status, body) =
            server.chat(&ask(&json!({ "model": model, "reasoning_effort": effort })));
        assert_eq!(status, 200, "{body}");
        assert_eq!(server.engine.requests().last().unwrap().mode, mode, "{model}");
    }
}

#[test]
fn every_setting_reaches_the_engine() {
    let server = Running::start("ok");
    let schema = json!({ "type": "object", "properties": { "a": { "type": "integer" } } });
    let (status, body) = server.chat(&json!({
        "model": "rapport-fast",
        "messages": [
            { "role": "developer", "content": "Be brief." },
            { "role": "user", "content": [{ "type": "text", "text": "one " }, { "type": "text", "text": "two" }] },
            { "role": "assistant", "content": "three", "reasoning_content": "count" },
            { "role": "user", "content": "four" },
        ],
        "max_completion_tokens": 9, "max_tokens": 5, "temperature": 0.5, "top_p": 0.9, "top_k": 40,
        "min_p": 0.1, "presence_penalty": 0.25, "frequency_penalty": -0.5, "repetition_penalty": 1.5,
        "seed": -1, "stop": ["END", "STOP"], "logprobs": true, "top_logprobs": 2,
        "logit_bias": { "42": -100 },
        "response_format": { "type": "json_schema", "json_schema": { "name": "x", "schema": schema } },
        "user": "somebody", "unknown_field": { "of": "later versions" },
    }));
    assert_eq!(status, 200, "{body}");
    let request = server.engine.requests().pop().unwrap();
    let roles: Vec<&str> = request.messages.iter().map(|message| message.role.as_str()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "user"]);
    assert_eq!(request.messages[1].content, "one two");
    assert_eq!(request.messages[2].thought.as_deref(), Some("count"));
    assert_eq!((request.max_tokens, request.stop.len()), (9, 2));
    let sampling = &request.sampling;
    assert_eq!((sampling.temperature, sampling.top_p, sampling.top_k), (0.5, 0.9, 40));
    assert_eq!((sampling.min_p, sampling.repetition_penalty), (0.1, 1.5));
    assert_eq!((sampling.presence_penalty, sampling.frequency_penalty), (0.25, -0.5));
    assert_eq!((sampling.seed, sampling.top_logprobs), (Some(u64::MAX), Some(2)));
    assert_eq!((sampling.logit_bias[0].token, sampling.logit_bias[0].bias), (42, -100.0));
    let OutputFormat::JsonSchema(sent) = &request.format else { panic!("{:?}", request.format) };
    assert_eq!(serde_json::from_str::<Value>(sent).unwrap(), schema);
}

#[test]
fn what_cannot_be_honoured_is_refused_by_name_and_nothing_runs() {
    let server = Running::start("ok");
    for (extra, status, param) in [
        (json!({ "model": "gpt-99" }), 404, "model"),
        (json!({ "temperature": 3.0 }), 400, "temperature"),
        (json!({ "n": 0 }), 400, "n"),
        (json!({ "n": 1000 }), 400, "n"),
        (json!({ "reasoning_effort": "extreme" }), 400, "reasoning_effort"),
        (json!({ "response_format": { "type": "xml" } }), 400, "response_format"),
        (json!({ "response_format": { "type": "json_schema" } }), 400, "response_format"),
        (json!({ "logit_bias": { "word": 1 } }), 400, "logit_bias"),
        (json!({ "top_logprobs": 3 }), 400, "top_logprobs"),
        (json!({ "tools": [{ "type": "function" }] }), 400, "tools"),
        (json!({ "tools": [{ "type": "web_search" }] }), 400, "tools"),
        (json!({ "tool_choice": "required" }), 400, "tool_choice"),
        (json!({ "stop": vec!["x"; 1000] }), 400, "stop"),
        (json!({ "messages": [{ "role": "wizard", "content": "" }] }), 400, "messages[0].role"),
        (
            json!({ "messages": [{ "role": "user", "content": [{ "type": "image_url" }] }] }),
            400,
            "messages[0].content",
        ),
    ] {
        let (found, body) = server.chat(&ask(&extra));
        assert_eq!(found, status, "{extra}: {body}");
        assert_eq!(body["error"]["param"], param, "{extra}: {body}");
        assert!(body["error"]["message"].as_str().unwrap().len() > 10);
    }
    let (status, body) = server.chat(&json!({ "model": "rapport" }));
    assert_eq!(status, 400);
    assert!(body["error"]["message"].as_str().unwrap().contains("messages"), "{body}");
    assert!(server.engine.requests().is_empty());
}

#[test]
fn the_engines_refusals_have_their_statuses() {
    for (error, status, code) in [
        (GenerateError::Overloaded, 429, Value::Null),
        (GenerateError::EngineStopped, 503, Value::Null),
        (GenerateError::Internal { reason: "x".to_owned() }, 500, Value::Null),
        (
            GenerateError::PromptTooLong { prompt_tokens: 9, context_tokens: 8 },
            400,
            json!("context_length_exceeded"),
        ),
    ] {
        let refusal = error.clone();
        let engine = ScriptedEngine::answering(move |_| Script::refused(refusal.clone()));
        let (found, body) = serve(config(), engine).chat(&ask(&json!({})));
        assert_eq!((found, &body["error"]["code"]), (status, &code), "{body}");
        assert_eq!(body["error"]["message"], error.to_string());
    }
}

#[test]
fn a_reply_that_breaks_in_a_stream_is_an_error_and_never_done() {
    let broken = || GenerateError::FormatLost { reason: "no way on".to_owned() };
    let engine = ScriptedEngine::answering(move |_| Script::new().text("half").fail(broken()));
    let server = serve(config(), engine);
    let events = server.stream(ask(&json!({})));
    let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
    assert!(last["error"]["message"].as_str().unwrap().contains("no way on"), "{last}");
    let (status, _) = server.chat(&ask(&json!({})));
    assert_eq!(status, 500);
}

#[test]
fn f21_a_reader_that_leaves_ends_its_reply() {
    let (sender, ended) = channel();
    let sender = std::sync::Mutex::new(sender);
    let sender = Arc::new(sender);
    let engine = ScriptedEngine::answering(move |_| {
        let sender = Arc::clone(&sender);
        let told = move || sender.lock().unwrap().send(()).unwrap();
        Script::new().text("waiting").run(told).await_stop()
    });
    let server = serve(config(), engine);
    let body = ask(&json!({ "stream": true })).to_string();
    let mut stream = TcpStream::connect(server.address).unwrap();
    write!(
        stream,
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("waiting")));
    ended.recv().unwrap();
    drop((lines, stream));
    // The script waits for the stop; only then does the count of running replies fall.
    loop {
        let (_, text) =
            server.raw("GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        if text.contains("rapport:num_requests_running{model_name=\"scripted\"} 0") {
            // The script gives up by itself after a while, but as a failure.
            assert!(text.contains("finished_reason=\"abort\"} 1"), "{text}");
            break;
        }
        std::thread::yield_now();
    }
}

#[test]
fn pages_of_other_sites_are_refused() {
    let server = Running::start("ok");
    let port = server.address.port();
    for (headers, status) in [
        (format!("Host: localhost:{port}\r\n"), 200),
        (format!("Host: 127.0.0.1:{port}\r\n"), 200),
        (format!("Host: rebound.example:{port}\r\n"), 421),
        (format!("Host: localhost:{port}\r\nOrigin: http://localhost:{port}\r\n"), 200),
        (format!("Host: localhost:{port}\r\nOrigin: https://other.example\r\n"), 403),
        (format!("Host: localhost:{port}\r\nOrigin: null\r\n"), 403),
    ] {
        let (found, answer) = server.with_headers(&headers);
        assert_eq!(found, status, "{headers}: {answer}");
        assert!(!answer.to_lowercase().contains("access-control-allow-origin"));
    }
}

#[test]
fn a_key_is_asked_for_where_one_is_set() {
    let server = serve(
        ServerConfig { api_key: Some("secret".to_owned()), ..config() },
        ScriptedEngine::answering(|_| Script::answer("ok")),
    );
    let with = |header: &str| server.with_headers(&format!("Host: localhost\r\n{header}"));
    assert_eq!(with("").0, 401);
    assert_eq!(with("Authorization: Bearer wrong!\r\n").0, 401);
    assert_eq!(with("Authorization: Bearer secret\r\n").0, 200);
    let health = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert_eq!(server.raw(health).0, 200);
}

#[test]
fn an_address_that_others_can_reach_needs_a_key() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let open = ServerConfig { address: "0.0.0.0:0".parse().unwrap(), ..config() };
    let engine = Arc::new(ScriptedEngine::answering(|_| Script::answer("ok")));
    let refused = runtime.block_on(Server::listen(open, engine));
    assert!(matches!(refused, Err(ServeError::OpenToAll { .. })));
}

#[test]
fn large_bodies_and_unknown_paths_are_refused_in_the_same_form() {
    let server = Running::start("ok");
    let huge = ask(&json!({ "user": "x".repeat(rapport_server::MAX_BODY_BYTES) }));
    let (status, body) = server.chat(&huge);
    assert_eq!((status, body["error"]["type"].as_str()), (413, Some("invalid_request_error")));
    let get = |path: &str| {
        server.raw(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
    };
    assert_eq!(get("/v2/anything").0, 404);
    assert_eq!(get("/v1/chat/completions").0, 405);
    assert_eq!(get("/v1/models/rapport-fast").0, 200);
    assert_eq!(get("/v1/models/unknown").0, 404);
    assert!(get("/readyz").1.contains("scripted is ready"));
    assert!(server.engine.requests().is_empty());
}
