//! One step of every loss against PyTorch, by TRL's own losses where it has them: values, gradients
//! and what AdamW makes of them. `scripts/reference/train_step.py` wrote the fixtures.

use std::num::NonZeroUsize;
use std::path::Path;

use rapport_kernels::{Compute, Isa};
use rapport_model::adapter::{Adapter, Linear, Storage};
use rapport_model::gguf::Gguf;
use safetensors::SafeTensors;
use serde_json::Value;

use crate::advantage::advantages;
use crate::network::base::{Base, Precision};
use crate::network::parameters::Parameters;
use crate::network::{Network, Pack, Recompute, Target};
use crate::objective::{self, Graded, Scored, Written};
use crate::optimizer::{AdamW, Moments};
use crate::recipe::{
    Advantage, Aggregation, DpoRecipe, GrpoRecipe, KlEstimate, KtoRecipe, RewardRecipe,
};

const TOLERANCE: f64 = 1e-4;

fn fixtures(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn tokens(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect()
}

/// A network after a forward pass over some sequences.
struct Passed {
    network: Network<f64>,
    pack: Pack,
    targets: Vec<Target>,
    /// Of each sequence.
    log_probs: Vec<Vec<f64>>,
}

struct Reference {
    json: Value,
    parameters: Parameters<f64>,
}

impl Reference {
    fn read() -> Self {
        let folder = fixtures("tests/fixtures/step");
        let json = std::fs::read_to_string(folder.join("step.json")).unwrap();
        let json: Value = serde_json::from_str(&json).unwrap();
        let adapter = Adapter::load(&folder).unwrap();
        let base = Self::network().shape().base();
        let head = numbers(&json["head"]);
        let parameters = Parameters::from_adapter(base, &adapter).with_reward_head(&head);
        Self { json, parameters }
    }

    fn network() -> Network<f64> {
        let file = fixtures("../model/tests/fixtures/reference/tiny/gqa-4-2.gguf");
        let base = Base::load(&Gguf::open(&file).unwrap(), Precision::F32).unwrap();
        let compute = Compute::new(Isa::detect(), NonZeroUsize::new(2).unwrap());
        Network::new(compute, base, Recompute::Cheap)
    }

    fn number(&self, name: &str) -> f64 {
        self.json[name].as_f64().unwrap()
    }

    fn pass(&self, sequences: &[Vec<u32>]) -> Passed {
        let first = self.number("first") as usize;
        let (mut pack, mut targets, mut n_targets) = (Pack::default(), Vec::new(), Vec::new());
        for tokens in sequences {
            let span = pack.push(tokens);
            let of_sequence = tokens.iter().enumerate().skip(first);
            targets.extend(
                of_sequence.map(|(i, token)| Target { row: span.start + i - 1, token: *token }),
            );
            n_targets.push(tokens.len() - first);
        }
        let mut network = Self::network();
        network.forward(&self.parameters, &pack);
        let mut all = network.log_probs(&targets).into_iter();
        let log_probs = n_targets.iter().map(|n| all.by_ref().take(*n).collect()).collect();
        Passed { network, pack, targets, log_probs }
    }

    fn pair(&self) -> Vec<Vec<u32>> {
        ["chosen", "rejected"].map(|name| tokens(&self.json[name])).to_vec()
    }

    /// Holds a loss and the step that it makes against the fixture.
    fn check(&self, name: &str, loss: f64, gradients: &[f64]) {
        let expected = &self.json["losses"][name];
        let near = |what: &str, found: f64, expected: f64| {
            let allowed = TOLERANCE * expected.abs().max(1.0);
            assert!((found - expected).abs() <= allowed, "{name}, {what}: {found} for {expected}");
        };
        near("loss", loss, expected["loss"].as_f64().unwrap());
        let norm = gradients.iter().map(|g| g * g).sum::<f64>().sqrt();
        near("norm", norm, expected["gradient_norm"].as_f64().unwrap());
        let narrow = |values: &[f64]| values.iter().map(|x| *x as f32).collect::<Vec<f32>>();
        let mut after = narrow(&self.parameters.values);
        let adam = AdamW { learning_rate: 1e-2, betas: [0.9, 0.999], weight_decay: 0.1 };
        adam.step(1, &mut Moments::new(after.len()), &narrow(gradients), &mut after);
        let probes = expected["probes"].as_object().unwrap();
        for (tensor, probe) in probes {
            let place = self.place(tensor) + probe["place"].as_u64().unwrap() as usize;
            near(tensor, gradients[place], probe["gradient"].as_f64().unwrap());
            near(tensor, f64::from(after[place]), probe["after"].as_f64().unwrap());
        }
        let layers = self.parameters.layout.base.n_layers;
        assert!(probes.len() >= layers * 14, "a probe for each tensor");
    }

    /// Where a tensor of peft's begins among our parameters.
    fn place(&self, tensor: &str) -> usize {
        let layout = &self.parameters.layout;
        if tensor == "reward_head" {
            return layout.reward_head().start;
        }
        let parts: Vec<&str> = tensor.split('.').collect();
        let layer_idx = parts[4].parse().unwrap();
        let linear = Linear::ALL.into_iter().find(|l| l.projection() == parts[6]).unwrap();
        match parts[7] {
            "lora_A" => layout.a(layer_idx, &[linear]).start,
            "lora_B" => layout.b(layer_idx, linear).start,
            other => panic!("{other}"),
        }
    }

    fn check_log_probs(&self, name: &str, mut passed: Passed, graded: &[Graded]) {
        let loss = graded.iter().map(|graded| graded.loss).sum();
        let d: Vec<f64> = graded.iter().flat_map(|graded| graded.d_log_probs.concat()).collect();
        let mut gradients = vec![0.0; self.parameters.values.len()];
        passed.network.log_probs_with_gradient(&passed.targets, &d);
        passed.network.backward(&self.parameters, &passed.pack, 0.0, &mut gradients);
        self.check(name, loss, &gradients);
    }
}

#[test]
fn an_adapter_of_peft_is_written_as_peft_wrote_it() {
    let theirs = fixtures("tests/fixtures/step");
    let folder = tempfile::tempdir().unwrap();
    Adapter::load(&theirs).unwrap().save(folder.path(), Storage::F32).unwrap();
    let read = |folder: &Path| {
        let bytes = std::fs::read(folder.join("adapter_model.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let mut tensors: Vec<_> = tensors
            .tensors()
            .into_iter()
            .map(|(name, view)| (name, view.dtype(), view.shape().to_vec(), view.data().to_vec()))
            .collect();
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        let config = std::fs::read_to_string(folder.join("adapter_config.json")).unwrap();
        (tensors, serde_json::from_str::<Value>(&config).unwrap())
    };
    let ((ours, our_config), (theirs, their_config)) = (read(folder.path()), read(&theirs));
    assert!(ours == theirs, "other tensors than peft's");
    // What peft reads and we do not write has its own default there.
    for (key, value) in our_config.as_object().unwrap() {
        let sorted = |value: &Value| {
            let mut names: Vec<String> =
                value.as_array().into_iter().flatten().map(Value::to_string).collect();
            names.sort();
            names
        };
        match &their_config[key] {
            Value::Array(_) => assert_eq!(sorted(value), sorted(&their_config[key]), "{key}"),
            Value::Number(number) => assert_eq!(value.as_f64(), number.as_f64(), "{key}"),
            Value::Null => assert!(value.is_null(), "{key}"),
            theirs => assert_eq!(value, theirs, "{key}"),
        }
    }
}

#[test]
fn imitation_steps_as_torch_does() {
    let reference = Reference::read();
    let passed = reference.pass(&reference.pair());
    for (ours, name) in passed.log_probs.iter().zip(["chosen", "rejected"]) {
        for (ours, theirs) in ours.iter().zip(numbers(&reference.json["log_probs"][name])) {
            assert!((ours - theirs).abs() < TOLERANCE, "{ours} {theirs}");
        }
    }
    let passed = reference.pass(&reference.pair()[..1]);
    let weights = [0.5, 0.5, 1.0, 1.0, 1.0];
    let d = objective::sft_gradient(&weights, weights.iter().sum());
    let loss = d.iter().zip(&passed.log_probs[0]).map(|(d, p)| d * p).sum();
    let graded = Graded { loss, d_log_probs: vec![d], margin: 0.0 };
    reference.check_log_probs("sft", passed, &[graded]);
}

#[test]
fn preferences_step_as_in_trl() {
    let reference = Reference::read();
    let references = numbers(&reference.json["reference"]);
    let beta = reference.number("beta");
    let plain = DpoRecipe { beta, ..DpoRecipe::default() };
    let sft_weight = reference.number("sft_weight");
    let label_smoothing = reference.number("smoothing");
    let all = DpoRecipe { label_smoothing, sft_weight, ..plain };
    let margin = reference.number("margin");
    for (name, recipe, margin) in [
        ("trl_dpo", plain, 0.0),
        ("trl_dpo_with_sft", DpoRecipe { sft_weight, ..plain }, 0.0),
        ("trl_dpo_normalised", DpoRecipe { length_normalised: true, ..plain }, 0.0),
        ("dpo_with_all", all, margin),
        ("dpo_with_all_normalised", DpoRecipe { length_normalised: true, ..all }, margin),
    ] {
        let passed = reference.pass(&reference.pair());
        let scored =
            |idx: usize| Scored { log_probs: &passed.log_probs[idx], reference: references[idx] };
        let graded = objective::dpo(&recipe, scored(0), scored(1), margin, 1.0);
        reference.check_log_probs(name, passed, &[graded]);
    }
    let passed = reference.pass(&reference.pair());
    let recipe = KtoRecipe {
        beta,
        liked_weight: reference.number("liked_weight"),
        disliked_weight: reference.number("disliked_weight"),
    };
    let graded = [0, 1].map(|idx| {
        let scored = Scored { log_probs: &passed.log_probs[idx], reference: references[idx] };
        objective::kto(&recipe, scored, idx == 0, reference.number("z"), 2.0)
    });
    reference.check_log_probs("trl_kto", passed, &graded);
}

#[test]
fn replies_that_the_model_wrote_step_as_in_trl() {
    let reference = Reference::read();
    let json = &reference.json;
    let rollouts: Vec<Vec<u32>> = json["rollouts"].as_array().unwrap().iter().map(tokens).collect();
    let rows = |name: &str| -> Vec<Vec<f64>> {
        json[name].as_array().unwrap().iter().map(numbers).collect()
    };
    let (old, before) = (rows("old"), rows("rollout_reference"));
    let scores: Vec<Vec<Option<f64>>> =
        rows("rewards").iter().map(|row| row.iter().copied().map(Some).collect()).collect();
    let weights = numbers(&json["reward_weights"]);
    let recipe = GrpoRecipe {
        group: reference.number("group") as usize,
        clip_low: reference.number("clip_low"),
        clip_high: reference.number("clip_high"),
        kl_weight: reference.number("kl_weight"),
        max_new_tokens: reference.number("max_new_tokens") as u32,
        ..GrpoRecipe::default()
    };
    for (name, advantage, advantage_name, aggregation, kl) in [
        ("trl_dapo_gdpo_k3", Advantage::Gdpo, "gdpo", Aggregation::Dapo, KlEstimate::K3),
        ("trl_dr_grpo_mean_k3", Advantage::Mean, "mean", Aggregation::DrGrpo, KlEstimate::K3),
        ("trl_dapo_group_k3", Advantage::Group, "group", Aggregation::Dapo, KlEstimate::K3),
        ("dapo_gdpo_k2", Advantage::Gdpo, "gdpo", Aggregation::Dapo, KlEstimate::K2),
    ] {
        let found = advantages(advantage, &scores, &weights, recipe.group);
        for (found, expected) in found.iter().zip(numbers(&json["advantages"][advantage_name])) {
            assert!((found - expected).abs() < 1e-9, "{advantage_name}: {found} {expected}");
        }
        let passed = reference.pass(&rollouts);
        let n_targets = passed.targets.len();
        let recipe = GrpoRecipe { aggregation, kl, ..recipe.clone() };
        let share = 1.0 / recipe.tokens_of_step(n_targets, rollouts.len());
        let graded: Vec<Graded> = (0..rollouts.len())
            .map(|idx| {
                let written = Written {
                    now: &passed.log_probs[idx],
                    old: &old[idx],
                    reference: Some(&before[idx]),
                    advantage: found[idx],
                };
                objective::grpo(&recipe, written, share)
            })
            .collect();
        reference.check_log_probs(name, passed, &graded);
    }
}

#[test]
fn rewards_step_as_in_trl() {
    let reference = Reference::read();
    let margin = reference.number("margin");
    let centering = reference.number("centering");
    for (name, centering, margin) in
        [("trl_reward", 0.0, 0.0), ("trl_reward_with_all", centering, margin)]
    {
        let Passed { mut network, pack, .. } = reference.pass(&reference.pair());
        let rows: Vec<usize> = pack.spans.iter().map(|span| span.end - 1).collect();
        let rewards = network.rewards(&reference.parameters, &rows);
        let recipe = RewardRecipe { centering, margin_weight: 1.0 };
        let graded = objective::bradley_terry(&recipe, [rewards[0], rewards[1]], margin, 1.0);
        let mut gradients = vec![0.0; reference.parameters.values.len()];
        let d = graded.d_log_probs.concat();
        network.rewards_with_gradient(&reference.parameters, &rows, &d, &mut gradients);
        network.backward(&reference.parameters, &pack, 0.0, &mut gradients);
        reference.check(name, graded.loss, &gradients);
    }
}
