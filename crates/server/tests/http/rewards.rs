//! The reward server's protocols, with a scorer that is easy to follow.

use std::sync::Arc;

use rapport_server::{ReplyScores, RewardServer, Sample, ScoreReplies};
use serde_json::{Value, json};

/// The more words, the better; nothing for a label `never`.
struct Words;

impl ScoreReplies for Words {
    fn names(&self) -> Vec<&'static str> {
        vec!["words", "labels"]
    }

    fn score(&self, sample: &Sample) -> ReplyScores {
        let n_words = sample.reply.split_whitespace().count() as f64;
        let is_gated = sample.labels.contains_key("never");
        ReplyScores {
            reward: if is_gated { 0.0 } else { n_words / 10.0 },
            failed: is_gated.then_some("never"),
            components: vec![Some(n_words), sample.labels.get("answers").map(|_| 1.0)],
        }
    }
}

/// Posts to a server of its own; the status and the body.
fn post(path: &str, body: &Value) -> (u16, Value) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let server = runtime
        .block_on(RewardServer::listen("127.0.0.1:0".parse().unwrap(), Arc::new(Words)))
        .unwrap();
    let url = format!("http://{}{path}", server.address().unwrap());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = runtime.spawn(server.run(async {
        let _ = stopped.await;
    }));
    let agent: ureq::Agent =
        ureq::Agent::config_builder().http_status_as_error(false).proxy(None).build().into();
    let mut response =
        agent.post(&url).header("content-type", "application/json").send(body.to_string()).unwrap();
    let found = serde_json::from_str(&response.body_mut().read_to_string().unwrap()).unwrap();
    let status = response.status().as_u16();
    drop(agent);
    drop(stop);
    runtime.block_on(running).unwrap();
    (status, found)
}

#[test]
fn openrlhf_gets_one_value_a_query_whatever_it_sends() {
    let prompt = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n";
    let (status, answer) = post(
        "/get_reward",
        &json!({
            "query": [
                format!("{prompt}one two three<|im_end|>"),
                format!("{prompt}one two<|im_end|>"),
                "no turn in this",
                format!("{prompt}Paris<|im_end|>"),
            ],
            "prompts": [prompt, prompt, "", prompt],
            "labels": ["", "{\"never\": 1}", "", "Paris"],
        }),
    );
    assert_eq!(status, 200, "{answer}");
    assert_eq!(
        answer,
        json!({
            "rewards": [0.3, 0.0, 0.5, 0.1],
            "scores": [0.3, 0.0, 0.5, 0.1],
            "extra_logs": {
                "gated": [0.0, 1.0, 0.0, 0.0],
                "labels": [0.5, 0.5, 0.5, 1.0],
                "unreadable": [0.0, 0.0, 1.0, 0.0],
                "words": [3.0, 2.0, 0.5, 1.0],
            },
        })
    );
    let (status, answer) = post("/get_reward", &json!({ "query": [] }));
    assert_eq!((status, &answer["rewards"]), (200, &json!([])));
}

#[test]
fn conversations_come_as_messages_and_faults_are_named() {
    let sample = |role: &str| {
        json!({ "samples": [{
            "messages": [{ "role": role, "content": "Hi" }],
            "reply": "<think>hm</think>\n\none two",
        }] })
    };
    let (status, answer) = post("/score", &sample("user"));
    assert_eq!(status, 200);
    assert_eq!(
        answer,
        json!({
            "names": ["words", "labels"],
            "scores": [
                { "reward": 0.2, "failed": null, "components": { "labels": null, "words": 2.0 } }
            ],
        })
    );
    let (status, answer) = post("/score", &sample("narrator"));
    assert_eq!(status, 400);
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(message.contains("`narrator` is no role"), "{message}");
    let (status, answer) = post("/get_reward", &json!({ "queries": [] }));
    assert_eq!(status, 400);
    assert!(answer["error"]["message"].as_str().unwrap().contains("query"), "{answer}");
    let (status, _) = post("/reward", &json!({}));
    assert_eq!(status, 404);
}
