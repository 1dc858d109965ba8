//! Adapters applied live: low-rank products beside those of the model's own weights.
//!
//! [`PackedAdapter`] holds an adapter's matrices as the kernels want them. In a pass, sequences of
//! one adapter that lie side by side are a [`Run`]; every job of a layer computes the model's own
//! products for all rows and, for each run, the products by `A` of the linears that read the same
//! input (and the router's, which reads what attention reads). One more job adds the products by `B`.
//! A pass reads the model's weights once, however many adapters are in it.
//!
//! # Numerics
//! Beside weights that are quantised, `A` and `B` are 8 bit (Q8_0) and their inputs are rounded as
//! those of the model's own products are; beside floats they are floats. A router is always floats.
//! A row's numbers do not depend on what else is in the batch.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use half::f16;
use rapport_kernels::blocks::BlockType;
use rapport_kernels::quantize::quantize_row;
use rapport_kernels::{
    Activations, Compute, ExpertGates, LowRankShape, Onto, PackedMatrix, Product, RopePairs,
};

use crate::adapter::{self, AdapterError, AdapterLayer, LowRank, neighbour_row};
use crate::adapter_file::{AdapterFile, RowOrder};
use crate::architecture::Architecture;
use crate::feed_forward::ExpertLoad;
use crate::linear::Linear;

/// An adapter that is ready to be applied to the model it was packed for.
pub struct PackedAdapter {
    sha256: [u8; 32],
    shape: LowRankShape,
    scale: f32,
    /// 0 for a dense adapter.
    top_k: usize,
    layers: Vec<PackedLayer>,
    expert_load: Option<Arc<ExpertLoad>>,
}

struct PackedLayer {
    router: Option<PackedRouter>,
    /// By [`Group`]; `None` where the adapter adds nothing.
    groups: [Option<PackedGroup>; 4],
}

struct PackedRouter {
    /// (E, C)
    weight: PackedMatrix,
    /// (E)
    bias: Vec<f32>,
}

struct PackedGroup {
    /// ((n, E, r), in) for the n linears that the adapter adds to.
    a: PackedMatrix,
    /// (out, padded E * r) for each of the group's linears.
    b: [Option<PackedMatrix>; 3],
}

/// Linears that read the same input, and so share a product by `A`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    IntoAttention,
    OutOfAttention,
    IntoFeedForward,
    OutOfFeedForward,
}

impl Group {
    const ALL: [Self; 4] =
        [Self::IntoAttention, Self::OutOfAttention, Self::IntoFeedForward, Self::OutOfFeedForward];

    fn linears(self) -> &'static [adapter::Linear] {
        use adapter::Linear as L;
        match self {
            Self::IntoAttention => &[L::Query, L::Key, L::Value],
            Self::OutOfAttention => &[L::Output],
            Self::IntoFeedForward => &[L::Gate, L::Up],
            Self::OutOfFeedForward => &[L::Down],
        }
    }
}

/// The model's own matrices of one layer, by [`adapter::Linear::ALL`].
type BaseLinears<'a> = [Option<&'a PackedMatrix>; 7];

