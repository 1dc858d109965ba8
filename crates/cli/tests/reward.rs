//! `rapport reward`, as people and trainers meet it.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail their test")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};

fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn reward(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rapport"));
    command.arg("reward").args(arguments).current_dir(repository()).stdin(Stdio::null());
    command
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

struct Server {
    process: Child,
    url: String,
}

impl Server {
    fn start() -> Self {
        let mut process =
            reward(&["serve", "--listen", "127.0.0.1:0"]).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let url = lines.find_map(|line| {
            line.unwrap().split_once("rewards at ").map(|(_, url)| url.to_owned())
        });
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, url: url.expect("the server says where it listens") }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Of each component: the least share of the pairs that it decides in which it must be right. Below what
/// docs/rewards.md says was measured.
const FLOORS: [(&str, f64); 10] = [
    ("reads_feeling", 0.76),
    ("tone_fit", 0.93),
    ("style_match", 0.87),
    ("character", 0.98),
    ("specific", 0.83),
    ("no_repetition", 0.88),
    ("length_fit", 0.60),
    ("form", 0.80),
    ("honest", 0.97),
    ("no_flattery", 0.97),
];

/// Floors under the figures of docs/rewards.md, on pairs that nothing was written against.
#[test]
fn the_reward_prefers_the_better_reply_of_unseen_pairs_also_at_equal_length() {
    // What a trained model said itself is told apart in docs/rewards.md: marks of the surface do not see sense.
    let files = std::fs::read_dir(repository().join("data/pairs")).unwrap();
    let files = files.map(|file| file.unwrap().path().to_str().unwrap().to_owned());
    let files: Vec<String> = files.filter(|file| !file.ends_with("f-sampled.jsonl")).collect();
    assert!(files.len() > 10);
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let eval = |more: &[&str]| -> Value {
        let arguments = [&["eval"], &files[..], &["--half", "unseen", "--json"], more].concat();
        serde_json::from_str(&stdout(&reward(&arguments).output().unwrap())).unwrap()
    };
    let share = |found: &Value, name: &str| {
        let rows = found["rows"].as_array().unwrap();
        let row = rows.iter().find(|row| row["name"] == name).unwrap();
        row["share"].as_f64().unwrap()
    };
    let tagged = eval(&[]);
    assert!(share(&tagged, "all") > 0.84, "{tagged}");
    assert!(share(&tagged, "lengths within 20 %") > 0.83, "{tagged}");
    assert!(share(&tagged, "better one longer by more") > 0.89, "{tagged}");
    for (name, floor) in FLOORS {
        let counts = &tagged["components"][name];
        let [right, decides] = ["right", "decides"].map(|key| counts[key].as_f64().unwrap());
        assert!(right / decides > floor, "{name}: {right} of {decides}");
    }
    // Good replies that the gates would throw away are the costliest mistake.
    let gated = |side: &str| tagged["gated"][side].as_u64().unwrap();
    assert!(gated("chosen") * 20 < gated("rejected"), "{tagged}");
    // Where nobody labelled the prompts, reading them must be better than knowing nothing.
    let (read, nothing) = (eval(&["--knows", "read"]), eval(&["--knows", "nothing"]));
    assert!(share(&read, "all") > share(&nothing, "all") + 0.02, "{read} {nothing}");
    let without = reward(&["eval", "data/pairs", "--weight", "length_fit=0"]).output().unwrap();
    assert!(stdout(&without).contains("each component alone"));
}

#[test]
fn replies_are_scored_for_people_and_programs() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("replies.jsonl");
    let line = |id: &str, reply: &str| {
        json!({
            "id": id,
            "messages": [{ "role": "user", "content": "Who was Ferrand Oakhollow?" }],
            "tags": { "feeling": "curiosity", "need": "facts", "kind": "fact_invented" },
            "reply": reply,
        })
        .to_string()
    };
    let text = [
        line("plain", "I don't know anyone of that name."),
        line("invented", "He was an American architect, born in Boston in 1902."),
    ];
    std::fs::write(&file, text.join("\n")).unwrap();
    let file = file.to_str().unwrap();
    let rows = stdout(&reward(&["score", "--file", file, "--json"]).output().unwrap());
    let rows: Vec<Value> = rows.lines().map(|row| serde_json::from_str(row).unwrap()).collect();
    assert_eq!((&rows[0]["failed"], &rows[1]["failed"]), (&Value::Null, &json!("honesty")));
    assert!(rows[0]["reward"].as_f64() > Some(0.9) && rows[1]["reward"] == json!(0.0));
    assert!(rows[0]["advantage"].as_f64() > rows[1]["advantage"].as_f64());
    assert_eq!(rows[0]["components"]["form"], Value::Null);
    let table = stdout(&reward(&["score", "--file", file]).output().unwrap());
    assert!(table.contains("honesty") && table.contains("mean"), "{table}");

    let output = reward(&["score", "--file", file, "--weight", "charm=1"]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("no component `charm`") && errors.contains("tone_fit"), "{errors}");
}

#[test]
fn the_python_clients_keep_their_contracts() {
    let server = Server::start();
    let output = Command::new("python3")
        .args(["-m", "unittest", "discover", "-s", "tests", "-t", "."])
        .current_dir(repository().join("clients/python"))
        .env("RAPPORT_REWARD_URL", &server.url)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.contains("Ran 6 tests"), "{errors}");
}

