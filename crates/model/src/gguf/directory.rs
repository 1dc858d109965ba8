//! Parses a header: everything before the tensor data, from the magic to the tensor directory.
//!
//! Every count, length and offset in the file is hostile until it has been compared with the real
//! size of the file; only then is memory asked for.

use std::collections::HashMap;

use rapport_kernels::blocks::BlockType;

use super::cursor::{Cursor, Short};
use super::error::{GgufProblem, Part};
use super::metadata::{Entry, MAX_ARRAY_DEPTH, Value, ValueFault, read_value_type};

pub(super) const MAGIC: [u8; 4] = *b"GGUF";
pub(super) const ALIGNMENT_KEY: &str = "general.alignment";
pub(super) const DEFAULT_ALIGNMENT: u64 = 32;

// The limits of the GGUF specification.
pub(super) const MAX_KEY_BYTES: u64 = 65_535;
pub(super) const MAX_TENSOR_NAME_BYTES: u64 = 64;
pub(super) const MAX_DIMENSIONS: u32 = 4;

/// Key length, type and the smallest value.
const MIN_ENTRY_BYTES: u64 = 8 + 4 + 1;
/// Name length, number of dimensions, one dimension, type and offset.
const MIN_TENSOR_ENTRY_BYTES: u64 = 8 + 4 + 8 + 4 + 8;

/// One tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    pub name: String,
    /// ggml's order: the row length first. One to four, none of them 0.
    pub dims: Vec<u64>,
    pub block_type: BlockType,
    /// From the start of the tensor data.
    pub offset: u64,
    pub n_bytes: u64,
}

impl TensorInfo {
    /// Weights in a row.
    pub fn row_len(&self) -> u64 {
        self.dims[0]
    }

    pub fn n_rows(&self) -> u64 {
        self.dims[1..].iter().product()
    }

    pub fn n_weights(&self) -> u64 {
        self.dims.iter().product()
    }
}

/// Everything a header says.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) version: u32,
    pub(super) entries: Vec<Entry>,
    pub(super) entry_indices: HashMap<Box<str>, usize>,
    pub(super) tensors: Vec<TensorInfo>,
    pub(super) tensor_indices: HashMap<Box<str>, usize>,
    pub(super) alignment: u64,
    pub(super) header_bytes: usize,
    /// Where in the file the tensor data starts; past the end of a file without tensors.
    pub(super) data_start: u64,
}

/// Why parsing stopped.
#[derive(Debug)]
pub(super) enum Stop {
    /// More of the header is in the file than in memory.
    NeedMore,
    Failed(GgufProblem),
}

impl From<GgufProblem> for Stop {
    fn from(problem: GgufProblem) -> Self {
        Self::Failed(problem)
    }
}

impl Short {
    fn in_part(self, part: impl FnOnce() -> Part) -> Stop {
        match self {
            Self::OfBuffer => Stop::NeedMore,
            Self::OfFile { needed_bytes, available_bytes } => {
                GgufProblem::Truncated { part: part(), needed_bytes, available_bytes }.into()
            }
        }
    }
}

impl ValueFault {
    fn of_key(self, key: &str) -> Stop {
        let key = key.to_owned();
        match self {
            Self::Short(short) => return short.in_part(|| Part::Value { key }),
            Self::UnknownType { found } => GgufProblem::UnknownValueType { key, found },
            Self::InvalidBool { found } => GgufProblem::InvalidBool { key, found },
            Self::NestedTooDeep => GgufProblem::NestedTooDeep { key, at_most: MAX_ARRAY_DEPTH },
        }
        .into()
    }
}

