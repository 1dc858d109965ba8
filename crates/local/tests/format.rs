//! Answers of the default model in the formats that were asked for.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::num::NonZeroUsize;

use rapport_kernels::{Compute, Isa};
use rapport_local::LocalModel;
use rapport_types::{
    AdapterChoice, Caller, Event, FinishReason, FormatError, FormatKind, Generate, GenerateError,
    LogitBias, Message, Mode, Outcome, OutputFormat, PromptForm, Request, SamplingDraft,
    ThinkingBudget, Tools, reply,
};
use serde_json::{Value, json};

fn model() -> LocalModel {
    let compute = Compute::new(Isa::detect(), NonZeroUsize::MIN);
    LocalModel::load(&rapport_testkit::default_model(), compute, 4096).unwrap()
}

/// Greedy, and two seeds at temperature 1.
fn draws() -> impl Iterator<Item = SamplingDraft> {
    let draft = |(temperature, seed)| SamplingDraft {
        temperature,
        top_p: 1.0,
        seed: Some(seed),
        ..SamplingDraft::default()
    };
    [(0.0, 0), (1.0, 1), (1.0, 2)].into_iter().map(draft)
}

fn request(text: &str, format: OutputFormat, draft: SamplingDraft) -> Request {
    Request {
        messages: vec![Message::user(text)],
        mode: Mode::Fast,
        thinking_budget: ThinkingBudget::Medium,
        sampling: draft.validate().unwrap(),
        max_tokens: 96,
        stop: Vec::new(),
        format,
        tools: Tools::default(),
        prompt_form: PromptForm::default(),
        adapter: AdapterChoice::default(),
        caller: Caller::default(),
    }
}

fn tell(model: &LocalModel, request: Request) -> (String, String, Outcome) {
    let (mut thought, mut text) = (String::new(), String::new());
    for event in reply(model, request).unwrap() {
        match event {
            Event::Started { .. } => {}
            Event::Thought(piece) => thought.push_str(&piece),
            Event::Text { text: piece, .. } => text.push_str(&piece),
            Event::ToolCall(call) => panic!("no tools were offered: {call:?}"),
            Event::Finished(outcome) => return (thought, text, outcome),
            Event::Failed(error) => panic!("{error}"),
        }
    }
    panic!("a reply without an end")
}

fn schema(schema: &Value) -> OutputFormat {
    OutputFormat::JsonSchema(schema.to_string())
}

/// Asks for one answer with each of [`draws`]; all must be complete.
fn complete(model: &LocalModel, text: &str, format: &OutputFormat) -> Vec<String> {
    draws()
        .map(|draft| {
            let (_, answer, outcome) = tell(model, request(text, format.clone(), draft));
            assert_eq!(outcome.reason, FinishReason::Stop, "{answer}");
            answer
        })
        .collect()
}

#[test]
fn a_nested_schema_gives_what_it_describes() {
    let moods = ["calm", "sad", "joyful"];
    let format = schema(&json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 1, "maxLength": 12},
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "mood": {"enum": moods},
            "tags": {
                "type": "array", "minItems": 1, "maxItems": 3,
                "items": {"type": "string", "pattern": "^[a-z]{2,8}$"},
            },
            "home": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "maxLength": 16},
                    "rooms": {"type": ["integer", "null"], "minimum": 1, "maximum": 9},
                },
                "required": ["city", "rooms"],
                "additionalProperties": false,
            },
        },
        "required": ["name", "age", "mood", "tags"],
        "additionalProperties": false,
    }));
    let model = model();
    let mut answers = complete(&model, "Describe Ann, who is 31 and sad, as JSON.", &format);
    for answer in &answers {
        let value: Value = serde_json::from_str(answer).unwrap();
        let keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        assert!(keys.len() == 4 || keys[4..] == ["home"], "{answer}");
        let n_characters = value["name"].as_str().unwrap().chars().count();
        assert!((1..=12).contains(&n_characters), "{answer}");
        assert!((0..=120).contains(&value["age"].as_i64().unwrap()), "{answer}");
        assert!(moods.contains(&value["mood"].as_str().unwrap()), "{answer}");
        let tags = value["tags"].as_array().unwrap();
        assert!((1..=3).contains(&tags.len()), "{answer}");
        for tag in tags {
            let tag = tag.as_str().unwrap();
            assert!((2..=8).contains(&tag.len()) && tag.bytes().all(|b| b.is_ascii_lowercase()));
        }
        if let Some(home) = value.get("home") {
            assert!(home["city"].as_str().unwrap().chars().count() <= 16, "{answer}");
            assert!(home["rooms"].is_null() || (1..=9).contains(&home["rooms"].as_i64().unwrap()));
            assert_eq!(home.as_object().unwrap().len(), 2, "{answer}");
        }
    }
    answers.dedup();
    assert!(answers.len() > 1, "the seeds make a difference: {answers:?}");
}