/// The body that OpenRLHF 0.11.2's `SingleTurnAgentExecutor` sends.
#[test]
fn openrlhf_is_answered() {
    let server = Server::start();
    let prompt = "<|im_start|>user\nMy tomatoes died.<|im_end|>\n<|im_start|>assistant\n";
    let body = json!({
        "query": [format!("{prompt}All of them? That hurts, after a spring of watering.<|im_end|>")],
        "prompts": [prompt],
        "labels": ["{\"feeling\": \"sadness\", \"need\": \"vent\"}"],
    });
    let agent: ureq::Agent = ureq::Agent::config_builder().proxy(None).build().into();
    let mut response = agent
        .post(&format!("{}/get_reward", server.url))
        .header("content-type", "application/json")
        .send(body.to_string())
        .unwrap();
    let answer: Value =
        serde_json::from_str(&response.body_mut().read_to_string().unwrap()).unwrap();
    let reward = answer["rewards"][0].as_f64().unwrap();
    assert!(reward > 0.6 && reward <= 1.0, "{answer}");
    assert_eq!(answer["scores"], answer["rewards"]);
    assert_eq!(answer["extra_logs"]["unreadable"], json!([0.0]));
    assert!(answer["extra_logs"]["reads_feeling"][0].as_f64() > Some(0.5), "{answer}");
}

/// The recipe that shows how rewards are named names some that there are, and a training by them runs.
#[test]
fn a_recipe_may_name_every_component() {
    let list = stdout(&reward(&["list"]).output().unwrap());
    let known: Vec<&str> = list.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let recipe = std::fs::read_to_string(repository().join("recipes/rewards.toml")).unwrap();
    let recipe: toml::Table = recipe.parse().unwrap();
    let stages = recipe["stage"].as_array().unwrap();
    let named = stages.iter().filter_map(|stage| stage.get("grpo")?.get("rewards")?.as_table());
    let named: Vec<&String> = named.flat_map(toml::Table::keys).collect();
    assert!(
        named.len() > 3 && named.iter().all(|name| known.contains(&name.as_str())),
        "{named:?}"
    );

    let folder = tempfile::tempdir().unwrap();
    let base = rapport_testkit::tiny_chat_model();
    let train = |rewards: &str| {
        let recipe = format!(
            "name = \"tiny\"\nbase = {base:?}\n[adapter]\nn_experts = 1\nrank = 2\nalpha = 4.0\n\
             [[stage]]\nmethod = \"grpo\"\ndata = [\"prompts.jsonl\"]\nepochs = 1.0\n\
             learning_rate = 1e-3\n[stage.grpo]\nrewards = {{ {rewards} }}\ngroup = 4\n\
             prompts_per_step = 2\nmax_new_tokens = 8\n"
        );
        std::fs::write(folder.path().join("recipe.toml"), recipe).unwrap();
        let rows = [("a", "fact_real"), ("b", "fact_invented")].map(|(id, kind)| {
            let prompt = json!([{ "role": "user", "content": "say it" }]);
            let tags = json!({ "feeling": "curiosity", "need": "facts", "kind": kind });
            json!({ "id": id, "tags": tags, "answers": ["it"], "prompt": prompt }).to_string()
        });
        std::fs::write(folder.path().join("prompts.jsonl"), rows.join("\n")).unwrap();
        Command::new(env!("CARGO_BIN_EXE_rapport"))
            .arg("train")
            .arg(folder.path().join("recipe.toml"))
            .args(["--fresh", "--threads", "1", "--out"])
            .arg(folder.path().join("out"))
            .env("RAPPORT_HOME", folder.path())
            .output()
            .unwrap()
    };
    let all: Vec<String> = known[1..=10].iter().map(|name| format!("{name} = 1.0")).collect();
    let trained = train(&all.join(", "));
    assert!(stdout(&trained).contains("tokens/s"), "{trained:?}");
    let unknown = train("charm = 1.0");
    let errors = String::from_utf8_lossy(&unknown.stderr);
    assert!(!unknown.status.success() && errors.contains("charm"), "{errors}");
    assert!(errors.contains("reads_feeling"), "{errors}");
}