impl Directory {
    /// Parses a header from `bytes`, the first part of a file of `file_bytes`.
    pub(super) fn parse(bytes: &[u8], file_bytes: u64) -> Result<Self, Stop> {
        let mut cursor = Cursor::new(bytes, file_bytes);
        let (version, n_tensors, n_entries) = parse_start(&mut cursor)?;

        check_count("metadata entries", n_entries, MIN_ENTRY_BYTES, &cursor)?;
        let mut entries = Vec::new();
        let mut entry_indices = HashMap::new();
        for entry_idx in 0..n_entries {
            let entry = parse_entry(&mut cursor, entry_idx)?;
            if entry_indices.insert(entry.key.clone(), entries.len()).is_some() {
                return Err(GgufProblem::DuplicateKey { key: entry.key.into() }.into());
            }
            entries.push(entry);
        }
        let alignment = match entry_indices.get(ALIGNMENT_KEY) {
            Some(&entry_idx) => checked_alignment(entries[entry_idx].value(bytes))?,
            None => DEFAULT_ALIGNMENT,
        };

        check_count("tensors", n_tensors, MIN_TENSOR_ENTRY_BYTES, &cursor)?;
        let mut tensors = Vec::new();
        let mut tensor_indices = HashMap::new();
        for tensor_idx in 0..n_tensors {
            let tensor = parse_tensor(&mut cursor, tensor_idx)?;
            if tensor_indices.insert(tensor.name.as_str().into(), tensors.len()).is_some() {
                return Err(GgufProblem::DuplicateTensor { tensor: tensor.name }.into());
            }
            tensors.push(tensor);
        }

        let header_bytes = cursor.position();
        // The header is within the file, and neither number comes near the end of a u64 unless the
        // alignment does.
        let data_start = (header_bytes as u64)
            .checked_next_multiple_of(alignment)
            .ok_or(GgufProblem::InvalidAlignment { found: alignment })?;
        check_extents(&tensors, alignment, file_bytes.saturating_sub(data_start))?;
        Ok(Self {
            version,
            entries,
            entry_indices,
            tensors,
            tensor_indices,
            alignment,
            header_bytes,
            data_start,
        })
    }
}

/// Magic, version, number of tensors and number of metadata entries.
fn parse_start(cursor: &mut Cursor<'_>) -> Result<(u32, u64, u64), Stop> {
    let in_header = |short: Short| short.in_part(|| Part::Header);
    let n_magic_bytes = cursor.available_bytes().min(MAGIC.len() as u64);
    let magic = cursor.take(n_magic_bytes).map_err(in_header)?;
    if !MAGIC.starts_with(magic) {
        return Err(GgufProblem::NotGguf { found: magic.to_owned() }.into());
    }
    let version = cursor.u32().map_err(in_header)?;
    match version {
        2 | 3 => {}
        // Versions are small numbers: only the other byte order leaves the low half empty.
        found if found != 0 && found as u16 == 0 => return Err(GgufProblem::BigEndian.into()),
        found => return Err(GgufProblem::UnsupportedVersion { found }.into()),
    }
    let n_tensors = cursor.u64().map_err(in_header)?;
    let n_entries = cursor.u64().map_err(in_header)?;
    Ok((version, n_tensors, n_entries))
}

/// Refuses a count of things that cannot all be in the rest of the file.
fn check_count(
    counted: &'static str,
    found: u64,
    min_bytes: u64,
    cursor: &Cursor<'_>,
) -> Result<(), GgufProblem> {
    let at_most = cursor.available_bytes() / min_bytes;
    if found > at_most {
        return Err(GgufProblem::TooMany { counted, found, at_most });
    }
    Ok(())
}

/// A string that must be UTF-8 of at most `at_most_bytes`.
fn parse_name<'a>(
    cursor: &mut Cursor<'a>,
    at_most_bytes: u64,
    part: impl Fn() -> Part,
) -> Result<&'a str, Stop> {
    let found_bytes = cursor.u64().map_err(|short| short.in_part(&part))?;
    if found_bytes > at_most_bytes {
        let part = part();
        return Err(GgufProblem::NameTooLong { part, found_bytes, at_most_bytes }.into());
    }
    let name = cursor.take(found_bytes).map_err(|short| short.in_part(&part))?;
    let name = std::str::from_utf8(name);
    Ok(name.map_err(|_| GgufProblem::NameNotUtf8 { part: part() })?)
}

fn parse_entry(cursor: &mut Cursor<'_>, entry_idx: u64) -> Result<Entry, Stop> {
    let key = parse_name(cursor, MAX_KEY_BYTES, || Part::MetadataEntry(entry_idx))?;
    let value_type = read_value_type(cursor).map_err(|fault| fault.of_key(key))?;
    let start = cursor.position();
    Value::read(cursor, value_type, 0).map_err(|fault| fault.of_key(key))?;
    Ok(Entry { key: key.into(), value_type, payload: start..cursor.position() })
}

