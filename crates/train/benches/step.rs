//! Tokens a second of a training step on the default model: two sequences of 256 tokens, all of them
//! learned, forward and backward, on two threads. The forms take turns, so that a machine that
//! changes its speed changes it for all.
//!
//! `cargo bench -p rapport-train --bench step`; the last line is JSON. With the name of a form only
//! that one runs, which is how `scripts/reference/train_speed.py` compares with PyTorch.

#![expect(clippy::print_stdout, clippy::expect_used, reason = "a benchmark prints and may stop")]

use std::num::NonZeroUsize;
use std::time::Instant;

use rapport_kernels::{Compute, Isa};
use rapport_model::adapter::Routing;
use rapport_model::gguf::Gguf;
use rapport_train::{
    AdapterShape, Base, Layout, Network, Pack, Parameters, Precision, Recompute, Target,
};

const ROUNDS: usize = 5;

struct Form {
    name: &'static str,
    network: Network<f32>,
    parameters: Parameters<f32>,
    gradients: Vec<f32>,
    rates: Vec<f64>,
}

fn main() {
    let gguf = Gguf::open(&rapport_testkit::default_model()).expect("the default model");
    let dense = AdapterShape { rank: 8, alpha: 16.0, routing: None };
    let routing = Some(Routing { n_experts: 4, top_k: 2 });
    let routed = AdapterShape { routing, ..dense };
    let form = |name, precision, adapter| {
        let threads = NonZeroUsize::new(2).expect("two is not zero");
        let base = Base::load(&gguf, precision).expect("a llama");
        let compute = Compute::new(Isa::detect(), threads);
        let network = Network::<f32>::new(compute, base, Recompute::Cheap);
        let layout = Layout::new(network.shape().base(), adapter);
        let parameters = Parameters::fresh(layout, 1);
        let gradients = vec![0.0; layout.n_parameters()];
        Form { name, network, parameters, gradients, rates: Vec::new() }
    };
    let all = [
        ("f32 dense", Precision::F32, dense),
        ("bf16 dense", Precision::Bf16, dense),
        ("f32 routed", Precision::F32, routed),
        ("bf16 routed", Precision::Bf16, routed),
    ];
    let wanted = std::env::args().nth(1).filter(|name| !name.starts_with('-'));
    let mut forms: Vec<Form> = all
        .into_iter()
        .filter(|(name, ..)| wanted.as_ref().is_none_or(|wanted| wanted == name))
        .map(|(name, precision, adapter)| form(name, precision, adapter))
        .collect();
    let mut pack = Pack::default();
    let mut targets = Vec::new();
    for sequence in 0..2 {
        let tokens: Vec<u32> = (0..256).map(|i| (i * 7919 + sequence * 131) % 49_000).collect();
        let span = pack.push(&tokens);
        let rows = span.start..span.end - 1;
        targets.extend(rows.zip(&tokens[1..]).map(|(row, token)| Target { row, token: *token }));
    }
    let weights = vec![-1.0 / targets.len() as f32; targets.len()];
    for round in 0..=ROUNDS {
        for form in &mut forms {
            let begun = Instant::now();
            form.network.forward(&form.parameters, &pack);
            form.network.log_probs_with_gradient(&targets, &weights);
            form.network.backward(&form.parameters, &pack, 0.0, &mut form.gradients);
            let rate = pack.tokens.len() as f64 / begun.elapsed().as_secs_f64();
            // The first round warms up.
            if round > 0 {
                form.rates.push(rate);
            }
        }
    }
    let mut fields = Vec::new();
    for form in &mut forms {
        form.rates.sort_by(f64::total_cmp);
        let (low, median, high) = (form.rates[0], form.rates[ROUNDS / 2], form.rates[ROUNDS - 1]);
        let held = form.network.held_bytes() as f64 / 1e9;
        println!("{:<12} {median:>6.0} tokens/s ({low:.0} to {high:.0}), {held:.2} GB", form.name);
        fields.push(format!("\"{}\":{median:.1}", form.name));
    }
    println!("{{{}}}", fields.join(","));
}
