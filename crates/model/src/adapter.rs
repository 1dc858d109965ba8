//! Adapters: what training adds to a frozen model, as files.
//!
//! Two forms. **Dense** is LoRA (Hu et al. 2021) in the layout of Hugging Face's `peft`: a folder
//! with `adapter_config.json` and `adapter_model.safetensors`. **Routed** makes a mixture of the
//! model: every layer has several low-rank experts and a router, in one file,
//! `adapter.safetensors`, described at [`Adapter::save`].
//!
//! For every linear of a layer, with `x` its input:
//!
//! ```text
//! y = W x + (alpha / rank) * sum_e g_e B_e (A_e x)
//! ```
//!
//! A dense adapter has one expert and `g = 1`. A routed one has, per layer, scores
//! `s = sigmoid(R n)` of the block's normalised attention input `n`; the `top_k` experts with the
//! greatest `s + bias` are chosen (ties go to the lower index) and `g_e = s_e / sum of the chosen s`.
//! The bias only chooses: it balances the experts without a loss of its own (DeepSeek-V3,
//! arXiv 2412.19437). All linears of a layer share the routes.
//!
//! # Order of rows
//! Files are in the order of Hugging Face checkpoints: the rows of `q` and `k` are not permuted. A
//! GGUF file of the `llama` architecture has those rows permuted so that rotary pairs are neighbours;
//! **whoever applies an adapter to weights in a GGUF's order permutes `lora_b` of `q` and `k`**:
//! [`neighbour_row`] says where a row goes.
//!
//! What is not here: llama.cpp's form ([`crate::AdapterFile`] reads all three), applying an adapter
//! ([`crate::PackedAdapter`]), making one (`rapport-train`).

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use rapport_kernels::PackError;
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::gguf::GgufError;
use crate::sampling_advice::AdviceError;

/// The name of a routed adapter's file in its folder.
pub const ROUTED_FILE: &str = "adapter.safetensors";
/// What the header of a routed adapter's file says under `format`.
pub const ROUTED_FORMAT: &str = "rapport-routed-lora";
/// The version of the routed form that is written; others are refused.
pub const ROUTED_VERSION: &str = "1";

pub const DENSE_WEIGHTS: &str = "adapter_model.safetensors";
pub(crate) const DENSE_CONFIG: &str = "adapter_config.json";

/// A linear of a layer that an adapter adds to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Linear {
    Query,
    Key,
    Value,
    Output,
    Gate,
    Up,
    Down,
}

impl Linear {
    /// In the order of [`AdapterLayer::linears`].
    pub const ALL: [Self; 7] =
        [Self::Query, Self::Key, Self::Value, Self::Output, Self::Gate, Self::Up, Self::Down];

    /// The name in a routed adapter: `q`.
    pub fn short_name(self) -> &'static str {
        ["q", "k", "v", "o", "gate", "up", "down"][self as usize]
    }

    /// The name in `peft`: `q_proj`.
    pub fn projection(self) -> &'static str {
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"][self as usize]
    }

    fn peft_module(self) -> &'static str {
        match self {
            Self::Query | Self::Key | Self::Value | Self::Output => "self_attn",
            Self::Gate | Self::Up | Self::Down => "mlp",
        }
    }
}

/// Where the row of a query's or key's projection lies in a GGUF file of the `llama` architecture,
/// given where it lies in a Hugging Face checkpoint.
pub fn neighbour_row(row: usize, head_dim: usize) -> usize {
    let (head, within) = (row / head_dim, row % head_dim);
    let (half, pair) = (within / (head_dim / 2), within % (head_dim / 2));
    head * head_dim + 2 * pair + half
}

/// A trained addition to a model, all numbers in f32.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// r
    pub rank: usize,
    pub alpha: f32,
    /// What a token's experts are chosen by; `None` for the dense form.
    pub routing: Option<Routing>,
    /// SHA-256 of the model file it was trained on, in hexadecimal, if known.
    pub base_sha256: Option<String>,
    pub layers: Vec<AdapterLayer>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Routing {
    /// E
    pub n_experts: usize,
    pub top_k: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub struct AdapterLayer {
    /// There in every layer of a routed adapter, in none of a dense one.
    pub router: Option<ExpertRouter>,
    /// By [`Linear::ALL`]; `None` where the adapter adds nothing.
    pub linears: [Option<LowRank>; 7],
}

#[derive(Clone, Debug, PartialEq)]
pub struct ExpertRouter {
    /// (E, C)
    pub weight: Vec<f32>,
    /// (E); added to scores to choose, and for nothing else.
    pub bias: Vec<f32>,
}

/// What is added to one linear.
#[derive(Clone, Debug, PartialEq)]
pub struct LowRank {
    pub n_in: usize,
    pub n_out: usize,
    /// (E, r, in)
    pub a: Vec<f32>,
    /// (E, out, r)
    pub b: Vec<f32>,
}

/// How the numbers of a routed adapter are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    F32,
    F16,
    Bf16,
}

