//! The model in training: forward and backward through frozen llama blocks and an adapter.
//!
//! One pass goes over a [`Pack`]: several sequences one after another, none of which sees another.
//! The order of calls is [`Network::forward`], then [`Network::log_probs`] for the tokens that the
//! loss is about, then, with the loss's gradient by their log-probabilities,
//! [`Network::log_probs_with_gradient`] and [`Network::backward`]. Every loss in `objective.rs` is
//! only that gradient. A reward model asks for [`Network::rewards`] instead.
//!
//! # Memory
//! What the backward pass needs of a layer is the results of its products; norms, activations and
//! attention probabilities are computed again. [`Recompute::Layers`] keeps only each layer's input
//! and runs its products again too. Logits exist for [`HEAD_ROWS`] positions at a time.
//!
//! # Numerics
//! Everything is generic over [`Real`], so the same code is checked in f64 against finite
//! differences and run in f32. All sums have an order that depends on shapes alone.
//!
//! [`Precision::Bf16`] rounds both sides of products with frozen weights, and nothing else.
//!
//! What is not here: gradients of the frozen weights, dropout.
//!
//! Start reading at [`Network::layer_forward`].

pub(crate) mod attention;
pub(crate) mod base;
pub(crate) mod experts;
pub(crate) mod norm;
pub(crate) mod parallel;
pub(crate) mod parameters;

use std::ops::Range;

use rapport_kernels::{Bf16Rows, Compute, Onto, Real, greatest};
use rapport_model::adapter::Linear;

#[cfg(doc)]
use self::base::Precision;
use self::base::{Base, Shape};
use self::experts::{
    Group, GroupGradients, INTO_ATTENTION, INTO_FEED_FORWARD, OUT_OF_ATTENTION,
    OUT_OF_FEED_FORWARD, Routes,
};
use self::parallel::{TASK_ROWS, for_each};
use self::parameters::{Layout, Parameters};

/// Positions whose logits exist at once: enough for the products to run at full speed.
const HEAD_ROWS: usize = 128;

/// What a backward pass runs again rather than keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Recompute {
    /// Norms, activations and attention: cheap, and half of the memory.
    #[default]
    Cheap,
    /// Whole layers: about a third more time for a fraction of the memory.
    Layers,
}

/// Sequences that go through the network together, one after another.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pack {
    pub tokens: Vec<u32>,
    /// The tokens of each sequence; they follow one another from the first token to the last.
    pub spans: Vec<Range<usize>>,
}

impl Pack {
    /// Adds a sequence and says where it lies.
    pub fn push(&mut self, tokens: &[u32]) -> Range<usize> {
        let span = self.tokens.len()..self.tokens.len() + tokens.len();
        self.tokens.extend_from_slice(tokens);
        self.spans.push(span.clone());
        span
    }
}

/// A token whose probability the loss asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The position that predicts it.
    pub row: usize,
    pub token: u32,
}

/// What a layer's backward pass needs of its forward pass.
#[derive(Default)]
struct Saved<R> {
    input: Vec<R>,
    routes: Routes<R>,
    low_into_attention: Vec<R>,
    queries: Vec<R>,
    keys: Vec<R>,
    values: Vec<R>,
    attended: Vec<R>,
    low_out_of_attention: Vec<R>,
    middle: Vec<R>,
    low_into_feed_forward: Vec<R>,
    gate: Vec<R>,
    up: Vec<R>,
    low_out_of_feed_forward: Vec<R>,
}

impl<R: Real> Saved<R> {
    fn n_bytes(&self) -> usize {
        let floats = [
            &self.input,
            &self.low_into_attention,
            &self.queries,
            &self.keys,
            &self.values,
            &self.attended,
            &self.low_out_of_attention,
            &self.middle,
            &self.low_into_feed_forward,
            &self.gate,
            &self.up,
            &self.low_out_of_feed_forward,
        ];
        floats.iter().map(|values| values.capacity() * size_of::<R>()).sum::<usize>()
            + self.routes.n_bytes()
    }

