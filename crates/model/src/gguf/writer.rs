//! Writes GGUF files, version 3: first a [`GgufPlan`] of everything that is not weights, then the
//! weights, tensor by tensor, so that a large file never has to be in memory.

use std::collections::HashSet;
use std::io::{self, Write};

use rapport_kernels::blocks::BlockType;

use super::directory::{
    ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC, MAX_DIMENSIONS, MAX_KEY_BYTES, MAX_TENSOR_NAME_BYTES,
    TensorInfo, checked_alignment, tensor_bytes,
};
use super::error::{GgufProblem, Part};
use super::metadata::{Value, ValueType};

const VERSION: u32 = 3;

/// Why a GGUF file cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufWriteError {
    #[error("cannot write the file: {0}")]
    Io(#[from] io::Error),
    /// What was planned could not be read back.
    #[error(transparent)]
    Invalid(#[from] GgufProblem),
    #[error("tensor `{tensor}` was planned with {expected_bytes} bytes and given {found_bytes}")]
    WrongTensorBytes { tensor: String, expected_bytes: u64, found_bytes: u64 },
    #[error("a tensor was given after the last one that was planned")]
    UnplannedTensor,
    #[error("tensor `{tensor}` was planned and is not written")]
    MissingTensor { tensor: String },
}

/// Metadata and the shapes of the tensors of a file to be written. Keys and tensors keep the order
/// they are added in.
#[derive(Debug)]
pub struct GgufPlan {
    /// The metadata as the file will have it.
    entries: Vec<u8>,
    keys: HashSet<String>,
    alignment: u64,
    /// Their offsets are set when writing begins.
    tensors: Vec<TensorInfo>,
    tensor_names: HashSet<String>,
}

impl Default for GgufPlan {
    fn default() -> Self {
        Self::new()
    }
}

impl GgufPlan {
    pub fn new() -> Self {
        Self {
            entries: Vec::new(),
            keys: HashSet::new(),
            alignment: DEFAULT_ALIGNMENT,
            tensors: Vec::new(),
            tensor_names: HashSet::new(),
        }
    }

    /// Adds a key. The alignment of the file follows `general.alignment`.
    ///
    /// # Errors
    /// The key is too long or already there, or is `general.alignment` with an invalid value.
    pub fn value(&mut self, key: &str, value: Value<'_>) -> Result<(), GgufWriteError> {
        if key == ALIGNMENT_KEY {
            self.alignment = checked_alignment(value)?;
        }
        self.key(key, value.value_type())?;
        encode_value(&mut self.entries, value);
        Ok(())
    }

    /// Adds a key with a string.
    ///
    /// # Errors
    /// As [`GgufPlan::value`], which is also how other single values are added.
    pub fn string(&mut self, key: &str, value: &str) -> Result<(), GgufWriteError> {
        self.value(key, Value::String(value.as_bytes()))
    }

    /// Adds a key with an array of strings.
    ///
    /// # Errors
    /// As [`GgufPlan::value`].
    pub fn strings<S: AsRef<[u8]>>(
        &mut self,
        key: &str,
        values: &[S],
    ) -> Result<(), GgufWriteError> {
        self.array(key, ValueType::String, values, |out, text| encode_string(out, text.as_ref()))
    }

    /// As [`GgufPlan::strings`], with numbers.
    pub fn f32s(&mut self, key: &str, values: &[f32]) -> Result<(), GgufWriteError> {
        self.array(key, ValueType::F32, values, |out, value| out.extend(value.to_le_bytes()))
    }

    /// As [`GgufPlan::strings`], with numbers.
    pub fn i32s(&mut self, key: &str, values: &[i32]) -> Result<(), GgufWriteError> {
        self.array(key, ValueType::I32, values, |out, value| out.extend(value.to_le_bytes()))
    }

    /// As [`GgufPlan::strings`], with numbers.
    pub fn u32s(&mut self, key: &str, values: &[u32]) -> Result<(), GgufWriteError> {
        self.array(key, ValueType::U32, values, |out, value| out.extend(value.to_le_bytes()))
    }

    /// As [`GgufPlan::strings`], with bools.
    pub fn bools(&mut self, key: &str, values: &[bool]) -> Result<(), GgufWriteError> {
        self.array(key, ValueType::Bool, values, |out, &value| out.push(value.into()))
    }

    /// Adds a tensor; its bytes come later, in the order of these calls.
    ///
    /// # Errors
    /// The name is too long or already there, or the shape is not one that `block_type` can have.
    pub fn tensor(
        &mut self,
        name: &str,
        dims: &[u64],
        block_type: BlockType,
    ) -> Result<(), GgufWriteError> {
        let part = || Part::TensorEntry(self.tensors.len() as u64);
        check_name(name, MAX_TENSOR_NAME_BYTES, part)?;
        let n_dims = dims.len() as u32;
        if n_dims == 0 || n_dims > MAX_DIMENSIONS {
            let tensor = name.to_owned();
            return Err(GgufProblem::InvalidDimensionCount { tensor, found: n_dims }.into());
        }
        let n_bytes = tensor_bytes(name, dims, block_type)?;
        if !self.tensor_names.insert(name.to_owned()) {
            return Err(GgufProblem::DuplicateTensor { tensor: name.to_owned() }.into());
        }
        let (name, dims) = (name.to_owned(), dims.to_owned());
        self.tensors.push(TensorInfo { name, dims, block_type, offset: 0, n_bytes });
        Ok(())
    }

    /// Writes the header, and gives what takes the tensors.
    ///
    /// # Errors
    /// `out` fails, or the tensors together are longer than any file.
    pub fn begin<W: Write>(mut self, out: W) -> Result<GgufWriter<W>, GgufWriteError> {
        let mut end: u64 = 0;
        for tensor in &mut self.tensors {
            tensor.offset = end;
            let padded_end = end
                .checked_add(tensor.n_bytes)
                .and_then(|end| end.checked_next_multiple_of(self.alignment));
            end = padded_end.ok_or_else(|| GgufProblem::InvalidDimensions {
                tensor: tensor.name.clone(),
                dims: tensor.dims.clone(),
            })?;
        }
        let mut header = Vec::new();
        header.extend(MAGIC);
        header.extend(VERSION.to_le_bytes());
        header.extend((self.tensors.len() as u64).to_le_bytes());
        header.extend((self.keys.len() as u64).to_le_bytes());
        header.extend(&self.entries);
        for tensor in &self.tensors {
            encode_string(&mut header, tensor.name.as_bytes());
            header.extend((tensor.dims.len() as u32).to_le_bytes());
            for dim in &tensor.dims {
                header.extend(dim.to_le_bytes());
            }
            header.extend(tensor.block_type.ggml_id().to_le_bytes());
            header.extend(tensor.offset.to_le_bytes());
        }
        let mut writer =
            GgufWriter { out, alignment: self.alignment, tensors: self.tensors.into_iter() };
        writer.write_padded(&header)?;
        Ok(writer)
    }

    fn array<T>(
        &mut self,
        key: &str,
        element_type: ValueType,
        values: &[T],
        encode: impl Fn(&mut Vec<u8>, &T),
    ) -> Result<(), GgufWriteError> {
        self.key(key, ValueType::Array)?;
        encode_array_start(&mut self.entries, element_type, values.len());
        for value in values {
            encode(&mut self.entries, value);
        }
        Ok(())
    }

    /// The part of an entry before its value.
    fn key(&mut self, key: &str, value_type: ValueType) -> Result<(), GgufWriteError> {
        check_name(key, MAX_KEY_BYTES, || Part::MetadataEntry(self.keys.len() as u64))?;
        if !self.keys.insert(key.to_owned()) {
            return Err(GgufProblem::DuplicateKey { key: key.to_owned() }.into());
        }
        encode_string(&mut self.entries, key.as_bytes());
        self.entries.extend(value_type.id().to_le_bytes());
        Ok(())
    }
}

fn check_name(name: &str, at_most_bytes: u64, part: impl Fn() -> Part) -> Result<(), GgufProblem> {
    let found_bytes = name.len() as u64;
    if found_bytes > at_most_bytes {
        return Err(GgufProblem::NameTooLong { part: part(), found_bytes, at_most_bytes });
    }
    Ok(())
}

fn encode_string(out: &mut Vec<u8>, text: &[u8]) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text);
}