impl PackedAdapter {
    pub(crate) fn pack(
        compute: &Compute,
        file: &AdapterFile,
        architecture: &Architecture,
        base: &[BaseLinears<'_>],
    ) -> Result<Self, AdapterError> {
        let adapter = &file.adapter;
        if let Some((layer, layer_idx)) = adapter.layers.get(base.len()).zip(Some(base.len())) {
            let has = |linear: &adapter::Linear| layer.linears[*linear as usize].is_some();
            let linear = adapter::Linear::ALL.into_iter().find(has);
            let tensor = linear.map_or_else(
                || format!("layers.{layer_idx}.router.weight"),
                |linear| file.tensor_name(layer_idx, linear, 'a'),
            );
            return Err(AdapterError::NoSuchLayer { file: file.path.clone(), tensor });
        }
        if adapter.routing.is_some() && adapter.layers.len() != base.len() {
            let (found, expected) = (adapter.layers.len(), base.len());
            return Err(AdapterError::LayerCount { found, expected });
        }
        let shape = LowRankShape { n_experts: adapter.n_experts(), rank: adapter.rank };
        let is_permuted =
            file.rows == RowOrder::Checkpoint && architecture.rope.pairs() == RopePairs::Neighbours;
        let packing = Packing {
            compute,
            file,
            shape,
            hidden: architecture.hidden,
            permuted_head_dim: is_permuted.then_some(architecture.attention.head_dim),
        };
        let layers = adapter.layers.iter().zip(base).enumerate();
        let layers = layers.map(|(layer_idx, (layer, base))| packing.layer(layer_idx, layer, base));
        let routing = adapter.routing;
        Ok(Self {
            sha256: file.sha256,
            shape,
            scale: adapter.scale(),
            top_k: routing.map_or(0, |routing| routing.top_k),
            layers: layers.collect::<Result<_, _>>()?,
            expert_load: routing.map(|routing| ExpertLoad::new(base.len(), routing.n_experts)),
        })
    }

    /// Of the files that the adapter was read from.
    pub fn sha256(&self) -> [u8; 32] {
        self.sha256
    }

    /// How evenly the experts of a routed adapter are used; goes on counting while it is held.
    pub fn expert_load(&self) -> Option<Arc<ExpertLoad>> {
        self.expert_load.clone()
    }

    /// Bytes that a pass reads.
    pub fn n_bytes(&self) -> usize {
        let group = |group: &PackedGroup| {
            group.a.n_bytes() + group.b.iter().flatten().map(PackedMatrix::n_bytes).sum::<usize>()
        };
        let layer = |layer: &PackedLayer| {
            let router = layer.router.as_ref().map_or(0, |router| router.weight.n_bytes());
            router + layer.groups.iter().flatten().map(group).sum::<usize>()
        };
        self.layers.iter().map(layer).sum()
    }
}

impl fmt::Debug for PackedAdapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackedAdapter").field("shape", &self.shape).finish_non_exhaustive()
    }
}

/// What all matrices of an adapter have in common on their way into the packed form.
struct Packing<'a> {
    compute: &'a Compute,
    file: &'a AdapterFile,
    shape: LowRankShape,
    /// C
    hidden: usize,
    /// D, where the model's rows of queries and keys lie otherwise than the adapter's.
    permuted_head_dim: Option<usize>,
}