    fn reserve(&mut self, shape: &Shape, layout: &Layout, n_tokens: usize) {
        let (base, width) = (shape.base(), layout.adapter.width());
        for (values, n_cols) in [
            (&mut self.input, base.hidden),
            (&mut self.low_into_attention, 3 * width),
            (&mut self.queries, base.heads),
            (&mut self.keys, base.kv_heads),
            (&mut self.values, base.kv_heads),
            (&mut self.attended, base.heads),
            (&mut self.low_out_of_attention, width),
            (&mut self.middle, base.hidden),
            (&mut self.low_into_feed_forward, 2 * width),
            (&mut self.gate, base.feed_forward),
            (&mut self.up, base.feed_forward),
            (&mut self.low_out_of_feed_forward, width),
        ] {
            values.reserve_exact(n_tokens * n_cols);
        }
        let routing = layout.adapter.routing;
        self.routes.reserve(n_tokens, routing.map_or(0, |routing| routing.n_experts));
    }
}

/// Room for what a layer computes on its way.
#[derive(Default)]
struct Scratch<R> {
    normed: Vec<R>,
    d_normed: Vec<R>,
    /// (T, H * D), (T, G * D) twice.
    rows: [Vec<R>; 3],
    heads: [Vec<R>; 4],
    inner: Vec<R>,
    d_inner: Vec<R>,
    low: [Vec<R>; 2],
    d_gates: Vec<R>,
    logits: Vec<R>,
    rounded: Bf16Rows,
}

/// A frozen model with room for passes over it.
pub struct Network<R> {
    compute: Compute,
    base: Base<R>,
    recompute: Recompute,
    /// Cosines and sines of the pack's positions.
    angles: Vec<[R; 2]>,
    /// One a layer, or a single one where layers are run again.
    saved: Vec<Saved<R>>,
    /// Inputs of layers, where layers are run again.
    inputs: Vec<Vec<R>>,
    scratch: Scratch<R>,
    /// (T, C): the residual stream, and after the last layer its end.
    hidden: Vec<R>,
    /// (T, C): the gradient of `hidden`.
    d_hidden: Vec<R>,
    routing: RoutingOfPass,
}

fn resize<R: Real>(values: &mut Vec<R>, len: usize) -> &mut [R] {
    values.resize(len, R::ZERO);
    &mut values[..]
}

fn add<R: Real>(to: &mut [R], what: &[R]) {
    for (to, what) in to.iter_mut().zip(what) {
        *to += *what;
    }
}

impl<R: Real> Scratch<R> {
    fn reserve(&mut self, shape: &Shape, layout: &Layout, n_tokens: usize) {
        let (base, width) = (shape.base(), layout.adapter.width());
        let [query_rows, key_rows, value_rows] = &mut self.rows;
        let [d_out, d_queries, d_keys, d_values] = &mut self.heads;
        let [low, d_low] = &mut self.low;
        // The head works on some rows of all at a time.
        let head_len = HEAD_ROWS * base.hidden;
        for (values, len) in [
            (&mut self.normed, head_len.max(n_tokens * base.hidden)),
            (&mut self.d_normed, head_len.max(n_tokens * base.hidden)),
            (query_rows, head_len.max(n_tokens * base.heads)),
            (key_rows, n_tokens * base.kv_heads),
            (value_rows, n_tokens * base.kv_heads),
            (d_out, n_tokens * base.heads),
            (d_queries, n_tokens * base.heads),
            (d_keys, n_tokens * base.kv_heads),
            (d_values, n_tokens * base.kv_heads),
            (&mut self.inner, n_tokens * base.feed_forward),
            (&mut self.d_inner, n_tokens * base.feed_forward),
            (low, n_tokens * 3 * width),
            (d_low, n_tokens * 3 * width),
            (&mut self.d_gates, n_tokens * layout.adapter.n_experts()),
            (&mut self.logits, HEAD_ROWS * shape.n_vocab),
        ] {
            values.reserve_exact(len);
        }
        self.rounded.reserve(n_tokens, base.feed_forward.max(base.heads).max(base.hidden));
        self.rounded.reserve(HEAD_ROWS, shape.n_vocab);
    }
}

