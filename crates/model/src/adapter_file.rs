//! An adapter's file with what its numbers alone do not say: whose order its rows are in, and which
//! bytes they came from.
//!
//! Three forms are read: routed and `peft`'s ([`crate::adapter`]), and llama.cpp's: a GGUF file with
//! `general.type` `adapter`, `adapter.type` `lora`, `adapter.lora.alpha`, and for each tensor of the
//! model that it adds to two more, named after it with `.lora_a` (rows of `in` numbers, r of them)
//! and `.lora_b` (`out` rows of r). Its rows are in the order of the model's own GGUF file.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rapport_kernels::blocks::dequantize_row;
use sha2::{Digest, Sha256};

use crate::adapter::{
    self, Adapter, AdapterError, AdapterLayer, DENSE_CONFIG, DENSE_WEIGHTS, Linear, LowRank,
    ROUTED_FILE,
};
use crate::gguf::{Gguf, GgufError};
use crate::sampling_advice::SamplingAdvice;

/// In what order the rows of queries and keys are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOrder {
    /// As in checkpoints of Hugging Face.
    Checkpoint,
    /// As in the model's GGUF file.
    Gguf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Routed,
    Peft,
    Gguf,
}

/// Whether an adapter may be used with another model file than it was trained on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BaseCheck {
    /// Only with the file that it says it was trained on, if it says.
    #[default]
    Same,
    /// With any whose shapes fit, such as one that was quantised otherwise.
    Any,
}

/// An adapter as it was read.
#[derive(Clone, Debug)]
pub struct AdapterFile {
    pub adapter: Adapter,
    pub rows: RowOrder,
    /// The file that has the tensors; errors name it.
    pub path: PathBuf,
    /// Of all its files' bytes.
    pub sha256: [u8; 32],
    /// How replies with it would be sampled.
    pub advice: SamplingAdvice,
    form: Form,
}

impl AdapterFile {
    /// Reads an adapter: a routed or a GGUF file, a folder with a routed one, or a folder in
    /// `peft`'s layout.
    ///
    /// # Errors
    /// The file cannot be read, is damaged, or is not an adapter of a known form.
    pub fn open(path: &Path) -> Result<Self, AdapterError> {
        if path.is_dir() {
            let routed = path.join(ROUTED_FILE);
            return if routed.is_file() { Self::open(&routed) } else { Self::open_peft(path) };
        }
        let bytes = adapter::read_file(path)?;
        if bytes.starts_with(b"GGUF") {
            return Self::parse_gguf(path, bytes);
        }
        let routed = Self::parse_routed(path, &bytes)?;
        // A folder of several adapters says nothing about any of them.
        let is_alone = path.file_name().is_some_and(|name| name == ROUTED_FILE);
        match path.parent().filter(|_| is_alone) {
            Some(folder) => Ok(Self { advice: SamplingAdvice::of_folder(folder)?, ..routed }),
            None => Ok(routed),
        }
    }

    /// Whether a folder is laid out as one adapter is.
    pub fn is_folder_of_one(folder: &Path) -> bool {
        [ROUTED_FILE, DENSE_CONFIG].iter().any(|file| folder.join(file).is_file())
    }

    /// Reads a routed adapter that is in memory; errors call it `path`.
    ///
    /// # Errors
    /// It is damaged or not of this form.
    pub fn parse_routed(path: &Path, bytes: &[u8]) -> Result<Self, AdapterError> {
        Ok(Self {
            adapter: adapter::parse_routed(path, bytes)?,
            rows: RowOrder::Checkpoint,
            path: path.into(),
            sha256: Sha256::digest(bytes).into(),
            advice: SamplingAdvice::default(),
            form: Form::Routed,
        })
    }

    fn open_peft(folder: &Path) -> Result<Self, AdapterError> {
        let adapter = Adapter::load(folder)?;
        let mut hash = Sha256::new();
        for file in [DENSE_CONFIG, DENSE_WEIGHTS] {
            hash.update(adapter::read_file(&folder.join(file))?);
        }
        Ok(Self {
            adapter,
            rows: RowOrder::Checkpoint,
            path: folder.join(DENSE_WEIGHTS),
            sha256: hash.finalize().into(),
            advice: SamplingAdvice::of_folder(folder)?,
            form: Form::Peft,
        })
    }

