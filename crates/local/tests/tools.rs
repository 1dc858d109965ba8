//! Tools with the default model, whose template knows none: they are described, and a grammar keeps
//! calls to what was offered.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::num::NonZeroUsize;

use rapport_kernels::{Compute, Isa};
use rapport_local::LocalModel;
use rapport_types::{
    AdapterChoice, CallCount, Caller, Event, FinishReason, FormatError, Generate, GenerateError,
    Message, Mode, Outcome, OutputFormat, PromptForm, Request, Role, SamplingDraft, ThinkingBudget,
    Tool, ToolCall, ToolChoice, Tools, reply,
};
use serde_json::{Value, json};

fn model() -> LocalModel {
    let compute = Compute::new(Isa::detect(), NonZeroUsize::MIN);
    LocalModel::load(&rapport_testkit::default_model(), compute, 4096).unwrap()
}

fn tool(name: &str, parameters: &Value) -> Tool {
    let description = format!("What `{name}` does");
    Tool { name: name.to_owned(), description, parameters: parameters.to_string() }
}

fn weather() -> Tool {
    let parameters = json!({
        "type": "object",
        "properties": {
            "unit": { "enum": ["celsius", "fahrenheit"] },
            "place": { "$ref": "#/$defs/place" },
        },
        "required": ["unit", "place"],
        "additionalProperties": false,
        "$defs": { "place": { "type": "string", "maxLength": 12 } },
    });
    tool("get_weather", &parameters)
}

fn clock() -> Tool {
    let parameters = json!({ "type": "object", "properties": {}, "additionalProperties": false });
    tool("clock", &parameters)
}

fn request(text: &str, tools: Tools) -> Request {
    let draft = SamplingDraft { seed: Some(5), ..SamplingDraft::default() };
    Request {
        messages: vec![Message::user(text)],
        prompt_form: PromptForm::Conversation,
        mode: Mode::Fast,
        thinking_budget: ThinkingBudget::Medium,
        sampling: draft.validate().unwrap(),
        max_tokens: 96,
        stop: Vec::new(),
        format: OutputFormat::Text,
        tools,
        adapter: AdapterChoice::default(),
        caller: Caller::default(),
    }
}

fn tell(model: &LocalModel, request: Request) -> (String, Vec<ToolCall>, Outcome) {
    let (mut text, mut calls) = (String::new(), Vec::new());
    for event in reply(model, request).unwrap() {
        match event {
            Event::Started { .. } | Event::Thought(_) => {}
            Event::Text { text: piece, .. } => text.push_str(&piece),
            Event::ToolCall(call) => calls.push(call),
            Event::Finished(outcome) => return (text, calls, outcome),
            Event::Failed(error) => panic!("{error}"),
        }
    }
    panic!("a reply without an end")
}

#[test]
fn a_call_that_must_be_made_is_whole_and_keeps_to_its_schema() {
    let model = model();
    for (mode, stop) in [(Mode::Fast, "\n"), (Mode::Thinking, "unit")] {
        for choice in [ToolChoice::Required, ToolChoice::Named("get_weather".to_owned())] {
            let is_named = choice != ToolChoice::Required;
            let offered = vec![clock(), weather()];
            let tools = Tools { offered, choice, calls: CallCount::One };
            let ask = Request {
                mode,
                // Stop strings are for words.
                stop: vec![stop.to_owned()],
                ..request("What is the weather in Oslo in celsius?", tools)
            };
            let (text, calls, outcome) = tell(&model, ask);
            assert_eq!((text.as_str(), outcome.reason), ("", FinishReason::Stop));
            let [call] = calls.as_slice() else { panic!("{calls:?}") };
            assert!(!is_named || call.name == "get_weather");
            let arguments: Value = serde_json::from_str(&call.arguments).unwrap();
            if call.name == "get_weather" {
                let keys: Vec<&String> = arguments.as_object().unwrap().keys().collect();
                assert_eq!(keys, ["unit", "place"]);
                assert!(["celsius", "fahrenheit"].contains(&arguments["unit"].as_str().unwrap()));
            }
        }
    }
}