impl<R: Real> Network<R> {
    pub fn new(compute: Compute, base: Base<R>, recompute: Recompute) -> Self {
        let n_layers = base.shape.n_layers;
        let (n_saved, n_inputs) = match recompute {
            Recompute::Cheap => (n_layers, 0),
            Recompute::Layers => (1, n_layers),
        };
        Self {
            compute,
            base,
            recompute,
            angles: Vec::new(),
            saved: std::iter::repeat_with(Saved::default).take(n_saved).collect(),
            inputs: vec![Vec::new(); n_inputs],
            scratch: Scratch::default(),
            hidden: Vec::new(),
            d_hidden: Vec::new(),
            routing: RoutingOfPass::default(),
        }
    }

    pub fn shape(&self) -> &Shape {
        &self.base.shape
    }

    pub fn compute(&self) -> &Compute {
        &self.compute
    }

    /// Makes room for passes over at most `n_tokens`, so that buffers never grow: growing in steps
    /// would take up to twice as much.
    pub fn reserve(&mut self, layout: &Layout, n_tokens: usize) {
        let shape = self.base.shape;
        for saved in &mut self.saved {
            saved.reserve(&shape, layout, n_tokens);
        }
        self.scratch.reserve(&shape, layout, n_tokens);
        for values in self.inputs.iter_mut().chain([&mut self.hidden, &mut self.d_hidden]) {
            values.reserve_exact(n_tokens * shape.hidden);
        }
        self.angles.reserve_exact(n_tokens * shape.head_dim / 2);
    }

    /// Bytes that passes over at most `n_tokens` hold at most, the frozen weights included.
    pub fn planned_bytes(&self, layout: &Layout, n_tokens: usize) -> usize {
        let shape = &self.base.shape;
        let base = shape.base();
        let width = layout.adapter.width();
        let experts = layout.adapter.routing.map_or(0, |routing| routing.n_experts);
        let heads = 2 * base.heads + 2 * base.kv_heads;
        let per_layer = 2 * base.hidden + heads + 2 * base.feed_forward + 7 * width + 2 * experts;
        let (n_saved, n_inputs) = (self.saved.len(), self.inputs.len());
        let scratch = 2 * base.hidden
            + heads
            + base.heads
            + 2 * base.kv_heads
            + 2 * base.feed_forward
            + 6 * width
            + experts.max(1)
            + shape.head_dim
            + base.feed_forward.max(base.heads).max(base.hidden).div_ceil(2);
        let per_token = n_saved * per_layer + n_inputs * base.hidden + scratch + 2 * base.hidden;
        // Logits, and their gradients rounded.
        let head = HEAD_ROWS * (2 * shape.n_vocab + 3 * base.hidden.max(base.heads));
        self.base.n_bytes() + (n_tokens * per_token + head) * size_of::<R>()
    }

    /// Bytes of the frozen weights.
    pub fn base_bytes(&self) -> usize {
        self.base.n_bytes()
    }

    /// Bytes of the largest frozen matrix as floats.
    pub fn largest_weight_bytes(&self) -> usize {
        let shape = &self.base.shape;
        shape.n_vocab.max(shape.feed_forward) * shape.hidden * size_of::<R>()
    }

    /// Bytes of all buffers at this moment, the frozen weights included.
    pub fn held_bytes(&self) -> usize {
        let s = &self.scratch;
        let scratch = [&s.normed, &s.d_normed, &s.inner, &s.d_inner, &s.d_gates, &s.logits]
            .into_iter()
            .chain(&s.rows)
            .chain(&s.heads)
            .chain(&s.low)
            .chain(&self.inputs)
            .chain([&self.hidden, &self.d_hidden])
            .map(|values| values.capacity() * size_of::<R>());
        let saved = self.saved.iter().map(Saved::n_bytes).sum::<usize>();
        self.base.n_bytes()
            + saved
            + scratch.sum::<usize>()
            + s.rounded.n_bytes()
            + self.angles.capacity() * size_of::<[R; 2]>()
    }