/// What a model must have for an adapter to fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BaseShape {
    pub n_layers: usize,
    /// C
    pub hidden: usize,
    /// H * D
    pub heads: usize,
    /// G * D
    pub kv_heads: usize,
    /// F
    pub feed_forward: usize,
}

impl BaseShape {
    /// Numbers into and out of a linear.
    pub fn in_out(&self, linear: Linear) -> (usize, usize) {
        match linear {
            Linear::Query => (self.hidden, self.heads),
            Linear::Key | Linear::Value => (self.hidden, self.kv_heads),
            Linear::Output => (self.heads, self.hidden),
            Linear::Gate | Linear::Up => (self.hidden, self.feed_forward),
            Linear::Down => (self.feed_forward, self.hidden),
        }
    }
}

/// Why an adapter cannot be read, written or used.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    #[error("{}: {source}", file.display())]
    Io { file: PathBuf, source: io::Error },
    #[error("{}: not a whole safetensors file: {source}", file.display())]
    Container { file: PathBuf, source: SafeTensorError },
    #[error("{}: {source}", file.display())]
    Config { file: PathBuf, source: serde_json::Error },
    #[error("{}: `{key}` is {found}, expected {expected}", file.display())]
    Header { file: PathBuf, key: &'static str, found: String, expected: &'static str },
    #[error("{}: tensor `{tensor}` is missing", file.display())]
    MissingTensor { file: PathBuf, tensor: String },
    #[error("{}: tensor `{tensor}` belongs to no linear that an adapter can have", file.display())]
    UnknownTensor { file: PathBuf, tensor: String },
    #[error("{}: tensor `{tensor}` has the shape {found:?}, expected {expected}", file.display())]
    TensorShape { file: PathBuf, tensor: String, found: Vec<usize>, expected: String },
    #[error("{}: tensor `{tensor}` is {found:?}, expected F32, F16 or BF16", file.display())]
    TensorType { file: PathBuf, tensor: String, found: Dtype },
    #[error("{}: tensor `{tensor}` holds a number that is not finite", file.display())]
    NotFinite { file: PathBuf, tensor: String },
    #[error("the adapter has {found} layers and the model {expected}: it belongs to another model")]
    LayerCount { found: usize, expected: usize },
    #[error(
        "layer {layer_idx}: the adapter's `{linear}` takes {found:?} numbers in and out, the \
         model's {expected:?}: it belongs to another model"
    )]
    LinearShape {
        layer_idx: usize,
        linear: &'static str,
        found: (usize, usize),
        expected: (usize, usize),
    },
    #[error(
        "layer {layer_idx}: the adapter's router reads {found} numbers, the model has {expected}"
    )]
    RouterShape { layer_idx: usize, found: usize, expected: usize },
    #[error(
        "{}: tensor `{tensor}` has the shape {found:?}, where this model needs {expected:?}: the \
         adapter belongs to another model",
        file.display()
    )]
    OtherModel { file: PathBuf, tensor: String, found: Vec<usize>, expected: Vec<usize> },
    #[error(
        "{}: tensor `{tensor}` adds to a layer that this model does not have: the adapter belongs \
         to another model",
        file.display()
    )]
    NoSuchLayer { file: PathBuf, tensor: String },
    #[error(transparent)]
    Advice(#[from] AdviceError),
    #[error("{}: {source}", file.display())]
    Gguf { file: PathBuf, source: Box<GgufError> },
    #[error("{}: tensor `{tensor}`: {source}", file.display())]
    Pack { file: PathBuf, tensor: String, source: PackError },
    #[error(
        "{}: which of its experts add to a token is chosen by the token, so they cannot become part \
         of the weights: apply the adapter live instead",
        file.display()
    )]
    Routed { file: PathBuf },
    #[error(
        "{}: was trained on a model file with the SHA-256 {expected}, and {} has {found}: use that \
         file, or say that any will do (--any-base)",
        file.display(),
        model.display()
    )]
    OtherBase { file: PathBuf, model: PathBuf, found: String, expected: String },
    #[error("a routed adapter has no form in peft's layout: save it as {ROUTED_FILE}")]
    NotDense,
}