#[test]
fn characters_of_many_tokens_are_written_whole() {
    let model = model();
    let exact = "日本語 😀 é \u{1f468}\u{200d}\u{1f469}";
    for answer in complete(&model, "Hi", &schema(&json!({"const": {"a": exact}}))) {
        assert_eq!(serde_json::from_str::<Value>(&answer).unwrap(), json!({"a": exact}));
    }
    let format = OutputFormat::Regex("[あ-ん]{3,6}(😀|🎉)".to_owned());
    for answer in complete(&model, "こんにちは", &format) {
        let characters: Vec<char> = answer.chars().collect();
        let (last, kana) = characters.split_last().unwrap();
        assert!(['😀', '🎉'].contains(last) && (3..=6).contains(&kana.len()), "{answer}");
        assert!(kana.iter().all(|c| ('あ'..='ん').contains(c)), "{answer}");
    }
}

#[test]
fn token_borders_do_not_matter_to_the_syntax() {
    // Many tokens hold several of these characters.
    let texts = ["\"", "\\", "{}", "],[", "\": \"", "<|im_end|>", "\n\n", "", "null"];
    let row = json!({"type": "array", "minItems": 3, "maxItems": 3, "items": {"enum": texts}});
    let format = schema(&json!({
        "type": "array", "minItems": 2, "maxItems": 2,
        "items": {"type": "object", "properties": {"{\"": row}, "required": ["{\""],
                  "additionalProperties": false},
    }));
    for answer in complete(&model(), "Write JSON.", &format) {
        let value: Value = serde_json::from_str(&answer).unwrap();
        let rows = value.as_array().unwrap();
        assert_eq!(rows.len(), 2);
        for row in rows {
            let items = row["{\""].as_array().unwrap();
            assert!(items.len() == 3 && items.iter().all(|i| texts.contains(&i.as_str().unwrap())));
        }
    }
}

