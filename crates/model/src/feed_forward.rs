//! The second half of a layer: a gated feed-forward, dense or a mixture of experts or both.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rapport_kernels::{Activation, Activations, Compute, ExpertRows, Onto, PackedExperts, Routes};

use crate::architecture::{Architecture, Experts};
use crate::error::LoadError;
use crate::linear::Linear;
use crate::load::Loader;
use crate::packed_adapter::{Additions, Group};

pub(crate) struct FeedForwardLayer {
    dense: Option<Dense>,
    mixture: Option<Mixture>,
    activation: Activation,
}

struct Dense {
    gate: Linear,
    up: Linear,
    down: Linear,
}

struct Mixture {
    shape: Experts,
    router: Linear,
    gate: PackedExperts,
    up: PackedExperts,
    down: PackedExperts,
}

/// Room for the inside of a feed-forward.
#[derive(Default)]
pub(crate) struct FeedForwardScratch {
    gate: Vec<f32>,
    up: Vec<f32>,
    inner: Activations,
    router_logits: Vec<f32>,
    routes: Routes,
    rows: ExpertRows,
    gathered: Activations,
    outputs: Vec<f32>,
}

/// How many tokens each expert of each layer has had since the model was loaded.
#[derive(Debug)]
pub struct ExpertLoad {
    n_experts: usize,
    /// (layers, E)
    counts: Vec<AtomicU64>,
}

impl ExpertLoad {
    pub(crate) fn new(n_layers: usize, n_experts: usize) -> Arc<Self> {
        let counts = (0..n_layers * n_experts).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self { n_experts, counts })
    }

    /// E
    pub fn n_experts(&self) -> usize {
        self.n_experts
    }

    /// Tokens by layer and expert: each row sums to A times the tokens computed.
    pub fn counts(&self) -> Vec<Vec<u64>> {
        let layers = self.counts.chunks_exact(self.n_experts);
        layers.map(|layer| layer.iter().map(|n| n.load(Ordering::Relaxed)).collect()).collect()
    }

    /// For each layer the busiest expert's load over the mean: 1 is perfect balance, E means one
    /// expert does all the work, 0 that nothing was computed yet.
    pub fn imbalance(&self) -> Vec<f64> {
        let over_mean = |layer: &Vec<u64>| {
            let (sum, max) = (layer.iter().sum::<u64>(), layer.iter().max().copied());
            max.unwrap_or(0) as f64 * self.n_experts as f64 / sum.max(1) as f64
        };
        self.counts().iter().map(over_mean).collect()
    }

    /// Counts for each token the experts that it gives weight to.
    pub(crate) fn record_gates<'g>(
        &self,
        layer_idx: usize,
        tokens: impl Iterator<Item = &'g [f32]>,
    ) {
        let counts = &self.counts[layer_idx * self.n_experts..][..self.n_experts];
        for gates in tokens {
            for (count, gate) in counts.iter().zip(gates) {
                count.fetch_add(u64::from(*gate != 0.0), Ordering::Relaxed);
            }
        }
    }

    fn record(&self, layer_idx: usize, rows: &ExpertRows) {
        for (expert_idx, n_tokens) in rows.loads() {
            let count = &self.counts[layer_idx * self.n_experts + expert_idx];
            count.fetch_add(n_tokens as u64, Ordering::Relaxed);
        }
    }
}

impl FeedForwardLayer {
    pub(crate) fn load(
        load: &Loader<'_>,
        architecture: &Architecture,
        layer_idx: usize,
    ) -> Result<Self, LoadError> {
        let hidden = architecture.hidden;
        let shape = &architecture.feed_forward;
        let name = |part: &str| format!("blk.{layer_idx}.ffn_{part}");
        let dense = shape.dense.map(|inner| {
            Ok::<_, LoadError>(Dense {
                gate: load.linear(&name("gate"), (inner, hidden))?,
                up: load.linear(&name("up"), (inner, hidden))?,
                down: load.linear(&name("down"), (hidden, inner))?,
            })
        });
        let mixture = shape.experts.map(|experts| {
            let (count, inner) = (experts.count, experts.feed_forward);
            let packed = |part: &str, n_rows, n_cols| {
                load.experts(&name(&format!("{part}_exps.weight")), (count, n_rows, n_cols))
            };
            Ok::<_, LoadError>(Mixture {
                shape: experts,
                router: load.linear(&name("gate_inp"), (count, hidden))?,
                gate: packed("gate", inner, hidden)?,
                up: packed("up", inner, hidden)?,
                down: packed("down", hidden, inner)?,
            })
        });
        Ok(Self {
            dense: dense.transpose()?,
            mixture: mixture.transpose()?,
            activation: shape.activation,
        })
    }