impl Adapter {
    /// E; 1 for a dense adapter.
    pub fn n_experts(&self) -> usize {
        self.routing.map_or(1, |routing| routing.n_experts)
    }

    /// What products are multiplied by.
    pub fn scale(&self) -> f32 {
        self.alpha / self.rank as f32
    }

    /// Checks that the adapter fits a model.
    ///
    /// # Errors
    /// [`AdapterError::LayerCount`], [`AdapterError::LinearShape`] or [`AdapterError::RouterShape`].
    pub fn check_fits(&self, base: &BaseShape) -> Result<(), AdapterError> {
        if self.layers.len() != base.n_layers {
            return Err(AdapterError::LayerCount {
                found: self.layers.len(),
                expected: base.n_layers,
            });
        }
        for (layer_idx, layer) in self.layers.iter().enumerate() {
            if let Some(router) = &layer.router {
                let found = router.weight.len() / router.bias.len();
                if found != base.hidden {
                    let expected = base.hidden;
                    return Err(AdapterError::RouterShape { layer_idx, found, expected });
                }
            }
            for (linear, pair) in Linear::ALL.into_iter().zip(&layer.linears) {
                let Some(pair) = pair else { continue };
                let (found, expected) = ((pair.n_in, pair.n_out), base.in_out(linear));
                if found != expected {
                    let linear = linear.projection();
                    return Err(AdapterError::LinearShape { layer_idx, linear, found, expected });
                }
            }
        }
        Ok(())
    }

    /// Reads an adapter: a routed file, a folder with one, or a folder in `peft`'s layout.
    ///
    /// # Errors
    /// The file cannot be read, is damaged, or is not an adapter of a known form.
    pub fn load(path: &Path) -> Result<Self, AdapterError> {
        if !path.is_dir() {
            return load_routed(path);
        }
        let routed = path.join(ROUTED_FILE);
        if routed.is_file() { load_routed(&routed) } else { load_dense(path) }
    }

    /// Writes an adapter into a folder: `adapter.safetensors` for a routed one (numbers stored as
    /// `storage`), `peft`'s two files for a dense one (always f32).
    ///
    /// The routed file's tensors are, for each layer `i`, `layers.{i}.router.weight` (E, C) and
    /// `layers.{i}.router.bias` (E), and for each linear of `q k v o gate up down`
    /// `layers.{i}.{linear}.lora_a` (E, r, in) and `layers.{i}.{linear}.lora_b` (E, out, r). Its
    /// header's metadata says `format`, `version`, `n_experts`, `top_k`, `rank`, `alpha`,
    /// `base_sha256` (may be missing). A router's bias is always f32.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn save(&self, folder: &Path, storage: Storage) -> Result<(), AdapterError> {
        fs::create_dir_all(folder)
            .map_err(|source| AdapterError::Io { file: folder.into(), source })?;
        match self.routing {
            Some(routing) => {
                let metadata = self.routed_metadata(routing);
                write_tensors(&folder.join(ROUTED_FILE), &self.routed_tensors(storage), metadata)
            }
            None => self.save_dense(folder),
        }
    }

    fn routed_metadata(&self, routing: Routing) -> HashMap<String, String> {
        let mut metadata = HashMap::from([
            ("format".to_owned(), ROUTED_FORMAT.to_owned()),
            ("version".to_owned(), ROUTED_VERSION.to_owned()),
            ("n_experts".to_owned(), routing.n_experts.to_string()),
            ("top_k".to_owned(), routing.top_k.to_string()),
            ("rank".to_owned(), self.rank.to_string()),
            ("alpha".to_owned(), self.alpha.to_string()),
        ]);
        if let Some(hash) = &self.base_sha256 {
            metadata.insert("base_sha256".to_owned(), hash.clone());
        }
        metadata
    }

    fn routed_tensors(&self, storage: Storage) -> Vec<StoredTensor> {
        let mut tensors = Vec::new();
        let n_experts = self.n_experts();
        for (layer_idx, layer) in self.layers.iter().enumerate() {
            let name = |part: &str| format!("layers.{layer_idx}.{part}");
            if let Some(router) = &layer.router {
                let shape = vec![n_experts, router.weight.len() / n_experts];
                tensors.push(StoredTensor::new(
                    name("router.weight"),
                    shape,
                    &router.weight,
                    storage,
                ));
                let bias = &router.bias;
                tensors.push(StoredTensor::new(
                    name("router.bias"),
                    vec![n_experts],
                    bias,
                    Storage::F32,
                ));
            }
            for (linear, pair) in Linear::ALL.into_iter().zip(&layer.linears) {
                let Some(pair) = pair else { continue };
                let part = |half: &str| name(&format!("{}.{half}", linear.short_name()));
                let a_shape = vec![n_experts, self.rank, pair.n_in];
                let b_shape = vec![n_experts, pair.n_out, self.rank];
                tensors.push(StoredTensor::new(part("lora_a"), a_shape, &pair.a, storage));
                tensors.push(StoredTensor::new(part("lora_b"), b_shape, &pair.b, storage));
            }
        }
        tensors
    }

    /// Writes a dense adapter as `peft` reads it.
    fn save_dense(&self, folder: &Path) -> Result<(), AdapterError> {
        let mut tensors = Vec::new();
        let mut targets = Vec::new();
        for linear in Linear::ALL {
            for (layer_idx, layer) in self.layers.iter().enumerate() {
                let Some(pair) = &layer.linears[linear as usize] else { continue };
                if !targets.contains(&linear.projection()) {
                    targets.push(linear.projection());
                }
                let name = |half| dense_name(layer_idx, linear, half);
                let (a_shape, b_shape) = (vec![self.rank, pair.n_in], vec![pair.n_out, self.rank]);
                tensors.push(StoredTensor::new(name('A'), a_shape, &pair.a, Storage::F32));
                tensors.push(StoredTensor::new(name('B'), b_shape, &pair.b, Storage::F32));
            }
        }
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        write_tensors(&folder.join(DENSE_WEIGHTS), &tensors, metadata)?;
        let config = DenseConfig {
            peft_type: "LORA".to_owned(),
            task_type: Some("CAUSAL_LM".to_owned()),
            r: self.rank,
            lora_alpha: self.alpha,
            target_modules: targets.into_iter().map(str::to_owned).collect(),
            base_model_name_or_path: None,
            bias: "none".to_owned(),
            lora_dropout: 0.0,
            fan_in_fan_out: false,
            inference_mode: true,
            use_rslora: false,
            use_dora: false,
            rank_pattern: serde_json::Map::new(),
            alpha_pattern: serde_json::Map::new(),
            rapport_base_sha256: self.base_sha256.clone(),
        };
        let file = folder.join(DENSE_CONFIG);
        let text = serde_json::to_string_pretty(&config)
            .map_err(|source| AdapterError::Config { file: file.clone(), source })?;
        fs::write(&file, text + "\n").map_err(|source| AdapterError::Io { file, source })
    }
}