    fn parse_gguf(path: &Path, bytes: Vec<u8>) -> Result<Self, AdapterError> {
        let sha256 = Sha256::digest(&bytes).into();
        let failed = |source| AdapterError::Gguf { file: path.into(), source: Box::new(source) };
        let gguf = Gguf::from_bytes(bytes).map_err(failed)?;
        Ok(Self {
            adapter: read_gguf(path, &gguf)?,
            rows: RowOrder::Gguf,
            path: path.into(),
            sha256,
            advice: SamplingAdvice::default(),
            form: Form::Gguf,
        })
    }

    /// Whether this was trained on the model file with this hash, where it says on which.
    ///
    /// # Errors
    /// [`AdapterError::OtherBase`].
    pub fn check_base(&self, model: &Path, model_sha256: &[u8; 32]) -> Result<(), AdapterError> {
        let found = hexadecimal(model_sha256);
        match &self.adapter.base_sha256 {
            Some(expected) if !expected.eq_ignore_ascii_case(&found) => {
                Err(AdapterError::OtherBase {
                    file: self.path.clone(),
                    model: model.into(),
                    found,
                    expected: expected.clone(),
                })
            }
            _ => Ok(()),
        }
    }

    /// As [`Self::check_base`], reading the model file if there is something to compare it with.
    ///
    /// # Errors
    /// [`AdapterError::OtherBase`], or the model file cannot be read.
    pub fn check_base_file(&self, model: &Path, check: BaseCheck) -> Result<(), AdapterError> {
        if check == BaseCheck::Any || self.adapter.base_sha256.is_none() {
            return Ok(());
        }
        self.check_base(model, &file_sha256(model)?)
    }

    /// Its hash in hexadecimal.
    pub fn sha256_text(&self) -> String {
        hexadecimal(&self.sha256)
    }

    /// The first 12 hexadecimal digits of its hash: what a build calls it.
    pub fn short_hash(&self) -> String {
        let digits =
            self.sha256[..6].iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        format!("{digits:012x}")
    }

    /// What the file calls a half of what it adds to a linear.
    pub(crate) fn tensor_name(&self, layer_idx: usize, linear: Linear, half: char) -> String {
        match self.form {
            Form::Routed => format!("layers.{layer_idx}.{}.lora_{half}", linear.short_name()),
            Form::Peft => adapter::dense_name(layer_idx, linear, half.to_ascii_uppercase()),
            Form::Gguf => format!("{}.lora_{half}", gguf_name(layer_idx, linear)),
        }
    }

    /// The shape that the file has for a matrix of one expert.
    pub(crate) fn stored_shape(&self, [n_rows, n_cols]: [usize; 2]) -> Vec<usize> {
        match self.form {
            Form::Routed => vec![self.adapter.n_experts(), n_rows, n_cols],
            Form::Peft => vec![n_rows, n_cols],
            // ggml's order: the row length first.
            Form::Gguf => vec![n_cols, n_rows],
        }
    }
}

/// The hash of a whole file.
///
/// # Errors
/// It cannot be read.
pub fn file_sha256(path: &Path) -> Result<[u8; 32], AdapterError> {
    let failed = |source: io::Error| AdapterError::Io { file: path.into(), source };
    let mut file = File::open(path).map_err(failed)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => return Ok(hash.finalize().into()),
            n_bytes => hash.update(&buffer[..n_bytes]),
        }
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The model's tensor that a linear is.
pub(crate) fn gguf_name(layer_idx: usize, linear: Linear) -> String {
    let part = match linear {
        Linear::Query => "attn_q",
        Linear::Key => "attn_k",
        Linear::Value => "attn_v",
        Linear::Output => "attn_output",
        Linear::Gate => "ffn_gate",
        Linear::Up => "ffn_up",
        Linear::Down => "ffn_down",
    };
    format!("blk.{layer_idx}.{part}.weight")
}

/// The layer and linear that a tensor's name stands for.
fn parse_name(name: &str) -> Option<(usize, Linear)> {
    let (model_tensor, half) = name.rsplit_once(".lora_")?;
    let layer_idx = model_tensor.strip_prefix("blk.")?.split_once('.')?.0.parse().ok()?;
    let is_it = |linear: &Linear| gguf_name(layer_idx, *linear) == model_tensor;
    let linear = Linear::ALL.into_iter().find(is_it)?;
    matches!(half, "a" | "b").then_some((layer_idx, linear))
}