pub(super) fn checked_alignment(value: Value<'_>) -> Result<u64, GgufProblem> {
    let Value::U32(alignment) = value else {
        return Err(value.wrong_type(ALIGNMENT_KEY, "u32"));
    };
    let found = u64::from(alignment);
    if !found.is_power_of_two() {
        return Err(GgufProblem::InvalidAlignment { found });
    }
    Ok(found)
}

fn parse_tensor(cursor: &mut Cursor<'_>, tensor_idx: u64) -> Result<TensorInfo, Stop> {
    let part = || Part::TensorEntry(tensor_idx);
    let in_entry = |short: Short| short.in_part(part);
    let name = parse_name(cursor, MAX_TENSOR_NAME_BYTES, part)?.to_owned();

    let n_dims = cursor.u32().map_err(in_entry)?;
    if n_dims == 0 || n_dims > MAX_DIMENSIONS {
        return Err(GgufProblem::InvalidDimensionCount { tensor: name, found: n_dims }.into());
    }
    let dims = (0..n_dims).map(|_| cursor.u64()).collect::<Result<Vec<_>, _>>();
    let dims = dims.map_err(in_entry)?;

    let type_id = cursor.u32().map_err(in_entry)?;
    let Some(block_type) = BlockType::from_ggml(type_id) else {
        return Err(GgufProblem::UnsupportedTensorType { tensor: name, type_id }.into());
    };
    let offset = cursor.u64().map_err(in_entry)?;
    let n_bytes = tensor_bytes(&name, &dims, block_type)?;
    Ok(TensorInfo { name, dims, block_type, offset, n_bytes })
}

/// Bytes of a tensor of this shape and type.
pub(super) fn tensor_bytes(
    tensor: &str,
    dims: &[u64],
    block_type: BlockType,
) -> Result<u64, GgufProblem> {
    let invalid_dimensions =
        || GgufProblem::InvalidDimensions { tensor: tensor.to_owned(), dims: dims.to_owned() };
    let n_weights = dims.iter().try_fold(1_u64, |product, &dim| product.checked_mul(dim));
    // ggml counts weights in an i64: more could not be opened elsewhere.
    let n_weights = n_weights.filter(|&n| n > 0 && i64::try_from(n).is_ok());
    let n_weights = n_weights.ok_or_else(invalid_dimensions)?;

    let block_len = block_type.block_len() as u64;
    if !dims[0].is_multiple_of(block_len) {
        let tensor = tensor.to_owned();
        return Err(GgufProblem::PartialBlock { tensor, block_type, found: dims[0] });
    }
    (n_weights / block_len)
        .checked_mul(block_type.block_bytes() as u64)
        .ok_or_else(invalid_dimensions)
}

/// Every tensor aligned, inside the data, and apart from every other.
fn check_extents(
    tensors: &[TensorInfo],
    alignment: u64,
    available_bytes: u64,
) -> Result<(), GgufProblem> {
    for &TensorInfo { ref name, offset, n_bytes, .. } in tensors {
        let tensor = || name.clone();
        if !offset.is_multiple_of(alignment) {
            return Err(GgufProblem::MisalignedTensor { tensor: tensor(), offset, alignment });
        }
        if offset.checked_add(n_bytes).is_none_or(|end| end > available_bytes) {
            let tensor = tensor();
            return Err(GgufProblem::TensorPastEnd { tensor, offset, n_bytes, available_bytes });
        }
    }
    let mut by_offset: Vec<&TensorInfo> = tensors.iter().collect();
    by_offset.sort_by_key(|tensor| tensor.offset);
    for pair in by_offset.windows(2) {
        let [first, second] = pair else { unreachable!("windows of two") };
        if first.offset + first.n_bytes > second.offset {
            let (first, second) = (first.name.clone(), second.name.clone());
            return Err(GgufProblem::OverlappingTensors { first, second });
        }
    }
    Ok(())
}
