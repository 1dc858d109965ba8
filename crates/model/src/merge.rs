//! An adapter that becomes part of a model's weights: `W + (alpha / r) B A`, row by row.
//!
//! Only plain LoRA can: what a routed adapter adds depends on the token.
//!
//! # Numerics
//! Sums are f32, the terms of a row in the order of the rank. A merged f32 model differs from the
//! same adapter applied live by the order of sums alone; a quantised one by what quantising costs.

use std::collections::HashMap;

use rapport_kernels::RopePairs;

use crate::adapter::{AdapterError, Linear, LowRank, neighbour_row};
use crate::adapter_file::{AdapterFile, RowOrder, gguf_name};
use crate::architecture::Architecture;
use crate::gguf::{Gguf, TensorInfo};

/// What an adapter adds to the tensors of a file.
pub(crate) struct Merge<'a> {
    scale: f32,
    rank: usize,
    /// By the tensor's name.
    additions: HashMap<String, Addition<'a>>,
}

pub(crate) struct Addition<'a> {
    scale: f32,
    rank: usize,
    pair: &'a LowRank,
    /// D, where the file's rows lie otherwise than the adapter's.
    permuted_head_dim: Option<usize>,
}

impl<'a> Merge<'a> {
    pub(crate) fn new(
        source: &Gguf,
        architecture: &Architecture,
        file: &'a AdapterFile,
    ) -> Result<Self, AdapterError> {
        let adapter = &file.adapter;
        if adapter.routing.is_some() {
            return Err(AdapterError::Routed { file: file.path.clone() });
        }
        let mut merge =
            Self { scale: adapter.scale(), rank: adapter.rank, additions: HashMap::new() };
        let is_permuted =
            file.rows == RowOrder::Checkpoint && architecture.rope.pairs() == RopePairs::Neighbours;
        let head_dim = is_permuted.then_some(architecture.attention.head_dim);
        for (layer_idx, layer) in adapter.layers.iter().enumerate() {
            for (linear, pair) in Linear::ALL.into_iter().zip(&layer.linears) {
                let Some(pair) = pair else { continue };
                let name = gguf_name(layer_idx, linear);
                let Some(info) = source.find(&name) else {
                    let tensor = file.tensor_name(layer_idx, linear, 'a');
                    return Err(AdapterError::NoSuchLayer { file: file.path.clone(), tensor });
                };
                merge.check(file, (layer_idx, linear), pair, info)?;
                let rotates = matches!(linear, Linear::Query | Linear::Key);
                let permuted_head_dim = head_dim.filter(|_| rotates);
                let (scale, rank) = (merge.scale, merge.rank);
                merge.additions.insert(name, Addition { scale, rank, pair, permuted_head_dim });
            }
        }
        Ok(merge)
    }

    fn check(
        &self,
        file: &AdapterFile,
        (layer_idx, linear): (usize, Linear),
        pair: &LowRank,
        info: &TensorInfo,
    ) -> Result<(), AdapterError> {
        let (n_in, n_out) = (info.row_len() as usize, info.n_rows() as usize);
        for (half, found, expected) in [
            ('a', [self.rank, pair.n_in], [self.rank, n_in]),
            ('b', [pair.n_out, self.rank], [n_out, self.rank]),
        ] {
            if found != expected {
                let [found, expected] = [found, expected].map(|shape| file.stored_shape(shape));
                let tensor = file.tensor_name(layer_idx, linear, half);
                let file = file.path.clone();
                return Err(AdapterError::OtherModel { file, tensor, found, expected });
            }
        }
        Ok(())
    }

    pub(crate) fn of_tensor(&self, name: &str) -> Option<&Addition<'a>> {
        self.additions.get(name)
    }
}

impl Addition<'_> {
    /// The rows of `B` in the order of the file's rows.
    pub(crate) fn rows(&self) -> Vec<&[f32]> {
        let mut rows: Vec<&[f32]> = vec![&[]; self.pair.n_out];
        for (row_idx, row) in self.pair.b.chunks_exact(self.rank).enumerate() {
            let place = self.permuted_head_dim.map_or(row_idx, |dim| neighbour_row(row_idx, dim));
            rows[place] = row;
        }
        rows
    }

    /// Adds to one row of weights, given its row of `B`.
    pub(crate) fn add(&self, low: &[f32], weights: &mut [f32]) {
        for (factor, a) in low.iter().zip(self.pair.a.chunks_exact(self.pair.n_in)) {
            let factor = factor * self.scale;
            weights.iter_mut().zip(a).for_each(|(weight, a)| *weight += factor * a);
        }
    }
}
