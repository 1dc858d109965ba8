//! Where a training stands, so that it can go on after anything: the weights, the optimiser's
//! memory, and the step. Everything else (order of rows, schedule) follows from the recipe.
//!
//! A checkpoint is written beside the old one and renamed, so one of them is always whole; and it
//! belongs to one recipe, one set of data and one base, by their hashes.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors, View};
use serde::{Deserialize, Serialize};

use crate::optimizer::Moments;

/// Why a checkpoint cannot be read, written or used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("{}: {source}", file.display())]
    Io { file: PathBuf, source: io::Error },
    #[error("{}: damaged ({reason}): delete it to start over", file.display())]
    Damaged { file: PathBuf, reason: String },
    #[error(
        "{}: the checkpoint belongs to another {what} (hash {found}, now {expected}): put that back, \
         or start over with --fresh",
        file.display()
    )]
    Foreign { file: PathBuf, what: &'static str, found: String, expected: String },
}

/// What a checkpoint belongs to, as SHA-256 hashes in hexadecimal.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Origin {
    pub(crate) recipe: String,
    pub(crate) data: String,
    pub(crate) base: String,
}

/// How far a training has come.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(crate) struct Position {
    pub(crate) stage_idx: usize,
    /// Steps done in the stage.
    pub(crate) step: usize,
    /// Over all stages.
    pub(crate) n_tokens: u64,
    pub(crate) seconds: f64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Checkpoint {
    pub(crate) position: Position,
    pub(crate) values: Vec<f32>,
    pub(crate) router_bias: Vec<f32>,
    pub(crate) moments: Moments,
    /// Log-probabilities of the stage's sequences under what it started from, where it asks for
    /// them; or the numbers of that.
    pub(crate) references: Vec<f64>,
}

/// What a checkpoint is written from: nothing is copied but a tensor at a time.
pub(crate) struct Parts<'a> {
    pub(crate) position: Position,
    pub(crate) values: &'a [f32],
    pub(crate) router_bias: &'a [f32],
    pub(crate) moments: &'a Moments,
    pub(crate) references: &'a [f64],
}

/// A tensor whose bytes are made when they are written.
enum Numbers<'a> {
    Single(&'a [f32]),
    Double(&'a [f64]),
}

impl Numbers<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Single(values) => values.len(),
            Self::Double(values) => values.len(),
        }
    }
}

struct StoredNumbers<'a> {
    numbers: Numbers<'a>,
    shape: [usize; 1],
}

