//! What is said of requests: lines and traces, and what must never be in them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use rapport_server::{Log, LogFormat, LogLevel, ServerConfig, Sink, Traces};
use rapport_testkit::{Script, ScriptedEngine};
use rapport_types::GenerateError;
use serde_json::{Value, json};

use crate::harness::{Running, ask, config, serve_with};

/// Text that is nobody's business.
const CANARY: &str = "canary-5f3a";

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Sink for Lines {
    fn write(&self, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }
}

fn engine() -> ScriptedEngine {
    ScriptedEngine::answering(|request| {
        if request.messages[0].content.contains("break") {
            let reason = format!("it broke at {CANARY}");
            return Script::new().fail(GenerateError::Internal { reason });
        }
        Script::answer(CANARY).text(" and more")
    })
}

fn logging(format: LogFormat, level: LogLevel) -> (Running, Lines) {
    let lines = Lines::default();
    let log = Log { sink: Box::new(lines.clone()), format, level };
    let keyed = ServerConfig { api_key: Some(format!("key-{CANARY}")), ..config() };
    (serve_with(keyed, engine(), |server| server.with_log(log)), lines)
}

fn post(server: &Running, path: &str, content: &str, extra: &str) -> String {
    let body = ask(&json!({ "messages": [{ "role": "user", "content": content }] })).to_string();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{extra}\
         Authorization: Bearer key-{CANARY}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    server.raw(&head).1
}

/// The lines once the server has ended, so that none is still on its way.
fn said(mut server: Running, lines: &Lines) -> Vec<String> {
    server.stop();
    drop(server);
    lines.0.lock().unwrap().clone()
}

#[test]
fn f42_a_line_says_all_of_a_request_but_its_secrets() {
    let (server, lines) = logging(LogFormat::Json, LogLevel::Info);
    let chat = format!("/v1/chat/completions?{CANARY}");
    post(&server, &chat, &format!("hello {CANARY}"), "X-Request-Id: mine-1\r\n");
    post(&server, "/v1/chat/completions", &format!("break {CANARY}"), "");
    post(&server, &format!("/{CANARY}"), "hello", &format!("X-Other: {CANARY}\r\n"));
    let lines = said(server, &lines);
    assert_eq!(lines.len(), 3, "{lines:#?}");
    assert!(!lines.iter().any(|line| line.contains(CANARY)), "{lines:#?}");
    let line = |idx: usize| serde_json::from_str::<Value>(&lines[idx]).unwrap();
    let first = line(0);
    let facts = ["event", "id", "method", "route", "status", "model", "level"];
    let expected = ["request", "mine-1", "POST", "/v1/chat/completions", "200", "scripted", "info"];
    for (name, expected) in facts.into_iter().zip(expected) {
        assert_eq!(first[name].to_string().trim_matches('"'), expected, "{name}: {first}");
    }
    assert_eq!((&first["prompt_tokens"], &first["answer_tokens"]), (&json!(2), &json!(2)));
    assert!(first["ms"].as_f64().unwrap() >= first["first_byte_ms"].as_f64().unwrap());
    assert!(first["time"].as_str().unwrap().ends_with('Z'));
    assert_eq!((&line(1)["status"], &line(1)["level"]), (&json!(500), &json!("error")));
    assert_eq!((&line(2)["route"], &line(2)["level"]), (&json!("other"), &json!("warn")));
}

#[test]
fn a_level_leaves_out_what_is_below_it() {
    for (level, n_lines) in
        [(LogLevel::Off, 0), (LogLevel::Error, 1), (LogLevel::Warn, 2), (LogLevel::Info, 3)]
    {
        let (server, lines) = logging(LogFormat::Text, level);
        post(&server, "/v1/chat/completions", "hello", "");
        post(&server, "/v1/chat/completions", "break", "");
        post(&server, "/nowhere", "hello", "");
        let lines = said(server, &lines);
        assert_eq!(lines.len(), n_lines, "{level:?}: {lines:#?}");
        if level == LogLevel::Info {
            let route = "method=POST route=/v1/chat/completions status=200";
            assert!(lines[0].contains(route), "{}", lines[0]);
        }
    }
}

/// A collector that keeps what is sent to it.
fn collector() -> (String, Receiver<(String, Value)>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, messages) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.unwrap());
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).unwrap() > 0 {}
            let length = head.to_lowercase();
            let length = length.split("content-length: ").nth(1).unwrap();
            let length: usize = length.split('\r').next().unwrap().parse().unwrap();
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}";
            reader.get_mut().write_all(answer).unwrap();
            if sender.send((head, serde_json::from_slice(&body).unwrap())).is_err() {
                return;
            }
        }
    });
    (format!("http://{address}"), messages)
}

fn attribute<'s>(span: &'s Value, key: &str) -> &'s Value {
    let attributes = span["attributes"].as_array().unwrap();
    let found = attributes.iter().find(|attribute| attribute["key"] == key);
    &found.unwrap_or_else(|| panic!("no {key} in {span}"))["value"]
}

