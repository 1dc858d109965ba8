//! The network against finite differences in f64, against llama.cpp, and against itself.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use rapport_kernels::{Compute, Isa, Real};
use rapport_model::adapter::Routing;
use rapport_model::gguf::Gguf;
use rapport_train::{
    AdapterShape, Base, Layout, Network, Pack, Parameters, Precision, Recompute, Target,
};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/fixtures/reference")
}

fn tiny(name: &str) -> Gguf {
    Gguf::open(&fixtures().join(format!("tiny/{name}.gguf"))).unwrap()
}

fn tiny_tokens(name: &str) -> Vec<u32> {
    let text = std::fs::read_to_string(fixtures().join(format!("tiny/{name}.json"))).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["tokens"].as_array().unwrap().iter().map(|token| token.as_u64().unwrap() as u32).collect()
}

fn floats(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap();
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn compute() -> Compute {
    Compute::new(Isa::detect(), NonZeroUsize::new(2).unwrap())
}

fn network<R: Real>(gguf: &Gguf, recompute: Recompute) -> Network<R> {
    Network::new(compute(), Base::load(gguf, Precision::F32).unwrap(), recompute)
}

const ROUTED: AdapterShape =
    AdapterShape { rank: 2, alpha: 3.0, routing: Some(Routing { n_experts: 4, top_k: 2 }) };
const DENSE: AdapterShape = AdapterShape { rank: 3, alpha: 6.0, routing: None };

/// An adapter that changes every linear, with routes that are far from ties.
fn busy<R: Real>(layout: Layout) -> Parameters<R> {
    let mut parameters = Parameters::<R>::fresh(layout, 3);
    let mut state = 1_u64;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / f64::from(1 << 24) - 0.5
    };
    for value in &mut parameters.values {
        *value += R::from_f64(next() * 0.6);
    }
    for bias in &mut parameters.router_bias {
        *bias = R::from_f64(next() * 0.2);
    }
    parameters
}

/// Two sequences, and every token but the first of each a target.
fn pack_of(tokens: &[u32]) -> (Pack, Vec<Target>) {
    let (first, second) = tokens.split_at(tokens.len() / 3);
    let mut pack = Pack::default();
    let mut targets = Vec::new();
    for sequence in [first, second] {
        let span = pack.push(sequence);
        let rows = span.start..span.end - 1;
        targets.extend(rows.zip(&sequence[1..]).map(|(row, token)| Target { row, token: *token }));
    }
    (pack, targets)
}

const Z_WEIGHT: f64 = 0.003;

fn weight(target_idx: usize) -> f64 {
    0.1 + 0.05 * (target_idx % 7) as f64 - 0.2 * f64::from(u8::from(target_idx.is_multiple_of(5)))
}

fn loss(
    network: &mut Network<f64>,
    parameters: &Parameters<f64>,
    pack: &Pack,
    targets: &[Target],
) -> f64 {
    network.forward(parameters, pack);
    let log_probs = network.log_probs(targets);
    let weighted = log_probs.iter().enumerate().map(|(idx, log_prob)| weight(idx) * log_prob);
    weighted.sum::<f64>() + Z_WEIGHT * network.routing().z_loss
}

fn gradient<R: Real>(
    network: &mut Network<R>,
    parameters: &Parameters<R>,
    pack: &Pack,
    targets: &[Target],
) -> Vec<R> {
    let weights: Vec<R> = (0..targets.len()).map(|idx| R::from_f64(weight(idx))).collect();
    let mut gradients = vec![R::ZERO; parameters.values.len()];
    network.forward(parameters, pack);
    network.log_probs_with_gradient(targets, &weights);
    network.backward(parameters, pack, Z_WEIGHT, &mut gradients);
    gradients
}

#[test]
fn every_gradient_is_the_slope_of_the_loss() {
    for name in ["gqa-6-2-tied", "attn-bias", "odd-sizes"] {
        for adapter in [ROUTED, DENSE] {
            let mut network = network::<f64>(&tiny(name), Recompute::Cheap);
            let layout = Layout::new(network.shape().base(), adapter);
            let mut parameters = busy::<f64>(layout);
            let (pack, targets) = pack_of(&tiny_tokens(name));
            let gradients = gradient(&mut network, &parameters, &pack, &targets);
            let step = 1e-5;
            // A stride without a common factor with any size visits every tensor of every layer.
            let stride = (layout.n_parameters() / 400).max(1) | 1;
            let (mut n_checked, mut n_moving) = (0, 0);
            for place in (0..layout.n_parameters()).step_by(stride) {
                let value = parameters.values[place];
                parameters.values[place] = value + step;
                let above = loss(&mut network, &parameters, &pack, &targets);
                parameters.values[place] = value - step;
                let below = loss(&mut network, &parameters, &pack, &targets);
                parameters.values[place] = value;
                let slope = (above - below) / (2.0 * step);
                let error = (slope - gradients[place]).abs();
                let allowed = 1e-7 + 1e-5 * slope.abs();
                assert!(error <= allowed, "{name} {place}: {slope} is {}", gradients[place]);
                n_checked += 1;
                n_moving += usize::from(slope.abs() > 1e-4);
            }
            println!("{name}: {n_checked} gradients, {n_moving} of them above 1e-4");
            assert!(n_moving * 2 > n_checked, "{n_moving} of {n_checked} do anything");
        }
    }
}

