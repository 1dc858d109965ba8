//! Takes tensors from a file by name and shape, and packs them.

use rapport_kernels::{Compute, PackError, PackedExperts, PackedMatrix, unpack_vector};

use crate::error::LoadError;
use crate::gguf::{Gguf, Tensor};
use crate::linear::Linear;

/// The floats of a one-dimensional tensor.
pub(crate) fn vector(gguf: &Gguf, tensor: &Tensor<'_>) -> Result<Vec<f32>, LoadError> {
    let n_cols = tensor.info.dims.iter().product::<u64>() as usize;
    unpack_vector(tensor.info.block_type, n_cols, tensor.bytes).map_err(|source| LoadError::Pack {
        file: gguf.path().display().to_string(),
        tensor: tensor.info.name.clone(),
        source,
    })
}

/// A file's tensors on their way into packed weights.
pub(crate) struct Loader<'a> {
    pub(crate) gguf: &'a Gguf,
    pub(crate) compute: &'a Compute,
}

impl Loader<'_> {
    pub(crate) fn n_rows(&self, name: &str) -> Result<usize, LoadError> {
        let info = self.gguf.tensor(name)?.info;
        match info.dims[..] {
            [_, n_rows] if u32::try_from(n_rows).is_ok() => Ok(n_rows as usize),
            _ => Err(LoadError::InvalidTensor {
                file: self.gguf.path().display().to_string(),
                tensor: name.to_owned(),
                found: info.dims.get(1).copied().unwrap_or(0),
                expected: "a row for each token".to_owned(),
            }),
        }
    }

    pub(crate) fn matrix(
        &self,
        name: &str,
        n_rows: usize,
        n_cols: usize,
    ) -> Result<PackedMatrix, LoadError> {
        let tensor = self.gguf.require(name, &[n_cols as u64, n_rows as u64])?;
        let pool = self.compute.pool();
        let packed =
            PackedMatrix::pack(pool, tensor.info.block_type, (n_rows, n_cols), tensor.bytes)
                .map_err(|source| self.failed(name, source));
        self.gguf.release(&tensor);
        packed
    }

    /// `name.weight`, with `name.bias` where the file has it.
    pub(crate) fn linear(&self, name: &str, shape: (usize, usize)) -> Result<Linear, LoadError> {
        let (n_rows, n_cols) = shape;
        Ok(Linear {
            weight: self.matrix(&format!("{name}.weight"), n_rows, n_cols)?,
            bias: self.optional_vector(&format!("{name}.bias"), n_rows)?,
        })
    }

    /// The same matrix of every expert: (E, R, C).
    pub(crate) fn experts(
        &self,
        name: &str,
        (n_experts, n_rows, n_cols): (usize, usize, usize),
    ) -> Result<PackedExperts, LoadError> {
        let dims = [n_cols as u64, n_rows as u64, n_experts as u64];
        let tensor = self.gguf.require(name, &dims)?;
        let (pool, shape) = (self.compute.pool(), (n_experts, n_rows, n_cols));
        let packed = PackedExperts::pack(pool, tensor.info.block_type, shape, tensor.bytes)
            .map_err(|source| self.failed(name, source));
        self.gguf.release(&tensor);
        packed
    }

    fn failed(&self, tensor: &str, source: PackError) -> LoadError {
        let file = self.gguf.path().display().to_string();
        LoadError::Pack { file, tensor: tensor.to_owned(), source }
    }

    pub(crate) fn vector(&self, name: &str, n_cols: usize) -> Result<Vec<f32>, LoadError> {
        vector(self.gguf, &self.gguf.require(name, &[n_cols as u64])?)
    }

    pub(crate) fn optional_vector(
        &self,
        name: &str,
        n_cols: usize,
    ) -> Result<Option<Vec<f32>>, LoadError> {
        self.gguf.find(name).is_some().then(|| self.vector(name, n_cols)).transpose()
    }
}
