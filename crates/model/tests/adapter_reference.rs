//! LoRA against peft and llama.cpp, live and merged: `scripts/reference/README.md` says how the
//! references were made.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rapport_kernels::blocks::BlockType;
use rapport_kernels::{Compute, Isa, KvPage, KvType, PAGE_TOKENS};
use rapport_model::adapter::{AdapterError, Routing, Storage};
use rapport_model::gguf::Gguf;
use rapport_model::quantize::{QuantizeFileError, quantize_file};
use rapport_model::{
    AdapterFile, BaseCheck, Batch, BatchSequence, Logits, Scratch, Transformer, file_sha256,
};
use rapport_testkit::RandomAdapter;

const CASES: [&str; 5] = ["gqa-4-2", "mha", "attn-bias-rslora", "qwen2", "qwen3"];
/// Of log-probabilities, against other engines: as for models without adapters.
const TOLERANCE: f32 = 1e-3;
/// Of log-probabilities, merged against live: only the order of sums differs.
const MERGED_TOLERANCE: f32 = 2e-4;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/reference")
}

fn compute() -> Compute {
    Compute::new(Isa::detect(), NonZeroUsize::new(2).unwrap())
}

struct Case {
    base: PathBuf,
    tokens: Vec<u32>,
    peft: PathBuf,
    gguf: PathBuf,
}

fn case(name: &str) -> Case {
    let folder = fixtures().join("adapters");
    let text = std::fs::read_to_string(folder.join(format!("{name}.json"))).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let tokens = json["tokens"].as_array().unwrap();
    Case {
        base: fixtures().join(format!("{}.gguf", json["model"].as_str().unwrap())),
        tokens: tokens.iter().map(|token| token.as_u64().unwrap() as u32).collect(),
        peft: folder.join(name),
        gguf: folder.join(format!("{name}.lora.gguf")),
    }
}

