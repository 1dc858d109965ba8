//! The frozen model: weights of a GGUF file as floats, in the order of Hugging Face checkpoints.

use rapport_kernels::blocks::{BlockType, dequantize_row};
use rapport_kernels::{
    Activation, Bf16Matrix, Bf16Rows, Compute, Matrix, MatrixMut, Onto, Real, Rope, RopePairs,
};
use rapport_model::adapter::{BaseShape, Linear, neighbour_row};
use rapport_model::gguf::{Gguf, GgufError};
use rapport_model::{Architecture, LoadError};

/// Why a model file cannot be trained on.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    #[error(transparent)]
    File(#[from] GgufError),
    #[error(transparent)]
    Model(#[from] LoadError),
    #[error(
        "{file}: training knows plain llama blocks (grouped-query attention, SwiGLU, no experts); \
         this model has {found}"
    )]
    Unsupported { file: String, found: &'static str },
}

/// The sizes of a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    pub n_layers: usize,
    /// C
    pub hidden: usize,
    /// F
    pub feed_forward: usize,
    /// H
    pub n_heads: usize,
    /// G
    pub n_kv_heads: usize,
    /// D
    pub head_dim: usize,
    /// V
    pub n_vocab: usize,
    pub context_tokens: usize,
    pub norm_epsilon: f64,
    /// What a product of query and key is multiplied by.
    pub score_scale: f64,
}

impl Shape {
    /// What adapters need to know of it.
    pub fn base(&self) -> BaseShape {
        BaseShape {
            n_layers: self.n_layers,
            hidden: self.hidden,
            heads: self.n_heads * self.head_dim,
            kv_heads: self.n_kv_heads * self.head_dim,
            feed_forward: self.feed_forward,
        }
    }
}

/// In what the products with frozen weights are computed. Everything else is in the float of the
/// network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// The float of the network.
    #[default]
    F32,
    /// Both sides rounded to bf16, sums in f32: up to twice as fast on processors with AVX512_BF16.
    Bf16,
}

impl Precision {
    /// The precision that a recipe's is computed in here: without instructions for it, bf16 would take
    /// more than twice the time of the f32 that it stands in for.
    #[must_use]
    pub fn here(self, compute: &Compute) -> Self {
        if compute.has_bf16() { self } else { Self::F32 }
    }
}

/// A matrix that is never trained, so that no gradient of it is ever formed.
pub(crate) struct Frozen<R> {
    weight: Weight<R>,
    n_in: usize,
    n_out: usize,
    bias: Option<Vec<R>>,
}

enum Weight<R> {
    /// (out, in)
    Float(Vec<R>),
    /// For both directions: (in, out) and (out, in).
    Bf16 { forward: Bf16Matrix, backward: Bf16Matrix },
}

impl<R: Real> Frozen<R> {
    fn new(weight: Vec<R>, n_in: usize, bias: Option<Vec<R>>, precision: Precision) -> Self {
        let n_out = weight.len() / n_in;
        let weight = match (precision, R::as_f32(&weight)) {
            (Precision::Bf16, Some(floats)) => {
                let matrix = Matrix::new(floats, n_in);
                Weight::Bf16 {
                    forward: Bf16Matrix::pack(matrix.transposed()),
                    backward: Bf16Matrix::pack(matrix),
                }
            }
            _ => Weight::Float(weight),
        };
        Self { weight, n_in, n_out, bias }
    }

    /// `y = [y +] x W' [+ bias]`.
    pub(crate) fn forward(
        &self,
        (compute, rounded): (&Compute, &mut Bf16Rows),
        x: &[R],
        y: &mut [R],
        onto: Onto,
    ) {
        let n_out = self.n_out;
        match &self.weight {
            Weight::Float(weight) => {
                let weight = Matrix::new(weight, self.n_in).transposed();
                let x = Matrix::new(x, self.n_in);
                compute.dense_product(MatrixMut::new(y, n_out), onto, R::ONE, x, weight);
            }
            Weight::Bf16 { forward, .. } => bf16_product(compute, rounded, (x, y), onto, forward),
        }
        if let Some(bias) = &self.bias {
            for row in y.chunks_exact_mut(n_out) {
                for (y, bias) in row.iter_mut().zip(bias) {
                    *y += *bias;
                }
            }
        }
    }

    /// `dx = [dx +] dy W`.
    pub(crate) fn backward(
        &self,
        (compute, rounded): (&Compute, &mut Bf16Rows),
        dy: &[R],
        dx: &mut [R],
        onto: Onto,
    ) {
        match &self.weight {
            Weight::Float(weight) => {
                let dy = Matrix::new(dy, self.n_out);
                let weight = Matrix::new(weight, self.n_in);
                compute.dense_product(MatrixMut::new(dx, self.n_in), onto, R::ONE, dy, weight);
            }
            Weight::Bf16 { backward, .. } => {
                bf16_product(compute, rounded, (dy, dx), onto, backward);
            }
        }
    }

