//! GGUF files: typed metadata and named tensors.
//!
//! [`Gguf::open`] reads the header with ordinary reads, checks all of it against the real size of
//! the file, and maps the tensor data; [`GgufWriter`] writes the same. A file from anywhere is
//! hostile: whatever its bytes, opening it ends in a typed [`GgufError`] or in a [`Gguf`] whose
//! every tensor is inside the file, with memory bounded by the size of the file.
//!
//! What is not here: what the keys mean (the architectures and the tokenizer know), and what the
//! bytes of a tensor mean ([`rapport_kernels::blocks`]).
//!
//! Start reading at [`Gguf`].

mod cursor;
mod directory;
mod error;
mod metadata;
mod mmap;
mod writer;

use std::fs::File;
use std::io::Read;
use std::path::Path;

pub use directory::TensorInfo;
use directory::{Directory, Stop};
pub use error::{FoundType, GgufError, GgufProblem, Part};
pub use metadata::{Array, Metadata, Strings, Value, ValueType};
use mmap::MappedFile;
pub use writer::{GgufPlan, GgufWriteError, GgufWriter};

/// How much of a file is read at first: more than most headers, less than a blink.
const FIRST_READ_BYTES: u64 = 4 << 20;

/// What stands for a path in errors about bytes that came from no file.
const IN_MEMORY: &str = "<GGUF in memory>";

/// An open GGUF file.
#[derive(Debug)]
pub struct Gguf {
    file: Box<Path>,
    directory: Directory,
    contents: Contents,
}

#[derive(Debug)]
enum Contents {
    /// The whole file.
    Owned(Vec<u8>),
    /// The header apart, so that metadata cannot change or vanish under its reader.
    Mapped { header: Vec<u8>, file: MappedFile },
}

/// A tensor and its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    pub info: &'a TensorInfo,
    /// Rows one after another, `info.n_bytes` in all.
    pub bytes: &'a [u8],
}

impl Gguf {
    /// Opens a file: reads and checks its header and maps the rest.
    ///
    /// # Errors
    /// The file cannot be read, is not GGUF of version 2 or 3, is damaged, or has a tensor of a
    /// type that is not supported.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let failed = |problem| GgufError { file: path.into(), problem };
        let open = || {
            let file = File::open(path)?;
            let file_bytes = file.metadata()?.len();
            Ok((file, file_bytes))
        };
        let (file, file_bytes) = open().map_err(|error| failed(GgufProblem::Io(error)))?;
        let (directory, header) = read_header(&file, file_bytes).map_err(failed)?;

