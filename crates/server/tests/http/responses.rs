//! Responses: kept, gone on from, forgotten, and streamed part by part.

use rapport_testkit::{Script, ScriptedEngine};
use rapport_types::{GenerateError, OutputFormat, Role};
use serde_json::{Value, json};

use crate::harness::{Running, config, serve, with};

const PATH: &str = "/v1/responses";

fn ask(extra: &Value) -> Value {
    with(json!({ "model": "rapport-thinking", "input": "hi" }), extra)
}

fn thinker() -> Running {
    let script = || {
        Script::new().thought("feel: ").thought("calm").text("Good ").text("morning!").tool_call(
            "call_1",
            "wave",
            "{\"hand\":\"left\"}",
        )
    };
    serve(config(), ScriptedEngine::answering(move |_| script()))
}

fn tools() -> Value {
    json!([{ "type": "function", "name": "wave", "parameters": { "type": "object" } }])
}

#[test]
fn a_response_has_items_usage_and_says_again_what_was_asked() {
    let server = thinker();
    let schema = json!({ "type": "object" });
    let (status, body) = server.post(
        PATH,
        &ask(&json!({
            "instructions": "Be kind.", "tools": tools(), "metadata": { "a": "b" },
            "text": { "format": { "type": "json_schema", "name": "x", "schema": schema } },
            "reasoning": { "effort": "high" }, "max_output_tokens": 50,
        })),
    );
    assert_eq!(status, 200, "{body}");
    let kinds: Vec<&str> = body["output"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["type"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["reasoning", "message", "function_call"]);
    assert_eq!(body["output"][0]["content"][0]["text"], "feel: calm");
    assert_eq!(body["output"][1]["content"][0]["text"], "Good morning!");
    assert_eq!(body["output"][2]["call_id"], "call_1");
    assert_eq!((&body["status"], &body["metadata"]["a"]), (&json!("completed"), &json!("b")));
    assert_eq!(body["usage"]["output_tokens_details"]["reasoning_tokens"], 2);
    assert_eq!(body["rapport"]["mode"]["mode"], "thinking");
    let request = server.engine.requests().pop().unwrap();
    assert_eq!(request.messages[0].content, "Be kind.");
    assert_eq!(request.format, OutputFormat::JsonSchema(schema.to_string()));
}

#[test]
fn the_stream_builds_up_the_same_response() {
    let server = thinker();
    let events = server.events(PATH, ask(&json!({ "tools": tools() })));
    let names: Vec<&str> = events.iter().map(|said| said.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.reasoning_text.delta",
            "response.reasoning_text.delta",
            "response.reasoning_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.output_item.added",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "response.output_item.done",
            "response.completed",
        ]
    );
    for (number, said) in events.iter().enumerate() {
        assert_eq!(said.data["sequence_number"], number);
        assert_eq!(said.data["type"], said.name.as_str());
    }
    let done: Vec<&Value> = events
        .iter()
        .filter(|said| said.name == "response.output_item.done")
        .map(|said| &said.data["item"])
        .collect();
    let last = &events.last().unwrap().data["response"];
    assert_eq!(last["output"].as_array().unwrap().iter().collect::<Vec<_>>(), done);
    let (_, kept) = server.get(&format!("{PATH}/{}", last["id"].as_str().unwrap()));
    assert_eq!(&kept, last, "it was kept before it was told");
}

#[test]
fn a_conversation_goes_on_from_what_was_kept() {
    let server = thinker();
    let (_, first) = server.post(PATH, &ask(&json!({ "instructions": "Be kind." })));
    let id = first["id"].as_str().unwrap();
    let output = json!([{ "type": "function_call_output", "call_id": "call_1", "output": "done" }]);
    let (status, second) = server.post(
        PATH,
        &ask(&json!({ "previous_response_id": id, "input": output, "instructions": "Be brief." })),
    );
    assert_eq!(status, 200, "{second}");
    let messages = server.engine.requests().pop().unwrap().messages;
    let roles: Vec<Role> = messages.iter().map(|message| message.role).collect();
    assert_eq!(roles, [Role::System, Role::User, Role::Assistant, Role::Tool]);
    assert_eq!(messages[0].content, "Be brief.", "instructions are of one response");
    assert_eq!(messages[2].thought.as_deref(), Some("feel: calm"));
    assert_eq!(messages[2].tool_calls[0].id, "call_1");

    assert_eq!(server.send("DELETE", &format!("{PATH}/{id}"), None).status, 200);
    assert_eq!(server.get(&format!("{PATH}/{id}")).0, 404);
    assert_eq!(server.send("DELETE", &format!("{PATH}/{id}"), None).status, 404);
    let gone = ask(&json!({ "previous_response_id": id }));
    assert_eq!(server.post(PATH, &gone).0, 404);
    let (_, unkept) = server.post(PATH, &ask(&json!({ "store": false })));
    assert_eq!(server.get(&format!("{PATH}/{}", unkept["id"].as_str().unwrap())).0, 404);
}