    /// Bytes that a pass over `n_tokens` reads; of a mixture, at most as many experts as that many
    /// tokens can choose.
    pub(crate) fn bytes_per_pass(&self, n_tokens: usize) -> usize {
        let dense = self
            .dense
            .as_ref()
            .map_or(0, |dense| dense.gate.n_bytes() + dense.up.n_bytes() + dense.down.n_bytes());
        let mixture = self.mixture.as_ref().map_or(0, |mixture| {
            let n_chosen = mixture.shape.count.min(n_tokens * mixture.shape.router.n_active);
            let matrices = [&mixture.gate, &mixture.up, &mixture.down];
            let expert_bytes = matrices.map(PackedExperts::expert_bytes).iter().sum::<usize>();
            mixture.router.n_bytes() + n_chosen * expert_bytes
        });
        dense + mixture
    }

    /// The branch that every token goes through: its gate, up and down.
    pub(crate) fn dense(&self) -> Option<[&Linear; 3]> {
        self.dense.as_ref().map(|dense| [&dense.gate, &dense.up, &dense.down])
    }

    /// Adds the branches' outputs to `out`.
    ///
    /// # Shapes
    /// `x`: (T, C), normed; `out`: (T, C).
    pub(crate) fn apply_add(
        &self,
        compute: &Compute,
        x: &Activations,
        scratch: &mut FeedForwardScratch,
        (mut additions, load): (Additions<'_>, Option<&ExpertLoad>),
        out: &mut [f32],
    ) {
        let layer_idx = additions.layer_idx;
        if let Some(dense) = &self.dense {
            dense.apply_add(compute, self.activation, x, (scratch, &mut additions), out);
        }
        if let Some(mixture) = &self.mixture {
            mixture.apply_add(compute, self.activation, x, scratch, out);
            if let Some(load) = load {
                load.record(layer_idx, &scratch.rows);
            }
        }
    }
}

impl Dense {
    fn apply_add(
        &self,
        compute: &Compute,
        activation: Activation,
        x: &Activations,
        (s, additions): (&mut FeedForwardScratch, &mut Additions<'_>),
        out: &mut [f32],
    ) {
        let inner = self.gate.weight.n_rows();
        s.gate.resize(x.n_rows() * inner, 0.0); // (T, F)
        s.up.resize(x.n_rows() * inner, 0.0); // (T, F)
        let layers = [(&self.gate, &mut *s.gate), (&self.up, &mut *s.up)];
        additions.apply(compute, Group::IntoFeedForward, x, Onto::Nothing, layers);
        compute.gate_mul(activation, &s.gate, &s.up, inner, &mut s.inner);
        let layers = [(&self.down, out)];
        additions.apply(compute, Group::OutOfFeedForward, &s.inner, Onto::WhatIsThere, layers);
    }
}

impl Mixture {
    fn apply_add(
        &self,
        compute: &Compute,
        activation: Activation,
        x: &Activations,
        s: &mut FeedForwardScratch,
        out: &mut [f32],
    ) {
        let Experts { count, feed_forward: inner, router } = self.shape;
        s.router_logits.resize(x.n_rows() * count, 0.0); // (T, E)
        Linear::apply(compute, x, [(&self.router, &mut s.router_logits)]);
        compute.route(router, &mut s.router_logits, count, &mut s.routes);
        s.rows.sort(&s.routes, count);

        let n_rows = s.rows.n_rows();
        s.gate.resize(n_rows * inner, 0.0); // (T * A, F)
        s.up.resize(n_rows * inner, 0.0); // (T * A, F)
        s.outputs.resize(n_rows * x.n_cols(), 0.0); // (T * A, C)
        let x = if x.n_rows() == 1 {
            x
        } else {
            compute.gather_experts(x, &s.rows, &mut s.gathered);
            &s.gathered
        };
        let mut products = [(&self.gate, &mut *s.gate), (&self.up, &mut *s.up)];
        compute.expert_matmul(x, &s.rows, &mut products);
        compute.gate_mul(activation, &s.gate, &s.up, inner, &mut s.inner);
        compute.expert_matmul(&s.inner, &s.rows, &mut [(&self.down, &mut s.outputs)]);
        compute.add_experts(&s.routes, &s.rows, &s.outputs, out);
    }
}
