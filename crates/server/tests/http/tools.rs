//! Tools in OpenAI's chat protocol.

use rapport_testkit::{Script, ScriptedEngine};
use rapport_types::{CallCount, Role, ToolChoice};
use serde_json::{Value, json};

use crate::harness::{ask, config, serve};

fn weather() -> Value {
    json!({ "type": "function", "function": {
        "name": "get_weather",
        "description": "Weather of a place",
        "parameters": { "type": "object", "properties": { "place": { "type": "string" } } },
    } })
}

fn engine() -> ScriptedEngine {
    ScriptedEngine::answering(|_| {
        Script::new()
            .text("Let me look. ")
            .tool_call("call_1", "get_weather", r#"{"place":"Oslo"}"#)
            .tool_call("call_2", "get_weather", r#"{"place":"Rome"}"#)
    })
}

#[test]
fn calls_are_told_whole_and_streamed_alike() {
    let server = serve(config(), engine());
    let body = ask(&json!({ "tools": [weather()] }));
    let (status, whole) = server.chat(&body);
    assert_eq!(status, 200, "{whole}");
    let choice = &whole["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    let calls = choice["message"]["tool_calls"].as_array().unwrap();
    assert_eq!(calls[1]["function"]["arguments"], r#"{"place":"Rome"}"#);

    let mut streamed = Vec::new();
    let mut reasons = Vec::new();
    for said in server.events("/v1/chat/completions", body) {
        let choice = &said.data["choices"][0];
        streamed.extend(choice["delta"]["tool_calls"].as_array().into_iter().flatten().cloned());
        reasons.extend(choice["finish_reason"].as_str().map(str::to_owned));
    }
    assert_eq!(reasons, ["tool_calls"]);
    assert_eq!(streamed.len(), 2);
    for (idx, (mut streamed, whole)) in streamed.into_iter().zip(calls).enumerate() {
        // F38 names clients that break where the index is missing.
        assert_eq!(streamed.as_object_mut().unwrap().remove("index"), Some(json!(idx)));
        assert_eq!(&streamed, whole);
    }
}

#[test]
fn a_conversation_with_calls_and_results_reaches_the_engine() {
    let server = serve(config(), engine());
    let body = json!({
        "model": "rapport-fast",
        "messages": [
            { "role": "user", "content": "Weather in Oslo?" },
            { "role": "assistant", "content": null, "tool_calls": [{
                "id": "call_9", "type": "function",
                "function": { "name": "get_weather", "arguments": "{\"place\": \"Oslo\"}" },
            }] },
            { "role": "tool", "tool_call_id": "call_9", "content": "rain" },
        ],
        "tools": [weather()],
        "tool_choice": { "type": "function", "function": { "name": "get_weather" } },
        "parallel_tool_calls": false,
    });
    let (status, answer) = server.chat(&body);
    assert_eq!(status, 200, "{answer}");
    let request = server.engine.requests().pop().unwrap();
    assert_eq!(request.messages[1].tool_calls[0].arguments, "{\"place\": \"Oslo\"}");
    assert_eq!(request.messages[2].role, Role::Tool);
    assert_eq!(request.messages[2].tool_call_id.as_deref(), Some("call_9"));
    assert_eq!(request.tools.choice, ToolChoice::Named("get_weather".to_owned()));
    assert_eq!(request.tools.calls, CallCount::One);
    assert!(request.tools.offered[0].parameters.contains("place"));
}

#[test]
fn tools_that_cannot_be_offered_are_refused() {
    let server = serve(config(), engine());
    let named =
        |name: &str| json!({ "type": "function", "function": { "name": name, "parameters": {} } });
    for (extra, param) in [
        (json!({ "tools": [named("")] }), "tools"),
        (json!({ "tools": [named("drop table")] }), "tools"),
        (json!({ "tools": [named("a"), named("a")] }), "tools"),
        (
            json!({ "tools": (0..129).map(|n| named(&format!("t{n}"))).collect::<Vec<_>>() }),
            "tools",
        ),
        (
            json!({ "tools": [named("a")], "tool_choice": { "function": { "name": "b" } } }),
            "tool_choice",
        ),
        (json!({ "messages": [{ "role": "tool", "content": "x" }] }), "messages[0].tool_call_id"),
        (
            json!({ "messages": [{ "role": "assistant", "tool_calls": [
                { "id": "1", "function": { "name": "a", "arguments": "[1" } },
            ] }] }),
            "messages[0].tool_calls[0].function.arguments",
        ),
    ] {
        let (status, body) = server.chat(&ask(&extra));
        assert_eq!((status, body["error"]["param"].as_str()), (400, Some(param)), "{body}");
    }
    assert!(server.engine.requests().is_empty());
}