impl Packing<'_> {
    fn layer(
        &self,
        layer_idx: usize,
        layer: &AdapterLayer,
        base: &BaseLinears<'_>,
    ) -> Result<PackedLayer, AdapterError> {
        for linear in adapter::Linear::ALL {
            if let Some(pair) = &layer.linears[linear as usize] {
                self.check(layer_idx, linear, pair, base[linear as usize])?;
            }
        }
        let mut groups = [const { None }; 4];
        for group in Group::ALL {
            groups[group as usize] = self.group(layer_idx, group, layer, base)?;
        }
        let router = layer.router.as_ref().map(|router| {
            let n_experts = router.bias.len();
            let tensor = || format!("layers.{layer_idx}.router.weight");
            if router.weight.len() != n_experts * self.hidden {
                return Err(AdapterError::OtherModel {
                    file: self.file.path.clone(),
                    tensor: tensor(),
                    found: vec![n_experts, router.weight.len() / n_experts],
                    expected: vec![n_experts, self.hidden],
                });
            }
            let shape = (n_experts, self.hidden);
            let weight = self.matrix(Numbers::Float, shape, &router.weight, tensor)?;
            Ok(PackedRouter { weight, bias: router.bias.clone() })
        });
        Ok(PackedLayer { router: router.transpose()?, groups })
    }

    fn check(
        &self,
        layer_idx: usize,
        linear: adapter::Linear,
        pair: &LowRank,
        base: Option<&PackedMatrix>,
    ) -> Result<(), AdapterError> {
        let file = || self.file.path.clone();
        let name = |half| self.file.tensor_name(layer_idx, linear, half);
        let Some(base) = base else {
            return Err(AdapterError::NoSuchLayer { file: file(), tensor: name('a') });
        };
        let LowRankShape { rank, .. } = self.shape;
        for (half, found, expected) in [
            ('a', [rank, pair.n_in], [rank, base.n_cols()]),
            ('b', [pair.n_out, rank], [base.n_rows(), rank]),
        ] {
            if found != expected {
                let [found, expected] =
                    [found, expected].map(|shape| self.file.stored_shape(shape));
                let tensor = name(half);
                return Err(AdapterError::OtherModel { file: file(), tensor, found, expected });
            }
        }
        Ok(())
    }

    fn group(
        &self,
        layer_idx: usize,
        group: Group,
        layer: &AdapterLayer,
        base: &BaseLinears<'_>,
    ) -> Result<Option<PackedGroup>, AdapterError> {
        let (mut a, mut b) = (Vec::new(), [const { None }; 3]);
        let (mut n_in, mut numbers) = (0, Numbers::Float);
        let name = |linear, half| move || self.file.tensor_name(layer_idx, linear, half);
        let first = group.linears()[0];
        for (slot, &linear) in group.linears().iter().enumerate() {
            let Some(pair) = &layer.linears[linear as usize] else { continue };
            let is_quantized = base[linear as usize].is_some_and(|m| m.layout().is_quantized());
            numbers = if is_quantized { Numbers::Byte } else { Numbers::Float };
            n_in = pair.n_in;
            a.extend_from_slice(&pair.a);
            let rotates = matches!(linear, adapter::Linear::Query | adapter::Linear::Key);
            let head_dim = self.permuted_head_dim.filter(|_| rotates);
            let wide = self.wide_b(pair, head_dim);
            let shape = (pair.n_out, self.shape.padded_width());
            b[slot] = Some(self.matrix(numbers, shape, &wide, name(linear, 'b'))?);
        }
        if a.is_empty() {
            return Ok(None);
        }
        let a = self.matrix(numbers, (a.len() / n_in, n_in), &a, name(first, 'a'))?;
        Ok(Some(PackedGroup { a, b }))
    }

    /// `B` with all experts in a row: from (E, out, r) to (out, padded E * r), in the model's order.
    fn wide_b(&self, pair: &LowRank, permuted_head_dim: Option<usize>) -> Vec<f32> {
        let (rank, width) = (self.shape.rank, self.shape.padded_width());
        let mut wide = vec![0.0; pair.n_out * width];
        for (place, low) in pair.b.chunks_exact(rank).enumerate() {
            let (expert, row) = (place / pair.n_out, place % pair.n_out);
            let row = permuted_head_dim.map_or(row, |head_dim| neighbour_row(row, head_dim));
            wide[row * width + expert * rank..][..rank].copy_from_slice(low);
        }
        wide
    }

    fn matrix(
        &self,
        numbers: Numbers,
        shape: (usize, usize),
        values: &[f32],
        tensor: impl Fn() -> String,
    ) -> Result<PackedMatrix, AdapterError> {
        let (block_type, bytes) = numbers.store(values, shape.1);
        PackedMatrix::pack(self.compute.pool(), block_type, shape, &bytes).map_err(|source| {
            AdapterError::Pack { file: self.file.path.clone(), tensor: tensor(), source }
        })
    }
}

/// How a matrix of an adapter is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Numbers {
    Float,
    Byte,
}

impl Numbers {
    /// Bytes where that is wanted and can be, else the shortest floats that lose nothing.
    fn store(self, values: &[f32], n_cols: usize) -> (BlockType, Vec<u8>) {
        let write = |block_type| {
            let mut bytes = Vec::new();
            let mut rows = values.chunks_exact(n_cols);
            rows.try_for_each(|row| quantize_row(block_type, row, &mut bytes)).ok()?;
            Some((block_type, bytes))
        };
        let is_half = |value: &f32| f16::from_f32(*value).to_f32().to_bits() == value.to_bits();
        let quantized = if self == Self::Byte { write(BlockType::Q8_0) } else { None };
        let short = || if values.iter().all(is_half) { write(BlockType::F16) } else { None };
        quantized.or_else(short).unwrap_or_else(|| {
            (BlockType::F32, values.iter().flat_map(|value| value.to_le_bytes()).collect())
        })
    }
}

/// Rows of a batch, one after another, that have the same adapter.
pub(crate) struct Run<'a> {
    pub(crate) adapter: &'a PackedAdapter,
    pub(crate) rows: Range<usize>,
}

/// Room for the inside of low-rank additions.
#[derive(Default)]
pub(crate) struct AdapterScratch {
    runs: Vec<RunScratch>,
}

#[derive(Default)]
struct RunScratch {
    /// Of the layer's attention input, for all its linears.
    gates: ExpertGates,
    low: Vec<f32>,
    gated: [Activations; 3],
}