    /// Runs a pack through all layers.
    ///
    /// # Panics
    /// If a token is outside the vocabulary.
    pub fn forward(&mut self, parameters: &Parameters<R>, pack: &Pack) {
        let hidden = self.base.shape.hidden;
        self.set_angles(pack);
        resize(&mut self.hidden, pack.tokens.len() * hidden);
        let mut floats = vec![0.0; hidden];
        for (row, token) in self.hidden.chunks_exact_mut(hidden).zip(&pack.tokens) {
            self.base.embed(*token, &mut floats, row);
        }
        let n_experts = parameters.layout.adapter.routing.map_or(0, |routing| routing.n_experts);
        self.routing = RoutingOfPass::new(n_experts, self.base.shape.n_layers);
        for layer_idx in 0..self.base.shape.n_layers {
            if self.recompute == Recompute::Layers {
                self.inputs[layer_idx].clone_from(&self.hidden);
            }
            self.layer_forward(parameters, pack, layer_idx);
            self.routing.add(layer_idx, &self.saved[self.saved_idx(layer_idx)].routes);
        }
    }

    fn saved_idx(&self, layer_idx: usize) -> usize {
        match self.recompute {
            Recompute::Cheap => layer_idx,
            Recompute::Layers => 0,
        }
    }

    fn set_angles(&mut self, pack: &Pack) {
        let mut of_position = Vec::new();
        self.angles.clear();
        for span in &pack.spans {
            for position in 0..span.len() {
                self.base.rope.angles(position as u32, &mut of_position);
                let wide = |x: f32| R::from_f64(f64::from(x));
                self.angles.extend(of_position.iter().map(|angle| angle.map(wide)));
            }
        }
    }

    /// One layer over the residual stream, keeping what its gradient needs.
    fn layer_forward(&mut self, parameters: &Parameters<R>, pack: &Pack, layer_idx: usize) {
        let saved_idx = self.saved_idx(layer_idx);
        let Self { compute, base, saved, scratch, hidden, angles, .. } = self;
        let (s, keep, layer) = (scratch, &mut saved[saved_idx], &base.layers[layer_idx]);
        let shape = base.shape;
        let (n_tokens, epsilon) = (pack.tokens.len(), shape.norm_epsilon);
        let heads = (shape.n_heads, shape.head_dim);
        let kv_heads = (shape.n_kv_heads, shape.head_dim);
        let (query_width, kv_width) = (heads.0 * heads.1, kv_heads.0 * kv_heads.1);
        let group = |linears| Group { layer_idx, linears };

        keep.input.clone_from(hidden);
        resize(&mut s.normed, hidden.len());
        norm::forward(compute, hidden, &layer.attention_norm, epsilon, &mut s.normed);
        keep.routes.choose(compute, parameters, layer_idx, &s.normed);

        let [queries, keys, values] = &mut s.rows;
        for (linear, rows, width) in [
            (Linear::Query, &mut *queries, query_width),
            (Linear::Key, &mut *keys, kv_width),
            (Linear::Value, &mut *values, kv_width),
        ] {
            let rows = resize(rows, n_tokens * width);
            layer.linear(linear).forward(
                (&*compute, &mut s.rounded),
                &s.normed,
                rows,
                Onto::Nothing,
            );
        }
        group(INTO_ATTENTION).forward(
            compute,
            parameters,
            &keep.routes,
            &s.normed,
            (&mut keep.low_into_attention, &mut s.low[0], &mut [queries, keys, values]),
        );
        resize(&mut keep.queries, n_tokens * query_width);
        resize(&mut keep.keys, n_tokens * kv_width);
        resize(&mut keep.values, n_tokens * kv_width);
        let spans = &pack.spans;
        attention::by_head(compute, spans, heads, Some(angles), (queries, &mut keep.queries));
        attention::by_head(compute, spans, kv_heads, Some(angles), (keys, &mut keep.keys));
        attention::by_head(compute, spans, kv_heads, None, (values, &mut keep.values));
        let attended = resize(&mut s.heads[0], n_tokens * query_width);
        let inputs: [&[R]; 3] = [&keep.queries, &keep.keys, &keep.values];
        attention::forward(compute, &shape, spans, inputs, attended);
        resize(&mut keep.attended, n_tokens * query_width);
        attention::by_token(compute, spans, heads, None, (attended, &mut keep.attended));

        layer.linear(Linear::Output).forward(
            (&*compute, &mut s.rounded),
            &keep.attended,
            hidden,
            Onto::WhatIsThere,
        );
        group(OUT_OF_ATTENTION).forward(
            compute,
            parameters,
            &keep.routes,
            &keep.attended,
            (&mut keep.low_out_of_attention, &mut s.low[0], &mut [hidden]),
        );
        keep.middle.clone_from(hidden);
        norm::forward(compute, hidden, &layer.feed_forward_norm, epsilon, &mut s.normed);
        let inner_len = n_tokens * shape.feed_forward;
        for (linear, rows) in [(Linear::Gate, &mut keep.gate), (Linear::Up, &mut keep.up)] {
            let rows = resize(rows, inner_len);
            layer.linear(linear).forward(
                (&*compute, &mut s.rounded),
                &s.normed,
                rows,
                Onto::Nothing,
            );
        }
        group(INTO_FEED_FORWARD).forward(
            compute,
            parameters,
            &keep.routes,
            &s.normed,
            (&mut keep.low_into_feed_forward, &mut s.low[0], &mut [&mut keep.gate, &mut keep.up]),
        );
        let inner = resize(&mut s.inner, inner_len);
        swiglu(compute, &keep.gate, &keep.up, inner);
        layer.linear(Linear::Down).forward(
            (&*compute, &mut s.rounded),
            inner,
            hidden,
            Onto::WhatIsThere,
        );
        group(OUT_OF_FEED_FORWARD).forward(
            compute,
            parameters,
            &keep.routes,
            inner,
            (&mut keep.low_out_of_feed_forward, &mut s.low[0], &mut [hidden]),
        );
    }

