//! Quantised blocks and the arithmetic over them.
//!
//! Weights are packed ([`PackedMatrix`]) once at load; [`Activations`] are quantised on the way into a
//! product; everything runs through a [`Compute`], which holds the instruction set chosen at start
//! and the thread pool.
//!
//! One rule makes the rest of Rapport simple: **a number never depends on how it was computed**.
//! Every output is defined by one order of roundings, so all instruction sets, thread counts and
//! batch sizes give the same bits.
//!
//! What is not here: models, tensors with names, files.
//!
//! Start reading at [`Compute`], then `matmul.rs`; plain loops there are the specification.

#![expect(unsafe_code, reason = "vector loads, and borrows that cross to the pool's threads")]

pub mod blocks;
pub mod quantize;

mod activations;
mod attention;
#[cfg(target_arch = "x86_64")]
mod attention_avx2;
#[cfg(target_arch = "x86_64")]
mod attention_x86;
mod bf16;
mod compute;
mod dense;
mod experts;
mod float;
mod isa;
mod low_rank;
mod matmul;
mod packed;
mod pool;
mod router;
mod shared_slice;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use activations::Activations;
pub use attention::{AttentionLayer, AttentionShape, KvPage, KvType, PAGE_TOKENS, Span};
pub use bf16::{Bf16Matrix, Bf16Rows};
pub use compute::Compute;
pub use dense::{Matrix, MatrixMut, Onto, Real, dense_product, greatest};
pub use experts::{ExpertRows, PackedExperts};
pub use float::{Activation, Rope, RopePairs, RopeScaling, RopeShape};
pub use isa::{InvalidIsa, Isa};
pub use low_rank::{ExpertGates, LowRankShape};
pub use matmul::Product;
pub use packed::{Layout, PANEL_COLS, PackError, PackedMatrix, TILE_ROWS, unpack_vector};
pub use pool::ThreadPool;
pub use router::{Gating, Router, Routes};
