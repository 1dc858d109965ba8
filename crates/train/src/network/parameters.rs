//! What is trained: all numbers of an adapter in one vector, so that an optimiser needs to know no
//! more than its length.
//!
//! Per layer: the router (E, C), then `A` of every linear (E, r, in), then `B` of every linear
//! (out, E, r). With the experts inside a row, one product serves all experts of a linear; a file
//! has (E, out, r). The routers' balancing biases are not trained by gradients and lie apart. After
//! the last layer comes the head of a reward model, where one is trained.

use std::ops::Range;

use rapport_kernels::Real;
use rapport_model::adapter::{
    Adapter, AdapterLayer, BaseShape, ExpertRouter, Linear, LowRank, Routing,
};

use crate::random::Random;

/// Standard deviation of a fresh router's weights.
const ROUTER_DEVIATION: f64 = 0.02;

/// The form of an adapter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdapterShape {
    /// r
    pub rank: usize,
    pub alpha: f64,
    /// `None` trains a dense adapter.
    pub routing: Option<Routing>,
}

impl AdapterShape {
    /// E; 1 for a dense adapter.
    pub fn n_experts(&self) -> usize {
        self.routing.map_or(1, |routing| routing.n_experts)
    }

    /// E * r: the columns that all experts of a linear have together.
    pub(crate) fn width(&self) -> usize {
        self.n_experts() * self.rank
    }
}

/// Where each part of an adapter lies in the vector.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Layout {
    pub base: BaseShape,
    pub adapter: AdapterShape,
    /// Whether a row of numbers that turns the last hidden state into a reward is trained too.
    pub has_reward_head: bool,
}

impl Layout {
    /// Of an adapter and nothing else.
    pub fn new(base: BaseShape, adapter: AdapterShape) -> Self {
        Self { base, adapter, has_reward_head: false }
    }

    pub fn n_parameters(&self) -> usize {
        self.reward_head().end
    }

    /// (C), after all layers; empty if there is none.
    pub(crate) fn reward_head(&self) -> Range<usize> {
        let start = self.base.n_layers * self.layer_len();
        start..start + if self.has_reward_head { self.base.hidden } else { 0 }
    }

    fn router_len(&self) -> usize {
        self.adapter.routing.map_or(0, |routing| routing.n_experts * self.base.hidden)
    }

    fn a_len(&self, linear: Linear) -> usize {
        self.base.in_out(linear).0 * self.adapter.width()
    }

    fn b_len(&self, linear: Linear) -> usize {
        self.base.in_out(linear).1 * self.adapter.width()
    }

    fn layer_len(&self) -> usize {
        let linears = Linear::ALL.map(|linear| self.a_len(linear) + self.b_len(linear));
        self.router_len() + linears.iter().sum::<usize>()
    }

    pub(crate) fn router(&self, layer_idx: usize) -> Range<usize> {
        let start = layer_idx * self.layer_len();
        start..start + self.router_len()
    }

    /// `A` of some linears that follow one another and read the same input: ((n, E, r), in).
    pub(crate) fn a(&self, layer_idx: usize, linears: &[Linear]) -> Range<usize> {
        let before = Linear::ALL[..linears[0] as usize].iter().map(|l| self.a_len(*l));
        let start = self.router(layer_idx).end + before.sum::<usize>();
        start..start + linears.iter().map(|linear| self.a_len(*linear)).sum::<usize>()
    }

    /// (out, (E, r))
    pub(crate) fn b(&self, layer_idx: usize, linear: Linear) -> Range<usize> {
        let before = Linear::ALL[..linear as usize].iter().map(|l| self.b_len(*l));
        let start = self.a(layer_idx, &Linear::ALL).end + before.sum::<usize>();
        start..start + self.b_len(linear)
    }
}

/// An adapter in training.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameters<R> {
    pub layout: Layout,
    pub values: Vec<R>,
    /// (layers, E): what is added to scores to choose experts. Empty for a dense adapter.
    pub router_bias: Vec<R>,
}

impl<R: Real> Parameters<R> {
    /// A fresh adapter, which changes nothing yet: every `B` is zero; `A` is drawn as `peft` draws
    /// it, uniformly within `1 / sqrt(in)`. A reward head begins with zeros: all replies are equal.
    pub fn fresh(layout: Layout, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut values = vec![R::ZERO; layout.n_parameters()];
        for layer_idx in 0..layout.base.n_layers {
            for value in &mut values[layout.router(layer_idx)] {
                *value = R::from_f64(random.normal() * ROUTER_DEVIATION);
            }
            for linear in Linear::ALL {
                let bound = 1.0 / (layout.base.in_out(linear).0 as f64).sqrt();
                for value in &mut values[layout.a(layer_idx, &[linear])] {
                    *value = R::from_f64((random.uniform() * 2.0 - 1.0) * bound);
                }
            }
        }
        let n_biases = layout.adapter.routing.map_or(0, |routing| routing.n_experts);
        Self { layout, values, router_bias: vec![R::ZERO; n_biases * layout.base.n_layers] }
    }

