//! A tiny random model learns what its own replies are worth, on our engine with the live adapter,
//! and a stop in between changes nothing; a reward model learns pairs.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::fmt::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rapport_kernels::{Compute, Isa};
use rapport_local::{LocalModel, LocalOptions, NamedAdapter};
use rapport_model::AdapterFile;
use rapport_model::adapter::{Adapter, Storage};
use rapport_train::recipe::RecipeFile;
use rapport_train::{
    Card, Failure, Outcome, Policy, Progress, Prompt, Reward, RewardModel, Rollouts, TrainError,
    Training, train,
};
use rapport_types::{Generate, Message};

fn compute() -> Compute {
    Compute::new(Isa::detect(), NonZeroUsize::new(2).unwrap())
}

struct Engine {
    folder: PathBuf,
}

impl Rollouts for Engine {
    fn with_adapter(&self, adapter: &Adapter) -> Result<Arc<dyn Generate>, Failure> {
        adapter.save(&self.folder, Storage::F32)?;
        let live = NamedAdapter { name: "live".to_owned(), file: AdapterFile::open(&self.folder)? };
        let options = LocalOptions {
            kv_tokens: 8192,
            default_adapter: Some(live.name.clone()),
            adapters: vec![live],
            ..LocalOptions::default()
        };
        Ok(Arc::new(LocalModel::open(&rapport_testkit::tiny_chat_model(), compute(), &options)?))
    }

    fn memory_bytes(&self) -> usize {
        1 << 20
    }
}

/// The part of a reply's characters that are small letters, and remembers every score it gave.
#[derive(Default)]
struct SmallLetters {
    given: Mutex<Vec<f64>>,
}

impl Reward for SmallLetters {
    fn names(&self) -> Vec<String> {
        vec!["unused".to_owned(), "small_letters".to_owned(), "applies_never".to_owned()]
    }

    fn scores(&self, prompt: &Prompt, reply: &Message) -> Result<Vec<Option<f64>>, Failure> {
        // What a row says comes along with its prompt.
        assert_eq!(prompt.labels.need.as_deref(), Some("company"));
        assert!(prompt.messages[0].content.contains(&prompt.labels.answers[0]));
        let n_small = reply.content.chars().filter(char::is_ascii_lowercase).count();
        let share = n_small as f64 / reply.content.chars().count().max(1) as f64;
        self.given.lock().unwrap().push(share);
        Ok(vec![Some(-1e6), Some(share), None])
    }
}

const POLICY: &str = r#"
name = "letters"
base = "tiny"
storage = "f32"
checkpoint_minutes = 0.0
[adapter]
n_experts = 2
top_k = 1
rank = 4
alpha = 8.0
[[stage]]
method = "grpo"
data = ["prompts.jsonl"]
epochs = 10.0
learning_rate = 2e-2
warmup = 0.0
pack_tokens = 256
held_out = 0.2
validate_every = 1000
[stage.grpo]
rewards = { small_letters = 1.0, applies_never = 0.5 }
group = 8
prompts_per_step = 4
max_new_tokens = 16
FORM
"#;