#[test]
fn the_gradients_of_rewards_are_slopes() {
    let mut network = network::<f64>(&tiny("gqa-6-2-tied"), Recompute::Cheap);
    let base = network.shape().base();
    let head: Vec<f64> = (0..base.hidden).map(|i| ((i * 7) % 11) as f64 / 11.0 - 0.4).collect();
    let mut parameters = busy::<f64>(Layout::new(base, ROUTED)).with_reward_head(&head);
    let (pack, _) = pack_of(&tiny_tokens("gqa-6-2-tied"));
    let rows: Vec<usize> = pack.spans.iter().map(|span| span.end - 1).collect();
    // A loss that is not straight, so that its gradient depends on the rewards.
    let loss = |rewards: &[f64]| rewards[0].powi(2) - 0.7 * rewards[1] + 0.2 * rewards[1].powi(2);
    let mut gradients = vec![0.0; parameters.values.len()];
    network.forward(&parameters, &pack);
    let rewards = network.rewards(&parameters, &rows);
    let d = [2.0 * rewards[0], 0.4 * rewards[1] - 0.7];
    network.rewards_with_gradient(&parameters, &rows, &d, &mut gradients);
    network.backward(&parameters, &pack, 0.0, &mut gradients);
    let head_start = parameters.values.len() - head.len();
    let stride = (parameters.values.len() / 300).max(1) | 1;
    let places =
        (0..head_start).step_by(stride).chain((head_start..parameters.values.len()).step_by(3));
    for place in places {
        let value = parameters.values[place];
        let mut at = |delta: f64| {
            parameters.values[place] = value + delta;
            network.forward(&parameters, &pack);
            let found = loss(&network.rewards(&parameters, &rows));
            parameters.values[place] = value;
            found
        };
        let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
        let error = (slope - gradients[place]).abs();
        assert!(error <= 1e-6 + 1e-5 * slope.abs(), "{place}: {slope} is {}", gradients[place]);
    }
}

#[test]
fn the_slope_along_any_direction_is_right() {
    let mut network = network::<f64>(&tiny("gqa-4-2"), Recompute::Cheap);
    let layout = Layout::new(network.shape().base(), ROUTED);
    let mut parameters = busy::<f64>(layout);
    let (pack, targets) = pack_of(&tiny_tokens("gqa-4-2"));
    let gradients = gradient(&mut network, &parameters, &pack, &targets);
    let direction = Parameters::<f64>::fresh(layout, 9).values;
    let along: f64 = gradients.iter().zip(&direction).map(|(g, d)| g * d).sum();
    let before = parameters.values.clone();
    let mut at = |step: f64| {
        for ((value, before), d) in parameters.values.iter_mut().zip(&before).zip(&direction) {
            *value = before + step * d;
        }
        loss(&mut network, &parameters, &pack, &targets)
    };
    let slope = (at(1e-6) - at(-1e-6)) / 2e-6;
    assert!((slope - along).abs() < 1e-5 * along.abs(), "{slope} for {along}");
}

#[test]
fn running_layers_again_gives_the_same_bits() {
    let gguf = tiny("gqa-6-2-tied");
    let (pack, targets) = pack_of(&tiny_tokens("gqa-6-2-tied"));
    let of = |recompute| {
        let mut network = network::<f32>(&gguf, recompute);
        let layout = Layout::new(network.shape().base(), ROUTED);
        gradient(&mut network, &busy(layout), &pack, &targets)
    };
    assert_eq!(of(Recompute::Cheap), of(Recompute::Layers));
}

