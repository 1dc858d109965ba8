//! The forward pass of a decoder-only transformer: ids in, logits out.
//!
//! One pass takes a batch of sequences, each with any number of new tokens: a prompt, a chunk of
//! one, or a single token of a reply. Weights are read once for all of them.

use std::sync::Arc;

use rapport_kernels::{
    Activations, Compute, KvPage, PAGE_TOKENS, PackedMatrix, Scoring, Span, unpack_vector,
};

use crate::architecture::Architecture;
use crate::error::LoadError;
use crate::gguf::{Gguf, Tensor};

/// A model's weights, packed for the processor.
pub struct Transformer {
    architecture: Architecture,
    n_vocab: usize,
    /// (V, C)
    embedding: PackedMatrix,
    layers: Vec<Layer>,
    /// (C)
    output_norm: Vec<f32>,
    /// (V, C); `None` where the embedding serves.
    output: Option<PackedMatrix>,
}

struct Layer {
    /// (C)
    attention_norm: Vec<f32>,
    query: Linear,
    key: Linear,
    value: Linear,
    attention_output: Linear,
    /// (C)
    feed_forward_norm: Vec<f32>,
    gate: PackedMatrix,
    up: PackedMatrix,
    down: PackedMatrix,
}

struct Linear {
    weight: PackedMatrix,
    bias: Option<Vec<f32>>,
}

impl Linear {
    /// Adds the bias to each row of `out`: (T, R).
    fn add_bias(&self, out: &mut [f32]) {
        if let Some(bias) = &self.bias {
            for row in out.chunks_exact_mut(bias.len()) {
                row.iter_mut().zip(bias).for_each(|(out, bias)| *out += bias);
            }
        }
    }
}

/// The new tokens of one sequence in a pass.
pub struct BatchSequence<'a> {
    /// Not empty; ids below the vocabulary.
    pub tokens: &'a [u32],
    /// How many tokens of the sequence its pages already hold.
    pub position: usize,
    /// Pages with room for all tokens; those written to belong to this sequence alone.
    pub pages: &'a mut [Arc<KvPage>],
    /// Which of the new tokens' logits are wanted.
    pub logits: Logits,
}

/// Which logits a pass returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logits {
    None,
    Last,
    All,
}

/// What one pass computes.
pub struct Batch<'a> {
    pub sequences: Vec<BatchSequence<'a>>,
}

/// Room for the intermediate results of a pass, kept from one to the next.
#[derive(Default)]
pub struct Scratch {
    residual: Vec<f32>,
    normed: Activations,
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    attended: Activations,
    gate: Vec<f32>,
    up: Vec<f32>,
    inner: Activations,
    angles: Vec<Vec<[f32; 2]>>,
    logits: Vec<f32>,
}

impl Transformer {
    /// Packs the weights of a file.
    ///
    /// # Errors
    /// If the architecture is not supported, a tensor is missing or misshapen, or memory runs out.
    pub fn load(gguf: &Gguf, compute: &Compute) -> Result<Self, LoadError> {
        let architecture = Architecture::read(gguf)?;
        let load = Loader { gguf, compute };
        let shape = architecture.attention;
        let (hidden, inner) = (architecture.hidden, architecture.feed_forward);
        let (heads, kv_heads) = (shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim);

        let n_vocab = load.n_rows("token_embd.weight")?;
        let embedding = load.matrix("token_embd.weight", n_vocab, hidden)?;
        let layers = (0..shape.n_layers)
            .map(|layer_idx| {
                let name = |part: &str| format!("blk.{layer_idx}.{part}");
                let linear = |part: &str, n_rows, n_cols| {
                    Ok::<_, LoadError>(Linear {
                        weight: load.matrix(&name(&format!("{part}.weight")), n_rows, n_cols)?,
                        bias: load.optional_vector(&name(&format!("{part}.bias")), n_rows)?,
                    })
                };
                Ok(Layer {
                    attention_norm: load.vector(&name("attn_norm.weight"), hidden)?,
                    query: linear("attn_q", heads, hidden)?,
                    key: linear("attn_k", kv_heads, hidden)?,
                    value: linear("attn_v", kv_heads, hidden)?,
                    attention_output: linear("attn_output", hidden, heads)?,
                    feed_forward_norm: load.vector(&name("ffn_norm.weight"), hidden)?,
                    gate: load.matrix(&name("ffn_gate.weight"), inner, hidden)?,
                    up: load.matrix(&name("ffn_up.weight"), inner, hidden)?,
                    down: load.matrix(&name("ffn_down.weight"), hidden, inner)?,
                })
            })
            .collect::<Result<_, LoadError>>()?;
        Ok(Self {
            n_vocab,
            embedding,
            layers,
            output_norm: load.vector("output_norm.weight", hidden)?,
            output: match gguf.find("output.weight") {
                Some(_) => Some(load.matrix("output.weight", n_vocab, hidden)?),
                None => None,
            },
            architecture,
        })
    }

    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// V
    pub fn n_vocab(&self) -> usize {
        self.n_vocab
    }