fn reference(name: &str, kind: &str) -> Vec<f32> {
    let path = fixtures().join(format!("adapters/{name}.{kind}.f32"));
    let bytes = std::fs::read(path).unwrap();
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// Log-probabilities of every position.
fn log_probs(gguf: &Gguf, adapter: Option<&AdapterFile>, tokens: &[u32]) -> Vec<f32> {
    let compute = compute();
    let model = Transformer::load(gguf, &compute).unwrap();
    let adapter = adapter.map(|file| model.pack_adapter(&compute, file).unwrap());
    let shape = model.architecture().attention;
    let n_pages = tokens.len().div_ceil(PAGE_TOKENS);
    let mut pages: Vec<_> =
        (0..n_pages).map(|_| Arc::new(KvPage::new(shape, KvType::F32))).collect();
    let sequence = BatchSequence {
        tokens,
        position: 0,
        pages: &mut pages,
        logits: Logits::All,
        adapter: adapter.as_ref(),
    };
    let mut scratch = Scratch::default();
    let mut batch = Batch { sequences: vec![sequence] };
    let logits = model.forward(&compute, &mut batch, &mut scratch);
    let row_log_probs = |row: &[f32]| {
        let max = row.iter().fold(f64::MIN, |max, x| max.max(f64::from(*x)));
        let sum: f64 = row.iter().map(|x| (f64::from(*x) - max).exp()).sum();
        row.iter().map(|x| (f64::from(*x) - max - sum.ln()) as f32).collect::<Vec<f32>>()
    };
    logits.chunks_exact(model.n_vocab()).flat_map(row_log_probs).collect()
}

fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn merged(source: &Gguf, adapter: &AdapterFile, target: BlockType) -> Gguf {
    let mut bytes = Vec::new();
    quantize_file(source, target, Some(adapter), &mut bytes, |_| {}).unwrap();
    Gguf::from_bytes(bytes).unwrap()
}

#[test]
fn both_forms_match_their_own_programs_live_and_merged() {
    for name in CASES {
        let Case { base, tokens, peft, gguf } = case(name);
        let base = Gguf::open(&base).unwrap();
        let plain = log_probs(&base, None, &tokens);
        for (path, program) in [(&peft, "peft"), (&gguf, "llama_cpp")] {
            let expected = reference(name, program);
            let adapter = AdapterFile::open(path).unwrap();
            let live = log_probs(&base, Some(&adapter), &tokens);
            let merged = log_probs(&merged(&base, &adapter, BlockType::F32), None, &tokens);
            let (of_live, of_merged) = (worst(&live, &expected), worst(&merged, &live));
            println!("{name} {program}: live {of_live:e}, merged against live {of_merged:e}");
            assert!(of_live < TOLERANCE, "{name} {program}: {of_live:e}");
            assert!(of_merged < MERGED_TOLERANCE, "{name} {program}: {of_merged:e}");
            assert!(worst(&plain, &expected) > 0.5, "{name}: the adapter adds nothing");
        }
    }
}

#[test]
fn a_merged_file_says_what_is_in_it_and_may_be_smaller() {
    let Case { base, tokens, gguf, .. } = case("gqa-4-2");
    let base = Gguf::open(&base).unwrap();
    let adapter = AdapterFile::open(&gguf).unwrap();
    let found = merged(&base, &adapter, BlockType::Q8_0);
    let key = "rapport.merged_adapter.sha256";
    assert_eq!(found.metadata().string(key).unwrap(), adapter.sha256_text());
    assert_eq!(base.metadata().optional_string(key).unwrap(), None);
    let query = "blk.0.attn_q.weight";
    assert_eq!(found.find(query).unwrap().block_type, BlockType::Q8_0);
    // Merging again adds again, and says so.
    let twice = merged(&found, &adapter, BlockType::F32);
    assert_eq!(twice.metadata().string(key).unwrap(), adapter.sha256_text());
    let (once, twice) = (log_probs(&found, None, &tokens), log_probs(&twice, None, &tokens));
    assert!(worst(&once, &twice) > 0.5);
}

#[test]
fn what_cannot_be_merged_is_refused_before_anything_is_written() {
    let base = Gguf::open(&case("gqa-4-2").base).unwrap();
    let model = Transformer::load(&base, &compute()).unwrap();
    let routing = Some(Routing { n_experts: 2, top_k: 1 });
    let random = RandomAdapter { seed: 1, rank: 2, routing, strength: 1.0 };
    let folder = tempfile::tempdir().unwrap();
    random.for_model(model.architecture()).save(folder.path(), Storage::F32).unwrap();
    let routed = AdapterFile::open(folder.path()).unwrap();
    let mut out = Vec::new();
    let mut refused = |source: &Gguf, adapter: &AdapterFile| {
        let error = quantize_file(source, BlockType::F32, Some(adapter), &mut out, |_| {});
        assert!(out.is_empty());
        match error.unwrap_err() {
            QuantizeFileError::Adapter(error) => error,
            error => panic!("{error}"),
        }
    };
    let error = refused(&base, &routed);
    assert!(matches!(error, AdapterError::Routed { .. }), "{error}");
    assert!(error.to_string().contains("apply the adapter live"), "{error}");
    // Other sizes, and a mixture, whose feed-forward an adapter does not know.
    let other = Gguf::open(&case("qwen2").base).unwrap();
    let dense = AdapterFile::open(&case("gqa-4-2").gguf).unwrap();
    assert!(matches!(refused(&other, &dense), AdapterError::OtherModel { .. }));
    let mixture = fixtures().join("architectures/mixtral-8-2.gguf");
    let error = refused(&Gguf::open(&mixture).unwrap(), &dense);
    assert!(matches!(error, AdapterError::NoSuchLayer { .. }), "{error}");
}

#[test]
fn an_adapter_of_another_file_is_refused_unless_any_will_do() {
    let (own, other) = (case("gqa-4-2"), case("mha"));
    let model = Transformer::load(&Gguf::open(&own.base).unwrap(), &compute()).unwrap();
    let hash = file_sha256(&own.base).unwrap();
    let digits = hash.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    let text: String =
        digits.map(|digit| char::from(b"0123456789abcdef"[digit as usize])).collect();
    for routing in [None, Some(Routing { n_experts: 2, top_k: 1 })] {
        let random = RandomAdapter { seed: 1, rank: 2, routing, strength: 1.0 };
        let mut adapter = random.for_model(model.architecture());
        adapter.base_sha256 = Some(text.clone());
        let folder = tempfile::tempdir().unwrap();
        adapter.save(folder.path(), Storage::F32).unwrap();
        let file = AdapterFile::open(folder.path()).unwrap();
        file.check_base_file(&own.base, BaseCheck::Same).unwrap();
        file.check_base_file(&other.base, BaseCheck::Any).unwrap();
        let error = file.check_base_file(&other.base, BaseCheck::Same).unwrap_err();
        assert!(matches!(error, AdapterError::OtherBase { .. }), "{error}");
        assert!(error.to_string().contains(&text), "{error}");
    }
    // One that does not say is taken.
    let silent = AdapterFile::open(&own.peft).unwrap();
    silent.check_base_file(&other.base, BaseCheck::Same).unwrap();
}

#[test]
fn what_of_pefts_settings_is_not_read_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let source = case("mha").peft;
    let weights = "adapter_model.safetensors";
    std::fs::copy(source.join(weights), folder.path().join(weights)).unwrap();
    let text = std::fs::read_to_string(source.join("adapter_config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (key, value) in [
        ("alpha_pattern", serde_json::json!({ "q_proj": 1 })),
        ("rank_pattern", serde_json::json!({ "q_proj": 2 })),
        ("use_dora", serde_json::json!(true)),
        ("bias", serde_json::json!("all")),
    ] {
        let mut config = config.clone();
        config[key] = value;
        std::fs::write(folder.path().join("adapter_config.json"), config.to_string()).unwrap();
        let error = AdapterFile::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains(key), "{error}");
    }
}