#[test]
fn input_items_are_listed_in_pages() {
    let server = Running::start("ok");
    let message = |text: String| json!({ "role": "user", "content": text });
    let input: Vec<Value> = (0..5).map(|n| message(n.to_string())).collect();
    let (_, body) = server.post(PATH, &ask(&json!({ "input": input })));
    let path = format!("{PATH}/{}/input_items", body["id"].as_str().unwrap());
    let texts = |list: &Value| -> Vec<String> {
        let items = list["data"].as_array().unwrap().iter();
        items.map(|item| item["content"][0]["text"].as_str().unwrap().to_owned()).collect()
    };
    let (_, newest) = server.get(&format!("{path}?limit=2"));
    assert_eq!((texts(&newest), &newest["has_more"]), (vec!["4".into(), "3".into()], &json!(true)));
    let after = newest["last_id"].as_str().unwrap();
    let (_, rest) = server.get(&format!("{path}?after={after}"));
    assert_eq!(
        (texts(&rest), &rest["has_more"]),
        (vec!["2".into(), "1".into(), "0".into()], &json!(false))
    );
    assert_eq!(texts(&server.get(&format!("{path}?order=asc&limit=1")).1), ["0"]);
    for query in ["limit=0", "limit=101", "order=up", "after=nothing"] {
        assert_eq!(server.get(&format!("{path}?{query}")).0, 400, "{query}");
    }
}

#[test]
fn a_response_that_breaks_says_so_and_is_not_kept() {
    let broken = || GenerateError::FormatLost { reason: "no way on".to_owned() };
    let engine = ScriptedEngine::answering(move |_| Script::new().text("half").fail(broken()));
    let server = serve(config(), engine);
    let events = server.events(PATH, ask(&json!({})));
    let last = events.last().unwrap();
    assert_eq!(last.name, "response.failed");
    assert!(last.data["response"]["error"]["message"].as_str().unwrap().contains("no way on"));
    let id = last.data["response"]["id"].as_str().unwrap();
    assert_eq!(server.get(&format!("{PATH}/{id}")).0, 404);
    assert_eq!(server.post(PATH, &ask(&json!({}))).0, 500);
}

#[test]
fn a_cut_response_is_incomplete() {
    let server = Running::start("one two three");
    let (_, body) = server.post(PATH, &ask(&json!({ "max_output_tokens": 2 })));
    assert_eq!(body["status"], "incomplete");
    assert_eq!(body["incomplete_details"]["reason"], "max_output_tokens");
    let events = server.events(PATH, ask(&json!({ "max_output_tokens": 2 })));
    assert_eq!(events.last().unwrap().name, "response.incomplete");
}

#[test]
fn what_cannot_be_read_is_refused_by_its_place() {
    let server = Running::start("ok");
    for (extra, param) in [
        (json!({ "background": true }), "background"),
        (json!({ "conversation": "conv_1" }), "conversation"),
        (json!({ "tools": [{ "type": "web_search" }] }), "tools"),
        (json!({ "reasoning": { "effort": "wild" } }), "reasoning.effort"),
        (json!({ "text": { "format": { "type": "yaml" } } }), "text.format"),
        (json!({ "input": [{ "type": "item_reference", "id": "x" }] }), "input[0].type"),
        (json!({ "input": [{ "role": "wizard", "content": "x" }] }), "input[0].role"),
        (
            json!({ "input": [{ "role": "user", "content": [{ "type": "input_image" }] }] }),
            "input[0].content",
        ),
        (json!({ "input": [{ "type": "function_call_output" }] }), "input[0].call_id"),
        (json!({ "input": [] }), "messages"),
    ] {
        let (status, body) = server.post(PATH, &ask(&extra));
        assert_eq!((status, body["error"]["param"].as_str()), (400, Some(param)), "{body}");
    }
}
