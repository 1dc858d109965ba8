//! The forward pass of a decoder-only transformer: ids in, logits or hidden states out.
//!
//! One pass takes a batch of sequences, each with any number of new tokens: a prompt, a chunk of
//! one, or a single token of a reply. Weights are read once for all of them.

use std::sync::Arc;

use rapport_kernels::{Activations, Compute, KvPage, Onto, PAGE_TOKENS, PackedMatrix, Rope, Span};

use crate::adapter::AdapterError;
use crate::adapter_file::AdapterFile;
use crate::architecture::{Architecture, QueryKeyNorm};
use crate::error::LoadError;
use crate::feed_forward::{ExpertLoad, FeedForwardLayer, FeedForwardScratch};
use crate::gguf::Gguf;
use crate::linear::Linear;
use crate::load::Loader;
use crate::packed_adapter::{AdapterScratch, Additions, Group, PackedAdapter, Run};

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
    output: Option<Linear>,
    expert_load: Option<Arc<ExpertLoad>>,
}

struct Layer {
    /// (C)
    attention_norm: Vec<f32>,
    query: Linear,
    key: Linear,
    value: Linear,
    /// (D) or (H * D) and (D) or (G * D).
    query_key_norms: Option<[Vec<f32>; 2]>,
    attention_output: Linear,
    /// (C)
    attention_post_norm: Option<Vec<f32>>,
    /// (C)
    feed_forward_norm: Vec<f32>,
    feed_forward: FeedForwardLayer,
    /// (C)
    feed_forward_post_norm: Option<Vec<f32>>,
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
    /// What is added to the model for this sequence; packed for this model.
    pub adapter: Option<&'a PackedAdapter>,
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
    /// What half a layer adds to the residual stream, where that is normed first.
    branch: Vec<f32>,
    feed_forward: FeedForwardScratch,
    adapters: AdapterScratch,
    angles: Vec<Vec<[f32; 2]>>,
    sliding_angles: Vec<Vec<[f32; 2]>>,
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
        let hidden = architecture.hidden;
        let n_vocab = load.n_rows("token_embd.weight")?;
        let embedding = load.matrix("token_embd.weight", n_vocab, hidden)?;
        let n_layers = architecture.attention.n_layers;
        let layers = (0..n_layers)
            .map(|layer_idx| Layer::load(&load, &architecture, layer_idx))
            .collect::<Result<_, LoadError>>()?;
        let experts = architecture.feed_forward.experts;
        Ok(Self {
            n_vocab,
            embedding,
            layers,
            output_norm: load.vector("output_norm.weight", hidden)?,
            output: match gguf.find("output.weight") {
                Some(_) => Some(load.linear("output", (n_vocab, hidden))?),
                None => None,
            },
            expert_load: experts.map(|experts| ExpertLoad::new(n_layers, experts.count)),
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

    /// Makes an adapter ready to be applied to this model.
    ///
    /// # Errors
    /// If it belongs to another model, or memory runs out.
    pub fn pack_adapter(
        &self,
        compute: &Compute,
        file: &AdapterFile,
    ) -> Result<PackedAdapter, AdapterError> {
        let layers: Vec<_> = self.layers.iter().map(Layer::linears).collect();
        PackedAdapter::pack(compute, file, &self.architecture, &layers)
    }

    /// How evenly the experts of a mixture are used; goes on counting while it is held.
    pub fn expert_load(&self) -> Option<Arc<ExpertLoad>> {
        self.expert_load.clone()
    }

    /// Bytes of weights that a pass over `n_tokens` reads: the same for any number, but for the
    /// experts of a mixture, of which few tokens can choose only few.
    pub fn bytes_per_pass(&self, n_tokens: usize) -> usize {
        let layers = self.layers.iter().map(|layer| {
            let linears = [&layer.query, &layer.key, &layer.value, &layer.attention_output];
            let linears = linears.iter().map(|linear| linear.n_bytes()).sum::<usize>();
            linears + layer.feed_forward.bytes_per_pass(n_tokens)
        });
        let output = self.output.as_ref().map_or(&self.embedding, |output| &output.weight);
        layers.sum::<usize>() + output.n_bytes()
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
        let (architecture, s) = (&self.architecture, scratch);
        let n_wanted = self.run_layers(compute, batch, s);
        s.logits.resize(n_wanted * self.n_vocab, 0.0); // (rows, V)
        if n_wanted > 0 {
            let wanted = &s.residual[..n_wanted * architecture.hidden];
            let epsilon = architecture.norm_epsilon;
            compute.rms_norm(wanted, &self.output_norm, epsilon, &mut s.normed);
            match &self.output {
                Some(output) => Linear::apply(compute, &s.normed, [(output, &mut s.logits)]),
                None => compute.matmul(&s.normed, &mut [(&self.embedding, &mut s.logits)]),
            }
            let (scale, cap) = (architecture.logit_scale, architecture.logit_soft_cap);
            if scale.is_some() || cap.is_some() {
                compute.scale_and_cap(&mut s.logits, self.n_vocab, scale.unwrap_or(1.0), cap);
            }
        }
        &s.logits
    }

    /// Runs one pass like [`Transformer::forward`] and returns what the logits would be made from:
    /// the normed hidden states of the rows whose logits are wanted.
    ///
    /// # Shapes
    /// (rows, C): the wanted rows of all sequences, in order.
    ///
    /// # Panics
    /// As [`Transformer::forward`].
    pub fn hidden<'s>(
        &self,
        compute: &Compute,
        batch: &mut Batch<'_>,
        scratch: &'s mut Scratch,
    ) -> &'s [f32] {
        let (hidden, s) = (self.architecture.hidden, scratch);
        let n_wanted = self.run_layers(compute, batch, s);
        let epsilon = self.architecture.norm_epsilon;
        s.residual.truncate(n_wanted * hidden);
        compute.rms_norm_heads(&mut s.residual, hidden, &self.output_norm, epsilon);
        &s.residual
    }