fn read_gguf(path: &Path, gguf: &Gguf) -> Result<Adapter, AdapterError> {
    let failed =
        |source: GgufError| AdapterError::Gguf { file: path.into(), source: Box::new(source) };
    let metadata = gguf.metadata();
    for (key, expected) in [("general.type", "adapter"), ("adapter.type", "lora")] {
        let found = metadata.optional_string(key).map_err(failed)?;
        if found != Some(expected) {
            let found = found.map_or_else(|| "missing".to_owned(), |text| format!("`{text}`"));
            return Err(AdapterError::Header { file: path.into(), key, found, expected });
        }
    }
    let alpha = metadata.f32("adapter.lora.alpha").map_err(failed)?;

    let mut pairs: Vec<(usize, Linear, LowRank, usize)> = Vec::new();
    for info in gguf.tensors() {
        let unknown =
            || AdapterError::UnknownTensor { file: path.into(), tensor: info.name.clone() };
        let (layer_idx, linear) = parse_name(&info.name).ok_or_else(unknown)?;
        // Each layer has several tensors, so a file cannot make us ask for more layers than those.
        if layer_idx >= gguf.tensors().len() {
            return Err(unknown());
        }
        if pairs.iter().any(|pair| (pair.0, pair.1) == (layer_idx, linear)) {
            continue;
        }
        let (pair, rank) = read_pair(path, gguf, &gguf_name(layer_idx, linear))?;
        pairs.push((layer_idx, linear, pair, rank));
    }
    let rank = pairs.iter().map(|pair| pair.3).max().unwrap_or(1);
    let n_layers = pairs.iter().map(|pair| pair.0 + 1).max().unwrap_or(0);
    let empty = || AdapterLayer { router: None, linears: [const { None }; 7] };
    let mut layers: Vec<AdapterLayer> = std::iter::repeat_with(empty).take(n_layers).collect();
    // As in llama.cpp: the scale is alpha over each tensor's own rank, or 1 if alpha is 0.
    let has_alpha = alpha != 0.0;
    for (layer_idx, linear, pair, own_rank) in pairs {
        let factor = if has_alpha { rank as f32 / own_rank as f32 } else { 1.0 };
        let pair = widened(pair, (own_rank, rank), factor);
        layers[layer_idx].linears[linear as usize] = Some(pair);
    }
    let alpha = if has_alpha { alpha } else { rank as f32 };
    Ok(Adapter { rank, alpha, routing: None, base_sha256: None, layers })
}

/// Both halves of what is added to a tensor, and their rank.
fn read_pair(
    path: &Path,
    gguf: &Gguf,
    model_tensor: &str,
) -> Result<(LowRank, usize), AdapterError> {
    let read = |half: char| {
        let name = format!("{model_tensor}.lora_{half}");
        let file = PathBuf::from(path);
        let Some(info) = gguf.find(&name) else {
            return Err(AdapterError::MissingTensor { file, tensor: name });
        };
        let shape: Vec<usize> = info.dims.iter().map(|n| *n as usize).collect();
        let &[n_cols, n_rows] = &shape[..] else {
            let expected = "two dimensions".to_owned();
            return Err(AdapterError::TensorShape { file, tensor: name, found: shape, expected });
        };
        let tensor = gguf.tensor(&name).map_err(|source| AdapterError::Gguf {
            file: file.clone(),
            source: Box::new(source),
        })?;
        let mut values = vec![0.0; n_rows * n_cols];
        let rows = tensor.bytes.chunks_exact(tensor.bytes.len() / n_rows);
        for (row, values) in rows.zip(values.chunks_exact_mut(n_cols)) {
            dequantize_row(info.block_type, row, values);
        }
        if values.iter().any(|value| !value.is_finite()) {
            return Err(AdapterError::NotFinite { file, tensor: name });
        }
        Ok((n_rows, n_cols, values))
    };
    let (rank, n_in, a) = read('a')?;
    let (n_out, found_rank, b) = read('b')?;
    if found_rank != rank {
        return Err(AdapterError::TensorShape {
            file: path.into(),
            tensor: format!("{model_tensor}.lora_b"),
            found: vec![found_rank, n_out],
            expected: format!("[{rank}, out]"),
        });
    }
    Ok((LowRank { n_in, n_out, a, b }, rank))
}

/// An addition with a greater rank, by zeros, and `B` times a factor.
fn widened(pair: LowRank, (from, to): (usize, usize), factor: f32) -> LowRank {
    if from == to {
        return pair;
    }
    let LowRank { n_in, n_out, mut a, b } = pair;
    a.resize(to * n_in, 0.0);
    let row = |row: &[f32]| {
        let mut row: Vec<f32> = row.iter().map(|value| value * factor).collect();
        row.resize(to, 0.0);
        row
    };
    LowRank { n_in, n_out, a, b: b.chunks_exact(from).flat_map(row).collect() }
}
