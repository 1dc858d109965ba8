//! Routes and low-rank experts: what an adapter adds to a layer, and its gradients.
//!
//! All experts of a linear are one product: with the gates of those that were not chosen at zero,
//! the sum over experts is a matrix of (E * r) columns. That is more arithmetic than gathering
//! tokens by expert, but little beside the frozen weights, and needs no shuffling.

use rapport_kernels::{Compute, Matrix, MatrixMut, Onto, Real, greatest};
use rapport_model::adapter::{Linear, Routing};

use super::parallel::{TASK_ROWS, for_each};
use super::parameters::{Layout, Parameters};

/// How the tokens of a layer were routed.
#[derive(Default)]
pub(crate) struct Routes<R> {
    /// E; 0 for a dense adapter.
    n_experts: usize,
    /// (T, E): the router's logits. Empty for a dense adapter.
    logits: Vec<R>,
    /// (T, E): zero for experts that were not chosen. Empty for a dense adapter.
    gates: Vec<R>,
}

impl<R: Real> Routes<R> {
    /// Tokens that each expert was chosen for, and the sum over tokens of the squared logsumexp of
    /// logits; `None` for a dense adapter.
    pub(crate) fn load(&self) -> Option<(Vec<u64>, f64)> {
        if self.n_experts == 0 {
            return None;
        }
        let mut load = vec![0; self.n_experts];
        for gates in self.gates.chunks_exact(self.n_experts) {
            for (load, gate) in load.iter_mut().zip(gates) {
                *load += u64::from(*gate > R::ZERO);
            }
        }
        let z_loss = |logits: &[R]| log_sum_exp(logits).to_f64().powi(2);
        Some((load, self.logits.chunks_exact(self.n_experts).map(z_loss).sum()))
    }

    pub(crate) fn n_bytes(&self) -> usize {
        (self.logits.capacity() + self.gates.capacity()) * size_of::<R>()
    }

    /// Room for the routes of some tokens.
    pub(crate) fn reserve(&mut self, n_tokens: usize, n_experts: usize) {
        self.logits.reserve_exact(n_tokens * n_experts);
        self.gates.reserve_exact(n_tokens * n_experts);
    }

    /// Routes each token by its normalised attention input.
    pub(crate) fn choose(
        &mut self,
        compute: &Compute,
        parameters: &Parameters<R>,
        layer_idx: usize,
        normed: &[R],
    ) {
        let Some(Routing { n_experts, top_k }) = parameters.layout.adapter.routing else { return };
        self.n_experts = n_experts;
        let hidden = parameters.layout.base.hidden;
        let n_tokens = normed.len() / hidden;
        self.logits.resize(n_tokens * n_experts, R::ZERO);
        self.gates.resize(n_tokens * n_experts, R::ZERO);
        let weight = &parameters.values[parameters.layout.router(layer_idx)];
        compute.dense_product(
            MatrixMut::new(&mut self.logits, n_experts),
            Onto::Nothing,
            R::ONE,
            Matrix::new(normed, hidden),
            Matrix::new(weight, hidden).transposed(),
        );
        let bias = &parameters.router_bias[layer_idx * n_experts..][..n_experts];
        let rows = self.logits.chunks_exact(n_experts).zip(self.gates.chunks_exact_mut(n_experts));
        for (logits, gates) in rows {
            choose(logits, bias, top_k, gates);
        }
    }

    /// The gradient through the router: adds to the gradient of its weights and of `normed`.
    /// `d_gates` (T, E) is used up; `z_weight` is what the squared logsumexp of a token's logits
    /// counts in the loss (ST-MoE's z-loss, Zoph et al. 2022).
    pub(crate) fn backward(
        &self,
        compute: &Compute,
        parameters: &Parameters<R>,
        layer_idx: usize,
        (z_weight, d_gates): (R, &mut [R]),
        (normed, d_normed, gradients): (&[R], &mut [R], &mut [R]),
    ) {
        let Some(Routing { n_experts, .. }) = parameters.layout.adapter.routing else { return };
        let hidden = parameters.layout.base.hidden;
        let rows = self.logits.chunks_exact(n_experts).zip(self.gates.chunks_exact(n_experts));
        for ((logits, gates), d) in rows.zip(d_gates.chunks_exact_mut(n_experts)) {
            logits_gradient(logits, gates, z_weight, d);
        }
        let d_logits = Matrix::new(d_gates, n_experts);
        let range = parameters.layout.router(layer_idx);
        compute.dense_product(
            MatrixMut::new(&mut gradients[range.clone()], hidden),
            Onto::WhatIsThere,
            R::ONE,
            d_logits.transposed(),
            Matrix::new(normed, hidden),
        );
        compute.dense_product(
            MatrixMut::new(d_normed, hidden),
            Onto::WhatIsThere,
            R::ONE,
            d_logits,
            Matrix::new(&parameters.values[range], hidden),
        );
    }
}

fn sigmoid<R: Real>(x: R) -> R {
    R::ONE / (R::ONE + (-x).exp())
}

