//! Whole trainings of the default model on a few rows: what they learn, and that stopping and going
//! on changes nothing.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rapport_kernels::{Compute, Isa};
use rapport_model::adapter::Adapter;
use rapport_model::gguf::Gguf;
use rapport_train::recipe::RecipeFile;
use rapport_train::{
    Card, Language, Outcome, PointKind, Progress, TextError, TrainError, Training, train,
};
use rapport_types::{Message, Role};

const RECIPE: &str = r#"
name = "test"
base = "smollm2-135m"
precision = "bf16"
storage = "f32"
checkpoint_minutes = 0.0
[adapter]
n_experts = 3
top_k = 2
rank = 2
alpha = 4.0
[[stage]]
method = "sft"
data = ["sft.jsonl"]
epochs = 7.0
learning_rate = 3e-3
batch_tokens = 200
pack_tokens = 100
held_out = 0.0
[[stage]]
method = "dpo"
data = ["dpo.jsonl"]
epochs = 3.0
learning_rate = 1e-3
batch_tokens = 200
pack_tokens = 200
held_out = 0.0
[[stage]]
method = "kto"
data = ["kto.jsonl"]
epochs = 3.0
learning_rate = 1e-3
batch_tokens = 100
pack_tokens = 200
held_out = 0.0
"#;

const SFT: &str = r#"{"id":"1","messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"Oh, hello there, you."}]}
{"id":"2","messages":[{"role":"user","content":"I won!"},{"role":"assistant","content":"You did!","thought":"feel: joy | need: celebrate | tone: cheerful | do: celebrate with them"}]}
"#;
const DPO: &str = r#"{"id":"1","prompt":[{"role":"user","content":"hi"}],"chosen":"Hello, you.","rejected":{"content":"Greetings, user."}}
{"id":"2","prompt":[{"role":"user","content":"bye"}],"chosen":"Bye, you.","rejected":{"content":"Farewell, user."},"margin":0.1}
"#;

const KTO: &str = r#"{"id":"1","prompt":[{"role":"user","content":"hi"}],"completion":"Hello, you.","label":true}
{"id":"2","prompt":[{"role":"user","content":"bye"}],"completion":{"content":"Farewell, user."},"label":false}
"#;

fn write_inputs(folder: &Path) -> RecipeFile {
    std::fs::write(folder.join("recipe.toml"), RECIPE).unwrap();
    std::fs::write(folder.join("sft.jsonl"), SFT).unwrap();
    std::fs::write(folder.join("dpo.jsonl"), DPO).unwrap();
    std::fs::write(folder.join("kto.jsonl"), KTO).unwrap();
    RecipeFile::read(&folder.join("recipe.toml")).unwrap()
}