#[test]
fn spans_reach_a_collector_in_the_words_of_the_protocol() {
    let (endpoint, messages) = collector();
    let traces = Traces::start(&endpoint);
    let server = serve_with(config(), engine(), |server| server.with_traces(traces));
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let parent = format!("traceparent: 00-{trace}-b7ad6b7169203331-01\r\n");
    post(&server, "/v1/chat/completions", &format!("hello {CANARY}"), &parent);
    let unwanted = format!("traceparent: 00-{trace}-b7ad6b7169203331-00\r\n");
    post(&server, "/v1/chat/completions", "hello", &unwanted);
    post(&server, "/v1/chat/completions", "break", "");
    drop(server);
    let mut spans = Vec::new();
    for (head, message) in &messages {
        assert!(head.starts_with("POST /v1/traces HTTP/1.1"), "{head}");
        assert!(!message.to_string().contains(CANARY), "{message}");
        let resource = &message["resourceSpans"][0];
        assert_eq!(attribute(&resource["resource"], "service.name")["stringValue"], "rapport");
        let scope = &resource["scopeSpans"][0];
        assert_eq!(scope["scope"]["name"], "rapport-server");
        spans.extend(scope["spans"].as_array().unwrap().clone());
        if spans.len() >= 4 {
            break;
        }
    }
    // The fields of `Span` in trace.proto, as its JSON form spells them.
    let known = [
        "traceId",
        "spanId",
        "parentSpanId",
        "name",
        "kind",
        "startTimeUnixNano",
        "endTimeUnixNano",
        "attributes",
        "status",
    ];
    for span in &spans {
        for (field, value) in span.as_object().unwrap() {
            assert!(known.contains(&field.as_str()), "{field}");
            let is_hex = |digits: usize| {
                let text = value.as_str().unwrap();
                text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit())
            };
            match field.as_str() {
                "traceId" => assert!(is_hex(32), "{value}"),
                "spanId" | "parentSpanId" => assert!(is_hex(16), "{value}"),
                // Numbers of 64 bits travel as text, kinds as numbers.
                "startTimeUnixNano" | "endTimeUnixNano" => {
                    assert!(value.as_str().unwrap().parse::<u64>().unwrap() > 0);
                }
                "kind" => assert!(value.is_u64()),
                _ => {}
            }
        }
    }
    assert_eq!(spans.len(), 4, "one request was not to be traced: {spans:#?}");
    let of = |name: &str, is_traced: bool| {
        let is_it = |span: &&Value| span["name"] == name && (span["traceId"] == trace) == is_traced;
        spans.iter().find(is_it).unwrap()
    };
    let request = of("POST /v1/chat/completions", true);
    assert_eq!(
        (&request["kind"], &request["parentSpanId"]),
        (&json!(2), &json!("b7ad6b7169203331"))
    );
    assert_eq!(attribute(request, "http.response.status_code")["intValue"], "200");
    let chat = of("chat scripted", true);
    assert_eq!(chat["parentSpanId"], request["spanId"]);
    assert_eq!(attribute(chat, "gen_ai.operation.name")["stringValue"], "chat");
    assert_eq!(attribute(chat, "gen_ai.provider.name")["stringValue"], "rapport");
    assert_eq!(attribute(chat, "gen_ai.request.model")["stringValue"], "scripted");
    assert_eq!(attribute(chat, "gen_ai.usage.input_tokens")["intValue"], "2");
    assert_eq!(attribute(chat, "gen_ai.usage.output_tokens")["intValue"], "2");
    let reasons = attribute(chat, "gen_ai.response.finish_reasons");
    assert_eq!(reasons["arrayValue"]["values"][0]["stringValue"], "stop");
    let broken = of("chat scripted", false);
    assert_eq!(broken["status"]["code"], 2);
    assert_eq!(attribute(broken, "error.type")["stringValue"], "internal");
}

#[test]
fn spans_that_no_collector_takes_are_counted_and_hurt_nobody() {
    // Nobody listens there any more.
    let address = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    let traces = Traces::start(&format!("http://{address}"));
    let server = serve_with(config(), engine(), |server| server.with_traces(traces));
    assert!(server.chat(&ask(&json!({}))).0 == 200);
    let metrics = || server.send("GET", "/metrics", None).text;
    let is_dropped = |line: &str| {
        line.strip_prefix("rapport:otlp_spans_dropped_total ").is_some_and(|count| count != "0")
    };
    while !metrics().lines().any(is_dropped) {
        std::thread::yield_now();
    }
    assert_eq!(server.chat(&ask(&json!({}))).0, 200);
}

#[test]
fn metrics_have_closed_labels_for_each_model() {
    let server = serve_with(config(), engine(), |server| {
        server.with_model(Arc::new(engine().named("another")))
    });
    for model in ["rapport", "rapport-fast", "scripted", "another-fast", "no-such-model"] {
        server.chat(&ask(&json!({ "model": model })));
    }
    for path in ["/one", "/two", "/v1/models/x", "/v1/models/y"] {
        server.get(path);
    }
    let text = server.send("GET", "/metrics", None).text;
    let has = |line: &str| assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    has("rapport:request_success_total{model_name=\"scripted\",finished_reason=\"stop\"} 3");
    has("rapport:request_success_total{model_name=\"another\",finished_reason=\"stop\"} 1");
    has("rapport:e2e_request_latency_seconds_count{model_name=\"another\"} 1");
    has("rapport:http_requests_total{method=\"GET\",route=\"other\",status=\"404\"} 2");
    has("rapport:http_requests_total{method=\"GET\",route=\"/v1/models/{id}\",status=\"404\"} 2");
    assert!(!text.contains("no-such-model"));
    // Each line is a name, labels and a number, as Prometheus reads it.
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(name.starts_with("rapport:") && value.parse::<f64>().is_ok(), "{line}");
    }
}