    /// Log-probabilities of targets after [`Network::forward`].
    pub fn log_probs(&mut self, targets: &[Target]) -> Vec<R> {
        self.head(targets, None)
    }

    /// As [`Network::log_probs`]; and starts the backward pass from the loss's gradient with
    /// respect to each of them.
    ///
    /// # Panics
    /// If there is not one gradient a target.
    pub fn log_probs_with_gradient(&mut self, targets: &[Target], d_log_probs: &[R]) -> Vec<R> {
        assert_eq!(targets.len(), d_log_probs.len(), "a gradient for each target");
        self.head(targets, Some(d_log_probs))
    }

    fn head(&mut self, targets: &[Target], d_log_probs: Option<&[R]>) -> Vec<R> {
        let Self { compute, base, scratch: s, hidden, d_hidden, .. } = self;
        let (n_cols, n_vocab) = (base.shape.hidden, base.shape.n_vocab);
        let (epsilon, isa) = (base.shape.norm_epsilon, compute.isa());
        if d_log_probs.is_some() {
            d_hidden.clear();
            d_hidden.resize(hidden.len(), R::ZERO);
        }
        let mut log_probs = vec![R::ZERO; targets.len()];
        for first in (0..targets.len()).step_by(HEAD_ROWS) {
            let chunk = first..(first + HEAD_ROWS).min(targets.len());
            let targets = &targets[chunk.clone()];
            let rows = resize(&mut s.rows[0], targets.len() * n_cols);
            for (row, target) in rows.chunks_exact_mut(n_cols).zip(targets) {
                row.copy_from_slice(&hidden[target.row * n_cols..][..n_cols]);
            }
            let normed = resize(&mut s.normed, rows.len());
            norm::forward(compute, rows, &base.output_norm, epsilon, normed);
            let logits = resize(&mut s.logits, targets.len() * n_vocab);
            base.head.forward((&*compute, &mut s.rounded), normed, logits, Onto::Nothing);

            let weights = d_log_probs.map(|weights| &weights[chunk.clone()]);
            let tasks: Vec<_> = logits
                .chunks_exact_mut(n_vocab)
                .zip(targets)
                .zip(&mut log_probs[chunk])
                .enumerate()
                .collect();
            for_each(compute, tasks, |(row_idx, ((logits, target), log_prob))| {
                let max = greatest(logits);
                let logit = logits[target.token as usize];
                let sum = R::exp_row(isa, logits, max);
                *log_prob = logit - max - R::from_f64(sum.to_f64().ln());
                // d log p(target) / d logit = [target] - p.
                if let Some(weights) = weights {
                    let weight = weights[row_idx];
                    let share = -weight / sum;
                    for logit in &mut *logits {
                        *logit *= share;
                    }
                    logits[target.token as usize] += weight;
                }
            });
            if d_log_probs.is_some() {
                let d_normed = resize(&mut s.d_normed, rows.len());
                base.head.backward((&*compute, &mut s.rounded), logits, d_normed, Onto::Nothing);
                let d_rows = normed;
                d_rows.fill(R::ZERO);
                let d = (d_normed, &mut *d_rows);
                norm::backward(compute, rows, &base.output_norm, epsilon, d);
                for (d_row, target) in d_rows.chunks_exact(n_cols).zip(targets) {
                    add(&mut d_hidden[target.row * n_cols..][..n_cols], d_row);
                }
            }
        }
        log_probs
    }