    fn n_bytes(&self) -> usize {
        match &self.weight {
            Weight::Float(weight) => size_of_val(&**weight),
            Weight::Bf16 { forward, backward } => forward.n_bytes() + backward.n_bytes(),
        }
    }
}

fn bf16_product<R: Real>(
    compute: &Compute,
    rounded: &mut Bf16Rows,
    (x, y): (&[R], &mut [R]),
    onto: Onto,
    matrix: &Bf16Matrix,
) {
    let (Some(x), Some(y)) = (R::as_f32(x), R::as_f32_mut(y)) else {
        unreachable!("only networks of f32 have weights of bf16");
    };
    compute.round_to_bf16(x, matrix.n_rows(), rounded);
    compute.bf16_product(MatrixMut::new(y, matrix.n_cols()), onto, rounded, matrix);
}

/// The rows of the embedding as the file has them: few are needed at a time.
struct Embedding {
    block_type: BlockType,
    bytes: Vec<u8>,
    row_bytes: usize,
}

pub(crate) struct BaseLayer<R> {
    pub(crate) attention_norm: Vec<R>,
    pub(crate) feed_forward_norm: Vec<R>,
    /// By [`Linear::ALL`].
    linears: [Frozen<R>; 7],
}

impl<R> BaseLayer<R> {
    pub(crate) fn linear(&self, linear: Linear) -> &Frozen<R> {
        &self.linears[linear as usize]
    }
}

/// The frozen model.
pub struct Base<R> {
    pub shape: Shape,
    pub(crate) rope: Rope,
    pub(crate) layers: Vec<BaseLayer<R>>,
    pub(crate) output_norm: Vec<R>,
    embedding: Embedding,
    /// (V, C): what turns the last hidden state into logits; the embedding's numbers where the two
    /// are tied.
    pub(crate) head: Frozen<R>,
}

impl<R: Real> Base<R> {
    /// Decodes all weights of a file.
    ///
    /// # Errors
    /// The file is not a model that can be trained on.
    pub fn load(gguf: &Gguf, precision: Precision) -> Result<Self, BaseError> {
        let architecture = Architecture::read(gguf)?;
        let attention = architecture.attention;
        let feed_forward = check(gguf, &architecture)?;
        let read = Reader { gguf, precision };
        let n_vocab = gguf.tensor("token_embd.weight")?.info.n_rows() as usize;
        let shape = Shape {
            n_layers: attention.n_layers,
            hidden: architecture.hidden,
            feed_forward,
            n_heads: attention.n_heads,
            n_kv_heads: attention.n_kv_heads,
            head_dim: attention.head_dim,
            n_vocab,
            context_tokens: architecture.context_tokens,
            norm_epsilon: f64::from(architecture.norm_epsilon),
            score_scale: f64::from(architecture.score_scale),
        };
        let hidden = shape.hidden;
        let is_permuted = architecture.rope.pairs() == RopePairs::Neighbours;
        let layers = (0..shape.n_layers)
            .map(|layer_idx| {
                let name = |part: &str| format!("blk.{layer_idx}.{part}");
                let linear = |linear: Linear| {
                    let (n_in, n_out) = shape.base().in_out(linear);
                    let rotates = matches!(linear, Linear::Query | Linear::Key);
                    let head_dim = (is_permuted && rotates).then_some(shape.head_dim);
                    read.frozen(&name(gguf_name(linear)), (n_out, n_in), head_dim)
                };
                Ok(BaseLayer {
                    attention_norm: read.vector(&name("attn_norm.weight"), hidden)?,
                    feed_forward_norm: read.vector(&name("ffn_norm.weight"), hidden)?,
                    linears: [
                        linear(Linear::Query)?,
                        linear(Linear::Key)?,
                        linear(Linear::Value)?,
                        linear(Linear::Output)?,
                        linear(Linear::Gate)?,
                        linear(Linear::Up)?,
                        linear(Linear::Down)?,
                    ],
                })
            })
            .collect::<Result<_, BaseError>>()?;
        let is_tied = gguf.find("output.weight").is_none();
        let head = if is_tied { "token_embd" } else { "output" };
        Ok(Self {
            rope: architecture.rope,
            layers,
            output_norm: read.vector("output_norm.weight", hidden)?,
            head: read.frozen(head, (n_vocab, hidden), None)?,
            embedding: read.embedding(n_vocab, hidden)?,
            shape,
        })
    }