    /// Everything before the last norm; returns how many rows at the front of `residual` are wanted.
    fn run_layers(&self, compute: &Compute, batch: &mut Batch<'_>, s: &mut Scratch) -> usize {
        let architecture = &self.architecture;
        let (hidden, epsilon) = (architecture.hidden, architecture.norm_epsilon);
        let n_tokens: usize = batch.sequences.iter().map(|sequence| sequence.tokens.len()).sum();
        s.residual.resize(n_tokens * hidden, 0.0); // (T, C)
        let mut row = 0;
        for sequence in &batch.sequences {
            for &token in sequence.tokens {
                let embedded = &mut s.residual[row * hidden..][..hidden];
                self.embedding.unpack_row(token as usize, embedded);
                row += 1;
            }
        }
        if let Some(scale) = architecture.embedding_scale {
            compute.scale_and_cap(&mut s.residual, hidden, scale, None);
        }
        fill_angles(batch, &architecture.rope, &mut s.angles);
        if let Some(sliding) = &architecture.sliding {
            fill_angles(batch, &sliding.rope, &mut s.sliding_angles);
        }

        let runs = adapter_runs(batch);
        s.adapters.make_room(&runs);
        for (layer_idx, layer) in self.layers.iter().enumerate() {
            self.attend(compute, batch, (layer_idx, &runs), s);

            compute.rms_norm(&s.residual, &layer.feed_forward_norm, epsilon, &mut s.normed);
            let load = self.expert_load.as_deref();
            let scale = architecture.post_norms.and_then(|norms| norms.feed_forward_scale);
            let post_norm = layer.feed_forward_post_norm.as_deref();
            let mut branch = Branch { post_norm, scale, epsilon, room: &mut s.branch };
            branch.add(compute, &mut s.residual, |out| {
                let additions = Additions { layer_idx, runs: &runs, room: &mut s.adapters };
                let feed_forward = &mut s.feed_forward;
                layer.feed_forward.apply_add(
                    compute,
                    &s.normed,
                    feed_forward,
                    (additions, load),
                    out,
                );
            });
        }
        keep_wanted_rows(batch, &mut s.residual, hidden)
    }

