//! `/v1/embeddings`: the protocol's forms, its refusals, and what is charged.

use rapport_store::Plans;
use serde_json::{Value, json};

use crate::harness::{Running, config, serve};
use crate::people::House;
use crate::web::answering;

const PATH: &str = "/v1/embeddings";

fn ask(server: &Running, extra: &Value) -> (u16, Value) {
    server.post(PATH, &crate::harness::with(json!({ "model": "rapport", "input": "a b" }), extra))
}

#[test]
fn texts_and_tokens_become_vectors_of_length_one() {
    let server = Running::start("ok");
    let (status, answer) = ask(&server, &json!({}));
    assert_eq!(status, 200, "{answer}");
    assert_eq!((&answer["object"], &answer["model"]), (&json!("list"), &json!("rapport")));
    assert_eq!(answer["usage"], json!({ "prompt_tokens": 2, "total_tokens": 2 }));
    let vector: Vec<f64> = serde_json::from_value(answer["data"][0]["embedding"].clone()).unwrap();
    assert!((vector.iter().map(|x| x * x).sum::<f64>() - 1.0).abs() < 1e-6);

    let (_, many) = ask(&server, &json!({ "input": ["a", "a b c", "a b"] }));
    let indices: Vec<&Value> =
        many["data"].as_array().unwrap().iter().map(|d| &d["index"]).collect();
    assert_eq!(indices, [&json!(0), &json!(1), &json!(2)]);
    assert_eq!(many["data"][2]["embedding"], answer["data"][0]["embedding"]);
    assert_eq!(many["usage"]["prompt_tokens"], 6);
    let (_, tokens) = ask(&server, &json!({ "input": [7, 8] }));
    assert_eq!(tokens["data"], answer["data"]);
    let (_, tokens) = ask(&server, &json!({ "input": [[7, 8], [9]] }));
    assert_eq!(tokens["data"].as_array().unwrap().len(), 2);

    // Little-endian f32 of 2, 1, 2 and 2 over the root of 13.
    let (_, packed) = ask(&server, &json!({ "encoding_format": "base64" }));
    assert_eq!(packed["data"][0]["embedding"], "1QAOP9UAjj7VAA4/1QAOPw==");
    let (_, short) = ask(&server, &json!({ "dimensions": 2 }));
    let short: Vec<f64> = serde_json::from_value(short["data"][0]["embedding"].clone()).unwrap();
    assert_eq!(short.len(), 2);
    assert!((short[0] / short[1] - 2.0).abs() < 1e-6, "the direction is kept");
    assert!((short.iter().map(|x| x * x).sum::<f64>() - 1.0).abs() < 1e-6);
    let models = server.get("/v1/embedding-models").1;
    assert_eq!(models["models"][0]["rapport"]["dimensions"], 4);
}

#[test]
fn f09_inputs_that_are_none_are_refused() {
    let server = Running::start("ok");
    let many: Vec<&str> = vec!["a"; 2049];
    let tokens = vec![1; 300_001];
    for (extra, param) in [
        (json!({ "input": "" }), "input"),
        (json!({ "input": [] }), "input"),
        (json!({ "input": ["a", ""] }), "input"),
        (json!({ "input": [[]] }), "input"),
        (json!({ "input": many }), "input"),
        (json!({ "input": tokens }), "input"),
        (json!({ "input": [-1] }), "input"),
        (json!({ "input": { "text": "a" } }), "input"),
        (json!({ "dimensions": 0 }), "dimensions"),
        (json!({ "dimensions": 5 }), "dimensions"),
        (json!({ "encoding_format": "int8" }), "encoding_format"),
    ] {
        let (status, answer) = ask(&server, &extra);
        assert_eq!((status, &answer["error"]["param"]), (400, &json!(param)), "{answer}");
    }
    assert_eq!(ask(&server, &json!({ "model": "other" })).0, 404);
}

#[test]
fn embeddings_are_of_the_model_without_its_adapters() {
    let engine = answering("ok").with_adapters(&["kind"]);
    let server = serve(config(), engine);
    let (status, answer) = ask(&server, &json!({ "model": "rapport@kind" }));
    assert_eq!((status, &answer["error"]["param"]), (400, &json!("model")), "{answer}");
    assert_eq!(ask(&server, &json!({ "model": "rapport@none" })).0, 200);
    let models = server.get("/v1/embedding-models").1;
    let ids: Vec<&Value> =
        models["models"].as_array().unwrap().iter().map(|model| &model["id"]).collect();
    assert_eq!(ids, ["rapport"]);
}

#[test]
fn embeddings_count_as_tokens_of_a_prompt() {
    let plans = Plans::parse("[small]\ntokens_per_day = 5\n[unlimited]\n[free]\n").unwrap();
    let mut house = House::with_plans(plans, answering("ok"));
    let mut friend = house.friend("Kim", "small");
    let body = json!({ "name": "k", "scopes": ["api"] });
    let (status, key) = friend.ask(&house.server, "POST", "/api/account/keys", &body);
    assert_eq!(status, 201, "{key}");
    friend.key = Some(key["key"].as_str().unwrap().to_owned());
    let ask = |input: &str| {
        let body = json!({ "model": "rapport", "input": input });
        friend.ask(&house.server, "POST", PATH, &body)
    };
    assert_eq!(ask("one two three four").0, 200);
    let account = friend.get(&house.server, "/api/account");
    assert_eq!(account["usage_today"]["tokens"], 4, "{account}");
    let (status, refused) = ask("five six");
    assert_eq!((status, &refused["error"]["code"]), (429, &json!("rate_limit_exceeded")));
    assert_eq!(ask("five").0, 200);
}