fn log_sum_exp<R: Real>(logits: &[R]) -> R {
    let max = greatest(logits);
    let sum: R = logits.iter().map(|x| (*x - max).exp()).sum();
    max + R::from_f64(sum.to_f64().ln())
}

/// One token's gates.
fn choose<R: Real>(logits: &[R], bias: &[R], top_k: usize, gates: &mut [R]) {
    // Scores and biases are few: the best of the rest, `top_k` times.
    gates.fill(R::ZERO);
    let mut sum = R::ZERO;
    for _ in 0..top_k {
        let mut best: Option<(usize, R)> = None;
        for expert in (0..logits.len()).filter(|expert| gates[*expert] == R::ZERO) {
            let score = sigmoid(logits[expert]) + bias[expert];
            if best.is_none_or(|(_, best)| score > best) {
                best = Some((expert, score));
            }
        }
        let Some((expert, _)) = best else { break };
        gates[expert] = sigmoid(logits[expert]);
        sum += gates[expert];
    }
    for gate in gates {
        *gate = *gate / sum;
    }
}

/// Turns one token's gradient of gates into that of its logits.
fn logits_gradient<R: Real>(logits: &[R], gates: &[R], z_weight: R, d: &mut [R]) {
    // g_e = s_e / S: dL/ds_e = (dL/dg_e - sum_j dL/dg_j g_j) / S, for the chosen alone.
    let mean: R = gates.iter().zip(&*d).map(|(gate, d)| *gate * *d).sum();
    let is_chosen = |gate: &R| *gate > R::ZERO;
    let chosen = logits.iter().zip(gates).filter(|(_, gate)| is_chosen(gate));
    let sum: R = chosen.map(|(logit, _)| sigmoid(*logit)).sum();
    let log_sum = log_sum_exp(logits);
    for ((logit, gate), d) in logits.iter().zip(gates).zip(d) {
        let score = sigmoid(*logit);
        let through_gate =
            if is_chosen(gate) { (*d - mean) / sum * score * (R::ONE - score) } else { R::ZERO };
        let share = (*logit - log_sum).exp();
        *d = through_gate + z_weight * R::from_f64(2.0) * log_sum * share;
    }
}

/// Linears that read the same input, and so share a product by `A`.
#[derive(Clone, Copy)]
pub(crate) struct Group {
    pub(crate) layer_idx: usize,
    pub(crate) linears: &'static [Linear],
}

pub(crate) const INTO_ATTENTION: &[Linear] = &[Linear::Query, Linear::Key, Linear::Value];
pub(crate) const OUT_OF_ATTENTION: &[Linear] = &[Linear::Output];
pub(crate) const INTO_FEED_FORWARD: &[Linear] = &[Linear::Gate, Linear::Up];
pub(crate) const OUT_OF_FEED_FORWARD: &[Linear] = &[Linear::Down];

impl Group {
    fn n_in(&self, layout: &Layout) -> usize {
        layout.base.in_out(self.linears[0]).0
    }

    /// `low = x A'` for all linears of the group, and `y += scale * (low * gate) B'` for each.
    ///
    /// # Shapes
    /// `x`: (T, in), `low`: (T, n, E, r), `ys`: (T, out) each. `gated` is scratch.
    pub(crate) fn forward<R: Real>(
        &self,
        compute: &Compute,
        parameters: &Parameters<R>,
        routes: &Routes<R>,
        x: &[R],
        (low, gated, ys): (&mut Vec<R>, &mut Vec<R>, &mut [&mut [R]]),
    ) {
        let layout = &parameters.layout;
        let (n_in, width) = (self.n_in(layout), layout.adapter.width());
        let n_low = self.linears.len() * width;
        low.resize(x.len() / n_in * n_low, R::ZERO);
        let a = &parameters.values[layout.a(self.layer_idx, self.linears)];
        compute.dense_product(
            MatrixMut::new(low, n_low),
            Onto::Nothing,
            R::ONE,
            Matrix::new(x, n_in),
            Matrix::new(a, n_in).transposed(),
        );
        self.gate(compute, layout, routes, low, gated);
        for (linear_idx, (linear, y)) in self.linears.iter().zip(ys).enumerate() {
            let b = &parameters.values[layout.b(self.layer_idx, *linear)];
            compute.dense_product(
                MatrixMut::new(y, layout.base.in_out(*linear).1),
                Onto::WhatIsThere,
                R::ONE,
                Matrix::new(gated, n_low).columns(linear_idx * width..(linear_idx + 1) * width),
                Matrix::new(b, width).transposed(),
            );
        }
    }

    /// `gated = scale * low * gate`.
    fn gate<R: Real>(
        &self,
        compute: &Compute,
        layout: &Layout,
        routes: &Routes<R>,
        low: &[R],
        gated: &mut Vec<R>,
    ) {
        gated.clear();
        gated.extend_from_slice(low);
        self.gate_in_place(compute, layout, routes, gated);
    }