    /// Bytes of weights that one pass reads, whatever the size of its batch.
    pub fn bytes_per_pass(&self) -> usize {
        let layers = self.layers.iter().map(|layer| {
            let linears = [&layer.query, &layer.key, &layer.value, &layer.attention_output];
            let linears = linears.iter().map(|linear| linear.weight.n_bytes()).sum::<usize>();
            linears + layer.gate.n_bytes() + layer.up.n_bytes() + layer.down.n_bytes()
        });
        layers.sum::<usize>() + self.output.as_ref().unwrap_or(&self.embedding).n_bytes()
    }

    /// Runs one pass: writes the new tokens' keys and values and returns the wanted logits.
    ///
    /// # Shapes
    /// (rows, V): the wanted rows of all sequences, in order.
    ///
    /// # Panics
    /// If a token is outside the vocabulary, a page to be written is shared, or pages are too few.
    pub fn forward<'s>(
        &self,
        compute: &Compute,
        batch: &mut Batch<'_>,
        scratch: &'s mut Scratch,
    ) -> &'s [f32] {
        let shape = self.architecture.attention;
        let hidden = self.architecture.hidden;
        let epsilon = self.architecture.norm_epsilon;
        let rope = &self.architecture.rope;
        let n_tokens: usize = batch.sequences.iter().map(|sequence| sequence.tokens.len()).sum();
        let (heads, kv_heads) = (shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim);
        let s = scratch;
        s.residual.resize(n_tokens * hidden, 0.0); // (T, C)
        s.queries.resize(n_tokens * heads, 0.0); // (T, H, D)
        s.keys.resize(n_tokens * kv_heads, 0.0); // (T, G, D)
        s.values.resize(n_tokens * kv_heads, 0.0); // (T, G, D)
        s.gate.resize(n_tokens * self.architecture.feed_forward, 0.0); // (T, F)
        s.up.resize(n_tokens * self.architecture.feed_forward, 0.0); // (T, F)
        s.angles.resize_with(n_tokens, Vec::new);

        let mut row = 0;
        for sequence in &batch.sequences {
            for (position, &token) in (sequence.position..).zip(sequence.tokens) {
                let embedded = &mut s.residual[row * hidden..][..hidden];
                self.embedding.unpack_row(token as usize, embedded);
                rope.angles(position as u32, &mut s.angles[row]);
                row += 1;
            }
        }

        for (layer_idx, layer) in self.layers.iter().enumerate() {
            compute.rms_norm(&s.residual, &layer.attention_norm, epsilon, &mut s.normed);
            compute.matmul(
                &s.normed,
                &mut [
                    (&layer.query.weight, &mut s.queries),
                    (&layer.key.weight, &mut s.keys),
                    (&layer.value.weight, &mut s.values),
                ],
            );
            layer.query.add_bias(&mut s.queries);
            layer.key.add_bias(&mut s.keys);
            layer.value.add_bias(&mut s.values);
            compute.rotate(rope, &mut s.queries, (heads, shape.head_dim), &s.angles);
            compute.rotate(rope, &mut s.keys, (kv_heads, shape.head_dim), &s.angles);
            write_pages(batch, layer_idx, &s.keys, &s.values, kv_heads);
            let spans = spans(batch);
            let scoring = Scoring::scaled(shape.head_dim);
            compute.attention(shape, scoring, layer_idx, &s.queries, &spans, &mut s.attended);
            let output = &layer.attention_output;
            compute.matmul_add(&s.attended, &output.weight, &mut s.residual);
            output.add_bias(&mut s.residual);

            compute.rms_norm(&s.residual, &layer.feed_forward_norm, epsilon, &mut s.normed);
            compute.matmul(&s.normed, &mut [(&layer.gate, &mut s.gate), (&layer.up, &mut s.up)]);
            let inner = self.architecture.feed_forward;
            compute.silu_mul(&s.gate, &s.up, inner, &mut s.inner);
            compute.matmul_add(&s.inner, &layer.down, &mut s.residual);
        }

        let n_wanted = keep_wanted_rows(batch, &mut s.residual, hidden);
        s.logits.resize(n_wanted * self.n_vocab, 0.0); // (rows, V)
        if n_wanted > 0 {
            let wanted = &s.residual[..n_wanted * hidden];
            compute.rms_norm(wanted, &self.output_norm, epsilon, &mut s.normed);
            let output = self.output.as_ref().unwrap_or(&self.embedding);
            compute.matmul(&s.normed, &mut [(output, &mut s.logits)]);
        }
        &s.logits
    }
}

