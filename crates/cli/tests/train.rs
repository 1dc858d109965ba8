//! Training by the built program: it survives being killed, keeps to its bound of memory, and writes
//! data for other trainers.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn rapport(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rapport"));
    command.args(arguments).env("RAPPORT_HOME", home).stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

const RECIPE: &str = r#"
name = "tiny"
base = "BASE"
storage = "f32"
checkpoint_minutes = 0.0
[sampling]
temperature = 0.25
[adapter]
n_experts = 2
top_k = 1
rank = 2
alpha = 4.0
[[stage]]
method = "sft"
data = ["rows.jsonl"]
epochs = 3.0
learning_rate = 1e-2
batch_tokens = 200
pack_tokens = 100
held_out = 0.2
validate_every = 4
[[stage]]
method = "dpo"
data = ["pairs.jsonl"]
epochs = 2.0
learning_rate = 1e-3
batch_tokens = 200
pack_tokens = 100
[[stage]]
method = "grpo"
data = ["pairs.jsonl"]
epochs = 1.0
learning_rate = 1e-2
held_out = 0.2
[stage.grpo]
rewards = { brevity = 1.0, no_repetition = 0.5, length_fit = 0.25 }
group = 4
prompts_per_step = 2
max_new_tokens = 12
updates = 2
"#;