impl View for StoredNumbers<'_> {
    fn dtype(&self) -> Dtype {
        match self.numbers {
            Numbers::Single(_) => Dtype::F32,
            Numbers::Double(_) => Dtype::F64,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let mut bytes = Vec::with_capacity(self.data_len());
        match self.numbers {
            Numbers::Single(values) => {
                bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
            Numbers::Double(values) => {
                bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
        }
        bytes.into()
    }

    fn data_len(&self) -> usize {
        match self.numbers {
            Numbers::Single(values) => size_of_val(values),
            Numbers::Double(values) => size_of_val(values),
        }
    }
}

#[derive(Deserialize, Serialize)]
struct Header {
    origin: Origin,
    position: Position,
}

const HEADER: &str = "rapport";

impl<'a> Parts<'a> {
    pub(crate) fn save(&self, file: &Path, origin: &Origin) -> Result<(), CheckpointError> {
        let io = |source| CheckpointError::Io { file: file.to_owned(), source };
        let header = Header { origin: origin.clone(), position: self.position };
        let header = serde_json::to_string(&header).map_err(|error| io(error.into()))?;
        let stored = |numbers: Numbers<'a>| StoredNumbers { shape: [numbers.len()], numbers };
        let tensors = [
            ("values", stored(Numbers::Single(self.values))),
            ("router_bias", stored(Numbers::Single(self.router_bias))),
            ("moments.mean", stored(Numbers::Single(&self.moments.mean))),
            ("moments.square", stored(Numbers::Single(&self.moments.square))),
            ("references", stored(Numbers::Double(self.references))),
        ];
        let metadata = HashMap::from([(HEADER.to_owned(), header)]);
        let part = file.with_extension("part");
        safetensors::serialize_to_file(tensors, Some(metadata), &part)
            .map_err(|error| io(io::Error::other(error)))?;
        let written = fs::File::options().write(true).open(&part);
        written.and_then(|written| written.sync_all()).map_err(io)?;
        fs::rename(&part, file).map_err(io)
    }
}

impl Checkpoint {
    pub(crate) fn load(file: &Path, origin: &Origin) -> Result<Option<Self>, CheckpointError> {
        let bytes = match fs::read(file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(CheckpointError::Io { file: file.to_owned(), source }),
        };
        let damaged = |reason: String| CheckpointError::Damaged { file: file.to_owned(), reason };
        let tensors =
            SafeTensors::deserialize(&bytes).map_err(|source| damaged(source.to_string()))?;
        let (_, metadata) =
            SafeTensors::read_metadata(&bytes).map_err(|source| damaged(source.to_string()))?;
        let header = metadata.metadata().as_ref().and_then(|metadata| metadata.get(HEADER));
        let header = header.ok_or_else(|| damaged("no header".to_owned()))?;
        let header: Header =
            serde_json::from_str(header).map_err(|source| damaged(source.to_string()))?;
        for (what, found, expected) in [
            ("recipe", &header.origin.recipe, &origin.recipe),
            ("set of data", &header.origin.data, &origin.data),
            ("base model", &header.origin.base, &origin.base),
        ] {
            if found != expected {
                return Err(CheckpointError::Foreign {
                    file: file.to_owned(),
                    what,
                    found: found.chars().take(12).collect(),
                    expected: expected.chars().take(12).collect(),
                });
            }
        }
        let read = |name: &str, dtype: Dtype| match tensors.tensor(name) {
            Ok(view) if view.dtype() == dtype => Ok(view.data().to_vec()),
            _ => Err(damaged(format!("no tensor `{name}` of {dtype:?}"))),
        };
        let floats = |name: &str| {
            let bytes = read(name, Dtype::F32)?;
            Ok(bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
        };
        let references = read("references", Dtype::F64)?;
        Ok(Some(Self {
            position: header.position,
            values: floats("values")?,
            router_bias: floats("router_bias")?,
            moments: Moments { mean: floats("moments.mean")?, square: floats("moments.square")? },
            references: references.as_chunks().0.iter().map(|x| f64::from_le_bytes(*x)).collect(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_comes_back_to_the_bit_and_to_its_own_training() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("checkpoint.safetensors");
        let origin = |recipe: &str| Origin { recipe: recipe.to_owned(), ..Origin::default() };
        assert_eq!(Checkpoint::load(&file, &origin("a")).unwrap(), None);
        let saved = Checkpoint {
            position: Position { stage_idx: 1, step: 7, n_tokens: 99, seconds: 1.0 / 3.0 },
            values: vec![0.1, -2.5e-30, f32::MIN_POSITIVE],
            router_bias: vec![1e-3],
            moments: Moments { mean: vec![1.0 / 3.0; 3], square: vec![1e-38; 3] },
            references: vec![-1.0 / 3.0, -17.25],
        };
        let parts = Parts {
            position: saved.position,
            values: &saved.values,
            router_bias: &saved.router_bias,
            moments: &saved.moments,
            references: &saved.references,
        };
        parts.save(&file, &origin("a")).unwrap();
        assert_eq!(Checkpoint::load(&file, &origin("a")).unwrap(), Some(saved));
        let error = Checkpoint::load(&file, &origin("b")).unwrap_err();
        assert!(matches!(error, CheckpointError::Foreign { what: "recipe", .. }), "{error}");
        let bytes = fs::read(&file).unwrap();
        fs::write(&file, &bytes[..bytes.len() - 5]).unwrap();
        let error = Checkpoint::load(&file, &origin("a")).unwrap_err();
        assert!(matches!(error, CheckpointError::Damaged { .. }), "{error}");
    }
}
