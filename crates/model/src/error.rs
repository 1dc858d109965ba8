use rapport_kernels::PackError;

use crate::gguf::GgufError;

/// Why a model cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    File(#[from] GgufError),
    #[error(
        "{file}: architecture `{found}` is not supported; Rapport runs {}",
        crate::architecture::supported()
    )]
    UnknownArchitecture { file: String, found: String },
    #[error("{file}: `{key}` is {found}, expected {expected}")]
    InvalidHyperparameter { file: String, key: String, found: String, expected: &'static str },
    #[error("{file}: tensor `{tensor}` has {found} rows, expected {expected}")]
    InvalidTensor { file: String, tensor: String, found: u64, expected: String },
    #[error("{file}: tensor `{tensor}`: {source}")]
    Pack { file: String, tensor: String, source: PackError },
}