#[test]
fn a_model_that_may_call_may_also_answer_in_words() {
    let model = model();
    let tools = Tools { offered: vec![weather()], ..Tools::default() };
    let (text, calls, _) = tell(&model, request("Say hello to me, please.", tools.clone()));
    assert!(!text.is_empty() || !calls.is_empty());
    assert!(!text.contains("<tool_call>"), "{text}");

    // With the start of a call before it, the model goes on with one.
    let call = ToolCall {
        id: "call_1".to_owned(),
        name: "get_weather".to_owned(),
        arguments: r#"{"unit": "celsius", "place": "Oslo"}"#.to_owned(),
    };
    let result = Message {
        tool_call_id: Some("call_1".to_owned()),
        ..Message::new(Role::Tool, "12 degrees, rain")
    };
    let messages = vec![
        Message::user("What is the weather in Oslo?"),
        Message { tool_calls: vec![call], ..Message::assistant("") },
        result,
    ];
    let (text, calls, _) = tell(&model, Request { messages, ..request("", tools) });
    assert!(!text.is_empty() || !calls.is_empty());
}

#[test]
fn f14_tools_that_cannot_be_used_are_refused_before_anything_runs() {
    let model = model();
    let refused = |offered: Vec<Tool>, format: OutputFormat| {
        let tools = Tools { offered, ..Tools::default() };
        reply(&model, Request { format, ..request("hi", tools) }).unwrap_err()
    };
    let deep = format!("{}{}", "{\"a\":".repeat(100), "1".to_owned() + &"}".repeat(100));
    let deep = Tool { parameters: deep, ..clock() };
    let error = refused(vec![deep], OutputFormat::Text);
    assert!(matches!(error, GenerateError::Format(FormatError::TooDeep { .. })), "{error}");
    let no_json = Tool { parameters: "{".to_owned(), ..clock() };
    let error = refused(vec![no_json], OutputFormat::Text);
    assert!(matches!(error, GenerateError::Format(FormatError::NotJson { .. })), "{error}");
    let no_object = Tool { parameters: "true".to_owned(), ..clock() };
    let error = refused(vec![no_object], OutputFormat::Text);
    assert!(matches!(error, GenerateError::InvalidRequest { field: "tools", .. }), "{error}");
    let error = refused(vec![clock()], OutputFormat::Regex("a".to_owned()));
    assert!(matches!(error, GenerateError::InvalidRequest { field: "tools", .. }), "{error}");
}

#[test]
fn a_plain_prompt_is_gone_on_with_and_counted_as_it_is() {
    let model = model();
    let plain = Request {
        prompt_form: PromptForm::Plain,
        mode: Mode::Thinking,
        max_tokens: 4,
        sampling: rapport_types::Sampling::greedy(),
        ..request("The capital of France is", Tools::default())
    };
    let n_text_tokens = model.tokenize("The capital of France is").unwrap().len() as u32;
    assert_eq!(model.count_prompt_tokens(&plain).unwrap(), Some(n_text_tokens));
    let conversation = Request { prompt_form: PromptForm::Conversation, ..plain.clone() };
    assert!(model.count_prompt_tokens(&conversation).unwrap().unwrap() > n_text_tokens);
    let nothing = Request { messages: vec![Message::user("")], ..plain.clone() };
    let refused = model.start(nothing, Box::new(|event| panic!("{event:?}"))).unwrap_err();
    assert!(matches!(refused, GenerateError::InvalidRequest { field: "prompt", .. }), "{refused}");
    let (text, _, outcome) = tell(&model, plain);
    assert!(text.contains("Paris"), "{text}");
    assert_eq!(outcome.usage.reasoning_tokens, 0);
}