    /// Goes on from an adapter; what it leaves out is zero.
    pub fn from_adapter(base: BaseShape, adapter: &Adapter) -> Self {
        let shape = AdapterShape {
            rank: adapter.rank,
            alpha: f64::from(adapter.alpha),
            routing: adapter.routing,
        };
        let layout = Layout::new(base, shape);
        let mut parameters =
            Self { layout, values: vec![R::ZERO; layout.n_parameters()], router_bias: Vec::new() };
        let wide = |value: &f32| R::from_f64(f64::from(*value));
        for (layer_idx, layer) in adapter.layers.iter().enumerate() {
            if let Some(router) = &layer.router {
                let values = router.weight.iter().map(wide);
                parameters.values.splice(layout.router(layer_idx), values);
                parameters.router_bias.extend(router.bias.iter().map(wide));
            }
            for (linear, pair) in Linear::ALL.into_iter().zip(&layer.linears) {
                let Some(pair) = pair else { continue };
                let a = pair.a.iter().map(wide);
                parameters.values.splice(layout.a(layer_idx, &[linear]), a);
                let b = &mut parameters.values[layout.b(layer_idx, linear)];
                for (place, file_place) in b_places(&shape, pair.n_out) {
                    b[place] = wide(&pair.b[file_place]);
                }
            }
        }
        parameters
    }

    /// The same with the head of a reward model.
    ///
    /// # Panics
    /// If the head is not as long as a hidden state.
    #[must_use]
    pub fn with_reward_head(mut self, head: &[R]) -> Self {
        assert_eq!(head.len(), self.layout.base.hidden, "a number for each of a hidden state");
        self.values.truncate(self.layout.reward_head().start);
        self.values.extend_from_slice(head);
        self.layout.has_reward_head = true;
        self
    }

    /// The head of a reward model; empty if there is none.
    pub fn reward_head(&self) -> &[R] {
        &self.values[self.layout.reward_head()]
    }

    /// The adapter as files have it.
    pub fn to_adapter(&self, base_sha256: Option<String>) -> Adapter {
        let Layout { base, adapter, .. } = self.layout;
        let narrow = |value: &R| value.to_f64() as f32;
        let layer = |layer_idx: usize| AdapterLayer {
            router: adapter.routing.map(|routing| ExpertRouter {
                weight: self.values[self.layout.router(layer_idx)].iter().map(narrow).collect(),
                bias: self.router_bias[layer_idx * routing.n_experts..][..routing.n_experts]
                    .iter()
                    .map(narrow)
                    .collect(),
            }),
            linears: Linear::ALL.map(|linear| {
                let (n_in, n_out) = base.in_out(linear);
                let trained = &self.values[self.layout.b(layer_idx, linear)];
                let mut b = vec![0.0; trained.len()];
                for (place, file_place) in b_places(&adapter, n_out) {
                    b[file_place] = narrow(&trained[place]);
                }
                let a = &self.values[self.layout.a(layer_idx, &[linear])];
                Some(LowRank { n_in, n_out, a: a.iter().map(narrow).collect(), b })
            }),
        };
        Adapter {
            rank: adapter.rank,
            alpha: adapter.alpha as f32,
            routing: adapter.routing,
            base_sha256,
            layers: (0..base.n_layers).map(layer).collect(),
        }
    }
}

/// Places in a (out, E, r) matrix with those in a (E, out, r) one.
fn b_places(shape: &AdapterShape, n_out: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
    let (n_experts, rank) = (shape.n_experts(), shape.rank);
    (0..n_out * n_experts * rank).map(move |place| {
        let (row, expert, column) =
            (place / (n_experts * rank), place / rank % n_experts, place % rank);
        (place, (expert * n_out + row) * rank + column)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(routing: Option<Routing>) -> Layout {
        let base = BaseShape { n_layers: 3, hidden: 6, heads: 8, kv_heads: 4, feed_forward: 10 };
        Layout::new(base, AdapterShape { rank: 2, alpha: 4.0, routing })
    }

    #[test]
    fn an_adapter_comes_back_as_it_was() {
        for routing in [None, Some(Routing { n_experts: 3, top_k: 2 })] {
            let layout = layout(routing);
            let mut parameters = Parameters::<f32>::fresh(layout, 1);
            for (value, number) in parameters.values.iter_mut().zip(0..) {
                *value = number as f32;
            }
            for (bias, number) in parameters.router_bias.iter_mut().zip(0..) {
                *bias = number as f32;
            }
            let adapter = parameters.to_adapter(None);
            adapter.check_fits(&layout.base).unwrap();
            assert_eq!(Parameters::from_adapter(layout.base, &adapter), parameters);
        }
    }

    #[test]
    fn the_parts_cover_the_vector_without_overlap() {
        let layout = layout(Some(Routing { n_experts: 3, top_k: 2 }));
        let mut end = 0;
        for layer_idx in 0..3 {
            let mut parts = vec![layout.router(layer_idx)];
            parts.extend(Linear::ALL.map(|linear| layout.a(layer_idx, &[linear])));
            parts.extend(Linear::ALL.map(|linear| layout.b(layer_idx, linear)));
            for part in parts {
                assert_eq!(part.start, end);
                end = part.end;
            }
        }
        assert_eq!(end, layout.n_parameters());
        let with_head = Layout { has_reward_head: true, ..layout };
        assert_eq!(with_head.reward_head(), end..end + 6);
        assert_eq!(with_head.n_parameters(), end + 6);
    }

    #[test]
    fn a_fresh_adapter_adds_nothing_and_follows_its_seed() {
        let layout = layout(Some(Routing { n_experts: 3, top_k: 2 }));
        let fresh = Parameters::<f32>::fresh(layout, 1);
        let adapter = fresh.to_adapter(None);
        for pair in adapter.layers.iter().flat_map(|layer| layer.linears.iter().flatten()) {
            assert!(pair.b.iter().all(|b| *b == 0.0));
            let bound = 1.0 / (pair.n_in as f32).sqrt();
            assert!(pair.a.iter().all(|a| a.abs() <= bound) && pair.a.iter().any(|a| *a != 0.0));
        }
        assert_eq!(fresh, Parameters::fresh(layout, 1));
        assert_ne!(fresh, Parameters::fresh(layout, 2));
    }
}