fn write_policy(folder: &Path, form: &str) -> RecipeFile {
    let mut rows = String::new();
    for row in 0..16 {
        let prompt = format!(r#"[{{"role":"user","content":"say {row}"}}]"#);
        let labels = format!(r#""tags":{{"need":"company"}},"answers":["{row}"]"#);
        writeln!(rows, r#"{{"id":"q-{row}","prompt":{prompt},{labels}}}"#).unwrap();
    }
    std::fs::write(folder.join("prompts.jsonl"), rows).unwrap();
    std::fs::write(folder.join("recipe.toml"), POLICY.replace("FORM", form)).unwrap();
    RecipeFile::read(&folder.join("recipe.toml")).unwrap()
}

fn run(
    recipe: &RecipeFile,
    out: &Path,
    reward: &dyn Reward,
    stop_after: usize,
) -> Result<Outcome, Box<TrainError>> {
    let stop = AtomicBool::new(false);
    let live = tempfile::tempdir().unwrap();
    let rollouts = Engine { folder: live.path().to_owned() };
    let base = rapport_testkit::tiny_chat_model();
    let policy = Some(Policy { rollouts: &rollouts, reward });
    let training = Training { recipe, base: &base, out, commit: None, stop: &stop, policy };
    let mut n_steps = 0;
    train(&training, compute(), &mut |progress| {
        if let Progress::Step { .. } = progress {
            n_steps += 1;
            if n_steps == stop_after {
                stop.store(true, Ordering::Relaxed);
            }
        }
    })
    .map_err(Box::new)
}

fn finished(outcome: Outcome) -> Box<Card> {
    match outcome {
        Outcome::Finished(card) => card,
        Outcome::Stopped => panic!("stopped"),
    }
}

fn mean_and_error(scores: &[f64]) -> (f64, f64) {
    let n_scores = scores.len() as f64;
    let mean = scores.iter().sum::<f64>() / n_scores;
    let variance = scores.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n_scores - 1.0);
    (mean, (variance / n_scores).sqrt())
}

#[test]
fn what_replies_are_worth_rises_in_every_form() {
    for form in [
        "",
        "advantage = \"mean\"\naggregation = \"dr_grpo\"\nkl = \"k3\"\nkl_weight = 0.01\n",
        "advantage = \"group\"\nupdates = 2\nkl_weight = 0.0\n",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let recipe = write_policy(folder.path(), form);
        let reward = SmallLetters::default();
        let out = folder.path().join("out");
        let card = finished(run(&recipe, &out, &reward, usize::MAX).unwrap());
        let given = reward.given.into_inner().unwrap();
        // The last scores are of held-out prompts; 32 replies a step.
        let n_held_out = card.stages[0].plan.n_held_out;
        let learned = &given[..given.len() - n_held_out];
        let ((first, first_error), (last, last_error)) =
            (mean_and_error(&learned[..96]), mean_and_error(&learned[learned.len() - 96..]));
        let error = first_error.hypot(last_error);
        println!("{form:?}: {first:.3} to {last:.3}, standard error {error:.3}");
        assert!(last - first > 5.0 * error, "{form:?}: {first} to {last} with error {error}");
        let stage = &card.stages[0];
        assert!(stage.last_reward > stage.first_reward);
        let held_out = stage.held_out_reward.unwrap();
        assert!(held_out > first + 0.05, "{form:?}: {held_out} on held-out prompts");
        assert_eq!(stage.curve.reward.len(), stage.curve.step.len());
    }
}

#[test]
fn replies_after_a_stop_are_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = write_policy(folder.path(), "updates = 2\n");
    let reward = SmallLetters::default();
    let straight = finished(run(&recipe, &folder.path().join("a"), &reward, usize::MAX).unwrap());
    for stop_after in [3, 1, 7] {
        let outcome = run(&recipe, &folder.path().join("b"), &reward, stop_after).unwrap();
        assert!(matches!(outcome, Outcome::Stopped));
    }
    let again = finished(run(&recipe, &folder.path().join("b"), &reward, usize::MAX).unwrap());
    assert_eq!(straight.adapter_sha256, again.adapter_sha256);
    assert_eq!(straight.stages[0].curve.loss, again.stages[0].curve.loss);
}

#[test]
fn a_score_that_nobody_gives_is_named_before_anything_runs() {
    let folder = tempfile::tempdir().unwrap();
    let mut recipe = write_policy(folder.path(), "");
    let grpo = recipe.recipe.stages[0].grpo.as_mut().unwrap();
    grpo.rewards.insert("wit".to_owned(), 1.0);
    let error = run(&recipe, folder.path(), &SmallLetters::default(), 1).unwrap_err().to_string();
    let expected =
        "stage 0: no score is called `wit`: there are unused, small_letters, applies_never";
    assert_eq!(error, expected);
}

const PAIRS: &str = r#"
name = "taste"
base = "tiny"
storage = "f32"
[adapter]
n_experts = 1
rank = 4
alpha = 8.0
[[stage]]
method = "reward"
data = ["pairs.jsonl"]
epochs = 6.0
learning_rate = 1e-2
batch_tokens = 512
held_out = 0.25
"#;

#[test]
fn a_reward_model_learns_pairs_and_judges_as_it_was_trained() {
    let folder = tempfile::tempdir().unwrap();
    let mut rows = String::new();
    // Chosen replies are in small letters, rejected ones in capitals.
    for row in 0..64 {
        let word: String =
            (0..4).map(|place| char::from(b'a' + ((row * 7 + place * 11) % 26) as u8)).collect();
        let (chosen, rejected) = (&word, word.to_uppercase());
        let prompt = format!(r#"[{{"role":"user","content":"{row}"}}]"#);
        let pair = format!(r#""chosen":"{chosen}","rejected":"{rejected}""#);
        writeln!(rows, r#"{{"id":"p-{row}","prompt":{prompt},{pair}}}"#).unwrap();
    }
    std::fs::write(folder.path().join("pairs.jsonl"), rows).unwrap();
    std::fs::write(folder.path().join("recipe.toml"), PAIRS).unwrap();
    let recipe = RecipeFile::read(&folder.path().join("recipe.toml")).unwrap();
    let out = folder.path().join("out");
    let card = finished(run(&recipe, &out, &SmallLetters::default(), usize::MAX).unwrap());
    let stage = &card.stages[0];
    assert!(stage.plan.n_held_out >= 8, "{}", stage.plan.n_held_out);
    let accuracy = stage.held_out_accuracy.unwrap();
    println!("{accuracy} of {} held-out pairs", stage.plan.n_held_out);
    assert!(accuracy >= 0.9, "{accuracy}");
    // Zeros are where every head begins.
    assert!((stage.curve.loss[0] - std::f64::consts::LN_2).abs() < 0.01, "{:?}", stage.curve.loss);

    let base = rapport_testkit::tiny_chat_model();
    let mut model = RewardModel::open(&base, &out, compute()).unwrap();
    let mut reward =
        |reply: &str| model.reward(&[Message::user("new")], &Message::assistant(reply)).unwrap();
    assert!(reward("hello you") > reward("HELLO YOU"));
    std::fs::remove_file(out.join("reward_head.safetensors")).unwrap();
    let error = RewardModel::open(&base, &out, compute()).err().unwrap().to_string();
    assert!(error.contains("reward_head.safetensors"), "{error}");
}