    /// The first half of a layer.
    fn attend(
        &self,
        compute: &Compute,
        batch: &mut Batch<'_>,
        (layer_idx, runs): (usize, &[Run<'_>]),
        s: &mut Scratch,
    ) {
        let layer = &self.layers[layer_idx];
        let shape = self.architecture.attention;
        let epsilon = self.architecture.norm_epsilon;
        let (attention, rope) = self.architecture.layer(layer_idx);
        let angles = if attention.window.is_some() { &s.sliding_angles } else { &s.angles };
        let (heads, kv_heads) = (shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim);

        compute.rms_norm(&s.residual, &layer.attention_norm, epsilon, &mut s.normed);
        let n_tokens = s.normed.n_rows();
        s.queries.resize(n_tokens * heads, 0.0); // (T, H, D)
        s.keys.resize(n_tokens * kv_heads, 0.0); // (T, G, D)
        s.values.resize(n_tokens * kv_heads, 0.0); // (T, G, D)
        let projections = [
            (&layer.query, &mut *s.queries),
            (&layer.key, &mut *s.keys),
            (&layer.value, &mut *s.values),
        ];
        let mut additions = Additions { layer_idx, runs, room: &mut s.adapters };
        additions.apply(compute, Group::IntoAttention, &s.normed, Onto::Nothing, projections);
        if let Some([query_norm, key_norm]) = &layer.query_key_norms {
            compute.rms_norm_heads(&mut s.queries, heads, query_norm, epsilon);
            compute.rms_norm_heads(&mut s.keys, kv_heads, key_norm, epsilon);
        }
        compute.rotate(rope, &mut s.queries, (heads, shape.head_dim), angles);
        compute.rotate(rope, &mut s.keys, (kv_heads, shape.head_dim), angles);
        write_pages(batch, layer_idx, &s.keys, &s.values, kv_heads);
        compute.attention(shape, attention, &s.queries, &spans(batch), &mut s.attended);

        let post_norm = layer.attention_post_norm.as_deref();
        let mut branch = Branch { post_norm, scale: None, epsilon, room: &mut s.branch };
        branch.add(compute, &mut s.residual, |out| {
            let layers = [(&layer.attention_output, out)];
            let onto = Onto::WhatIsThere;
            additions.apply(compute, Group::OutOfAttention, &s.attended, onto, layers);
        });
    }
}

impl Layer {
    /// What an adapter can add to, by [`crate::adapter::Linear::ALL`].
    fn linears(&self) -> [Option<&PackedMatrix>; 7] {
        let attention = [&self.query, &self.key, &self.value, &self.attention_output];
        let [query, key, value, output] = attention.map(|linear| Some(&linear.weight));
        let dense = self.feed_forward.dense();
        let [gate, up, down] = [0, 1, 2].map(|part| dense.map(|dense| &dense[part].weight));
        [query, key, value, output, gate, up, down]
    }

    fn load(
        load: &Loader<'_>,
        architecture: &Architecture,
        layer_idx: usize,
    ) -> Result<Self, LoadError> {
        let (hidden, shape) = (architecture.hidden, architecture.attention);
        let (heads, kv_heads) = (shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim);
        let name = |part: &str| format!("blk.{layer_idx}.{part}");
        let norm = |part: &str, n_cols| load.vector(&name(&format!("{part}.weight")), n_cols);
        let query_key_norms = match architecture.query_key_norm {
            None => None,
            Some(QueryKeyNorm::Head) => Some([shape.head_dim; 2]),
            Some(QueryKeyNorm::AllHeads) => Some([heads, kv_heads]),
        };
        let post_norm = |parts: &[&str]| {
            let has_part =
                |part: &&&str| load.gguf.find(&name(&format!("{part}.weight"))).is_some();
            // Where there is none, the last name is the one to miss.
            let part = parts.iter().find(has_part).or(parts.last());
            part.map(|part| norm(part, hidden)).transpose()
        };
        let post_norms = architecture.post_norms;
        Ok(Self {
            attention_norm: norm("attn_norm", hidden)?,
            query: load.linear(&name("attn_q"), (heads, hidden))?,
            key: load.linear(&name("attn_k"), (kv_heads, hidden))?,
            value: load.linear(&name("attn_v"), (kv_heads, hidden))?,
            query_key_norms: match query_key_norms {
                Some([query, key]) => {
                    Some([norm("attn_q_norm", query)?, norm("attn_k_norm", key)?])
                }
                None => None,
            },
            attention_output: load.linear(&name("attn_output"), (hidden, heads))?,
            attention_post_norm: post_norm(post_norms.map_or(&[], |norms| norms.attention))?,
            feed_forward_norm: norm("ffn_norm", hidden)?,
            feed_forward: FeedForwardLayer::load(load, architecture, layer_idx)?,
            feed_forward_post_norm: post_norm(post_norms.map_or(&[], |norms| norms.feed_forward))?,
        })
    }
}

/// The way of half a layer's output into the residual stream.
struct Branch<'a> {
    post_norm: Option<&'a [f32]>,
    scale: Option<f32>,
    epsilon: f32,
    room: &'a mut Vec<f32>,
}

impl Branch<'_> {
    /// Adds what `add_to` adds: directly, or by way of a scale and a norm where the model has them.
    fn add(&mut self, compute: &Compute, residual: &mut [f32], add_to: impl FnOnce(&mut [f32])) {
        let Some(weight) = self.post_norm else {
            return add_to(residual);
        };
        self.room.clear();
        self.room.resize(residual.len(), 0.0);
        add_to(self.room);
        if let Some(scale) = self.scale {
            compute.scale_and_cap(self.room, weight.len(), scale, None);
        }
        compute.rms_norm_add(self.room, weight, self.epsilon, residual);
    }
}

/// One table of angles for each token of a batch.
fn fill_angles(batch: &Batch<'_>, rope: &Rope, angles: &mut Vec<Vec<[f32; 2]>>) {
    let positions = batch
        .sequences
        .iter()
        .flat_map(|sequence| sequence.position..sequence.position + sequence.tokens.len());
    let n_tokens = batch.sequences.iter().map(|sequence| sequence.tokens.len()).sum();
    angles.resize_with(n_tokens, Vec::new);
    for (position, angles) in positions.zip(angles) {
        rope.angles(position as u32, angles);
    }
}

/// Rows of a batch that have the same adapter, one after another.
fn adapter_runs<'a>(batch: &Batch<'a>) -> Vec<Run<'a>> {
    let mut runs: Vec<Run<'a>> = Vec::new();
    let mut first_row = 0;
    for sequence in &batch.sequences {
        let end_row = first_row + sequence.tokens.len();
        if let Some(adapter) = sequence.adapter {
            match runs.last_mut() {
                Some(run) if run.rows.end == first_row && std::ptr::eq(run.adapter, adapter) => {
                    run.rows.end = end_row;
                }
                _ => runs.push(Run { adapter, rows: first_row..end_row }),
            }
        }
        first_row = end_row;
    }
    runs
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
