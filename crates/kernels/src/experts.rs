//! Products with the experts of a mixture: each token meets only the few it was routed to.
//!
//! A batch's tokens are put in the order of their experts ([`ExpertRows`]), and one job computes all
//! experts' tiles, so an expert's weights are read once for all its tokens and those of experts that
//! nobody chose are not read at all. A row of the result is one (token, rank) pair; it has the same
//! bits whatever else is in the batch, and [`Compute::add_experts`] adds a token's rows up by rank.

use crate::activations::Activations;
use crate::blocks::BlockType;
use crate::matmul::{TokenBlock, chunk_tiles, copy_sums, for_each_token, tile_kernel};
use crate::packed::{PackError, PackedMatrix, TILE_ROWS};
use crate::pool::ThreadPool;
use crate::router::Routes;
use crate::shared_slice::SharedSlice;
use crate::{Compute, isa::stamped};

/// The same matrix of every expert, one after another, each beginning with a tile of its own.
///
/// # Shapes
/// (E, R, C)
pub struct PackedExperts {
    matrix: PackedMatrix,
    n_experts: usize,
    n_rows: usize,
}

impl PackedExperts {
    /// Packs row-major ggml blocks: `n_experts` matrices of `n_rows` by `n_cols`.
    ///
    /// # Errors
    /// If `bytes` has another size, or memory runs out.
    pub fn pack(
        pool: &ThreadPool,
        block_type: BlockType,
        (n_experts, n_rows, n_cols): (usize, usize, usize),
        bytes: &[u8],
    ) -> Result<Self, PackError> {
        let n_bytes = bytes.len();
        let size = PackError::Size { n_bytes, n_rows: n_experts * n_rows, n_cols, block_type };
        let row_bytes = block_type.row_bytes(n_cols).ok_or_else(|| size.clone())?;
        let expert_bytes = n_rows * row_bytes;
        if expert_bytes == 0 || expert_bytes.checked_mul(n_experts) != Some(n_bytes) {
            return Err(size);
        }
        let padded_rows = n_rows.next_multiple_of(TILE_ROWS);
        let shape = (n_experts * padded_rows, n_cols);
        let matrix = if padded_rows == n_rows {
            PackedMatrix::pack(pool, block_type, shape, bytes)?
        } else {
            // Rows of zeros fill each expert's last tile; no sizes in use need this.
            let mut padded = vec![0; n_experts * padded_rows * row_bytes];
            for (expert_idx, expert) in bytes.chunks_exact(expert_bytes).enumerate() {
                padded[expert_idx * padded_rows * row_bytes..][..expert_bytes]
                    .copy_from_slice(expert);
            }
            PackedMatrix::pack(pool, block_type, shape, &padded)?
        };
        Ok(Self { matrix, n_experts, n_rows })
    }

    /// E
    pub fn n_experts(&self) -> usize {
        self.n_experts
    }

    /// R, of one expert.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// C
    pub fn n_cols(&self) -> usize {
        self.matrix.n_cols()
    }

    /// Bytes that a product with one expert reads.
    pub fn expert_bytes(&self) -> usize {
        self.matrix.n_bytes() / self.n_experts
    }

    fn n_tiles(&self) -> usize {
        self.n_rows.div_ceil(TILE_ROWS)
    }
}

/// The (token, rank) pairs of a batch in the order of their experts.
///
/// # Shapes
/// `order` and `places`: (T * A), each the inverse of the other.
#[derive(Debug, Default)]
pub struct ExpertRows {
    /// For each row: which (token, rank) pair it is, as `token * A + rank`.
    order: Vec<usize>,
    /// For each pair: its row.
    places: Vec<usize>,
    /// Where each expert's rows begin, and the end of the last: (E + 1).
    starts: Vec<usize>,
    /// The experts that have rows.
    chosen: Vec<usize>,
    n_active: usize,
}

impl ExpertRows {
    /// Sorts the pairs of `routes` by expert; within one, tokens keep their order.
    pub fn sort(&mut self, routes: &Routes, n_experts: usize) {
        self.n_active = routes.n_active;
        self.starts.clear();
        self.starts.resize(n_experts + 1, 0);
        for &expert_idx in &routes.experts {
            self.starts[expert_idx + 1] += 1;
        }
        self.chosen.clear();
        self.chosen.extend((0..n_experts).filter(|expert_idx| self.starts[expert_idx + 1] > 0));
        for expert_idx in 0..n_experts {
            self.starts[expert_idx + 1] += self.starts[expert_idx];
        }
        let mut next = self.starts.clone();
        self.places.clear();
        self.order.clear();
        self.order.resize(routes.experts.len(), 0);
        for (pair_idx, &expert_idx) in routes.experts.iter().enumerate() {
            self.places.push(next[expert_idx]);
            self.order[next[expert_idx]] = pair_idx;
            next[expert_idx] += 1;
        }
    }

    /// T * A
    pub fn n_rows(&self) -> usize {
        self.order.len()
    }

    /// The experts that anybody chose, with how many tokens they have.
    pub fn loads(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.chosen
            .iter()
            .map(|&expert_idx| (expert_idx, self.starts[expert_idx + 1] - self.starts[expert_idx]))
    }
}

struct Job<'a> {
    weights: &'a PackedExperts,
    out: SharedSlice<'a, f32>,
}

stamped! {
    fn scale_add(weight: f32, row: &[f32], out: &mut [f32]) {
        for (out, value) in out.iter_mut().zip(row) {
            *out = weight.mul_add(*value, *out);
        }
    }
}

