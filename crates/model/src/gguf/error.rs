use std::fmt;
use std::io;
use std::path::Path;

use rapport_kernels::blocks::BlockType;

use super::metadata::ValueType;

/// What is wrong with a GGUF file, and with which one.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", file.display())]
pub struct GgufError {
    pub file: Box<Path>,
    #[source]
    pub problem: GgufProblem,
}

/// Why a GGUF file, or a part of it, cannot be used.
///
/// The groups are by what helps: another path, another file, a newer copy of the same file, or (the
/// last two groups) another model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufProblem {
    #[error("cannot read the file: {0}")]
    Io(#[source] io::Error),
    #[error(
        "the file had {expected_bytes} bytes when it was opened and has {found_bytes} now: \
         something changed it while it was in use; put the whole file back and load it again \
         (to replace a model, write a new file and rename it over the old one)"
    )]
    Changed { expected_bytes: u64, found_bytes: u64 },

    #[error(
        "not a GGUF file: it starts with {} instead of `GGUF`; give the path of a .gguf model",
        found.escape_ascii()
    )]
    NotGguf { found: Vec<u8> },
    #[error("a big-endian GGUF file; only little-endian ones can be read, convert it again")]
    BigEndian,
    #[error("GGUF version {found}; only versions 2 and 3 can be read, convert it again")]
    UnsupportedVersion { found: u32 },
    #[error(
        "tensor `{tensor}` has the ggml type {type_id}, which is not supported; use a file with \
         one of {}",
        supported_types()
    )]
    UnsupportedTensorType { tensor: String, type_id: u32 },

    #[error(
        "the file ends inside {part}, which needs {needed_bytes} bytes where {available_bytes} \
         are left: it is cut short or damaged, download it again"
    )]
    Truncated { part: Part, needed_bytes: u64, available_bytes: u64 },
    #[error(
        "the file claims {found} {counted} and has room for {at_most} at most: it is damaged, \
         download it again"
    )]
    TooMany { counted: &'static str, found: u64, at_most: u64 },
    #[error("{part} has a name of {found_bytes} bytes, where {at_most_bytes} are allowed")]
    NameTooLong { part: Part, found_bytes: u64, at_most_bytes: u64 },
    #[error("{part} has a name that is not UTF-8")]
    NameNotUtf8 { part: Part },
    #[error("metadata key `{key}` is there twice")]
    DuplicateKey { key: String },
    #[error("metadata key `{key}` has the value type {found}, which does not exist")]
    UnknownValueType { key: String, found: u32 },
    #[error("metadata key `{key}` holds arrays more than {at_most} deep")]
    NestedTooDeep { key: String, at_most: u32 },
    #[error("metadata key `{key}` holds the bool {found}, where only 0 and 1 are allowed")]
    InvalidBool { key: String, found: u8 },
    #[error("the alignment is {found}: it must be a power of two")]
    InvalidAlignment { found: u64 },
    #[error("tensor `{tensor}` is there twice")]
    DuplicateTensor { tensor: String },
    #[error("tensor `{tensor}` has {found} dimensions: 1 to 4 are allowed")]
    InvalidDimensionCount { tensor: String, found: u32 },
    #[error("tensor `{tensor}` has the shape {}, which is empty or too large", Shape(dims))]
    InvalidDimensions { tensor: String, dims: Vec<u64> },
    #[error(
        "tensor `{tensor}` has rows of {found} weights: {block_type} needs a multiple of {}",
        block_type.block_len()
    )]
    PartialBlock { tensor: String, block_type: BlockType, found: u64 },
    #[error("tensor `{tensor}` starts at {offset}, which is not a multiple of {alignment}")]
    MisalignedTensor { tensor: String, offset: u64, alignment: u64 },
    #[error(
        "tensor `{tensor}` has {n_bytes} bytes from {offset} and the file's tensor data has \
         {available_bytes}: the file is cut short or damaged, download it again"
    )]
    TensorPastEnd { tensor: String, offset: u64, n_bytes: u64, available_bytes: u64 },
    #[error("tensors `{first}` and `{second}` overlap")]
    OverlappingTensors { first: String, second: String },

    #[error("metadata key `{key}` is missing")]
    MissingKey { key: String },
    #[error("metadata key `{key}` is {found}, expected {expected}")]
    WrongValueType { key: String, expected: &'static str, found: FoundType },
    #[error("metadata key `{key}` holds {found}, expected {expected}")]
    OutOfRange { key: String, expected: &'static str, found: i128 },
    #[error("metadata key `{key}` is not valid UTF-8 from byte {valid_bytes} on")]
    ValueNotUtf8 { key: String, valid_bytes: usize },

    #[error("tensor `{tensor}` is missing")]
    MissingTensor { tensor: String },
    #[error("tensor `{tensor}` has the shape {}, expected {}", Shape(found), Shape(expected))]
    WrongShape { tensor: String, expected: Vec<u64>, found: Vec<u64> },
}

/// A part of the file, for errors about bytes that have no name yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Magic, version and counts.
    Header,
    /// The n-th metadata entry, from 0: its key and type.
    MetadataEntry(u64),
    /// The value of a metadata key.
    Value { key: String },
    /// The n-th entry of the tensor directory, from 0.
    TensorEntry(u64),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => f.write_str("the header"),
            Self::MetadataEntry(idx) => write!(f, "metadata entry {idx}"),
            Self::Value { key } => write!(f, "the value of metadata key `{key}`"),
            Self::TensorEntry(idx) => write!(f, "tensor entry {idx}"),
        }
    }
}

/// The type a metadata value really has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundType {
    Scalar(ValueType),
    ArrayOf(ValueType),
}

impl fmt::Display for FoundType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scalar(value_type) => write!(f, "{value_type}"),
            Self::ArrayOf(element_type) => write!(f, "array of {element_type}"),
        }
    }
}

/// A shape as ggml writes it, row length first: `576 x 49152`.
struct Shape<'a>(&'a [u64]);

impl fmt::Display for Shape<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, dim) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { " x " };
            write!(f, "{separator}{dim}")?;
        }
        Ok(())
    }
}

fn supported_types() -> String {
    BlockType::ALL.map(BlockType::name).join(", ")
}
