//! Writes a model again with its weights in another block type.
//!
//! # Which tensor gets which type
//! - Weight matrices (two dimensions or more, name ending in `.weight`) get the target type.
//! - Everything else is copied byte for byte: norms and biases are small and steer everything, and
//!   so do the routers of mixtures (`ffn_gate_inp`), where a wrong turn costs a whole expert.
//! - The embedding and the output matrix (`token_embd.weight`, `output.weight`) are every token's
//!   first and last step, and with tied embeddings the same tensor: for a target of fewer than eight
//!   bits they get Q6_K.
//! - A row that is not a whole number of the type's blocks gets the next type that fits, never one
//!   that loses more: Q8_0 for rows of a multiple of 32, or else F16. K types need a multiple of
//!   256: a model of width 576 is better served by Q4_1 than by Q4_K, most of which would be Q8_0.
//!
//! An adapter can be merged on the way: its sums are part of the weights before they are written.
//!
//! What is not here: importance matrices, and mixes that give some layers more bits.
//!
//! Start reading at [`quantize_file`].

use std::io::Write;

use rapport_kernels::blocks::{BlockType, dequantize_row};
use rapport_kernels::quantize::{QuantizeError, WRITABLE, quantize_row};

use crate::adapter::AdapterError;
use crate::adapter_file::AdapterFile;
use crate::architecture::Architecture;
use crate::error::LoadError;
use crate::gguf::{Gguf, GgufError, GgufPlan, GgufWriteError, Tensor, TensorInfo, Value};
use crate::merge::{Addition, Merge};

const FILE_TYPE_KEY: &str = "general.file_type";
const MERGED_ADAPTER_KEY: &str = "rapport.merged_adapter.sha256";
const QUANTIZATION_VERSION_KEY: &str = "general.quantization_version";

/// The version of ggml's block layouts that [`rapport_kernels::blocks`] describes.
const QUANTIZATION_VERSION: u32 = 2;

/// Why a model cannot be quantised. What was written before the error is not a model.
#[derive(Debug, thiserror::Error)]
pub enum QuantizeFileError {
    #[error("no model can be written as {target}: choose {}", writable_types())]
    UnsupportedTarget { target: BlockType },
    #[error(transparent)]
    Source(#[from] GgufError),
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// The shape of a model that an adapter is to be merged into.
    #[error(transparent)]
    Architecture(#[from] LoadError),
    #[error(transparent)]
    Write(#[from] GgufWriteError),
    #[error("row {row} of tensor `{tensor}`: {problem}")]
    Weights {
        tensor: String,
        row: usize,
        #[source]
        problem: QuantizeError,
    },
}

fn writable_types() -> String {
    WRITABLE.map(BlockType::name).join(", ")
}

/// A tensor that was written.
#[derive(Clone, Debug, PartialEq)]
pub struct WrittenTensor<'a> {
    pub source: &'a TensorInfo,
    pub block_type: BlockType,
    pub n_bytes: u64,
    /// Root of the mean squared difference from what was to be written; 0 for a tensor that was copied.
    pub root_mean_square_error: f64,
}

/// How far [`quantize_file`] is.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress<'a> {
    /// The tensor that was just written.
    pub written: WrittenTensor<'a>,
    /// With this one.
    pub n_written: usize,
    pub n_tensors: usize,
}

/// What a quantised model came to. Bytes are of tensors, without the header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub n_tensors: usize,
    /// Tensors in another block type than before, or with other weights.
    pub n_converted: usize,
    pub source_bytes: u64,
    pub written_bytes: u64,
}

