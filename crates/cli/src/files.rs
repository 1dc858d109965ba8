//! `rapport inspect` and `rapport quantize`: looking into model files and making smaller ones.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, bail};
use rapport_kernels::blocks::BlockType;
use rapport_model::AdapterFile;
use rapport_model::chat_template::{ChatTemplate, TemplateTokens};
use rapport_model::gguf::{Gguf, Value};
use rapport_model::quantize::quantize_file;

use crate::config::on_one_line;
use crate::options::{QuantizeOptions, base_check};

/// Characters of a metadata value that are shown.
const SHOWN_CHARS: usize = 70;

/// Prints metadata, tensors by type, and what is known of the template. Files are strangers: nothing
/// of theirs reaches the terminal raw.
pub(crate) fn inspect(file: &Path, out: &mut impl Write) -> anyhow::Result<()> {
    let gguf = Gguf::open(file)?;
    writeln!(
        out,
        "{}: GGUF version {}, {} tensors\n",
        file.display(),
        gguf.version(),
        gguf.tensors().len()
    )?;
    for (key, value) in gguf.metadata().iter() {
        writeln!(out, "{:<44} {}", on_one_line(key), shown(&value))?;
    }
    let mut by_type: BTreeMap<&str, (u64, u64, u64)> = BTreeMap::new();
    for info in gguf.tensors() {
        let entry = by_type.entry(info.block_type.name()).or_default();
        entry.0 += 1;
        entry.1 += info.dims.iter().product::<u64>();
        entry.2 += info.n_bytes;
    }
    writeln!(out, "\n{:<8} {:>8} {:>14} {:>14}", "type", "tensors", "weights", "bytes")?;
    for (name, (n_tensors, n_weights, n_bytes)) in by_type {
        writeln!(out, "{name:<8} {n_tensors:>8} {n_weights:>14} {n_bytes:>14}")?;
    }
    writeln!(out)?;
    for info in gguf.tensors() {
        let name = on_one_line(&info.name);
        writeln!(out, "{name:<32} {:<6} {:?}", info.block_type.name(), info.dims)?;
    }
    if let Some(source) = gguf.metadata().optional_string("tokenizer.chat_template")? {
        writeln!(out, "\nchat template:")?;
        source.lines().try_for_each(|line| writeln!(out, "{}", on_one_line(line)))?;
        writeln!(out)?;
        match ChatTemplate::parse(source, TemplateTokens::default()) {
            Ok(template) => match template.thinking() {
                Some(style) => {
                    let [open, close] = [&style.open, &style.close].map(|mark| on_one_line(mark));
                    writeln!(out, "thinks between {open} and {close}")?;
                }
                None => writeln!(out, "has no thinking of its own")?,
            },
            Err(error) => writeln!(out, "this template cannot be used: {error}")?,
        }
    }
    Ok(())
}

/// One line of a value.
fn shown(value: &Value<'_>) -> String {
    let line = match value {
        Value::Array(array) => format!("{} x {:?}", array.len(), array.element_type()),
        Value::String(text) => on_one_line(&String::from_utf8_lossy(text)),
        number => format!("{number:?}"),
    };
    match line.char_indices().nth(SHOWN_CHARS) {
        Some((at, _)) => format!("{}...", &line[..at]),
        None => line,
    }
}

/// Writes the file beside its place and renames it when it is whole.
pub(crate) fn quantize(options: &QuantizeOptions, out: &mut impl Write) -> anyhow::Result<()> {
    let target = BlockType::ALL
        .into_iter()
        .find(|block_type| block_type.name().eq_ignore_ascii_case(&options.block_type));
    let Some(target) = target else {
        bail!("`{}` is no type of weights: use F16, Q4_0, Q8_0, Q4_K or Q6_K", options.block_type);
    };
    let source = Gguf::open(&options.source)?;
    let folder = match options.out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut part = tempfile::NamedTempFile::new_in(folder)
        .with_context(|| format!("cannot write in {}", folder.display()))?;
    let mut file = BufWriter::new(part.as_file_mut());
    let adapter = options.merge.as_deref().map(AdapterFile::open).transpose()?;
    if let Some(adapter) = &adapter {
        adapter.check_base_file(&options.source, base_check(options.any_base))?;
    }
    quantize_file(&source, target, adapter.as_ref(), &mut file, |_| {})?;
    file.flush()?;
    drop(file);
    part.persist(&options.out)
        .with_context(|| format!("cannot write {}", options.out.display()))?;
    let bytes = |path: &Path| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    writeln!(
        out,
        "{}: {:.1} MB from {:.1} MB",
        options.out.display(),
        bytes(&options.out) as f64 / 1e6,
        bytes(&options.source) as f64 / 1e6
    )?;
    Ok(())
}