fn write_pages(
    batch: &mut Batch<'_>,
    layer_idx: usize,
    keys: &[f32],
    values: &[f32],
    kv_width: usize,
) {
    let mut rows = keys.chunks_exact(kv_width).zip(values.chunks_exact(kv_width));
    for sequence in &mut batch.sequences {
        for position in sequence.position..sequence.position + sequence.tokens.len() {
            let (keys, values) = rows.next().expect("a row for each token");
            let page = Arc::get_mut(&mut sequence.pages[position / PAGE_TOKENS])
                .expect("a page that is written to belongs to one sequence");
            page.write(layer_idx, position % PAGE_TOKENS, keys, values);
        }
    }
}

fn spans<'b>(batch: &'b Batch<'_>) -> Vec<Span<'b>> {
    let mut first_row = 0;
    batch
        .sequences
        .iter()
        .map(|sequence| {
            let n_rows = sequence.tokens.len();
            let span =
                Span { first_row, n_rows, position: sequence.position, pages: sequence.pages };
            first_row += n_rows;
            span
        })
        .collect()
}

/// Moves the rows whose logits are wanted to the front and returns how many they are.
fn keep_wanted_rows(batch: &Batch<'_>, residual: &mut [f32], hidden: usize) -> usize {
    let (mut n_wanted, mut first_row) = (0, 0);
    for sequence in &batch.sequences {
        let end_row = first_row + sequence.tokens.len();
        let wanted = match sequence.logits {
            Logits::None => end_row..end_row,
            Logits::Last => end_row - 1..end_row,
            Logits::All => first_row..end_row,
        };
        for row in wanted {
            residual.copy_within(row * hidden..(row + 1) * hidden, n_wanted * hidden);
            n_wanted += 1;
        }
        first_row = end_row;
    }
    n_wanted
}

/// The floats of a one-dimensional tensor.
pub(crate) fn vector(gguf: &Gguf, tensor: &Tensor<'_>) -> Result<Vec<f32>, LoadError> {
    let n_cols = tensor.info.dims.iter().product::<u64>() as usize;
    unpack_vector(tensor.info.block_type, n_cols, tensor.bytes).map_err(|source| LoadError::Pack {
        file: gguf.path().display().to_string(),
        tensor: tensor.info.name.clone(),
        source,
    })
}

struct Loader<'a> {
    gguf: &'a Gguf,
    compute: &'a Compute,
}

impl Loader<'_> {
    fn n_rows(&self, name: &str) -> Result<usize, LoadError> {
        let info = self.gguf.tensor(name)?.info;
        match info.dims[..] {
            [_, n_rows] if u32::try_from(n_rows).is_ok() => Ok(n_rows as usize),
            _ => Err(LoadError::InvalidTensor {
                file: self.gguf.path().display().to_string(),
                tensor: name.to_owned(),
                found: info.dims.get(1).copied().unwrap_or(0),
                expected: "a row for each token".to_owned(),
            }),
        }
    }

    fn matrix(&self, name: &str, n_rows: usize, n_cols: usize) -> Result<PackedMatrix, LoadError> {
        let tensor = self.gguf.require(name, &[n_cols as u64, n_rows as u64])?;
        PackedMatrix::pack(
            self.compute.pool(),
            tensor.info.block_type,
            (n_rows, n_cols),
            tensor.bytes,
        )
        .map_err(|source| LoadError::Pack {
            file: self.gguf.path().display().to_string(),
            tensor: name.to_owned(),
            source,
        })
    }

    fn vector(&self, name: &str, n_cols: usize) -> Result<Vec<f32>, LoadError> {
        vector(self.gguf, &self.gguf.require(name, &[n_cols as u64])?)
    }

    fn optional_vector(&self, name: &str, n_cols: usize) -> Result<Option<Vec<f32>>, LoadError> {
        self.gguf.find(name).is_some().then(|| self.vector(name, n_cols)).transpose()
    }
}