/// What of `peft`'s configuration counts, and what it insists on.
#[derive(Debug, Deserialize, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "the file's own form")]
struct DenseConfig {
    peft_type: String,
    #[serde(default)]
    task_type: Option<String>,
    r: usize,
    lora_alpha: f32,
    #[serde(default)]
    target_modules: Vec<String>,
    #[serde(default)]
    base_model_name_or_path: Option<String>,
    #[serde(default = "no_bias")]
    bias: String,
    #[serde(default)]
    lora_dropout: f32,
    #[serde(default)]
    fan_in_fan_out: bool,
    #[serde(default)]
    inference_mode: bool,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    /// Ranks and alphas of their own for some linears.
    #[serde(default)]
    rank_pattern: serde_json::Map<String, serde_json::Value>,
    #[serde(default)]
    alpha_pattern: serde_json::Map<String, serde_json::Value>,
    /// Ours; `peft` keeps what it does not know out of the way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rapport_base_sha256: Option<String>,
}

fn no_bias() -> String {
    "none".to_owned()
}

pub(crate) fn dense_name(layer_idx: usize, linear: Linear, half: char) -> String {
    format!(
        "base_model.model.model.layers.{layer_idx}.{}.{}.lora_{half}.weight",
        linear.peft_module(),
        linear.projection()
    )
}

/// The layer, linear and half that a name of `peft`'s layout stands for.
fn parse_dense_name(name: &str) -> Option<(usize, Linear, char)> {
    let rest = name.strip_prefix("base_model.model.model.layers.")?;
    let (layer_idx, rest) = rest.split_once('.')?;
    let rest = rest.strip_suffix(".weight")?;
    let (module, half) = rest.split_once(".lora_")?;
    let linear = Linear::ALL.into_iter().find(|linear| {
        module.split_once('.') == Some((linear.peft_module(), linear.projection()))
    })?;
    let half = half.chars().next().filter(|_| half.len() == 1)?;
    Some((layer_idx.parse().ok()?, linear, half))
}