fn encode_array_start(out: &mut Vec<u8>, element_type: ValueType, len: usize) {
    out.extend(element_type.id().to_le_bytes());
    out.extend((len as u64).to_le_bytes());
}

fn encode_value(out: &mut Vec<u8>, value: Value<'_>) {
    match value {
        Value::U8(value) => out.extend(value.to_le_bytes()),
        Value::I8(value) => out.extend(value.to_le_bytes()),
        Value::U16(value) => out.extend(value.to_le_bytes()),
        Value::I16(value) => out.extend(value.to_le_bytes()),
        Value::U32(value) => out.extend(value.to_le_bytes()),
        Value::I32(value) => out.extend(value.to_le_bytes()),
        Value::U64(value) => out.extend(value.to_le_bytes()),
        Value::I64(value) => out.extend(value.to_le_bytes()),
        Value::F32(value) => out.extend(value.to_le_bytes()),
        Value::F64(value) => out.extend(value.to_le_bytes()),
        Value::Bool(value) => out.push(value.into()),
        Value::String(text) => encode_string(out, text),
        Value::Array(array) => {
            encode_array_start(out, array.element_type(), array.len());
            out.extend(array.bytes());
        }
    }
}

/// Takes the tensors of a [`GgufPlan`], in its order.
#[derive(Debug)]
pub struct GgufWriter<W> {
    out: W,
    alignment: u64,
    tensors: std::vec::IntoIter<TensorInfo>,
}

impl<W: Write> GgufWriter<W> {
    /// Writes the next tensor.
    ///
    /// # Errors
    /// `out` fails, or `bytes` are not the tensor's. The file cannot be finished after that.
    pub fn tensor(&mut self, bytes: &[u8]) -> Result<(), GgufWriteError> {
        let planned = self.tensors.next().ok_or(GgufWriteError::UnplannedTensor)?;
        if planned.n_bytes != bytes.len() as u64 {
            return Err(GgufWriteError::WrongTensorBytes {
                tensor: planned.name,
                expected_bytes: planned.n_bytes,
                found_bytes: bytes.len() as u64,
            });
        }
        self.write_padded(bytes)?;
        Ok(())
    }

    /// Ends the file and gives `out` back, flushed.
    ///
    /// # Errors
    /// `out` fails, or a planned tensor was not written.
    pub fn finish(mut self) -> Result<W, GgufWriteError> {
        if let Some(TensorInfo { name: tensor, .. }) = self.tensors.next() {
            return Err(GgufWriteError::MissingTensor { tensor });
        }
        self.out.flush()?;
        Ok(self.out)
    }

    /// Everything in the file starts at a multiple of the alignment, so the padding of a part
    /// depends on its own length only.
    fn write_padded(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        let n_bytes = bytes.len() as u64;
        let padding_bytes = n_bytes.next_multiple_of(self.alignment) - n_bytes;
        io::copy(&mut io::Read::take(io::repeat(0), padding_bytes), &mut self.out)?;
        Ok(())
    }
}
