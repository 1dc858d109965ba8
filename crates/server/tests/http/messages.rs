//! Anthropic's protocol.

use rapport_server::ServerConfig;
use rapport_testkit::{Script, ScriptedEngine};
use rapport_types::{GenerateError, Mode, Role, ThinkingBudget, ToolChoice};
use serde_json::{Value, json};

use crate::harness::{Running, config, serve, with};

const PATH: &str = "/v1/messages";

fn ask(extra: &Value) -> Value {
    let body = json!({
        "model": "rapport", "max_tokens": 100, "messages": [{ "role": "user", "content": "hi" }],
    });
    with(body, extra)
}

fn caller() -> Running {
    let script =
        || Script::new().thought("hm").text("Looking. ").tool_call("call_1", "look", "{\"at\":1}");
    serve(config(), ScriptedEngine::answering(move |_| script()))
}

#[test]
fn a_message_has_blocks_and_the_stream_builds_up_the_same() {
    let server = caller();
    let body = ask(&json!({ "tools": [{ "name": "look", "input_schema": { "type": "object" } }] }));
    let (status, whole) = server.post(PATH, &body);
    assert_eq!(status, 200, "{whole}");
    let content = json!([
        { "type": "thinking", "thinking": "hm", "signature": "" },
        { "type": "text", "text": "Looking. " },
        { "type": "tool_use", "id": "call_1", "name": "look", "input": { "at": 1 } },
    ]);
    assert_eq!(whole["content"], content);
    assert_eq!(whole["stop_reason"], "tool_use");
    assert_eq!(whole["usage"]["output_tokens"], 3);

    let events = server.events(PATH, body);
    let names: Vec<&str> = events.iter().map(|said| said.name.as_str()).collect();
    let block = ["content_block_start", "content_block_delta", "content_block_stop"];
    let expected: Vec<&str> = ["message_start"]
        .into_iter()
        .chain(block)
        .chain(block)
        .chain(block)
        .chain(["message_delta", "message_stop"])
        .collect();
    assert_eq!(names, expected);
    let mut built: Vec<Value> = Vec::new();
    for said in &events {
        let delta = &said.data["delta"];
        match said.data["type"].as_str().unwrap() {
            "content_block_start" => {
                assert_eq!(said.data["index"], built.len());
                built.push(said.data["content_block"].clone());
            }
            "content_block_delta" => {
                let block = built.last_mut().unwrap();
                match delta["type"].as_str().unwrap() {
                    "text_delta" => block["text"] = delta["text"].clone(),
                    "thinking_delta" => block["thinking"] = delta["thinking"].clone(),
                    _ => {
                        let json = delta["partial_json"].as_str().unwrap();
                        block["input"] = serde_json::from_str(json).unwrap();
                    }
                }
            }
            _ => {}
        }
    }
    assert_eq!(json!(built), content);
    let end = &events[events.len() - 2].data;
    assert_eq!(
        (&end["delta"]["stop_reason"], &end["usage"]),
        (&json!("tool_use"), &whole["usage"])
    );
}