/// A tensor on its way into a file.
struct StoredTensor {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl StoredTensor {
    fn new(name: String, shape: Vec<usize>, values: &[f32], storage: Storage) -> Self {
        let (dtype, bytes) = match storage {
            Storage::F32 => (Dtype::F32, values.iter().flat_map(|x| x.to_le_bytes()).collect()),
            Storage::F16 => {
                let bytes = values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes());
                (Dtype::F16, bytes.collect())
            }
            Storage::Bf16 => {
                let bytes = values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes());
                (Dtype::BF16, bytes.collect())
            }
        };
        Self { name, dtype, shape, bytes }
    }
}

/// Writes beside the file and renames, so that a reader never sees half of it.
///
/// The same tensors always give the same bytes, so that a training can be checked by a hash: the
/// `safetensors` crate writes metadata in an order that changes from run to run, hence by hand.
fn write_tensors(
    file: &Path,
    tensors: &[StoredTensor],
    metadata: HashMap<String, String>,
) -> Result<(), AdapterError> {
    let mut ordered: Vec<&StoredTensor> = tensors.iter().collect();
    // Wide numbers first: every tensor then starts at a multiple of its numbers' size.
    ordered.sort_by_key(|tensor| (Reverse(tensor.dtype.bitsize()), tensor.name.as_str()));
    let mut entries = serde_json::Map::new();
    let metadata: BTreeMap<String, String> = metadata.into_iter().collect();
    entries.insert("__metadata__".to_owned(), json!(metadata));
    let mut end = 0;
    for tensor in &ordered {
        let start = end;
        end += tensor.bytes.len();
        let entry =
            json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, end]});
        entries.insert(tensor.name.clone(), entry);
    }
    let mut header = serde_json::Value::Object(entries).to_string().into_bytes();
    // The numbers start at a multiple of eight bytes.
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.reserve(header.len() + end);
    bytes.extend(header);
    for tensor in ordered {
        bytes.extend_from_slice(&tensor.bytes);
    }
    let part = file.with_extension("part");
    let written = fs::write(&part, bytes).and_then(|()| fs::rename(&part, file));
    written.map_err(|source| AdapterError::Io { file: file.into(), source })
}

/// An open safetensors file.
struct TensorFile<'a> {
    file: &'a Path,
    tensors: SafeTensors<'a>,
}

impl TensorFile<'_> {
    /// A tensor's shape and finite numbers.
    fn read(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>), AdapterError> {
        let (file, tensor) = (|| self.file.to_path_buf(), || name.to_owned());
        let view = self
            .tensors
            .tensor(name)
            .map_err(|_| AdapterError::MissingTensor { file: file(), tensor: tensor() })?;
        let bytes = view.data();
        let values: Vec<f32> = match view.dtype() {
            Dtype::F32 => bytes.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect(),
            Dtype::F16 => {
                bytes.as_chunks().0.iter().map(|x| f16::from_le_bytes(*x).to_f32()).collect()
            }
            Dtype::BF16 => {
                bytes.as_chunks().0.iter().map(|x| bf16::from_le_bytes(*x).to_f32()).collect()
            }
            found => {
                return Err(AdapterError::TensorType { file: file(), tensor: tensor(), found });
            }
        };
        if values.iter().any(|value| !value.is_finite()) {
            return Err(AdapterError::NotFinite { file: file(), tensor: tensor() });
        }
        Ok((view.shape().to_vec(), values))
    }

    fn shape_error(&self, tensor: String, found: Vec<usize>, expected: String) -> AdapterError {
        AdapterError::TensorShape { file: self.file.to_path_buf(), tensor, found, expected }
    }

    /// Both halves of a linear's addition; `experts` is the leading dimension, if there is one.
    fn low_rank(
        &self,
        (a_name, b_name): (String, String),
        experts: Option<usize>,
        rank: usize,
    ) -> Result<LowRank, AdapterError> {
        let (a_shape, a) = self.read(&a_name)?;
        let (b_shape, b) = self.read(&b_name)?;
        let inner = |shape: &[usize]| match (experts, shape) {
            (Some(experts), &[found, rows, cols]) if found == experts => Some([rows, cols]),
            (None, &[rows, cols]) => Some([rows, cols]),
            _ => None,
        };
        let lead = experts.map_or(String::new(), |experts| format!("{experts}, "));
        let n_in = match inner(&a_shape) {
            Some([found, n_in]) if found == rank && n_in > 0 => n_in,
            _ => return Err(self.shape_error(a_name, a_shape, format!("[{lead}{rank}, in]"))),
        };
        let n_out = match inner(&b_shape) {
            Some([n_out, found]) if found == rank && n_out > 0 => n_out,
            _ => return Err(self.shape_error(b_name, b_shape, format!("[{lead}out, {rank}]"))),
        };
        Ok(LowRank { n_in, n_out, a, b })
    }
}

