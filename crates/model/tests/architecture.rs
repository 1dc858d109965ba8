//! What a model file's hyperparameters are read as, and which are refused.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::num::NonZeroUsize;
use std::path::Path;

use rapport_kernels::{Activation, Compute, Gating, Isa, Router};
use rapport_model::gguf::{Gguf, GgufPlan, Value};
use rapport_model::{Architecture, LoadError, QueryKeyNorm, Transformer};

fn open(name: &str) -> Gguf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/reference");
    Gguf::open(&folder.join("architectures").join(format!("{name}.gguf"))).unwrap()
}

/// The model with some keys changed (`None`: taken out) and without some tensors.
fn edited(name: &str, changes: &[(&str, Option<Value<'_>>)], without: &[&str]) -> Gguf {
    let source = open(name);
    let mut plan = GgufPlan::new();
    let changed = |key: &str| changes.iter().any(|(changed, _)| *changed == key);
    for (key, value) in source.metadata().iter().filter(|(key, _)| !changed(key)) {
        plan.value(key, value).unwrap();
    }
    for (key, value) in changes {
        if let Some(value) = value {
            plan.value(key, *value).unwrap();
        }
    }
    let kept = || source.tensors().iter().filter(|info| !without.contains(&info.name.as_str()));
    for info in kept() {
        plan.tensor(&info.name, &info.dims, info.block_type).unwrap();
    }
    let mut writer = plan.begin(Vec::new()).unwrap();
    for info in kept() {
        writer.tensor(source.tensor(&info.name).unwrap().bytes).unwrap();
    }
    Gguf::from_bytes(writer.finish().unwrap()).unwrap()
}

fn read(gguf: &Gguf) -> Result<Architecture, LoadError> {
    Architecture::read(gguf)
}

#[test]
fn each_family_is_described_as_its_papers_say() {
    let softmax = |n_active, renormalise| Router { gating: Gating::Softmax, n_active, renormalise };

    let gemma = read(&open("gemma3-scaled")).unwrap();
    let sliding = gemma.sliding.unwrap();
    assert_eq!(sliding.layers, [true, true, true, true, true, false]);
    assert_eq!(sliding.window_tokens, 35);
    assert_eq!(gemma.feed_forward.activation, Activation::Gelu);
    assert_eq!(gemma.query_key_norm, Some(QueryKeyNorm::Head));
    assert_eq!(read(&open("gemma3-listed")).unwrap().sliding.unwrap().layers, [false, true, false]);
    assert!(read(&open("gemma3-no-window")).unwrap().sliding.is_none());

    let qwen = read(&open("qwen3moe-12-4")).unwrap().feed_forward;
    let experts = qwen.experts.unwrap();
    assert_eq!((experts.count, experts.feed_forward, qwen.dense), (12, 12, None));
    assert_eq!(experts.router, softmax(4, true));
    let olmoe = read(&open("olmoe-8-2")).unwrap();
    assert_eq!(olmoe.feed_forward.experts.unwrap().router, softmax(2, false));
    assert_eq!(olmoe.query_key_norm, Some(QueryKeyNorm::AllHeads));

    let grok_1 = read(&open("grok-1")).unwrap();
    assert_eq!(grok_1.score_soft_cap, Some(30.0));
    assert_eq!((grok_1.logit_soft_cap, grok_1.feed_forward.dense), (None, None));
    let grok_2 = read(&open("grok-2")).unwrap();
    assert_eq!(grok_2.logit_soft_cap, Some(8.0));
    let experts = grok_2.feed_forward.experts.unwrap();
    assert_eq!((grok_2.feed_forward.dense, experts.feed_forward), (Some(24), 20));
}

#[test]
fn impossible_hyperparameters_are_named_with_what_was_found() {
    let list = open("gemma3-listed");
    let too_short = list.metadata().get("gemma3.attention.sliding_window_pattern").unwrap();
    for (name, key, value, found) in [
        ("mixtral-8-2", "llama.expert_used_count", Value::U32(9), "9"),
        ("mixtral-8-2", "llama.expert_used_count", Value::U32(0), "0"),
        ("qwen3moe-12-4", "qwen3moe.feed_forward_length", Value::U32(49), "49"),
        ("olmoe-8-2", "olmoe.expert_count", Value::U32(0), "0"),
        ("gemma3-scaled", "gemma3.attention.sliding_window_pattern", too_short, "3"),
        ("gemma3", "gemma3.final_logit_softcapping", Value::F32(-1.0), "-1"),
        ("gemma3", "gemma3.rope.freq_base_swa", Value::F32(f32::NAN), "NaN"),
        ("grok-1-keys", "grok.attn_logit_softcapping", Value::F32(f32::INFINITY), "inf"),
        ("grok-2", "grok.rope.scaling.yarn_ext_factor", Value::F32(0.5), "0.5"),
        ("qwen3", "qwen3.attention.head_count_kv", Value::U32(3), "3"),
        ("qwen3", "qwen3.rope.dimension_count", Value::U32(17), "17"),
        ("longrope-long", "llama.rope.scaling.type", Value::String(b"spiral"), "spiral"),
    ] {
        match read(&edited(name, &[(key, Some(value))], &[])) {
            Err(LoadError::InvalidHyperparameter { key: named, found: shown, .. }) => {
                assert_eq!((named.as_str(), shown.as_str()), (key, found));
            }
            other => panic!("{name} with {key} {found}: {other:?}"),
        }
    }
}

#[test]
fn what_is_missing_is_named() {
    let compute = Compute::new(Isa::detect(), NonZeroUsize::MIN);
    let missing = |gguf: &Gguf| Transformer::load(gguf, &compute).err().unwrap().to_string();
    for (name, key) in [
        ("qwen2", "qwen2.feed_forward_length"),
        ("olmoe-8-2", "olmoe.expert_used_count"),
        ("grok-1", "grok.attention.layer_norm_rms_epsilon"),
    ] {
        let error = missing(&edited(name, &[(key, None)], &[]));
        assert!(error.contains(key), "{error}");
    }
    for (name, tensor) in [
        ("qwen3", "blk.1.attn_k_norm.weight"),
        ("mixtral-8-2", "blk.0.ffn_gate_inp.weight"),
        ("qwen3moe-8-3", "blk.1.ffn_down_exps.weight"),
        ("gemma3", "blk.2.post_attention_norm.weight"),
        ("grok-1", "blk.0.post_ffw_norm.weight"),
    ] {
        let error = missing(&edited(name, &[], &[tensor]));
        assert!(error.contains(tensor), "{error}");
    }
    let other = [("general.architecture", Some(Value::String(b"mamba")))];
    let error = missing(&edited("qwen2", &other, &[]));
    assert!(error.contains("mamba") && error.contains("qwen3moe"), "{error}");
}

#[test]
fn experts_of_another_shape_are_refused() {
    let compute = Compute::new(Isa::detect(), NonZeroUsize::MIN);
    let count = [("qwen3moe.expert_count", Some(Value::U32(7)))];
    let error = Transformer::load(&edited("qwen3moe-8-3", &count, &[]), &compute).err().unwrap();
    assert!(error.to_string().contains("ffn_gate_inp.weight"), "{error}");
}