impl Compute {
    /// Copies each token's row once for each of its experts, in the order of `rows`.
    ///
    /// # Shapes
    /// `x`: (T, C); `out`: (T * A, C), resized here.
    pub fn gather_experts(&self, x: &Activations, rows: &ExpertRows, out: &mut Activations) {
        assert_eq!(x.n_rows() * rows.n_active, rows.n_rows(), "a row for each expert of a token");
        out.resize(rows.n_rows(), x.n_cols());
        self.fill_rows(out, |row_idx, out| {
            out.copy_from_slice(x.row(rows.order[row_idx] / rows.n_active));
        });
    }

    /// `out = x * weights^T`, each row with its expert's weights, for several matrices in one job.
    ///
    /// # Shapes
    /// `x`: (T * A, C) in the order of `rows`, or (1, C): one token, the same for all its experts;
    /// each matrix (E, R, C) with its `out`: (T * A, R).
    ///
    /// # Panics
    /// If a shape does not fit.
    pub fn expert_matmul(
        &self,
        x: &Activations,
        rows: &ExpertRows,
        products: &mut [(&PackedExperts, &mut [f32])],
    ) {
        let is_shared = x.n_rows() == 1;
        assert!(is_shared && rows.n_rows() == rows.n_active || x.n_rows() == rows.n_rows());
        for (weights, out) in products.iter() {
            assert_eq!(weights.n_experts + 1, rows.starts.len(), "experts");
            assert_eq!(weights.n_cols(), x.n_cols(), "columns of weights and activations");
            assert_eq!(out.len(), weights.n_rows * rows.n_rows(), "outputs of a product");
        }
        let kernel = tile_kernel(self.isa());
        let jobs: Vec<Job<'_>> = products
            .iter_mut()
            .map(|(weights, out)| Job { weights, out: SharedSlice::new(out) })
            .collect();
        let n_chosen = rows.chosen.len();
        let n_tiles = jobs.iter().map(|job| job.weights.n_tiles() * n_chosen).sum::<usize>();
        let chunk_tiles = chunk_tiles(self.pool(), n_tiles);
        let inputs = |expert_idx| {
            if is_shared { 0..1 } else { rows.starts[expert_idx]..rows.starts[expert_idx + 1] }
        };
        let blocks: Vec<Vec<TokenBlock<'_>>> =
            rows.chosen.iter().map(|&expert_idx| x.blocks(inputs(expert_idx)).collect()).collect();
        self.pool().run(n_tiles.div_ceil(chunk_tiles), &|chunk_idx| {
            let end = n_tiles.min((chunk_idx + 1) * chunk_tiles);
            for flat_idx in chunk_idx * chunk_tiles..end {
                let (job, chosen_idx, tile_idx) = find_tile(&jobs, n_chosen, flat_idx);
                let expert_idx = rows.chosen[chosen_idx];
                let n_weights = job.weights.n_rows;
                let first_weight = tile_idx * TILE_ROWS;
                let n_lanes = TILE_ROWS.min(n_weights - first_weight);
                let matrix = &job.weights.matrix;
                let tile = matrix.tile(expert_idx * job.weights.n_tiles() + tile_idx);
                let shift = rows.starts[expert_idx] - inputs(expert_idx).start;
                let tile = (matrix.layout(), tile);
                for_each_token(kernel, tile, &blocks[chosen_idx], |input_idx, sums| {
                    let at = (input_idx + shift) * n_weights + first_weight;
                    // SAFETY: a tile's outputs for a row belong to the one task that has the tile.
                    let out = unsafe { job.out.take(at, n_lanes) };
                    copy_sums(out, sums);
                });
            }
        });
    }

    /// Adds to each token its experts' outputs, weighted, the heaviest first.
    ///
    /// # Shapes
    /// `outputs`: (T * A, C) in the order of `rows`; `out`: (T, C).
    pub fn add_experts(
        &self,
        routes: &Routes,
        rows: &ExpertRows,
        outputs: &[f32],
        out: &mut [f32],
    ) {
        let n_tokens = routes.n_tokens();
        let n_cols = out.len() / n_tokens;
        assert_eq!(out.len(), n_tokens * n_cols, "a row for each token");
        assert_eq!(outputs.len(), rows.n_rows() * n_cols, "a row for each expert of a token");
        let out = SharedSlice::new(out);
        self.pool().run(n_tokens, &|token_idx| {
            // SAFETY: each task has a row of its own.
            let out = unsafe { out.take(token_idx * n_cols, n_cols) };
            for (rank, (_, weight)) in routes.token(token_idx).enumerate() {
                let row_idx = rows.places[token_idx * routes.n_active + rank];
                scale_add(self.isa(), weight, &outputs[row_idx * n_cols..][..n_cols], out);
            }
        });
    }
}

/// The tiles of a matrix lie expert by expert, so that a thread mostly reads forwards.
fn find_tile<'a, 'b>(
    jobs: &'b [Job<'a>],
    n_chosen: usize,
    mut flat_idx: usize,
) -> (&'b Job<'a>, usize, usize) {
    for job in jobs {
        let n_tiles = job.weights.n_tiles();
        if flat_idx < n_tiles * n_chosen {
            return (job, flat_idx / n_tiles, flat_idx % n_tiles);
        }
        flat_idx -= n_tiles * n_chosen;
    }
    unreachable!("a tile of these products")
}