pub(crate) fn read_file(file: &Path) -> Result<Vec<u8>, AdapterError> {
    fs::read(file).map_err(|source| AdapterError::Io { file: file.into(), source })
}

fn load_routed(file: &Path) -> Result<Adapter, AdapterError> {
    parse_routed(file, &read_file(file)?)
}

/// Reads a routed adapter that is in memory; errors call it `file`.
pub(crate) fn parse_routed(file: &Path, bytes: &[u8]) -> Result<Adapter, AdapterError> {
    let container = |source| AdapterError::Container { file: file.into(), source };
    let tensors = SafeTensors::deserialize(bytes).map_err(container)?;
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(container)?;
    let metadata = header.metadata().clone().unwrap_or_default();
    let header_error = |key, expected| {
        let found = metadata.get(key).map_or_else(|| "missing".to_owned(), |x| format!("`{x}`"));
        AdapterError::Header { file: file.into(), key, found, expected }
    };
    let is = |key, expected: &str| metadata.get(key).is_some_and(|found| found == expected);
    if !is("format", ROUTED_FORMAT) {
        return Err(header_error("format", ROUTED_FORMAT));
    }
    if !is("version", ROUTED_VERSION) {
        return Err(header_error("version", ROUTED_VERSION));
    }
    let count = |key: &'static str| -> Result<usize, AdapterError> {
        let value = metadata.get(key).and_then(|text| text.parse().ok());
        value
            .filter(|value| (1..=1 << 16).contains(value))
            .ok_or_else(|| header_error(key, "a whole number above 0"))
    };
    let (n_experts, top_k, rank) = (count("n_experts")?, count("top_k")?, count("rank")?);
    if top_k > n_experts {
        return Err(header_error("top_k", "at most n_experts"));
    }
    let alpha = metadata.get("alpha").and_then(|text| text.parse::<f32>().ok());
    let alpha = alpha
        .filter(|alpha| alpha.is_finite())
        .ok_or_else(|| header_error("alpha", "a finite number"))?;

    let names: Vec<&str> = tensors.names();
    let unknown =
        |name: &str| AdapterError::UnknownTensor { file: file.into(), tensor: name.into() };
    let mut n_layers = 0;
    for name in &names {
        let (layer_idx, part) = name
            .strip_prefix("layers.")
            .and_then(|rest| rest.split_once('.'))
            .and_then(|(layer_idx, part)| Some((layer_idx.parse::<usize>().ok()?, part)))
            .ok_or_else(|| unknown(name))?;
        let is_linear = part.split_once('.').is_some_and(|(linear, half)| {
            matches!(half, "lora_a" | "lora_b")
                && Linear::ALL.iter().any(|known| known.short_name() == linear)
        });
        // Each layer has several tensors, so a file cannot make us ask for more layers than those.
        if (!is_linear && !matches!(part, "router.weight" | "router.bias"))
            || layer_idx >= names.len()
        {
            return Err(unknown(name));
        }
        n_layers = n_layers.max(layer_idx + 1);
    }
    let reader = TensorFile { file, tensors };
    let layers = (0..n_layers)
        .map(|layer_idx| {
            let name = |part: &str| format!("layers.{layer_idx}.{part}");
            let (shape, weight) = reader.read(&name("router.weight"))?;
            if shape.len() != 2 || shape[0] != n_experts || shape[1] == 0 {
                let expected = format!("[{n_experts}, hidden]");
                return Err(reader.shape_error(name("router.weight"), shape, expected));
            }
            let (shape, bias) = reader.read(&name("router.bias"))?;
            if shape != [n_experts] {
                return Err(reader.shape_error(
                    name("router.bias"),
                    shape,
                    format!("[{n_experts}]"),
                ));
            }
            let mut linears = [const { None }; 7];
            for linear in Linear::ALL {
                let half = |half: &str| name(&format!("{}.{half}", linear.short_name()));
                let halves = (half("lora_a"), half("lora_b"));
                if names_any(&reader, &halves) {
                    linears[linear as usize] =
                        Some(reader.low_rank(halves, Some(n_experts), rank)?);
                }
            }
            Ok(AdapterLayer { router: Some(ExpertRouter { weight, bias }), linears })
        })
        .collect::<Result<_, AdapterError>>()?;
    Ok(Adapter {
        rank,
        alpha,
        routing: Some(Routing { n_experts, top_k }),
        base_sha256: metadata.get("base_sha256").cloned(),
        layers,
    })
}

