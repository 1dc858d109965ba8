//! The handle through which everything is computed.

use std::num::NonZeroUsize;

use crate::{Activations, Isa, ThreadPool};

/// An instruction set that this processor has, and the threads to use it on.
pub struct Compute {
    isa: Isa,
    pool: ThreadPool,
}

impl Compute {
    /// # Panics
    /// If the processor lacks `isa`: running its instructions would be undefined.
    pub fn new(isa: Isa, n_threads: NonZeroUsize) -> Self {
        assert!(isa.is_available(), "this processor has no {isa}");
        Self { isa, pool: ThreadPool::new(n_threads) }
    }

    pub fn isa(&self) -> Isa {
        self.isa
    }

    pub fn pool(&self) -> &ThreadPool {
        &self.pool
    }

    /// Fills each row of `out` by `write(row_idx, values)` and quantises it, a row a task.
    pub(crate) fn fill_rows(
        &self,
        out: &mut Activations,
        write: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        let n_rows = out.n_rows();
        let rows = out.shared_rows();
        self.pool.run(n_rows, &|row_idx| {
            // SAFETY: each task has a row of its own.
            unsafe { rows.write(self.isa, row_idx, |values| write(row_idx, values)) };
        });
    }

    /// Brings the 8-bit form up to date with floats written through [`Activations::row_mut`].
    pub fn quantize(&self, x: &mut Activations) {
        self.fill_rows(x, |_, _| {});
    }
}