    /// The rewards that the head gives the states after some rows, after [`Network::forward`].
    ///
    /// # Panics
    /// If the parameters have no reward head.
    pub fn rewards(&mut self, parameters: &Parameters<R>, rows: &[usize]) -> Vec<R> {
        self.reward_head(parameters, rows, None)
    }

    /// As [`Network::rewards`]; and starts the backward pass from the loss's gradient with respect to
    /// each of them, and adds to that of the head.
    ///
    /// # Panics
    /// If there is not one gradient a row, or no reward head.
    pub fn rewards_with_gradient(
        &mut self,
        parameters: &Parameters<R>,
        rows: &[usize],
        d_rewards: &[R],
        gradients: &mut [R],
    ) -> Vec<R> {
        assert_eq!(rows.len(), d_rewards.len(), "a gradient for each row");
        self.reward_head(parameters, rows, Some((d_rewards, gradients)))
    }

    fn reward_head(
        &mut self,
        parameters: &Parameters<R>,
        rows: &[usize],
        mut gradient: Option<(&[R], &mut [R])>,
    ) -> Vec<R> {
        let Self { compute, base, hidden, d_hidden, .. } = self;
        let (n_cols, epsilon) = (base.shape.hidden, base.shape.norm_epsilon);
        let place = parameters.layout.reward_head();
        assert_eq!(place.len(), n_cols, "the parameters have a reward head");
        let head = &parameters.values[place.clone()];
        if gradient.is_some() {
            d_hidden.clear();
            d_hidden.resize(hidden.len(), R::ZERO);
        }
        let mut normed = vec![R::ZERO; n_cols];
        let mut rewards = Vec::with_capacity(rows.len());
        for (row_idx, row) in rows.iter().enumerate() {
            let span = row * n_cols..(row + 1) * n_cols;
            let state = &hidden[span.clone()];
            norm::forward(compute, state, &base.output_norm, epsilon, &mut normed);
            rewards.push(normed.iter().zip(head).map(|(x, weight)| *x * *weight).sum());
            if let Some((d_rewards, gradients)) = &mut gradient {
                let d_reward = d_rewards[row_idx];
                for (to, x) in gradients[place.clone()].iter_mut().zip(&normed) {
                    *to += d_reward * *x;
                }
                let mut d_normed: Vec<R> = head.iter().map(|weight| d_reward * *weight).collect();
                let d = (&mut d_normed[..], &mut d_hidden[span]);
                norm::backward(compute, state, &base.output_norm, epsilon, d);
            }
        }
        rewards
    }

