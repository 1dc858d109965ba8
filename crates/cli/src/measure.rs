//! `rapport logits` and `rapport perplexity`: how anyone checks us against another engine.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::sync::Arc;

use anyhow::{Context, ensure};
use rapport_kernels::{Compute, KvPage, KvType, PAGE_TOKENS};
use rapport_model::gguf::Gguf;
use rapport_model::tokenizer::{Tokenizer, Trust, Vocabulary};
use rapport_model::{Batch, BatchSequence, Logits, PackedAdapter, Scratch, Transformer};

use crate::options::{AdapterOptions, LogitsOptions, PerplexityOptions};
use rapport_cli::pull::{self, ModelFiles, Paths};

/// Positions computed in one pass: bounds the memory that logits take.
const CHUNK_TOKENS: usize = 64;

/// Writes the logits of every position.
pub(crate) fn logits(
    options: &LogitsOptions,
    paths: &Paths,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let files = pull::find(&options.model, paths)?;
    let compute = options.compute.compute();
    let model = Transformer::load(&Gguf::open(&files.gguf)?, &compute)?;
    let adapter = pack((&options.adapter, &files), &model, &compute)?;
    let subject = (&model, adapter.as_ref());
    check(&model, &options.tokens)?;
    let file = File::create(&options.out)
        .with_context(|| format!("cannot write {}", options.out.display()))?;
    let mut rows = BufWriter::new(file);
    let mut n_rows = 0;
    for_each_row(subject, &compute, &options.tokens, |_, row| {
        n_rows += 1;
        row.iter().try_for_each(|logit| rows.write_all(&logit.to_le_bytes()))
    })?;
    rows.flush()?;
    writeln!(out, "{n_rows} rows of {} f32 in {}", model.n_vocab(), options.out.display())?;
    Ok(())
}

/// Prints the perplexity of a text in windows that each start from an empty context; the first
/// token of a window is not scored, and a last window shorter than the others is left out.
pub(crate) fn perplexity(
    options: &PerplexityOptions,
    paths: &Paths,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let files = pull::find(&options.model, paths)?;
    let compute = options.compute.compute();
    let gguf = Gguf::open(&files.gguf)?;
    let tokenizer = Tokenizer::new(&Vocabulary::from_gguf(&gguf)?)?;
    let model = Transformer::load(&gguf, &compute)?;
    drop(gguf);
    let adapter = pack((&options.adapter, &files), &model, &compute)?;
    let subject = (&model, adapter.as_ref());
    let text = std::fs::read_to_string(&options.file)
        .with_context(|| format!("cannot read {}", options.file.display()))?;
    let tokens = tokenizer.encode(&text, Trust::Content);
    let window = options.window.get();
    ensure!(window >= 2, "a window of one token scores nothing: use at least 2");
    ensure!(
        tokens.len() >= window,
        "{} has {} tokens, fewer than one window of {window}: use --window",
        options.file.display(),
        tokens.len()
    );
    let (mut log_prob, mut n_scored) = (0.0, 0_usize);
    for tokens in tokens.chunks_exact(window) {
        check(&model, tokens)?;
        for_each_row(subject, &compute, tokens, |position, row| {
            if let Some(&next) = tokens.get(position + 1) {
                let max = row.iter().copied().fold(f32::MIN, f32::max);
                let sum: f64 = row.iter().map(|logit| f64::from(logit - max).exp()).sum();
                log_prob += f64::from(row[next as usize] - max) - sum.ln();
                n_scored += 1;
            }
            Ok(())
        })?;
    }
    let perplexity = (-log_prob / n_scored as f64).exp();
    writeln!(out, "perplexity {perplexity:.4} over {n_scored} tokens in windows of {window}")?;
    Ok(())
}

fn pack(
    (options, files): (&AdapterOptions, &ModelFiles),
    model: &Transformer,
    compute: &Compute,
) -> anyhow::Result<Option<PackedAdapter>> {
    Ok(options.open(files)?.map(|file| model.pack_adapter(compute, &file)).transpose()?)
}

fn check(model: &Transformer, tokens: &[u32]) -> anyhow::Result<()> {
    let context = model.architecture().context_tokens;
    ensure!(
        tokens.len() <= context,
        "{} tokens are more than the model's context of {context}",
        tokens.len()
    );
    if let Some(token) = tokens.iter().find(|token| **token as usize >= model.n_vocab()) {
        anyhow::bail!("token {token} is outside the vocabulary of {}", model.n_vocab());
    }
    Ok(())
}

/// Calls `each(position, logits)` for every position of a sequence.
fn for_each_row(
    (model, adapter): (&Transformer, Option<&PackedAdapter>),
    compute: &Compute,
    tokens: &[u32],
    mut each: impl FnMut(usize, &[f32]) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let shape = model.architecture().attention;
    let mut pages: Vec<_> = (0..tokens.len().div_ceil(PAGE_TOKENS))
        .map(|_| Arc::new(KvPage::new(shape, KvType::F16)))
        .collect();
    let mut scratch = Scratch::default();
    let mut position = 0;
    for chunk in tokens.chunks(CHUNK_TOKENS) {
        let (pages, logits) = (&mut pages[..], Logits::All);
        let sequence = BatchSequence { tokens: chunk, position, pages, logits, adapter };
        let mut batch = Batch { sequences: vec![sequence] };
        let rows = model.forward(compute, &mut batch, &mut scratch);
        for (row, position) in rows.chunks_exact(model.n_vocab()).zip(position..) {
            each(position, row)?;
        }
        position += chunk.len();
    }
    Ok(())
}
