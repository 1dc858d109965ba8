//! Tiny random models against llama.cpp: `scripts/reference/README.md` says how they were made.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rapport_kernels::{Compute, Isa, KvPage, KvType, PAGE_TOKENS};
use rapport_model::gguf::Gguf;
use rapport_model::{Batch, BatchSequence, Logits, Scratch, Transformer};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/reference")
}

/// Models by their place below the fixtures: `tiny` are llamas, `architectures` all others.
fn names() -> Vec<String> {
    let in_folder = |folder: &'static str| {
        std::fs::read_dir(fixtures().join(folder))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "gguf"))
            .map(move |path| format!("{folder}/{}", path.file_stem().unwrap().to_str().unwrap()))
    };
    let mut names: Vec<String> =
        ["tiny", "architectures"].into_iter().flat_map(in_folder).collect();
    names.sort();
    names
}

/// Whether a model's matrices are of a type that makes engines round activations.
fn is_rounded(name: &str) -> bool {
    name.starts_with("tiny/type-") || name.starts_with("architectures/experts-")
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
            adapter: None,
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
    let mut failed = Vec::new();
    for name in names().into_iter().filter(|name| !is_rounded(name)) {
        let tokens = tokens(&name);
        let got = log_probs(&compute, &load(&name, &compute), &tokens, &[tokens.len()]);
        // Where llama.cpp cannot run a model, numpy's plain forward pass stands for it.
        let expected = reference(&name, "llama_cpp").or_else(|| reference(&name, "numpy")).unwrap();
        assert_eq!(got.len(), expected.len(), "{name}");
        let worst = got.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("{name}: {worst:e}");
        if worst >= 1e-3 {
            failed.push(name);
        }
        n_compared += 1;
    }
    assert_eq!(failed, Vec::<String>::new());
    assert!(n_compared >= 32, "{n_compared} models compared");
}

#[test]
fn every_file_type_stays_near_its_float_reference() {
    let compute = compute(Isa::detect());
    let mut n_compared = 0;
    for name in names().into_iter().filter(|name| is_rounded(name)) {
        let tokens = tokens(&name);
        let got = log_probs(&compute, &load(&name, &compute), &tokens, &[tokens.len()]);
        let float = reference(&name, "numpy").or_else(|| reference(&name, "float")).unwrap();
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
    assert_eq!(n_compared, 14);
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

/// Logits of the last token of each sequence: `n_context` tokens first, one pass a sequence, then the
/// rest of all sequences in the passes that `batches` says.
fn last_logits(
    compute: &Compute,
    model: &Transformer,
    sequences: &[(&[u32], usize)],
    batches: &[Vec<usize>],
) -> Vec<Vec<u32>> {
    let shape = model.architecture().attention;
    let mut scratch = Scratch::default();
    let mut all_pages: Vec<Vec<Arc<KvPage>>> = sequences
        .iter()
        .map(|(tokens, _)| {
            let page = || Arc::new(KvPage::new(shape, KvType::F16));
            std::iter::repeat_with(page).take(tokens.len().div_ceil(PAGE_TOKENS)).collect()
        })
        .collect();
    for ((tokens, n_context), pages) in sequences.iter().zip(&mut all_pages) {
        if *n_context > 0 {
            let tokens = &tokens[..*n_context];
            let sequence =
                BatchSequence { tokens, position: 0, pages, logits: Logits::None, adapter: None };
            model.forward(compute, &mut Batch { sequences: vec![sequence] }, &mut scratch);
        }
    }
    let mut result = vec![Vec::new(); sequences.len()];
    for members in batches {
        let in_batch = all_pages.iter_mut().enumerate().filter(|(idx, _)| members.contains(idx));
        let sequences = in_batch
            .map(|(idx, pages)| {
                let (tokens, position) = sequences[idx];
                BatchSequence {
                    tokens: &tokens[position..],
                    position,
                    pages,
                    logits: Logits::Last,
                    adapter: None,
                }
            })
            .collect();
        let logits = model.forward(compute, &mut Batch { sequences }, &mut scratch);
        for (member, row) in members.iter().zip(logits.chunks_exact(model.n_vocab())) {
            result[*member] = row.iter().map(|logit| logit.to_bits()).collect();
        }
    }
    result
}

#[test]
fn a_batch_gives_what_its_sequences_give_alone() {
    let compute = compute(Isa::detect());
    for name in names() {
        let model = load(&name, &compute);
        let tokens = tokens(&name);
        let n = tokens.len();
        // A reply's next token, a whole prompt, the end of a prompt, a single first token.
        let sequences =
            [(&tokens[..], n - 1), (&tokens[3..n - 2], 0), (&tokens[1..], 9), (&tokens[..1], 0)];
        let alone =
            last_logits(&compute, &model, &sequences, &[vec![0], vec![1], vec![2], vec![3]]);
        let together = last_logits(&compute, &model, &sequences, &[vec![0, 1, 2, 3]]);
        assert!(alone == together, "{name}");
        let pairs = last_logits(&compute, &model, &sequences, &[vec![1, 3], vec![0, 2]]);
        assert!(alone == pairs, "{name}");
    }
}

#[test]
fn every_choice_of_an_expert_is_counted() {
    let compute = compute(Isa::detect());
    let mut n_mixtures = 0;
    for name in names() {
        let model = load(&name, &compute);
        let experts = model.architecture().feed_forward.experts;
        assert_eq!(experts.is_some(), model.expert_load().is_some(), "{name}");
        let (Some(experts), Some(load)) = (experts, model.expert_load()) else { continue };
        assert!(load.imbalance().iter().all(|imbalance| *imbalance == 0.0));
        let tokens = tokens(&name);
        log_probs(&compute, &model, &tokens, &[7, tokens.len() - 7]);
        let counts = load.counts();
        assert_eq!(counts.len(), model.architecture().attention.n_layers);
        for (layer, imbalance) in counts.iter().zip(load.imbalance()) {
            let n_choices = (tokens.len() * experts.router.n_active) as u64;
            assert_eq!(layer.iter().sum::<u64>(), n_choices, "{name}");
            let busiest = *layer.iter().max().unwrap();
            let expected = busiest as f64 * experts.count as f64 / n_choices as f64;
            assert!((imbalance - expected).abs() < 1e-9, "{name}");
        }
        n_mixtures += 1;
    }
    assert_eq!(n_mixtures, 13);
}