#[test]
fn a_recursive_schema_nests_as_deep_as_the_model_likes() {
    let format = schema(&json!({
        "$defs": {"node": {
            "type": "object",
            "properties": {
                "v": {"type": "integer", "minimum": 0, "maximum": 9},
                "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]},
            },
            "required": ["v", "next"],
            "additionalProperties": false,
        }},
        "$ref": "#/$defs/node",
    }));
    let model = model();
    let mut n_complete = 0;
    for draft in draws() {
        let (_, answer, outcome) = tell(&model, request("A list of one", format.clone(), draft));
        if outcome.reason == FinishReason::Length {
            assert!(answer.starts_with(r#"{"v": "#), "{answer}");
            continue;
        }
        n_complete += 1;
        let value: Value = serde_json::from_str(&answer).unwrap();
        let mut node = &value;
        while !node.is_null() {
            assert!((0..=9).contains(&node["v"].as_i64().unwrap()) && node.get("next").is_some());
            node = &node["next"];
        }
    }
    assert!(n_complete > 0);
}

#[test]
fn regular_expressions_grammars_and_plain_objects() {
    let model = model();
    let date = OutputFormat::Regex(r"[12]\d{3}-(0[1-9]|1[0-2])-[0-3][0-9]".to_owned());
    for answer in complete(&model, "When did the first person walk on the moon?", &date) {
        let parts: Vec<u32> = answer.split('-').map(|part| part.parse().unwrap()).collect();
        assert!(answer.len() == 10 && (1..=12).contains(&parts[1]), "{answer}");
    }
    let sum = "start: \"(\" start \"+\" start \")\" | DIGIT\nDIGIT: /[0-9]/";
    let draft = SamplingDraft { temperature: 0.0, ..SamplingDraft::default() };
    let lark = OutputFormat::Lark(sum.to_owned());
    let (_, answer, outcome) = tell(&model, request("1 + 2 is", lark, draft.clone()));
    let n = |c: char| answer.matches(c).count();
    assert!(answer.chars().all(|c| "(+)".contains(c) || c.is_ascii_digit()), "{answer}");
    assert!(outcome.reason == FinishReason::Length || n('(') == n(')'), "{answer}");

    let ask = request("Say hello as JSON.", OutputFormat::JsonObject, draft);
    let (_, answer, outcome) = tell(&model, ask);
    assert!(answer.starts_with('{'), "{answer}");
    if outcome.reason == FinishReason::Stop {
        assert!(serde_json::from_str::<Value>(&answer).unwrap().is_object(), "{answer}");
    }
}

#[test]
fn an_answer_cannot_end_before_its_format_does() {
    let model = model();
    // The model is made to want nothing but its end.
    let end = 2;
    let logit_bias = vec![LogitBias { token: end, bias: 100.0 }];
    let draft = SamplingDraft { temperature: 0.0, logit_bias, ..SamplingDraft::default() };
    let ask = |format| tell(&model, request("Hi", format, draft.clone()));
    assert_eq!(ask(OutputFormat::Text).1, "");
    let (_, answer, outcome) = ask(OutputFormat::Regex("[a-z]{12,40}".to_owned()));
    assert!(answer.len() >= 12 && answer.len() < 24, "{answer}");
    assert_eq!(outcome.reason, FinishReason::Stop);
    let (_, answer, _) =
        ask(schema(&json!({"type": "array", "minItems": 2, "maxItems": 2, "items": {"const": 1}})));
    assert_eq!(answer, "[1, 1]");
}

#[test]
fn a_format_that_is_lost_on_the_way_ends_the_reply_with_an_error() {
    let model = model();
    // After "ab" only structure may come, which no answer may have.
    for (source, written) in [("\"ab\" <|im_start|>", "ab"), ("\"a\" (\"b\" <|im_start|>)", "ab")] {
        let format = OutputFormat::Lark(format!("start: {source}"));
        let mut ask = request("Hi", format, SamplingDraft::default());
        ask.mode = Mode::Thinking;
        let mut text = String::new();
        let mut events: Vec<Event> = reply(&model, ask).unwrap().collect();
        let end = events.pop();
        assert!(matches!(end, Some(Event::Failed(GenerateError::FormatLost { .. }))), "{end:?}");
        for event in events {
            match event {
                Event::Started { .. } | Event::Thought(_) => {}
                Event::Text { text: piece, .. } => text.push_str(&piece),
                end => panic!("{end:?}"),
            }
        }
        assert_eq!(text, written);
    }
    // The engine goes on with other replies.
    let after = request("Hi", OutputFormat::Regex("ok".to_owned()), SamplingDraft::default());
    assert_eq!(tell(&model, after).1, "ok");
}

#[test]
fn the_thought_is_free_of_the_format_of_the_answer() {
    let format = schema(&json!({"enum": ["yes", "no"]}));
    let draft = SamplingDraft { temperature: 0.0, ..SamplingDraft::default() };
    let ask =
        Request { mode: Mode::Thinking, ..request("I feel lost. Will it pass?", format, draft) };
    let (thought, answer, outcome) = tell(&model(), ask);
    assert!(thought.starts_with("feel: ") && thought.contains(" | do: "), "{thought}");
    assert!(["\"yes\"", "\"no\""].contains(&answer.as_str()), "{answer}");
    assert_eq!(outcome.reason, FinishReason::Stop);
}

#[test]
fn f14_formats_that_cannot_be_used_are_refused_before_any_token() {
    let model = model();
    let refuse = |format: OutputFormat| {
        let request = request("Hi", format, SamplingDraft::default());
        match model.start(request, Box::new(|event| panic!("{event:?}"))) {
            Err(GenerateError::Format(error)) => error,
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("taken"),
        }
    };
    let json_schema = |source: &str| refuse(OutputFormat::JsonSchema(source.to_owned()));
    let unusable = |kind, error: FormatError| match error {
        FormatError::Unusable { kind: found, reason } if found == kind => {
            assert!(!reason.is_empty() && !reason.contains('\n'), "{reason}");
            reason
        }
        // How fast a machine is decides between the two.
        FormatError::TooSlow { .. } => "too slow".to_owned(),
        error => panic!("{error}"),
    };

    // Wrong.
    assert!(matches!(json_schema("{\"type\": "), FormatError::NotJson { .. }));
    unusable(FormatKind::JsonSchema, json_schema("[]"));
    unusable(FormatKind::JsonSchema, json_schema("false"));
    unusable(FormatKind::JsonSchema, json_schema(r#"{"type": "nothing"}"#));
    unusable(FormatKind::JsonSchema, json_schema(r#"{"type": "string", "pattern": "("}"#));
    let reason = unusable(FormatKind::Regex, refuse(OutputFormat::Regex("(a".to_owned())));
    assert!(reason.ends_with("unclosed group"), "{reason}");
    unusable(FormatKind::Lark, refuse(OutputFormat::Lark("begin: \"a\"".to_owned())));
    unusable(FormatKind::Lark, refuse(OutputFormat::Lark(String::new())));
    // References that lead nowhere, out into the net, or round in a circle.
    unusable(FormatKind::JsonSchema, json_schema(r##"{"$ref": "#/$defs/none"}"##));
    unusable(FormatKind::JsonSchema, json_schema(r#"{"$ref": "https://example.org/s.json"}"#));
    let reason = unusable(FormatKind::JsonSchema, json_schema(r##"{"$ref": "#"}"##));
    assert_eq!(reason, "there is no text of this form");
    let round = json!({
        "$ref": "#/$defs/a",
        "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
    });
    unusable(FormatKind::JsonSchema, json_schema(&round.to_string()));

    // Too much.
    for deep in ["[".repeat(10_000), r#"{"items":"#.repeat(10_000), "{\"not\":[".repeat(40)] {
        assert!(matches!(json_schema(&deep), FormatError::TooDeep { limit_levels: 64, .. }));
    }
    let deep = refuse(OutputFormat::Regex("(".repeat(5_000)));
    assert!(matches!(deep, FormatError::TooDeep { .. }), "{deep}");
    let deep = refuse(OutputFormat::Lark(format!("start: {}", "(".repeat(10_000))));
    assert!(matches!(deep, FormatError::TooDeep { .. }), "{deep}");
    let huge = json!({"enum": (0..100_000).map(|n| n.to_string()).collect::<Vec<_>>()});
    let huge = json_schema(&huge.to_string());
    assert!(matches!(huge, FormatError::TooLong { limit_bytes: 262_144, .. }), "{huge}");
    let long = refuse(OutputFormat::Regex("a".repeat(10_000)));
    assert!(matches!(long, FormatError::TooLong { limit_bytes: 8_192, .. }), "{long}");
    unusable(FormatKind::Lark, refuse(OutputFormat::Lark("start: start \"a\"".to_owned())));
}

#[test]
fn f14_formats_that_ask_for_much_work_end_in_an_answer_or_an_error() {
    let model = model();
    let formats = [
        OutputFormat::Regex("(a|aa|aaa)*b(.*.*.*.*x){20}".to_owned()),
        OutputFormat::Regex("(x+x+)+y".to_owned()),
        OutputFormat::Regex("((a{1000}){1000}){1000}".to_owned()),
        OutputFormat::Regex("(?:[ab]*a[ab]{40})".to_owned()),
        OutputFormat::Lark("start: s\ns: s s | \"a\" | s s s".to_owned()),
        schema(&json!({"enum": (0..8_000).map(|n| format!("option {n}")).collect::<Vec<_>>()})),
        schema(&json!({"type": "string", "minLength": 30_000, "maxLength": 40_000})),
        schema(&json!({"allOf": vec![json!({"anyOf": [
            {"properties": {"a": {"minLength": 1}}}, {"properties": {"b": {"maxLength": 9}}},
        ]}); 12]})),
    ];
    for format in formats {
        let draft = SamplingDraft { seed: Some(1), ..SamplingDraft::default() };
        let ask = Request { max_tokens: 24, ..request("Go on", format.clone(), draft) };
        let end = match reply(&model, ask) {
            Err(GenerateError::Format(error)) => {
                assert!(!error.to_string().is_empty());
                continue;
            }
            Err(error) => panic!("{format:?}: {error}"),
            Ok(reply) => reply.last().unwrap(),
        };
        let is_end = matches!(&end, Event::Finished(_))
            || matches!(&end, Event::Failed(GenerateError::FormatLost { .. }));
        assert!(is_end, "{format:?}: {end:?}");
    }
}

#[test]
fn f15_grammars_of_many_brackets_or_rules_are_refused_or_answered() {
    let model = model();
    let chain = |n_rules: usize| {
        let rules = (0..n_rules).map(|idx| format!("r{idx}: r{}\n", idx + 1));
        let rules: String = rules.collect();
        format!("start: r0\n{rules}r{n_rules}: \"a\"\n")
    };
    for (grammar, is_refused) in [
        (format!("start: {}\"a\"{}", "(".repeat(60_000), ")".repeat(60_000)), true),
        (format!("start: {}", "[".repeat(60_000)), true),
        (chain(5_000), false),
        ("start: start \"a\" | \"a\"".to_owned(), false),
        ("start: a\na: b \"x\"\nb: a \"y\"".to_owned(), false),
        ("start: \"a\"*".repeat(5), false),
    ] {
        let ask = Request {
            max_tokens: 4,
            ..request("Go on", OutputFormat::Lark(grammar), SamplingDraft::default())
        };
        match reply(&model, ask) {
            Err(GenerateError::Format(error)) => assert!(!error.to_string().contains('\n')),
            Err(error) => panic!("{error}"),
            Ok(reply) => {
                let end = reply.last().unwrap();
                assert!(
                    matches!(end, Event::Finished(_) | Event::Failed(_)) && !is_refused,
                    "{end:?}"
                );
            }
        }
    }
}