fn names_any(reader: &TensorFile<'_>, (a, b): &(String, String)) -> bool {
    reader.tensors.tensor(a).is_ok() || reader.tensors.tensor(b).is_ok()
}

fn load_dense(folder: &Path) -> Result<Adapter, AdapterError> {
    let config_file = folder.join(DENSE_CONFIG);
    let config: DenseConfig = serde_json::from_slice(&read_file(&config_file)?)
        .map_err(|source| AdapterError::Config { file: config_file.clone(), source })?;
    let config_error = |key, found: String, expected| {
        Err(AdapterError::Header { file: config_file.clone(), key, found, expected })
    };
    if config.peft_type != "LORA" {
        return config_error("peft_type", config.peft_type, "LORA");
    }
    if config.r == 0 || !config.lora_alpha.is_finite() {
        return config_error("r", config.r.to_string(), "above 0, with a finite lora_alpha");
    }
    if config.bias != "none" {
        return config_error("bias", config.bias, "none: trained biases are not supported");
    }
    if config.use_dora {
        return config_error("use_dora", "true".to_owned(), "false");
    }
    let patterns =
        [("rank_pattern", &config.rank_pattern), ("alpha_pattern", &config.alpha_pattern)];
    if let Some((key, pattern)) = patterns.into_iter().find(|(_, pattern)| !pattern.is_empty()) {
        let found = serde_json::Value::Object(pattern.clone()).to_string();
        return config_error(key, found, "{}: one rank and one alpha for all linears");
    }
    let file = folder.join(DENSE_WEIGHTS);
    let bytes = read_file(&file)?;
    let tensors = SafeTensors::deserialize(&bytes)
        .map_err(|source| AdapterError::Container { file: file.clone(), source })?;
    let names: Vec<String> = tensors.names().into_iter().map(str::to_owned).collect();
    let reader = TensorFile { file: &file, tensors };
    let mut layers: Vec<AdapterLayer> = Vec::new();
    for name in &names {
        let unknown = || AdapterError::UnknownTensor { file: file.clone(), tensor: name.clone() };
        let (layer_idx, linear, half) = parse_dense_name(name).ok_or_else(unknown)?;
        if layer_idx >= names.len() || !matches!(half, 'A' | 'B') {
            return Err(unknown());
        }
        if layers.len() <= layer_idx {
            let empty = AdapterLayer { router: None, linears: [const { None }; 7] };
            layers.resize(layer_idx + 1, empty);
        }
        let place = &mut layers[layer_idx].linears[linear as usize];
        if place.is_none() {
            let halves = (dense_name(layer_idx, linear, 'A'), dense_name(layer_idx, linear, 'B'));
            *place = Some(reader.low_rank(halves, None, config.r)?);
        }
    }
    // rsLoRA divides by the root of the rank; the same scale, said in the plain way.
    let alpha = if config.use_rslora {
        config.lora_alpha * (config.r as f32).sqrt()
    } else {
        config.lora_alpha
    };
    Ok(Adapter {
        rank: config.r,
        alpha,
        routing: None,
        base_sha256: config.rapport_base_sha256,
        layers,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: BaseShape =
        BaseShape { n_layers: 2, hidden: 6, heads: 8, kv_heads: 4, feed_forward: 10 };

    fn numbers(n: usize) -> Vec<f32> {
        // Exact in every storage.
        (0..n).map(|i| (i % 13) as f32 * 0.25 - 1.5).collect()
    }

    fn adapter(routing: Option<Routing>) -> Adapter {
        let n_experts = routing.map_or(1, |routing| routing.n_experts);
        let rank = 2;
        let layer = |layer_idx: usize| AdapterLayer {
            router: routing.map(|_| ExpertRouter {
                weight: numbers(n_experts * BASE.hidden),
                bias: vec![0.125 * layer_idx as f32; n_experts],
            }),
            linears: Linear::ALL.map(|linear| {
                let (n_in, n_out) = BASE.in_out(linear);
                let (a, b) = (numbers(n_experts * rank * n_in), numbers(n_experts * n_out * rank));
                // A linear may be left out.
                (linear != Linear::Up).then_some(LowRank { n_in, n_out, a, b })
            }),
        };
        Adapter {
            rank,
            alpha: 3.0,
            routing,
            base_sha256: Some("ab".repeat(32)),
            layers: vec![layer(0), layer(1)],
        }
    }

    #[test]
    fn both_forms_come_back_as_they_were() {
        for storage in [Storage::F32, Storage::F16, Storage::Bf16] {
            for routing in [None, Some(Routing { n_experts: 3, top_k: 2 })] {
                let folder = tempfile::tempdir().unwrap();
                let written = adapter(routing);
                written.save(folder.path(), storage).unwrap();
                let read = Adapter::load(folder.path()).unwrap();
                assert_eq!(read, written);
                let files = || {
                    let entries = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().path());
                    entries
                        .map(|path| (path.clone(), fs::read(path).unwrap()))
                        .collect::<BTreeMap<_, _>>()
                };
                let before = files();
                read.save(folder.path(), storage).unwrap();
                assert_eq!(files(), before, "the same bytes each time");
                read.check_fits(&BASE).unwrap();
            }
        }
    }

    #[test]
    fn an_adapter_of_another_model_is_refused() {
        let adapter = adapter(Some(Routing { n_experts: 3, top_k: 2 }));
        let other = |base: BaseShape| adapter.check_fits(&base).unwrap_err();
        let error = other(BaseShape { n_layers: 3, ..BASE });
        assert!(matches!(error, AdapterError::LayerCount { found: 2, expected: 3 }), "{error}");
        let error = other(BaseShape { feed_forward: 11, ..BASE });
        assert!(matches!(error, AdapterError::LinearShape { linear: "gate_proj", .. }), "{error}");
        let error = other(BaseShape { hidden: 7, ..BASE });
        assert!(
            matches!(error, AdapterError::RouterShape { found: 6, expected: 7, .. }),
            "{error}"
        );
    }

    /// Saves an adapter, changes its file's header or tensors, and gives the error of reading it.
    fn error_of(change: impl Fn(&mut Vec<StoredTensor>, &mut HashMap<String, String>)) -> String {
        let folder = tempfile::tempdir().unwrap();
        let routing = Routing { n_experts: 3, top_k: 2 };
        let adapter = adapter(Some(routing));
        let mut tensors = adapter.routed_tensors(Storage::F32);
        let mut metadata = adapter.routed_metadata(routing);
        change(&mut tensors, &mut metadata);
        let file = folder.path().join(ROUTED_FILE);
        write_tensors(&file, &tensors, metadata).unwrap();
        let error = Adapter::load(&file).unwrap_err().to_string();
        error.rsplit_once(".safetensors: ").map(|(_, tail)| tail.to_owned()).unwrap_or(error)
    }

    #[test]
    fn damaged_files_are_refused_with_the_place() {
        let set = |key: &'static str, value: &'static str| {
            error_of(move |_, metadata| {
                metadata.insert(key.to_owned(), value.to_owned());
            })
        };
        assert_eq!(set("version", "9"), "`version` is `9`, expected 1");
        assert_eq!(set("top_k", "4"), "`top_k` is `4`, expected at most n_experts");
        assert_eq!(set("rank", "-1"), "`rank` is `-1`, expected a whole number above 0");
        assert_eq!(set("alpha", "NaN"), "`alpha` is `NaN`, expected a finite number");
        assert_eq!(
            set("rank", "5"),
            "tensor `layers.0.q.lora_a` has the shape [3, 2, 6], expected [3, 5, in]"
        );
        let missing = error_of(|tensors, _| tensors.retain(|t| t.name != "layers.1.k.lora_b"));
        assert_eq!(missing, "tensor `layers.1.k.lora_b` is missing");
        let missing = error_of(|tensors, _| tensors.retain(|t| t.name != "layers.1.router.bias"));
        assert_eq!(missing, "tensor `layers.1.router.bias` is missing");
        let renamed = error_of(|tensors, _| tensors[0].name = "layers.x.router.weight".to_owned());
        assert!(renamed.contains("belongs to no linear"), "{renamed}");
        let far = error_of(|tensors, _| {
            tensors[0].name = "layers.4000000000.router.weight".to_owned();
        });
        assert!(far.contains("belongs to no linear"), "{far}");
        let infinite = error_of(|tensors, _| {
            tensors[0].bytes[..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
        });
        assert_eq!(infinite, "tensor `layers.0.router.weight` holds a number that is not finite");

        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(ROUTED_FILE);
        fs::write(&file, b"GGUF").unwrap();
        assert!(matches!(Adapter::load(&file), Err(AdapterError::Container { .. })));
        assert!(matches!(Adapter::load(&folder.path().join("none")), Err(AdapterError::Io { .. })));
    }

    #[test]
    fn rows_of_a_head_go_to_neighbouring_places() {
        let rows: Vec<usize> = (0..8).map(|row| neighbour_row(row, 4)).collect();
        assert_eq!(rows, [0, 2, 1, 3, 4, 6, 5, 7]);
    }
}
