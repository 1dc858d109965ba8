//! Tiny random models against llama.cpp: `scripts/reference/README.md` says how they were made.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rapport_kernels::{Compute, Isa, KvPage, KvType, PAGE_TOKENS};
use rapport_model::gguf::Gguf;
use rapport_model::{Batch, BatchSequence, Logits, Scratch, Transformer};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/reference/tiny")
}

fn names() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(fixtures())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "gguf"))
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

fn tokens(name: &str) -> Vec<u32> {
    let text = std::fs::read_to_string(fixtures().join(format!("{name}.json"))).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let tokens = json["tokens"].as_array().unwrap();
    tokens.iter().map(|token| token.as_u64().unwrap() as u32).collect()
}

fn reference(name: &str, kind: &str) -> Option<Vec<f32>> {
    let bytes = std::fs::read(fixtures().join(format!("{name}.{kind}.f32"))).ok()?;
    Some(bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

/// Log-probabilities of every position, the prompt cut into chunks of the given sizes.
fn log_probs(compute: &Compute, model: &Transformer, tokens: &[u32], chunks: &[usize]) -> Vec<f32> {
    let shape = model.architecture().attention;
    let n_pages = tokens.len().div_ceil(PAGE_TOKENS);
    let mut pages: Vec<_> =
        (0..n_pages).map(|_| Arc::new(KvPage::new(shape, KvType::F32))).collect();
    let mut scratch = Scratch::default();
    let mut result = Vec::new();
    let mut position = 0;
    for &n in chunks {
        let sequence = BatchSequence {
            tokens: &tokens[position..position + n],
            position,
            pages: &mut pages,
            logits: Logits::All,
        };
        let mut batch = Batch { sequences: vec![sequence] };
        let logits = model.forward(compute, &mut batch, &mut scratch);
        for row in logits.chunks_exact(model.n_vocab()) {
            let max = row.iter().fold(f64::MIN, |max, x| max.max(f64::from(*x)));
            let sum: f64 = row.iter().map(|x| (f64::from(*x) - max).exp()).sum();
            result.extend(row.iter().map(|x| (f64::from(*x) - max - sum.ln()) as f32));
        }
        position += n;
    }
    assert_eq!(position, tokens.len());
    result
}

fn load(name: &str, compute: &Compute) -> Transformer {
    let gguf = Gguf::open(&fixtures().join(format!("{name}.gguf"))).unwrap();
    Transformer::load(&gguf, compute).unwrap()
}

fn compute(isa: Isa) -> Compute {
    Compute::new(isa, NonZeroUsize::new(2).unwrap())
}

#[test]
fn float_models_match_llama_cpp_within_a_thousandth() {
    let compute = compute(Isa::detect());
    let mut n_compared = 0;
    for name in names().into_iter().filter(|name| !name.starts_with("type-")) {
        let tokens = tokens(&name);
        let got = log_probs(&compute, &load(&name, &compute), &tokens, &[tokens.len()]);
        // Where llama.cpp cannot run a model, numpy's plain forward pass stands for it.
        let expected = reference(&name, "llama_cpp").or_else(|| reference(&name, "numpy")).unwrap();
        assert_eq!(got.len(), expected.len(), "{name}");
        let worst = got.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("{name}: {worst:e}");
        assert!(worst < 1e-3, "{name}: {worst}");
        n_compared += 1;
    }
    assert!(n_compared >= 9, "{n_compared} models compared");
}

#[test]
fn every_file_type_stays_near_its_float_reference() {
    let compute = compute(Isa::detect());
    let mut n_compared = 0;
    for name in names().into_iter().filter(|name| name.starts_with("type-")) {
        let tokens = tokens(&name);
        let got = log_probs(&compute, &load(&name, &compute), &tokens, &[tokens.len()]);
        let float = reference(&name, "numpy").unwrap();
        let llama_cpp = reference(&name, "llama_cpp").unwrap();
        // Eight-bit activations cost both engines about the same: ours may not cost more than a
        // half more than llama.cpp's own distance from the float result.
        let distance = |a: &[f32], b: &[f32]| {
            let squares = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2));
            (squares.sum::<f64>() / a.len() as f64).sqrt()
        };
        let (ours, theirs) = (distance(&got, &float), distance(&llama_cpp, &float));
        println!("{name}: {ours:.5}, llama.cpp {theirs:.5}");
        assert!(ours < theirs * 1.5 + 0.002, "{name}: {ours}, llama.cpp {theirs}");
        n_compared += 1;
    }
    assert_eq!(n_compared, 12);
}

#[test]
fn chunks_and_instruction_sets_give_the_same_bits() {
    for name in names() {
        let tokens = tokens(&name);
        let n = tokens.len();
        let fastest = compute(Isa::detect());
        let whole = log_probs(&fastest, &load(&name, &fastest), &tokens, &[n]);
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let compute = compute(isa);
            let model = load(&name, &compute);
            // The scalar path is slow: one way of cutting shows what is to be shown.
            let cuts = if isa == Isa::Scalar {
                vec![vec![5, n - 5]]
            } else {
                vec![vec![n], vec![1; n], vec![5, n - 5]]
            };
            for chunks in cuts {
                let got = log_probs(&compute, &model, &tokens, &chunks);
                let same = got.iter().zip(&whole).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{name} on {isa} in {} chunks", chunks.len());
            }
        }
    }
}