impl AdapterScratch {
    pub(crate) fn make_room(&mut self, runs: &[Run<'_>]) {
        self.runs.resize_with(runs.len(), RunScratch::default);
    }
}

/// What the adapters of a pass add to one layer.
pub(crate) struct Additions<'a> {
    pub(crate) layer_idx: usize,
    pub(crate) runs: &'a [Run<'a>],
    pub(crate) room: &'a mut AdapterScratch,
}

impl Additions<'_> {
    /// `out = [out +] x * weight^T + bias`, and what each run's adapter adds, for the linears of a
    /// group. Routes are chosen with the group that goes into attention, the first of a layer.
    ///
    /// # Shapes
    /// `x`: (T, C); each layer's `out`: (T, R).
    pub(crate) fn apply<const N: usize>(
        &mut self,
        compute: &Compute,
        group: Group,
        x: &Activations,
        onto: Onto,
        mut layers: [(&Linear, &mut [f32]); N],
    ) {
        let is_first = group == Group::IntoAttention;
        let (layer_idx, n_tokens) = (self.layer_idx, x.n_rows());
        let all_rows = 0..n_tokens;
        let mut products = Vec::with_capacity(N + 2 * self.runs.len());
        for (layer, out) in &mut layers {
            let rows = all_rows.clone();
            products.push(Product { x, rows, weights: &layer.weight, out, onto });
        }
        for (run, room) in self.runs.iter().zip(&mut self.room.runs) {
            let added = &run.adapter.layers.get(layer_idx);
            let RunScratch { gates, low, .. } = room;
            let product = |weights, out| {
                let rows = run.rows.clone();
                Product { x, rows, weights, out, onto: Onto::Nothing }
            };
            let router = added.and_then(|added| added.router.as_ref()).filter(|_| is_first);
            if let Some(router) = router {
                let out = gates.logits_mut(run.rows.len(), router.bias.len());
                products.push(product(&router.weight, out));
            }
            if let Some(packed) = added.and_then(|added| added.groups[group as usize].as_ref()) {
                low.resize(run.rows.len() * packed.a.n_rows(), 0.0);
                products.push(product(&packed.a, &mut *low));
            }
        }
        compute.products(products);
        for (layer, out) in &mut layers {
            layer.add_bias(out);
        }
        if self.runs.is_empty() {
            return;
        }
        self.gate(compute, group);

        let mut products = Vec::with_capacity(N * self.runs.len());
        for (slot, (_, out)) in layers.iter_mut().enumerate() {
            let n_outputs = out.len() / n_tokens;
            let (mut rest, mut row) = (&mut **out, 0);
            for (run, room) in self.runs.iter().zip(&self.room.runs) {
                let (_, tail) = rest.split_at_mut((run.rows.start - row) * n_outputs);
                let (out, tail) = tail.split_at_mut(run.rows.len() * n_outputs);
                (rest, row) = (tail, run.rows.end);
                let Some(packed) = run.group(layer_idx, group) else { continue };
                let Some(weights) = &packed.b[slot] else { continue };
                let x = &room.gated[packed.b[..slot].iter().flatten().count()];
                let (rows, onto) = (0..run.rows.len(), Onto::WhatIsThere);
                products.push(Product { x, rows, weights, out, onto });
            }
        }
        if !products.is_empty() {
            compute.products(products);
        }
    }

    /// From what the products by `A` and the router gave to the inputs of the products by `B`.
    fn gate(&mut self, compute: &Compute, group: Group) {
        for (run, room) in self.runs.iter().zip(&mut self.room.runs) {
            let PackedAdapter { shape, scale, top_k, layers, expert_load, .. } = run.adapter;
            let RunScratch { gates, low, gated } = room;
            let router = layers.get(self.layer_idx).and_then(|layer| layer.router.as_ref());
            if let (Group::IntoAttention, Some(router)) = (group, router) {
                compute.choose_experts(&router.bias, *top_k, gates);
                if let Some(load) = expert_load {
                    load.record_gates(self.layer_idx, gates.rows());
                }
            }
            if let Some(packed) = run.group(self.layer_idx, group) {
                let gates = router.map(|_| &*gates);
                let gated = &mut gated[..packed.b.iter().flatten().count()];
                compute.gate_low_rank((low, *shape), gates, *scale, gated);
            }
        }
    }
}

impl<'a> Run<'a> {
    fn group(&self, layer_idx: usize, group: Group) -> Option<&'a PackedGroup> {
        self.adapter.layers.get(layer_idx)?.groups[group as usize].as_ref()
    }
}