    /// Goes back through all layers and adds to `gradients` those of the parameters.
    ///
    /// `z_weight` is what each layer's and token's router z-loss counts.
    pub fn backward(
        &mut self,
        parameters: &Parameters<R>,
        pack: &Pack,
        z_weight: f64,
        gradients: &mut [R],
    ) {
        assert_eq!(gradients.len(), parameters.values.len(), "a gradient for each parameter");
        for layer_idx in (0..self.base.shape.n_layers).rev() {
            if self.recompute == Recompute::Layers {
                std::mem::swap(&mut self.hidden, &mut self.inputs[layer_idx]);
                self.layer_forward(parameters, pack, layer_idx);
            }
            self.layer_backward(parameters, pack, layer_idx, (R::from_f64(z_weight), gradients));
        }
    }

    /// Turns the gradient of a layer's output, in `d_hidden`, into that of its input.
    fn layer_backward(
        &mut self,
        parameters: &Parameters<R>,
        pack: &Pack,
        layer_idx: usize,
        (z_weight, gradients): (R, &mut [R]),
    ) {
        let saved_idx = self.saved_idx(layer_idx);
        let Self { compute, base, saved, scratch, d_hidden, angles, .. } = self;
        let (s, keep, layer) = (scratch, &mut saved[saved_idx], &base.layers[layer_idx]);
        let shape = base.shape;
        let (n_tokens, epsilon) = (pack.tokens.len(), shape.norm_epsilon);
        let heads = (shape.n_heads, shape.head_dim);
        let kv_heads = (shape.n_kv_heads, shape.head_dim);
        let (query_width, kv_width) = (heads.0 * heads.1, kv_heads.0 * kv_heads.1);
        let group = |linears| Group { layer_idx, linears };
        let n_experts = parameters.layout.adapter.n_experts();
        s.d_gates.clear();
        resize(&mut s.d_gates, n_tokens * n_experts);

        // The feed-forward.
        let inner = resize(&mut s.inner, n_tokens * shape.feed_forward);
        swiglu(compute, &keep.gate, &keep.up, inner);
        let d_inner = resize(&mut s.d_inner, n_tokens * shape.feed_forward);
        layer.linear(Linear::Down).backward(
            (&*compute, &mut s.rounded),
            d_hidden,
            d_inner,
            Onto::Nothing,
        );
        group(OUT_OF_FEED_FORWARD).backward(
            compute,
            parameters,
            &keep.routes,
            (inner, &keep.low_out_of_feed_forward, &[d_hidden]),
            GroupGradients {
                scratch: &mut s.low,
                parameters: gradients,
                gates: &mut s.d_gates,
                x: d_inner,
            },
        );
        // What is kept of gate and up has served, and makes room for their gradients.
        swiglu_backward(compute, d_inner, &mut keep.gate, &mut keep.up);
        let normed = resize(&mut s.normed, keep.middle.len());
        norm::forward(compute, &keep.middle, &layer.feed_forward_norm, epsilon, normed);
        let d_normed = resize(&mut s.d_normed, keep.middle.len());
        layer.linear(Linear::Gate).backward(
            (&*compute, &mut s.rounded),
            &keep.gate,
            d_normed,
            Onto::Nothing,
        );
        layer.linear(Linear::Up).backward(
            (&*compute, &mut s.rounded),
            &keep.up,
            d_normed,
            Onto::WhatIsThere,
        );
        group(INTO_FEED_FORWARD).backward(
            compute,
            parameters,
            &keep.routes,
            (normed, &keep.low_into_feed_forward, &[&keep.gate, &keep.up]),
            GroupGradients {
                scratch: &mut s.low,
                parameters: gradients,
                gates: &mut s.d_gates,
                x: d_normed,
            },
        );
        let d = (&mut *d_normed, &mut d_hidden[..]);
        norm::backward(compute, &keep.middle, &layer.feed_forward_norm, epsilon, d);

        // Attention.
        let d_attended = resize(&mut s.rows[0], n_tokens * query_width);
        layer.linear(Linear::Output).backward(
            (&*compute, &mut s.rounded),
            d_hidden,
            d_attended,
            Onto::Nothing,
        );
        group(OUT_OF_ATTENTION).backward(
            compute,
            parameters,
            &keep.routes,
            (&keep.attended, &keep.low_out_of_attention, &[d_hidden]),
            GroupGradients {
                scratch: &mut s.low,
                parameters: gradients,
                gates: &mut s.d_gates,
                x: d_attended,
            },
        );
        let spans = &pack.spans;
        let [d_out, d_queries, d_keys, d_values] = &mut s.heads;
        resize(d_out, n_tokens * query_width);
        resize(d_queries, n_tokens * query_width);
        resize(d_keys, n_tokens * kv_width);
        resize(d_values, n_tokens * kv_width);
        attention::by_head(compute, spans, heads, None, (d_attended, d_out));
        attention::backward(
            compute,
            &shape,
            spans,
            [&keep.queries, &keep.keys, &keep.values, d_out],
            [d_queries, d_keys, d_values],
        );
        let [query_rows, key_rows, value_rows] = &mut s.rows;
        resize(key_rows, n_tokens * kv_width);
        resize(value_rows, n_tokens * kv_width);
        attention::by_token(compute, spans, heads, Some(angles), (d_queries, query_rows));
        attention::by_token(compute, spans, kv_heads, Some(angles), (d_keys, key_rows));
        attention::by_token(compute, spans, kv_heads, None, (d_values, value_rows));

        norm::forward(compute, &keep.input, &layer.attention_norm, epsilon, normed);
        for (linear, rows, onto) in [
            (Linear::Query, &*query_rows, Onto::Nothing),
            (Linear::Key, &*key_rows, Onto::WhatIsThere),
            (Linear::Value, &*value_rows, Onto::WhatIsThere),
        ] {
            layer.linear(linear).backward((&*compute, &mut s.rounded), rows, d_normed, onto);
        }
        group(INTO_ATTENTION).backward(
            compute,
            parameters,
            &keep.routes,
            (normed, &keep.low_into_attention, &[query_rows, key_rows, value_rows]),
            GroupGradients {
                scratch: &mut s.low,
                parameters: gradients,
                gates: &mut s.d_gates,
                x: d_normed,
            },
        );
        keep.routes.backward(
            compute,
            parameters,
            layer_idx,
            (z_weight, &mut s.d_gates),
            (normed, d_normed, gradients),
        );
        let d = (d_normed, &mut d_hidden[..]);
        norm::backward(compute, &keep.input, &layer.attention_norm, epsilon, d);
    }