    fn gate_in_place<R: Real>(
        &self,
        compute: &Compute,
        layout: &Layout,
        routes: &Routes<R>,
        low: &mut [R],
    ) {
        let adapter = layout.adapter;
        let scale = R::from_f64(adapter.alpha / adapter.rank as f64);
        let n_low = self.linears.len() * adapter.width();
        let n_experts = adapter.n_experts();
        let tasks = low.chunks_mut(TASK_ROWS * n_low).enumerate().collect();
        for_each(compute, tasks, |(task_idx, rows)| {
            for (row_idx, row) in rows.chunks_exact_mut(n_low).enumerate() {
                let token = task_idx * TASK_ROWS + row_idx;
                for (place, ranks) in row.chunks_exact_mut(adapter.rank).enumerate() {
                    let gate = match adapter.routing {
                        Some(_) => routes.gates[token * n_experts + place % n_experts],
                        None => R::ONE,
                    };
                    for value in ranks {
                        *value *= gate * scale;
                    }
                }
            }
        });
    }

    /// Adds to the gradients of `A`, `B`, the gates (T, E) and `x`, given those of the outputs.
    pub(crate) fn backward<R: Real>(
        &self,
        compute: &Compute,
        parameters: &Parameters<R>,
        routes: &Routes<R>,
        (x, low, dys): (&[R], &[R], &[&[R]]),
        to: GroupGradients<'_, R>,
    ) {
        let GroupGradients { scratch, parameters: gradients, gates: d_gates, x: dx } = to;
        let layout = &parameters.layout;
        let (n_in, width) = (self.n_in(layout), layout.adapter.width());
        let n_low = self.linears.len() * width;
        let [gated, d_low] = scratch;
        self.gate(compute, layout, routes, low, gated);
        d_low.resize(low.len(), R::ZERO);
        for (linear_idx, (linear, dy)) in self.linears.iter().zip(dys).enumerate() {
            let columns = linear_idx * width..(linear_idx + 1) * width;
            let range = layout.b(self.layer_idx, *linear);
            let dy = Matrix::new(dy, layout.base.in_out(*linear).1);
            compute.dense_product(
                MatrixMut::new(&mut gradients[range.clone()], width),
                Onto::WhatIsThere,
                R::ONE,
                dy.transposed(),
                Matrix::new(gated, n_low).columns(columns.clone()),
            );
            compute.dense_product(
                MatrixMut::new(d_low, n_low).columns(columns),
                Onto::Nothing,
                R::ONE,
                dy,
                Matrix::new(&parameters.values[range], width),
            );
        }
        let adapter = layout.adapter;
        if adapter.routing.is_some() {
            let scale = R::from_f64(adapter.alpha / adapter.rank as f64);
            let n_experts = adapter.n_experts();
            let rows = low.chunks_exact(n_low).zip(d_low.chunks_exact(n_low));
            for ((low, d_low), d_gates) in rows.zip(d_gates.chunks_exact_mut(n_experts)) {
                let ranks = low.chunks_exact(adapter.rank).zip(d_low.chunks_exact(adapter.rank));
                for (place, (low, d_low)) in ranks.enumerate() {
                    let sum: R = low.iter().zip(d_low).map(|(low, d)| *low * *d).sum();
                    d_gates[place % n_experts] += scale * sum;
                }
            }
        }
        self.gate_in_place(compute, layout, routes, d_low);
        let range = layout.a(self.layer_idx, self.linears);
        let d_low = Matrix::new(d_low, n_low);
        compute.dense_product(
            MatrixMut::new(&mut gradients[range.clone()], n_in),
            Onto::WhatIsThere,
            R::ONE,
            d_low.transposed(),
            Matrix::new(x, n_in),
        );
        compute.dense_product(
            MatrixMut::new(dx, n_in),
            Onto::WhatIsThere,
            R::ONE,
            d_low,
            Matrix::new(&parameters.values[range], n_in),
        );
    }
}

/// Where [`Group::backward`] adds its gradients.
pub(crate) struct GroupGradients<'a, R> {
    pub(crate) scratch: &'a mut [Vec<R>; 2],
    /// All parameters'.
    pub(crate) parameters: &'a mut [R],
    pub(crate) gates: &'a mut [R],
    pub(crate) x: &'a mut [R],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bias_chooses_and_does_not_weigh() {
        let logits = [0.0_f64, 1.0, -1.0, 1.0];
        let near = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12);
        let mut gates = [0.0; 4];
        choose(&logits, &[0.0; 4], 2, &mut gates);
        assert!(near(&gates, &[0.0, 0.5, 0.0, 0.5]), "ties share: {gates:?}");
        choose(&logits, &[0.0, 0.0, 5.0, 0.0], 2, &mut gates);
        let (low, high) = (sigmoid(-1.0), sigmoid(1.0));
        assert!(near(&gates, &[0.0, high / (low + high), low / (low + high), 0.0]), "{gates:?}");
        choose(&logits, &[0.0; 4], 4, &mut gates);
        assert!((gates.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    }
}