fn write_inputs(folder: &Path) {
    let base = rapport_testkit::tiny_chat_model();
    fs::write(folder.join("recipe.toml"), RECIPE.replace("BASE", base.to_str().unwrap())).unwrap();
    let (mut rows, mut pairs) = (String::new(), String::new());
    for row in 0..12 {
        let user = format!(r#"{{"role":"user","content":"say {row}"}}"#);
        let reply = format!(r#"{{"role":"assistant","content":"I say {row}."}}"#);
        writeln!(rows, r#"{{"id":"r{row}","messages":[{user},{reply}]}}"#).unwrap();
        let replies = format!(r#""chosen":"I say {row}.","rejected":"No, not {row}.""#);
        writeln!(pairs, r#"{{"id":"p{row}","prompt":[{user}],{replies}}}"#).unwrap();
    }
    fs::write(folder.join("rows.jsonl"), rows).unwrap();
    fs::write(folder.join("pairs.jsonl"), pairs).unwrap();
}

/// The losses of a curve, with where they were measured.
fn losses(out: &Path) -> Vec<(u64, u64, f64)> {
    let curve = fs::read_to_string(out.join("training/curve.jsonl")).unwrap();
    let point = |line: &str| {
        let point: serde_json::Value = serde_json::from_str(line).unwrap();
        let number = |key: &str| point[key].as_u64().unwrap();
        (number("stage_idx"), number("step"), point["loss"].as_f64().unwrap())
    };
    curve.lines().map(point).collect()
}

#[test]
fn a_training_that_is_killed_again_and_again_gives_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    write_inputs(folder.path());
    let recipe = folder.path().join("recipe.toml");
    let out = |name: &str| folder.path().join(name);
    let train = |name: &str| {
        let (recipe, out) = (recipe.to_str().unwrap(), out(name));
        rapport(folder.path(), &["train", recipe, "--threads", "2", "--out", out.to_str().unwrap()])
    };
    succeeded(&train("straight").output().unwrap());
    let n_points = losses(&out("straight")).len();
    assert!(n_points > 15, "{n_points} points leave room to be killed between them");

    // After which line a process dies: drawn, so that it is within steps, looks and saves of all
    // stages. What a process does between a line and its end is up to the machine.
    let mut state = 5_u64;
    let mut n_killed = 0;
    for _ in 0..8 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let n_lines = 5 + (state >> 33) % 16;
        let mut child =
            train("killed").stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        // Read from until it is dead: a closed pipe would end it another way.
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let n_read = lines.by_ref().map_while(Result::ok).take(n_lines as usize).count();
        // SIGKILL: nothing of the process runs after it.
        child.kill().unwrap();
        let status = child.wait().unwrap();
        n_killed += usize::from(!status.success());
        if n_read < n_lines as usize {
            break;
        }
    }
    assert!(n_killed >= 2, "killed {n_killed} times");
    succeeded(&train("killed").output().unwrap());
    let config = fs::read_to_string(out("killed").join("generation_config.json")).unwrap();
    assert_eq!(config, "{\n  \"do_sample\": true,\n  \"temperature\": 0.25\n}\n");
    for file in ["adapter.safetensors", "training/checkpoint.safetensors"] {
        if file.starts_with("training") {
            // It has the time it took in its header.
            assert_eq!(tensors(&out("straight").join(file)), tensors(&out("killed").join(file)));
        } else {
            let read = |name: &str| fs::read(out(name).join(file)).unwrap();
            assert_eq!(read("straight"), read("killed"), "{file}");
        }
    }
    assert_eq!(losses(&out("straight")), losses(&out("killed")));
}

/// What follows the header of a safetensors file.
fn tensors(file: &Path) -> Vec<u8> {
    let bytes = fs::read(file).unwrap();
    let header_len = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    bytes[8 + header_len..].to_vec()
}

#[test]
fn memory_stays_below_the_bound_that_was_printed() {
    let folder = tempfile::tempdir().unwrap();
    let words = "one two three four five six seven eight nine ten eleven twelve ".repeat(12);
    let mut rows = String::new();
    // Packs that grow and shrink, and fill the largest there may be.
    for row in 0..8 {
        let content = &words[..60 + row * 70];
        let user = r#"{"role":"user","content":"count"}"#;
        let reply = format!(r#"{{"role":"assistant","content":"{content}"}}"#);
        writeln!(rows, r#"{{"id":"r{row}","messages":[{user},{reply}]}}"#).unwrap();
    }
    fs::write(folder.path().join("rows.jsonl"), rows).unwrap();
    let base = rapport_testkit::default_model();
    let recipe = format!(
        "name = \"bound\"\nbase = \"{}\"\nprecision = \"bf16\"\ncheckpoint_minutes = 0.0\n\
         [adapter]\nn_experts = 4\ntop_k = 2\nrank = 8\nalpha = 16.0\n\
         [[stage]]\nmethod = \"sft\"\ndata = [\"rows.jsonl\"]\nlearning_rate = 1e-4\n\
         batch_tokens = 400\npack_tokens = 256\nmax_tokens = 256\n",
        base.display()
    );
    fs::write(folder.path().join("recipe.toml"), recipe).unwrap();
    let (recipe, out) = (folder.path().join("recipe.toml"), folder.path().join("out"));
    let arguments = ["train", recipe.to_str().unwrap(), "--threads", "2", "--out"];
    let output = rapport(folder.path(), &arguments).arg(&out).output().unwrap();
    let told = succeeded(&output);
    let card = fs::read_to_string(out.join("card.json")).unwrap();
    let card: serde_json::Value = serde_json::from_str(&card).unwrap();
    let bytes = |key: &str| card[key].as_u64().unwrap();
    let (peak, planned) = (bytes("peak_memory_bytes"), bytes("planned_memory_bytes"));
    println!("{peak} bytes of at most {planned}; {told}");
    assert!(peak <= planned, "{peak} bytes of at most {planned}");
    // A bound that nothing could reach would say nothing.
    assert!(peak * 5 > planned * 3, "{peak} bytes of at most {planned}");
    let printed = format!("at most {:.2} GB of memory", planned as f64 / 1e9);
    assert!(text(&output.stderr).contains(&printed), "{}", text(&output.stderr));
}

#[test]
fn data_is_exported_and_a_recipe_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    write_inputs(folder.path());
    let data = ["rows.jsonl", "pairs.jsonl"].map(|name| folder.path().join(name));
    let out = folder.path().join("trl");
    let output = rapport(folder.path(), &["train", "export", "--format", "trl", "--out"])
        .arg(&out)
        .args(&data)
        .output()
        .unwrap();
    let told = succeeded(&output);
    assert!(
        told.contains("sft.jsonl: 12 rows") && told.contains("prompts.jsonl: 12 rows"),
        "{told}"
    );
    let first = fs::read_to_string(out.join("preference.jsonl")).unwrap();
    let first: serde_json::Value = serde_json::from_str(first.lines().next().unwrap()).unwrap();
    assert_eq!(first["chosen"][0]["content"], "I say 0.");

    let output = rapport(folder.path(), &["train"]).output().unwrap();
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("<RECIPE>"), "{}", text(&output.stderr));
}