#[test]
fn passes_hold_what_was_planned_and_no_more() {
    for (name, precision) in [("odd-sizes", Precision::F32), ("type-q40", Precision::Bf16)] {
        for recompute in [Recompute::Cheap, Recompute::Layers] {
            for adapter in [ROUTED, DENSE] {
                let gguf = tiny(name);
                let base = Base::<f32>::load(&gguf, precision).unwrap();
                let mut network = Network::new(compute(), base, recompute);
                let layout = Layout::new(network.shape().base(), adapter);
                let parameters = Parameters::fresh(layout, 1);
                let n_vocab = network.shape().n_vocab as u32;
                network.reserve(&layout, 300);
                let planned = network.planned_bytes(&layout, 300);
                let reserved = network.held_bytes();
                assert!(reserved <= planned, "{name}: {reserved} of {planned}");
                // Growing packs, up to the largest.
                for n_tokens in [10, 170, 300] {
                    let tokens: Vec<u32> = (0..n_tokens).map(|i| i * 7 % n_vocab).collect();
                    let (pack, targets) = pack_of(&tokens);
                    gradient(&mut network, &parameters, &pack, &targets);
                }
                assert_eq!(network.held_bytes(), reserved, "{name}: nothing grew");
            }
        }
    }
}

#[test]
fn packed_sequences_do_not_see_each_other() {
    let gguf = tiny("gqa-4-2");
    let mut network = network::<f64>(&gguf, Recompute::Cheap);
    let layout = Layout::new(network.shape().base(), ROUTED);
    let parameters = busy(layout);
    let tokens = tiny_tokens("gqa-4-2");
    let (pack, targets) = pack_of(&tokens);
    network.forward(&parameters, &pack);
    let together = network.log_probs(&targets);
    let mut apart = Vec::new();
    for span in &pack.spans {
        let mut alone = Pack::default();
        alone.push(&tokens[span.clone()]);
        network.forward(&parameters, &alone);
        let targets: Vec<Target> = targets
            .iter()
            .filter(|target| span.contains(&target.row))
            .map(|target| Target { row: target.row - span.start, ..*target })
            .collect();
        apart.extend(network.log_probs(&targets));
    }
    for (together, apart) in together.iter().zip(&apart) {
        assert!((together - apart).abs() < 1e-12, "{together} {apart}");
    }
}

#[test]
fn log_probs_equal_llama_cpp_on_tiny_models() {
    for name in [
        "gqa-4-2",
        "gqa-6-2-tied",
        "mha",
        "odd-sizes",
        "attn-bias",
        "rope-linear",
        "rope-yarn",
        "type-q40",
    ] {
        let mut network = network::<f32>(&tiny(name), Recompute::Cheap);
        let layout = Layout::new(network.shape().base(), ROUTED);
        let parameters = Parameters::fresh(layout, 1);
        let tokens = tiny_tokens(name);
        let n_vocab = network.shape().n_vocab;
        let mut pack = Pack::default();
        pack.push(&tokens);
        let targets: Vec<Target> =
            (0..tokens.len() - 1).map(|row| Target { row, token: tokens[row + 1] }).collect();
        network.forward(&parameters, &pack);
        let ours = network.log_probs(&targets);
        let file = if name.starts_with("type-") { "numpy" } else { "llama_cpp" };
        let theirs = floats(&fixtures().join(format!("tiny/{name}.{file}.f32")));
        assert_eq!(theirs.len(), tokens.len() * n_vocab);
        for (target, ours) in targets.iter().zip(&ours) {
            let theirs = theirs[target.row * n_vocab + target.token as usize];
            assert!((ours - theirs).abs() < 2e-4, "{name} {}: {ours} {theirs}", target.row);
        }
    }
}

#[test]
fn log_probs_of_the_default_model_equal_the_float_reference() {
    let folder = fixtures().join("smollm2-135m-instruct-q4_1");
    let gguf = Gguf::open(&rapport_testkit::default_model()).unwrap();
    let mut network = network::<f32>(&gguf, Recompute::Layers);
    let layout = Layout::new(network.shape().base(), ROUTED);
    let parameters = Parameters::fresh(layout, 1);
    let tokens: Vec<u32> =
        floats(&folder.join("english.tokens.i32")).iter().map(|bits| bits.to_bits()).collect();
    let json = std::fs::read_to_string(folder.join("english.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let window = json["window_tokens"].as_u64().unwrap() as usize;
    let reference = floats(&folder.join("english.windows.numpy.next_log_prob.f32"));
    let mut pack = Pack::default();
    let mut targets = Vec::new();
    for tokens in tokens.chunks_exact(window).take(2) {
        let span = pack.push(tokens);
        targets.extend(
            (span.start..span.end - 1)
                .zip(&tokens[1..])
                .map(|(row, token)| Target { row, token: *token }),
        );
    }
    network.forward(&parameters, &pack);
    let ours = network.log_probs(&targets);
    let worst = ours.iter().zip(&reference).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    println!("{} log-probabilities, the worst off by {worst:e}", ours.len());
    assert!(worst < 1e-3, "{worst}");
}