        let mapped = MappedFile::new(file).map_err(|error| failed(GgufProblem::Io(error)))?;
        let found_bytes = mapped.bytes().len() as u64;
        if found_bytes != file_bytes {
            return Err(failed(GgufProblem::Changed { expected_bytes: file_bytes, found_bytes }));
        }
        Ok(Self {
            file: path.into(),
            directory,
            contents: Contents::Mapped { header, file: mapped },
        })
    }

    /// Reads a file that is already in memory.
    ///
    /// # Errors
    /// As [`Gguf::open`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, GgufError> {
        let directory = Directory::parse(&bytes, bytes.len() as u64).map_err(|stop| {
            let problem = match stop {
                Stop::Failed(problem) => problem,
                Stop::NeedMore => unreachable!("the whole file is in memory"),
            };
            GgufError { file: Path::new(IN_MEMORY).into(), problem }
        })?;
        let contents = Contents::Owned(bytes);
        Ok(Self { file: Path::new(IN_MEMORY).into(), directory, contents })
    }

    /// The path the file was opened at.
    pub fn path(&self) -> &Path {
        &self.file
    }

    /// The version of the format: 2 or 3.
    pub fn version(&self) -> u32 {
        self.directory.version
    }

    /// What every tensor's offset is a multiple of.
    pub fn alignment(&self) -> u64 {
        self.directory.alignment
    }

    pub fn metadata(&self) -> Metadata<'_> {
        Metadata::new(self)
    }

    /// All tensors, in the order of the file.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.directory.tensors
    }

    /// A tensor's entry, or `None` when the file does not have it.
    pub fn find(&self, name: &str) -> Option<&TensorInfo> {
        let tensor_idx = *self.directory.tensor_indices.get(name)?;
        Some(&self.directory.tensors[tensor_idx])
    }

    /// A tensor by name.
    ///
    /// # Errors
    /// The file has no such tensor, or has become shorter since it was opened.
    pub fn tensor(&self, name: &str) -> Result<Tensor<'_>, GgufError> {
        let info = self
            .find(name)
            .ok_or_else(|| self.error(GgufProblem::MissingTensor { tensor: name.to_owned() }))?;
        self.read(info)
    }

    /// A tensor that must have this shape, row length first.
    ///
    /// # Errors
    /// As [`Gguf::tensor`], or the shape is another.
    pub fn require(&self, name: &str, expected_dims: &[u64]) -> Result<Tensor<'_>, GgufError> {
        let tensor = self.tensor(name)?;
        if tensor.info.dims != expected_dims {
            return Err(self.error(GgufProblem::WrongShape {
                tensor: name.to_owned(),
                expected: expected_dims.to_owned(),
                found: tensor.info.dims.clone(),
            }));
        }
        Ok(tensor)
    }

    /// Lets go of the memory behind a tensor that is not needed again soon: a loader that turns one
    /// tensor after another into something else then never holds the whole file beside it.
    pub fn release(&self, tensor: &Tensor<'_>) {
        if let Contents::Mapped { file, .. } = &self.contents {
            let start = self.directory.data_start + tensor.info.offset;
            file.release(start as usize, tensor.bytes.len());
        }
    }

    /// The bytes of a tensor of this file.
    fn read<'a>(&'a self, info: &'a TensorInfo) -> Result<Tensor<'a>, GgufError> {
        let contents = match &self.contents {
            Contents::Owned(bytes) => bytes,
            Contents::Mapped { file, .. } => {
                let expected_bytes = file.bytes().len() as u64;
                let found_bytes = file.file_bytes().map_err(|e| self.error(GgufProblem::Io(e)))?;
                if found_bytes < expected_bytes {
                    return Err(self.error(GgufProblem::Changed { expected_bytes, found_bytes }));
                }
                file.bytes()
            }
        };
        // Inside the file since the header was checked, so inside memory: nothing is lost here.
        let start = (self.directory.data_start + info.offset) as usize;
        Ok(Tensor { info, bytes: &contents[start..start + info.n_bytes as usize] })
    }

    fn header(&self) -> &[u8] {
        match &self.contents {
            Contents::Owned(bytes) => bytes,
            Contents::Mapped { header, .. } => header,
        }
    }

    fn error(&self, problem: GgufProblem) -> GgufError {
        GgufError { file: self.file.clone(), problem }
    }
}

/// Reads as much of the file as its header takes.
fn read_header(file: &File, file_bytes: u64) -> Result<(Directory, Vec<u8>), GgufProblem> {
    let mut header = Vec::new();
    let mut read_bytes = FIRST_READ_BYTES;
    loop {
        let wanted_bytes = read_bytes.min(file_bytes);
        let missing_bytes = wanted_bytes - header.len() as u64;
        file.take(missing_bytes).read_to_end(&mut header).map_err(GgufProblem::Io)?;
        let found_bytes = header.len() as u64;
        if found_bytes < wanted_bytes {
            return Err(GgufProblem::Changed { expected_bytes: file_bytes, found_bytes });
        }
        match Directory::parse(&header, file_bytes) {
            Ok(directory) => {
                header.truncate(directory.header_bytes);
                header.shrink_to_fit();
                return Ok((directory, header));
            }
            Err(Stop::Failed(problem)) => return Err(problem),
            // `file_bytes` is a length the file has, so the doubling ends before it overflows.
            Err(Stop::NeedMore) => read_bytes *= 2,
        }
    }
}
