//! A model's adapters, chosen by the model's name in every protocol.

use rapport_testkit::{Script, ScriptedEngine};
use rapport_types::{AdapterChoice, Mode, SamplingDraft};
use serde_json::{Value, json};

use crate::harness::{Running, ask, config, serve};

fn server() -> Running {
    let engine = ScriptedEngine::answering(|_| Script::answer("ok"));
    serve(config(), engine.named("small").with_adapters(&["warm", "dry"]))
}

#[test]
fn each_adapter_is_listed_in_each_mode() {
    let server = server();
    let (_, listed) = server.get("/v1/models");
    let models = listed["data"].as_array().unwrap();
    let ids: Vec<&str> = models.iter().map(|model| model["id"].as_str().unwrap()).collect();
    let forms = ["", "@warm", "@dry", "@none"];
    let expected = forms.iter().flat_map(|form| {
        ["rapport", "rapport-fast", "rapport-thinking"].map(|name| format!("{name}{form}"))
    });
    assert_eq!(ids, expected.collect::<Vec<_>>());
    let dry = server.get("/v1/models/rapport-fast@dry").1;
    assert_eq!(dry["rapport"]["adapter"], "dry");
    assert!(dry["rapport"]["build"].as_str().unwrap().contains("+dry+"), "{dry}");
    assert_eq!(server.get("/v1/language-models").1["models"].as_array().unwrap().len(), 12);
}

#[test]
fn every_protocol_takes_the_adapter_and_the_mode_from_the_name() {
    let server = server();
    let said = json!([{ "role": "user", "content": "hi" }]);
    let named = |name: &str| AdapterChoice::Named(name.to_owned());
    let bodies = |model: &str| {
        [
            ("/v1/chat/completions", json!({ "model": model, "messages": said })),
            ("/v1/responses", json!({ "model": model, "input": "hi" })),
            ("/v1/completions", json!({ "model": model, "prompt": "hi" })),
            ("/v1/messages", json!({ "model": model, "messages": said, "max_tokens": 9 })),
        ]
    };
    for (name, adapter, mode) in [
        ("rapport", AdapterChoice::Default, Mode::Auto),
        ("rapport@warm", named("warm"), Mode::Auto),
        ("rapport-fast@dry", named("dry"), Mode::Fast),
        ("rapport-thinking@none", AdapterChoice::None, Mode::Thinking),
        ("small@warm", named("warm"), Mode::Auto),
    ] {
        for (path, body) in bodies(name) {
            let (status, answer) = server.post(path, &body);
            assert_eq!(status, 200, "{path}: {answer}");
            let asked = server.engine.requests().pop().unwrap();
            assert_eq!(asked.adapter, adapter, "{path} {name}");
            if path != "/v1/completions" {
                assert_eq!(asked.mode, mode, "{path} {name}");
            }
        }
    }
}

#[test]
fn what_a_request_leaves_open_is_as_its_model_has_it() {
    let engine = ScriptedEngine::answering(|_| Script::answer("ok"));
    let engine = engine.with_adapters(&["warm"]).with_sampling(|adapter| {
        let temperature = if *adapter == AdapterChoice::None { 1.0 } else { 0.25 };
        SamplingDraft { temperature, top_k: 40, ..SamplingDraft::default() }
    });
    let server = serve(config(), engine);
    let said = json!([{ "role": "user", "content": "hi" }]);
    for (name, expected) in [("rapport", 0.25), ("rapport@warm", 0.25), ("rapport@none", 1.0)] {
        for (path, body) in [
            ("/v1/chat/completions", json!({ "model": name, "messages": said })),
            ("/v1/responses", json!({ "model": name, "input": "hi" })),
            ("/v1/completions", json!({ "model": name, "prompt": "hi" })),
            ("/v1/messages", json!({ "model": name, "messages": said, "max_tokens": 9 })),
        ] {
            let (status, answer) = server.post(path, &body);
            assert_eq!(status, 200, "{path}: {answer}");
            let sampling = server.engine.requests().pop().unwrap().sampling;
            assert_eq!((sampling.temperature, sampling.top_k), (expected, 40), "{path} {name}");
            if path == "/v1/responses" {
                assert_eq!(answer["temperature"], expected);
            }
            let mut said_so = body;
            said_so["temperature"] = json!(0.5);
            assert_eq!(server.post(path, &said_so).0, 200, "{path}");
            let sampling = server.engine.requests().pop().unwrap().sampling;
            assert_eq!((sampling.temperature, sampling.top_k), (0.5, 40), "{path} {name}");
        }
        let model = server.get(&format!("/v1/models/{name}")).1;
        assert_eq!(model["rapport"]["sampling"]["temperature"], expected, "{model}");
    }
}

#[test]
fn the_build_of_a_reply_names_its_adapter() {
    let server = server();
    let fingerprint = |answer: &Value| answer["system_fingerprint"].as_str().unwrap().to_owned();
    let (_, warm) = server.chat(&ask(&json!({ "model": "rapport@warm" })));
    assert!(fingerprint(&warm).contains("+warm+"), "{warm}");
    assert_eq!(warm["rapport"]["build"], warm["system_fingerprint"]);
    let (_, plain) = server.chat(&ask(&json!({ "model": "rapport@none" })));
    assert!(fingerprint(&plain).contains("+none+"), "{plain}");
}

#[test]
fn an_adapter_that_is_not_there_is_no_model() {
    let server = server();
    let n_before = server.engine.requests().len();
    for name in ["rapport@cold", "small@cold", "rapport@", "rapport@warm@dry", "@warm"] {
        let (status, body) = server.chat(&ask(&json!({ "model": name })));
        assert_eq!((status, &body["error"]["code"]), (404, &json!("model_not_found")), "{name}");
        let message = body["error"]["message"].as_str().unwrap();
        assert!(message.contains("rapport@warm") && message.contains("rapport@none"), "{message}");
    }
    assert_eq!(server.engine.requests().len(), n_before);
}