#[test]
fn turns_blocks_and_settings_reach_the_engine() {
    let server = caller();
    let body = ask(&json!({
        "system": [{ "type": "text", "text": "Be kind.", "cache_control": { "type": "ephemeral" } }],
        "messages": [
            { "role": "user", "content": [{ "type": "text", "text": "Look" }] },
            { "role": "assistant", "content": [
                { "type": "thinking", "thinking": "where?", "signature": "s" },
                { "type": "text", "text": "Here: " },
                { "type": "tool_use", "id": "call_1", "name": "look", "input": { "at": 2 } },
            ] },
            { "role": "user", "content": [
                { "type": "tool_result", "tool_use_id": "call_1", "is_error": true,
                  "content": [{ "type": "text", "text": "dark" }] },
                { "type": "text", "text": "And now?" },
            ] },
        ],
        "tools": [{ "name": "look", "input_schema": { "type": "object" } }],
        "tool_choice": { "type": "any", "disable_parallel_tool_use": true },
        "thinking": { "type": "enabled", "budget_tokens": 30 },
        "stop_sequences": ["END"], "temperature": 0.5, "top_k": 5,
    }));
    let (status, answer) = server.post(PATH, &body);
    assert_eq!(status, 200, "{answer}");
    let request = server.engine.requests().pop().unwrap();
    let roles: Vec<Role> = request.messages.iter().map(|message| message.role).collect();
    assert_eq!(roles, [Role::System, Role::User, Role::Assistant, Role::Tool, Role::User]);
    assert_eq!(request.messages[2].thought.as_deref(), Some("where?"));
    assert_eq!(request.messages[2].tool_calls[0].arguments, "{\"at\":2}");
    assert_eq!(request.messages[3].content, "Error: dark");
    assert_eq!(
        (request.mode, request.thinking_budget),
        (Mode::Thinking, ThinkingBudget::Tokens(30))
    );
    assert_eq!((request.max_tokens, request.stop[0].as_str()), (70, "END"));
    assert_eq!(request.tools.choice, ToolChoice::Required);
}

#[test]
fn tokens_are_counted_without_a_reply() {
    let server = caller();
    let body = json!({ "model": "rapport", "messages": [{ "role": "user", "content": "a b c" }] });
    let (status, answer) = server.post("/v1/messages/count_tokens", &body);
    assert_eq!((status, &answer["input_tokens"]), (200, &json!(3)));
    assert!(server.engine.requests().is_empty());
}

#[test]
fn refusals_have_the_protocols_form_wherever_they_arise() {
    let keyed = ServerConfig { api_key: Some("secret".to_owned()), ..config() };
    let engine = ScriptedEngine::answering(|_| Script::refused(GenerateError::Overloaded));
    let server = serve(keyed, engine);
    let post = |headers: &str, body: &Value| {
        let body = body.to_string();
        let (status, answer) = server.raw(&format!(
            "POST {PATH} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        let (_, text) = answer.split_once("\r\n\r\n").unwrap();
        let json = text.find('{').map(|at| &text[at..=text.rfind('}').unwrap()]);
        (status, serde_json::from_str::<Value>(json.unwrap()).unwrap(), answer.to_lowercase())
    };
    let key = "x-api-key: secret\r\n";
    let cases = [
        ("", ask(&json!({})), 401, "authentication_error"),
        ("x-api-key: wrong!\r\n", ask(&json!({})), 401, "authentication_error"),
        (key, ask(&json!({ "max_tokens": null })), 400, "invalid_request_error"),
        (key, ask(&json!({ "model": "nobody" })), 404, "not_found_error"),
        (key, ask(&json!({ "thinking": { "type": "enabled" } })), 400, "invalid_request_error"),
        (key, ask(&json!({ "tool_choice": { "type": "tool" } })), 400, "invalid_request_error"),
        (key, json!({ "model": 5 }), 400, "invalid_request_error"),
        (key, ask(&json!({})), 429, "rate_limit_error"),
    ];
    for (headers, body, status, kind) in cases {
        let (found, answer, all) = post(headers, &body);
        assert_eq!((found, answer["error"]["type"].as_str()), (status, Some(kind)), "{answer}");
        assert_eq!(answer["type"], "error");
        let id = answer["request_id"].as_str().unwrap();
        assert!(id.starts_with("req_") && all.contains(&format!("request-id: {id}")), "{all}");
    }
}

#[test]
fn a_reply_that_breaks_in_a_stream_is_an_error() {
    let broken = || GenerateError::Internal { reason: "broken".to_owned() };
    let engine = ScriptedEngine::answering(move |_| Script::new().text("half").fail(broken()));
    let events = serve(config(), engine).events(PATH, ask(&json!({})));
    let last = events.last().unwrap();
    assert_eq!((last.name.as_str(), &last.data["error"]["type"]), ("error", &json!("api_error")));
}
