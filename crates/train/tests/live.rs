//! What was trained is what runs: an adapter applied live gives the trainer's own log-probabilities.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use rapport_kernels::{Compute, Isa, KvPage, KvType, PAGE_TOKENS};
use rapport_model::adapter::{Routing, Storage};
use rapport_model::gguf::Gguf;
use rapport_model::{AdapterFile, Batch, BatchSequence, Logits, Scratch, Transformer};
use rapport_train::{
    AdapterShape, Base, Layout, Network, Pack, Parameters, Precision, Recompute, Target,
};

/// How far two log-probabilities of one token may be apart: sums run in another order.
const TOLERANCE: f64 = 2e-4;

fn compute() -> Compute {
    Compute::new(Isa::detect(), NonZeroUsize::new(2).unwrap())
}

/// Far from what a fresh adapter is: every linear changes, and routes differ from token to token.
fn busy(layout: Layout) -> Parameters<f32> {
    let mut parameters = Parameters::<f32>::fresh(layout, 5);
    let mut state = 7_u64;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    parameters.values.iter_mut().for_each(|value| *value += next() * 0.4);
    parameters.router_bias.iter_mut().for_each(|bias| *bias = next() * 0.2);
    parameters
}

fn live(gguf: &Gguf, folder: &Path, tokens: &[u32]) -> Vec<f64> {
    let compute = compute();
    let model = Transformer::load(gguf, &compute).unwrap();
    let adapter = model.pack_adapter(&compute, &AdapterFile::open(folder).unwrap()).unwrap();
    let page = || Arc::new(KvPage::new(model.architecture().attention, KvType::F32));
    let mut pages: Vec<_> =
        std::iter::repeat_with(page).take(tokens.len().div_ceil(PAGE_TOKENS)).collect();
    let sequence = BatchSequence {
        tokens,
        position: 0,
        pages: &mut pages,
        logits: Logits::All,
        adapter: Some(&adapter),
    };
    let mut scratch = Scratch::default();
    let mut batch = Batch { sequences: vec![sequence] };
    let logits = model.forward(&compute, &mut batch, &mut scratch);
    let rows = logits.chunks_exact(model.n_vocab()).zip(&tokens[1..]);
    rows.map(|(row, token)| {
        let max = f64::from(row.iter().copied().fold(f32::MIN, f32::max));
        let sum: f64 = row.iter().map(|logit| (f64::from(*logit) - max).exp()).sum();
        f64::from(row[*token as usize]) - max - sum.ln()
    })
    .collect()
}

#[test]
fn an_adapter_gives_live_what_it_gave_in_training() {
    let fixtures =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/fixtures/reference/tiny");
    let routed = Some(Routing { n_experts: 4, top_k: 2 });
    // Grouped heads, tied embeddings, biases, sizes that fill no vector.
    for name in ["gqa-4-2", "gqa-6-2-tied", "attn-bias", "odd-sizes"] {
        for (rank, routing) in [(2, routed), (8, routed), (3, None)] {
            let gguf = Gguf::open(&fixtures.join(format!("{name}.gguf"))).unwrap();
            let text = std::fs::read_to_string(fixtures.join(format!("{name}.json"))).unwrap();
            let json: serde_json::Value = serde_json::from_str(&text).unwrap();
            let tokens = json["tokens"].as_array().unwrap();
            let tokens: Vec<u32> = tokens.iter().map(|t| t.as_u64().unwrap() as u32).collect();

            let base = Base::<f32>::load(&gguf, Precision::F32).unwrap();
            let mut network = Network::new(compute(), base, Recompute::Cheap);
            let adapter = AdapterShape { rank, alpha: 6.0, routing };
            let parameters = busy(Layout::new(network.shape().base(), adapter));
            let mut pack = Pack::default();
            pack.push(&tokens);
            let targets = tokens[1..].iter().enumerate();
            let targets: Vec<_> =
                targets.map(|(row, token)| Target { row, token: *token }).collect();
            network.forward(&parameters, &pack);
            let expected: Vec<f64> =
                network.log_probs(&targets).iter().map(|log_prob| f64::from(*log_prob)).collect();

            let folder = tempfile::tempdir().unwrap();
            parameters.to_adapter(None).save(folder.path(), Storage::F32).unwrap();
            let found = live(&gguf, folder.path(), &tokens);
            let apart = found.iter().zip(&expected).map(|(a, b)| (a - b).abs());
            let apart = apart.fold(0.0, f64::max);
            assert!(apart < TOLERANCE, "{name}, rank {rank}, {routing:?}: {apart}");

            // And the adapter matters, or the test says nothing.
            network.forward(&Parameters::fresh(parameters.layout, 1), &pack);
            let plain = network.log_probs(&targets);
            let moved = expected.iter().zip(&plain).map(|(a, b)| (a - f64::from(*b)).abs());
            assert!(moved.fold(0.0, f64::max) > 0.1, "{name}, rank {rank}");
        }
    }
}
