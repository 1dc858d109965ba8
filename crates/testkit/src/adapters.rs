//! Adapters whose numbers look random: they say nothing, and differ from each other.

use rapport_model::Architecture;
use rapport_model::adapter::{Adapter, AdapterLayer, ExpertRouter, Linear, LowRank, Routing};

/// What a random adapter is like.
#[derive(Clone, Copy, Debug)]
pub struct RandomAdapter {
    pub seed: u64,
    pub rank: usize,
    /// Experts and how many of them a token has; `None` for plain LoRA.
    pub routing: Option<Routing>,
    /// About how much is added to an output, where inputs are about 1.
    pub strength: f32,
}

impl RandomAdapter {
    /// One that fits a model with a dense feed-forward. A plain one leaves the keys alone, as not
    /// every adapter has every linear.
    ///
    /// # Panics
    /// If the model has none.
    pub fn for_model(self, architecture: &Architecture) -> Adapter {
        let Self { seed, rank, routing, strength } = self;
        let shape = architecture.attention;
        let (hidden, inner) =
            (architecture.hidden, architecture.feed_forward.dense.expect("a dense feed-forward"));
        let (heads, kv_heads) = (shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim);
        let n_experts = routing.map_or(1, |routing| routing.n_experts);
        let layer = |layer_idx: usize| AdapterLayer {
            router: routing.map(|_| ExpertRouter {
                weight: numbers(seed + layer_idx as u64, n_experts * hidden, 1.0),
                bias: numbers(seed + 7, n_experts, 1.0),
            }),
            linears: Linear::ALL.map(|linear| {
                let (n_in, n_out) = match linear {
                    Linear::Query => (hidden, heads),
                    Linear::Key | Linear::Value => (hidden, kv_heads),
                    Linear::Output => (heads, hidden),
                    Linear::Gate | Linear::Up => (hidden, inner),
                    Linear::Down => (inner, hidden),
                };
                let seed = seed + 100 * layer_idx as u64 + linear as u64;
                let of_input = 1.0 / (n_in as f32).sqrt();
                (routing.is_some() || linear != Linear::Key).then(|| LowRank {
                    n_in,
                    n_out,
                    a: numbers(seed, n_experts * rank * n_in, of_input),
                    b: numbers(seed + 50, n_experts * n_out * rank, strength),
                })
            }),
        };
        let layers = (0..shape.n_layers).map(layer).collect();
        Adapter { rank, alpha: rank as f32, routing, base_sha256: None, layers }
    }
}

/// Numbers between `-size` and `size`, the same everywhere.
fn numbers(seed: u64, n: usize, size: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        size * ((state >> 40) as f32 / (1 << 23) as f32 - 1.0)
    };
    (0..n).map(|_| next()).collect()
}