/// Trains until the end, or until `stop_after` steps were made.
fn run(
    recipe: &RecipeFile,
    out: &Path,
    stop_after: usize,
    losses: &mut Vec<(usize, f64)>,
) -> Result<Outcome, Box<TrainError>> {
    let stop = AtomicBool::new(false);
    let base = rapport_testkit::default_model();
    let training = Training { recipe, base: &base, out, commit: None, stop: &stop, policy: None };
    let compute = Compute::new(Isa::detect(), NonZeroUsize::new(2).unwrap());
    let mut n_steps = 0;
    train(&training, compute, &mut |progress| {
        if let Progress::Step { point, .. } = progress {
            assert_eq!(point.kind, PointKind::Step);
            losses.push((point.stage_idx, point.loss));
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

#[test]
fn a_training_learns_and_goes_on_to_the_same_bits_after_every_stop() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = write_inputs(folder.path());
    let mut losses = Vec::new();
    let straight = folder.path().join("straight");
    let card = finished(run(&recipe, &straight, usize::MAX, &mut losses).unwrap());

    let of_stage = |stage: usize| -> Vec<f64> {
        losses.iter().filter(|(idx, _)| *idx == stage).map(|(_, loss)| *loss).collect()
    };
    let (sft, dpo, kto) = (of_stage(0), of_stage(1), of_stage(2));
    assert!(sft[sft.len() - 1] < sft[0] * 0.7, "{sft:?}");
    // The first step is at the reference: ln 2, with a margin of 0.1 on half of the pairs.
    let at_margin = |margin: f64| margin.exp().ln_1p();
    // Packs of other shapes add up in another order; in bf16 without its own instructions that shows.
    assert!((dpo[0] - f64::midpoint(at_margin(0.0), at_margin(0.1))).abs() < 5e-3, "{dpo:?}");
    assert!(dpo[dpo.len() - 1] < dpo[0], "{dpo:?}");
    // At the reference every reply is kept with one half, but for bf16 in packs of other shapes.
    assert!((kto[0] - 0.5).abs() < 5e-3 && kto[1] < kto[0], "{kto:?}");
    assert_eq!(card.expert_use.len(), 30);

    // Once within each stage, and with what was half written when the process died.
    let stopped = folder.path().join("stopped");
    let mut again = Vec::new();
    for stop_after in [2, 7] {
        let outcome = run(&recipe, &stopped, stop_after, &mut again).unwrap();
        assert!(matches!(outcome, Outcome::Stopped));
        std::fs::write(stopped.join("training/checkpoint.part"), "half").unwrap();
    }
    let card_again = finished(run(&recipe, &stopped, usize::MAX, &mut again).unwrap());
    assert_eq!(losses, again);
    assert_eq!(card.adapter_sha256, card_again.adapter_sha256);
    let adapter = Adapter::load(&straight).unwrap();
    assert_eq!(adapter.base_sha256.as_deref(), Some(card.base_sha256.as_str()));
    assert_eq!((adapter.rank, adapter.layers.len()), (2, 30));

    // Another training goes on from what this one made, if it has the same form.
    let text = format!("start = \"straight\"\n{RECIPE}");
    let file = folder.path().join("further.toml");
    std::fs::write(&file, text.replace("rank = 2", "rank = 3")).unwrap();
    let further = folder.path().join("further");
    let mut next = Vec::new();
    let other = RecipeFile::read(&file).unwrap();
    let error = run(&other, &further, usize::MAX, &mut next).unwrap_err().to_string();
    assert!(error.contains("rank 2") && error.contains("rank 3"), "{error}");
    std::fs::write(&file, text).unwrap();
    let same = RecipeFile::read(&file).unwrap();
    assert!(matches!(run(&same, &further, 1, &mut next).unwrap(), Outcome::Stopped));
    assert!(next[0].1 < sft[0] * 0.7, "{next:?} after {sft:?}");

    // A checkpoint of other data is not gone on from.
    std::fs::write(folder.path().join("sft.jsonl"), SFT.replace("hi", "ho")).unwrap();
    let error = run(&recipe, &stopped, usize::MAX, &mut again).unwrap_err();
    assert!(error.to_string().contains("another set of data"), "{error}");
}

fn language() -> Language {
    Language::load(&Gguf::open(&rapport_testkit::default_model()).unwrap()).unwrap()
}

fn assistant(content: &str, thought: Option<&str>) -> Message {
    Message { thought: thought.map(str::to_owned), ..Message::assistant(content) }
}

const THOUGHT: &str = "feel: joy | need: celebrate | tone: warm | do: celebrate with them";

#[test]
fn replies_are_learned_as_the_engine_shows_and_writes_them() {
    let language = language();
    let messages = [
        Message::system("Be kind."),
        Message::user("a"),
        assistant("One.", None),
        Message::user("b"),
        assistant("Two.", Some(THOUGHT)),
        Message::user("c"),
        assistant("Three.", None),
    ];
    let sequences = language.conversation(&messages).unwrap();
    let texts: Vec<String> =
        sequences.iter().map(|sequence| language.text(&sequence.tokens)).collect();
    let start = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\na<|im_end|>\n\
                 <|im_start|>assistant\nOne.<|im_end|>\n<|im_start|>user\nb<|im_end|>\n\
                 <|im_start|>assistant\n";
    // The reply with a thought ends its sequence: what follows never sees the thought.
    assert_eq!(texts[0], format!("{start}<think>{THOUGHT}</think>\n\nTwo.<|im_end|>"));
    assert_eq!(
        texts[1],
        format!(
            "{start}Two.<|im_end|>\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n\
             Three.<|im_end|>"
        )
    );
    assert_eq!(texts.len(), 2);

    let learned = |idx: usize, in_thought: bool| {
        let sequence = &sequences[idx];
        let tokens: Vec<u32> = sequence
            .targets
            .iter()
            .zip(&sequence.in_thought)
            .filter(|(_, is)| **is == in_thought)
            .map(|(target, _)| target.token)
            .collect();
        language.text(&tokens)
    };
    assert_eq!(learned(0, false), "One.<|im_end|>Two.<|im_end|>");
    assert_eq!(learned(0, true), format!("{THOUGHT}</think>\n\n"), "the opening is given");
    assert_eq!((learned(1, false).as_str(), learned(1, true).as_str()), ("Three.<|im_end|>", ""));
    for sequence in &sequences {
        for target in &sequence.targets {
            assert_eq!(sequence.tokens[target.row + 1], target.token);
        }
    }
}

#[test]
fn what_cannot_be_learned_is_refused() {
    let language = language();
    let error = |messages: &[Message]| language.conversation(messages).unwrap_err();
    let user = Message::user("a");
    assert!(matches!(error(std::slice::from_ref(&user)), TextError::NoReply));
    let wrong = assistant("b", Some("feel: hungry"));
    assert!(matches!(error(&[user.clone(), wrong]), TextError::Thought { .. }));
    // Control tokens in what people wrote stay text.
    let typed = assistant("<|im_end|>", None);
    let sequences = language.conversation(&[user, typed]).unwrap();
    let n_targets = sequences[0].targets.len();
    assert!(n_targets > 4, "{n_targets} tokens are more than one end");
    assert_eq!(Role::parse("assistant"), Some(Role::Assistant));
}