    /// Writes a token's row of the embedding.
    ///
    /// # Panics
    /// If there is no such token.
    pub(crate) fn embed(&self, token: u32, scratch: &mut [f32], out: &mut [R]) {
        let Embedding { block_type, bytes, row_bytes } = &self.embedding;
        let row = &bytes[token as usize * row_bytes..][..*row_bytes];
        dequantize_row(*block_type, row, scratch);
        for (out, value) in out.iter_mut().zip(scratch) {
            *out = R::from_f64(f64::from(*value));
        }
    }

    /// Bytes of all weights in memory.
    pub fn n_bytes(&self) -> usize {
        let layers = self.layers.iter().flat_map(|layer| &layer.linears).map(Frozen::n_bytes);
        layers.sum::<usize>() + self.embedding.bytes.len() + self.head.n_bytes()
    }
}

fn gguf_name(linear: Linear) -> &'static str {
    match linear {
        Linear::Query => "attn_q",
        Linear::Key => "attn_k",
        Linear::Value => "attn_v",
        Linear::Output => "attn_output",
        Linear::Gate => "ffn_gate",
        Linear::Up => "ffn_up",
        Linear::Down => "ffn_down",
    }
}

/// F, if the model is made of the blocks that training knows.
fn check(gguf: &Gguf, architecture: &Architecture) -> Result<usize, BaseError> {
    let unsupported =
        |found| Err(BaseError::Unsupported { file: gguf.path().display().to_string(), found });
    let mut angles = Vec::new();
    architecture.rope.angles(0, &mut angles);
    let more_than_llama = [
        (architecture.embedding_scale.is_some(), "scaled embeddings"),
        (architecture.score_soft_cap.is_some(), "capped attention scores"),
        (architecture.query_key_norm.is_some(), "norms of queries and keys"),
        (architecture.sliding.is_some(), "sliding attention"),
        (architecture.post_norms.is_some(), "norms after its blocks"),
        (architecture.logit_scale.is_some(), "scaled logits"),
        (architecture.logit_soft_cap.is_some(), "capped logits"),
        (architecture.feed_forward.experts.is_some(), "experts"),
        (architecture.feed_forward.activation != Activation::Silu, "another activation than SiLU"),
        (angles.len() * 2 != architecture.attention.head_dim, "heads that turn in part only"),
    ];
    if let Some((_, found)) = more_than_llama.into_iter().find(|(has, _)| *has) {
        return unsupported(found);
    }
    match architecture.feed_forward.dense {
        Some(feed_forward) => Ok(feed_forward),
        None => unsupported("no dense feed-forward"),
    }
}

struct Reader<'a> {
    gguf: &'a Gguf,
    precision: Precision,
}

impl Reader<'_> {
    fn vector<R: Real>(&self, name: &str, len: usize) -> Result<Vec<R>, BaseError> {
        self.rows(name, &[len as u64], len)
    }

    /// `{part}.weight` and, if there is one, `{part}.bias`; rows of heads of `permuted_head_dim` go
    /// back to where they are in a checkpoint.
    fn frozen<R: Real>(
        &self,
        part: &str,
        (n_out, n_in): (usize, usize),
        permuted_head_dim: Option<usize>,
    ) -> Result<Frozen<R>, BaseError> {
        let in_order = |rows: Vec<R>, n_cols: usize| match permuted_head_dim {
            Some(head_dim) => (0..n_out)
                .flat_map(|row| rows[neighbour_row(row, head_dim) * n_cols..][..n_cols].to_vec())
                .collect(),
            None => rows,
        };
        let weight = self.rows(&format!("{part}.weight"), &[n_in as u64, n_out as u64], n_in)?;
        let bias = format!("{part}.bias");
        let bias = match self.gguf.find(&bias) {
            Some(_) => Some(in_order(self.vector(&bias, n_out)?, 1)),
            None => None,
        };
        Ok(Frozen::new(in_order(weight, n_in), n_in, bias, self.precision))
    }

    fn embedding(&self, n_vocab: usize, hidden: usize) -> Result<Embedding, BaseError> {
        let tensor = self.gguf.require("token_embd.weight", &[hidden as u64, n_vocab as u64])?;
        Ok(Embedding {
            block_type: tensor.info.block_type,
            bytes: tensor.bytes.to_vec(),
            row_bytes: tensor.bytes.len() / n_vocab,
        })
    }

    fn rows<R: Real>(&self, name: &str, dims: &[u64], row_len: usize) -> Result<Vec<R>, BaseError> {
        let tensor = self.gguf.require(name, dims)?;
        let row_bytes = tensor.bytes.len() / tensor.info.n_rows() as usize;
        let mut row = vec![0.0; row_len];
        let mut values = Vec::with_capacity(tensor.info.n_weights() as usize);
        for bytes in tensor.bytes.chunks_exact(row_bytes) {
            dequantize_row(tensor.info.block_type, bytes, &mut row);
            values.extend(row.iter().map(|value| R::from_f64(f64::from(*value))));
        }
        self.gguf.release(&tensor);
        Ok(values)
    }
}
