//! `rapport logits` and `rapport perplexity`: how anyone checks us against another engine.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::sync::Arc;

use anyhow::{Context, ensure};
use rapport_kernels::{Compute, KvPage, KvType, PAGE_TOKENS};
use rapport_model::gguf::Gguf;
use rapport_model::{Batch, BatchSequence, Logits, Scratch, Transformer};

use crate::options::{LogitsOptions, PerplexityOptions};

/// Positions computed in one pass: bounds the memory that logits take.
const CHUNK_TOKENS: usize = 64;

/// Writes the logits of every position.
pub(crate) fn logits(options: &LogitsOptions) -> anyhow::Result<()> {
    let compute = options.compute.compute();
    let model = Transformer::load(&Gguf::open(&options.model)?, &compute)?;
    check(&model, &options.tokens)?;
    let file = File::create(&options.out)
        .with_context(|| format!("cannot write {}", options.out.display()))?;
    let mut out = BufWriter::new(file);
    let mut n_rows = 0;
    for_each_row(&model, &compute, &options.tokens, |_, row| {
        n_rows += 1;
        row.iter().try_for_each(|logit| out.write_all(&logit.to_le_bytes()))
    })?;
    out.flush()?;
    println!("{n_rows} rows of {} f32 in {}", model.n_vocab(), options.out.display());
    Ok(())
}

/// Prints the perplexity of a text in windows that each start from an empty context.
pub(crate) fn perplexity(options: &PerplexityOptions) -> anyhow::Result<()> {
    let _ = options;
    anyhow::bail!("needs the tokenizer")
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
    model: &Transformer,
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
        let sequence =
            BatchSequence { tokens: chunk, position, pages: &mut pages, logits: Logits::All };
        let mut batch = Batch { sequences: vec![sequence] };
        let rows = model.forward(compute, &mut batch, &mut scratch);
        for (row, position) in rows.chunks_exact(model.n_vocab()).zip(position..) {
            each(position, row)?;
        }
        position += chunk.len();
    }
    Ok(())
}