    /// What the routers did in the last forward pass.
    pub fn routing(&self) -> &RoutingOfPass {
        &self.routing
    }
}

/// How tokens were routed in a pass.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RoutingOfPass {
    /// (layers, E): tokens that each expert was chosen for.
    pub load: Vec<u64>,
    /// The sum over layers and tokens of the squared logsumexp of the router's logits.
    pub z_loss: f64,
}

impl RoutingOfPass {
    fn new(n_experts: usize, n_layers: usize) -> Self {
        Self { load: vec![0; n_experts * n_layers], z_loss: 0.0 }
    }

    fn add<R: Real>(&mut self, layer_idx: usize, routes: &Routes<R>) {
        if let Some((load, z_loss)) = routes.load() {
            let n_experts = load.len();
            self.load[layer_idx * n_experts..][..n_experts].copy_from_slice(&load);
            self.z_loss += z_loss;
        }
    }
}

fn swiglu<R: Real>(compute: &Compute, gate: &[R], up: &[R], out: &mut [R]) {
    let chunk = TASK_ROWS * 1024;
    let tasks = gate.chunks(chunk).zip(up.chunks(chunk)).zip(out.chunks_mut(chunk)).collect();
    for_each(compute, tasks, |((gate, up), out)| R::swiglu(compute.isa(), gate, up, out));
}

fn swiglu_backward<R: Real>(compute: &Compute, d_out: &[R], gate: &mut [R], up: &mut [R]) {
    let chunk = TASK_ROWS * 1024;
    let pieces = gate.chunks_mut(chunk).zip(up.chunks_mut(chunk));
    let tasks = d_out.chunks(chunk).zip(pieces).collect();
    for_each(compute, tasks, |(d_out, (gate, up))| {
        R::swiglu_backward(compute.isa(), d_out, gate, up);
    });
}