/// Writes `source` to `out` with its weight matrices as `target`, and tells `progress` of each
/// tensor. The module's header says which tensor gets which type.
///
/// Metadata is kept, except for `general.file_type` and `general.quantization_version`, which say
/// what the new file is. Quantising a model that is quantised already loses twice: start from F32,
/// F16 or BF16 where there is one.
///
/// What `adapter` adds becomes part of the weights, and `rapport.merged_adapter.sha256` of the metadata
/// names it.
///
/// # Errors
/// See [`QuantizeFileError`].
pub fn quantize_file(
    source: &Gguf,
    target: BlockType,
    adapter: Option<&AdapterFile>,
    out: impl Write,
    mut progress: impl FnMut(&Progress<'_>),
) -> Result<Report, QuantizeFileError> {
    let file_type = file_type(target).ok_or(QuantizeFileError::UnsupportedTarget { target })?;
    let merge = match adapter {
        Some(file) => Some(Merge::new(source, &Architecture::read(source)?, file)?),
        None => None,
    };
    let plan = plan(source, target, file_type, adapter)?;
    let mut writer = plan.begin(out)?;

    let mut report = Report { n_tensors: source.tensors().len(), ..Report::default() };
    for (tensor_idx, info) in source.tensors().iter().enumerate() {
        let tensor = source.tensor(&info.name)?;
        let block_type = block_type_for(info, target);
        let addition = merge.as_ref().and_then(|merge| merge.of_tensor(&info.name));
        let is_copied = block_type == info.block_type && addition.is_none();
        let (n_bytes, root_mean_square_error) = if is_copied {
            writer.tensor(tensor.bytes)?;
            (info.n_bytes, 0.0)
        } else {
            let converted = convert(tensor, block_type, addition)?;
            writer.tensor(&converted.bytes)?;
            report.n_converted += 1;
            (converted.bytes.len() as u64, converted.root_mean_square_error)
        };
        report.source_bytes += info.n_bytes;
        report.written_bytes += n_bytes;
        let written = WrittenTensor { source: info, block_type, n_bytes, root_mean_square_error };
        let (n_written, n_tensors) = (tensor_idx + 1, report.n_tensors);
        progress(&Progress { written, n_written, n_tensors });
    }
    writer.finish()?;
    Ok(report)
}

/// `general.file_type` of a model whose weights are mostly of this type, after llama.cpp's list.
fn file_type(target: BlockType) -> Option<u32> {
    Some(match target {
        BlockType::F32 => 0,
        BlockType::F16 => 1,
        BlockType::Q4_0 => 2,
        BlockType::Q4_1 => 3,
        BlockType::Q8_0 => 7,
        // "Q4_K_S": no layer with more bits than the others.
        BlockType::Q4K => 14,
        BlockType::Q6K => 18,
        BlockType::BF16 => 32,
        BlockType::Q5_0 | BlockType::Q5_1 | BlockType::Q2K | BlockType::Q3K | BlockType::Q5K => {
            return None;
        }
    })
}

fn plan(
    source: &Gguf,
    target: BlockType,
    file_type: u32,
    adapter: Option<&AdapterFile>,
) -> Result<GgufPlan, GgufWriteError> {
    let mut plan = GgufPlan::new();
    let new_values = [(FILE_TYPE_KEY, file_type), (QUANTIZATION_VERSION_KEY, QUANTIZATION_VERSION)];
    for (key, value) in source.metadata().iter() {
        if adapter.is_some() && key == MERGED_ADAPTER_KEY {
            continue;
        }
        let new_value = new_values.into_iter().find(|(new_key, _)| *new_key == key);
        plan.value(key, new_value.map_or(value, |(_, new_value)| Value::U32(new_value)))?;
    }
    for (key, new_value) in new_values {
        if source.metadata().get(key).is_none() {
            plan.value(key, Value::U32(new_value))?;
        }
    }
    if let Some(file) = adapter {
        plan.string(MERGED_ADAPTER_KEY, &file.sha256_text())?;
    }
    for info in source.tensors() {
        plan.tensor(&info.name, &info.dims, block_type_for(info, target))?;
    }
    Ok(plan)
}

/// The type a tensor gets in a file quantised to `target`.
pub fn block_type_for(info: &TensorInfo, target: BlockType) -> BlockType {
    let is_weight_matrix = info.dims.len() > 1 && info.name.ends_with(".weight");
    let is_router = info.name.contains("ffn_gate_inp");
    if !is_weight_matrix || is_router {
        return info.block_type;
    }
    let is_first_or_last = info.name == "token_embd.weight" || info.name == "output.weight";
    let is_under_eight_bits = target.is_quantized() && target != BlockType::Q8_0;
    let wanted = if is_first_or_last && is_under_eight_bits { BlockType::Q6K } else { target };
    let fits =
        |block_type: &BlockType| info.row_len().is_multiple_of(block_type.block_len() as u64);
    [wanted, BlockType::Q8_0].into_iter().find(fits).unwrap_or(BlockType::F16)
}

struct Converted {
    bytes: Vec<u8>,
    root_mean_square_error: f64,
}

fn convert(
    tensor: Tensor<'_>,
    block_type: BlockType,
    addition: Option<&Addition<'_>>,
) -> Result<Converted, QuantizeFileError> {
    let info = tensor.info;
    // The tensor is in memory, so its dimensions fit in a usize.
    let n_cols = info.row_len() as usize;
    let row_bytes = tensor.bytes.len() / info.n_rows() as usize;
    let mut bytes = Vec::new();
    let mut weights = vec![0.0; n_cols];
    let mut decoded = vec![0.0; n_cols];
    let mut squares = 0.0;
    let added = addition.map(Addition::rows);
    for (row_idx, row) in tensor.bytes.chunks_exact(row_bytes).enumerate() {
        dequantize_row(info.block_type, row, &mut weights);
        if let Some((addition, rows)) = addition.zip(added.as_ref()) {
            addition.add(rows[row_idx], &mut weights);
        }
        let start_bytes = bytes.len();
        quantize_row(block_type, &weights, &mut bytes).map_err(|problem| {
            QuantizeFileError::Weights { tensor: info.name.clone(), row: row_idx, problem }
        })?;
        dequantize_row(block_type, &bytes[start_bytes..], &mut decoded);
        squares += squared_difference(&weights, &decoded);
    }
    let root_mean_square_error = (squares / info.n_weights() as f64).sqrt();
    Ok(Converted { bytes, root_mean_square_error })
}

fn squared_difference(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum()
}
