"""Writes tiny seeded models of every architecture but plain llama, with llama.cpp's log-probabilities.

The models are like those of tiny_models.py, whose helpers write them; here the reference is llama.cpp alone.
`ignoring` names the metadata an engine might overlook, with the value it would then assume: llama.cpp must
give clearly other numbers with it, or the fixture is refused. Formats and tolerances: README.md.
"""

import json
import subprocess
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import gguf
import numpy as np

from llama_cpp_logits import log_probs
from tiny_models import FEATURE_MARGIN, add_vocabulary, check_spread, fixture_arguments, gaussian, random_tokens, worst, write_fixture

Value = str | int | float | list[bool]


@dataclass(frozen=True)
class Model:
    name: str
    arch: str
    seed: int
    hidden: int = 32
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 8
    ffn: int = 24
    experts: int = 0
    experts_used: int = 0
    # Width of one expert; `ffn` where None.
    expert_ffn: int | None = None
    # Whether the file says `expert_ffn`.
    says_expert_ffn: bool = True
    # A dense branch beside the experts.
    dense: bool = False
    tied: bool = False
    bias: bool = False
    query_key_gain: float = 1.5
    # What engines multiply embeddings and logits by: taken out of the weights again.
    embedding_scale: float = 1.0
    logit_scale: float = 1.0
    feed_forward_post_norm: str = "post_ffw_norm"
    rope_factors: bool = False
    context_tokens: int = 1024
    metadata: dict[str, Value] = field(default_factory=dict)
    ignoring: dict[str, Value] = field(default_factory=dict)
    vocab: int = 64
    byte_bpe: bool = False
    n_tokens: int = 40


YARN = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 256}
LINEAR = {"rope.scaling.type": "linear"}
GROK_2 = {
    "embedding_scale": 5.0, "logit_scale": 0.5, "attention.output_scale": 0.5, "attn_logit_softcapping": 3.0,
    "router_logit_softcapping": 0.25, "final_logit_softcapping": 8.0, "attention.temperature_length": 8,
    "rope.scaling.yarn_beta_fast": 8.0, "rope.scaling.yarn_beta_slow": 2.0, **YARN,
}  # fmt: skip
GROK = {"arch": "grok", "experts_used": 2, "logit_scale": 0.57735}

MODELS = [
    Model("qwen2", "qwen2", 40, bias=True),
    Model("qwen2-yarn-tied", "qwen2", 41, bias=True, heads=6, kv_heads=2, hidden=36, head_dim=6, tied=True,
          metadata=YARN, ignoring=LINEAR),
    Model("qwen3", "qwen3", 42, head_dim=16),
    Model("qwen3-tied", "qwen3", 43, heads=6, kv_heads=3, head_dim=12, tied=True, n_tokens=33),
    # Windows shorter than the text; the other layers have a rotary base and a scale of their own.
    Model("gemma3", "gemma3", 44, layers=3, tied=True, embedding_scale=32**0.5, n_tokens=70, metadata={
        "attention.sliding_window": 7, "attention.sliding_window_pattern": 2, "rope.freq_base": 1e6,
        "rope.freq_base_swa": 300.0}, ignoring={"attention.sliding_window": 1000}),
    Model("gemma3-scaled", "gemma3", 45, layers=6, hidden=24, heads=2, kv_heads=1, head_dim=12, ffn=16, tied=True,
          embedding_scale=24**0.5, n_tokens=70,
          metadata={"attention.sliding_window": 35, "rope.freq_base": 500.0, "rope.scaling.type": "linear",
                    "rope.scaling.factor": 8.0}, ignoring={"rope.scaling.factor": 1.0}),
    Model("gemma3-listed", "gemma3", 46, layers=3, heads=3, kv_heads=1, head_dim=12, embedding_scale=32**0.5,
          metadata={"attention.sliding_window": 1, "attention.sliding_window_pattern": [False, True, False],
                    "final_logit_softcapping": 8.0}, ignoring={"final_logit_softcapping": 0.0}),
    Model("gemma3-no-window", "gemma3", 47, kv_heads=4, tied=True, embedding_scale=32**0.5),
    Model("mixtral-8-2", "llama", 48, experts=8, experts_used=2, ffn=12, ignoring={"expert_used_count": 3}),
    Model("mixtral-4-1", "llama", 49, ffn=24, experts=4, experts_used=1, kv_heads=4),
    Model("mixtral-3-3", "llama", 50, ffn=24, experts=3, experts_used=3, heads=2, kv_heads=1, head_dim=16, tied=True),
    Model("qwen3moe-8-3", "qwen3moe", 51, experts=8, experts_used=3, expert_ffn=12, head_dim=16),
    # Experts of 12 rows: no whole number of tiles.
    Model("qwen3moe-12-4", "qwen3moe", 52, experts=12, experts_used=4, expert_ffn=12, ffn=48, says_expert_ffn=False,
          kv_heads=1, tied=True),
    Model("olmoe-8-2", "olmoe", 53, experts=8, experts_used=2, ffn=12, kv_heads=4),
    Model("olmoe-6-4", "olmoe", 54, experts=6, experts_used=4, ffn=12, heads=2, kv_heads=2, head_dim=16),
    # No keys: what engines assume of the early files.
    Model("grok-1", seed=55, experts=8, ffn=16, tied=True, embedding_scale=78.3837, query_key_gain=6.0, **GROK),
    Model("grok-1-keys", seed=56, ffn=24, experts=4, kv_heads=4, embedding_scale=5.0, metadata={
        "embedding_scale": 5.0, "logit_scale": 0.57735, "attention.output_scale": 0.5, "attn_logit_softcapping": 2.0,
        }, ignoring={"attn_logit_softcapping": 1000.0}, **GROK),
    Model("grok-2", seed=57, experts=6, expert_ffn=20, dense=True, embedding_scale=5.0, head_dim=16, heads=2,
          kv_heads=1, metadata=GROK_2, ignoring={"rope.scaling.yarn_beta_fast": 64.0}, **GROK),
    Model("grok-2-cap", seed=58, experts=4, expert_ffn=16, dense=True, embedding_scale=5.0,
          feed_forward_post_norm="layer_output_norm", metadata={**GROK_2, "rope.scaling.type": "none"},
          ignoring={"final_logit_softcapping": 0.0}, **GROK),
    # What llama.cpp does with the rotary scalings of files that tiny_models.py does not have.
    Model("longrope-long", "llama", 59, layers=1, rope_factors=True, head_dim=16, heads=2, metadata={
        "rope.scaling.type": "longrope", "rope.scaling.original_context_length": 64, "rope.scaling.attn_factor": 1.2},
        ignoring={"rope.scaling.attn_factor": 1.0}),
    Model("longrope-short", "llama", 60, layers=1, rope_factors=True, head_dim=16, heads=2, metadata={
        "rope.scaling.type": "longrope", "rope.scaling.original_context_length": 1024},
        ignoring={"rope.scaling.original_context_length": 64}),
    Model("yarn-betas", "llama", 61, layers=1, head_dim=16, heads=2, metadata={
        **YARN, "rope.scaling.yarn_beta_fast": 3.0, "rope.scaling.yarn_beta_slow": 2.0}),
]  # fmt: skip

# Experts in packed tiles of codes, end to end.
QUANTISED = {
    "Q8_0": Model("experts-q80", "qwen3moe", 70, hidden=64, layers=1, experts=8, experts_used=2, expert_ffn=32, head_dim=16),
    "Q4_K": Model("experts-q4k", "qwen3moe", 71, hidden=256, layers=1, heads=4, kv_heads=1, head_dim=64, experts=3,
                  experts_used=2, expert_ffn=256),
}  # fmt: skip
QUANTIZE_NAMES = {"Q4_K": "Q4_K_M"}


def add_metadata(writer: gguf.GGUFWriter, model: Model) -> None:
    values: dict[str, Value] = {
        "context_length": model.context_tokens, "embedding_length": model.hidden, "block_count": model.layers,
        "feed_forward_length": model.ffn, "attention.head_count": model.heads,
        "attention.head_count_kv": model.kv_heads, "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.freq_base": 10000.0, "rope.dimension_count": model.head_dim, "vocab_size": model.vocab,
    }  # fmt: skip
    if model.heads * model.head_dim != model.hidden:
        values |= {"attention.key_length": model.head_dim, "attention.value_length": model.head_dim}
    if model.experts:
        values |= {"expert_count": model.experts, "expert_used_count": model.experts_used}
    if model.expert_ffn and model.says_expert_ffn:
        values["expert_feed_forward_length"] = model.expert_ffn
    add = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32, list: writer.add_array}
    for key, value in (values | model.metadata).items():
        add[type(value)](f"{model.arch}.{key}", value)


def write_model(model: Model, path: Path) -> None:
    rng = np.random.Generator(np.random.PCG64(model.seed))
    writer = gguf.GGUFWriter(path, model.arch)
    writer.add_name(f"tiny {model.name}")
    add_metadata(writer, model)
    add_vocabulary(writer, model)
    c, q_width, kv_width = model.hidden, model.heads * model.head_dim, model.kv_heads * model.head_dim
    expert_ffn = model.expert_ffn or model.ffn
    is_gemma, is_grok = model.arch == "gemma3", model.arch == "grok"

    def norm(name: str, width: int = c, mean: float = 1.0) -> None:
        weights = mean * (1 + 0.2 * rng.standard_normal(width))
        writer.add_tensor(f"{name}.weight", weights.astype(np.float32))

    def experts(name: str, rows: int, row_length: int, gain: float) -> None:
        stacked = gaussian(rng, model.experts * rows, row_length, gain)
        writer.add_tensor(f"{name}.weight", stacked.reshape(model.experts, rows, row_length))

    # Embeddings have mean square 1 once scaled, and logits a standard deviation near 3.
    embedding_gain = np.sqrt(c) / model.embedding_scale
    writer.add_tensor("token_embd.weight", gaussian(rng, model.vocab, c, embedding_gain))
    if model.rope_factors:
        n_pairs = model.head_dim // 2
        writer.add_tensor("rope_factors_long.weight", np.linspace(1.5, 12, n_pairs, dtype=np.float32))
        writer.add_tensor("rope_factors_short.weight", np.linspace(1, 2, n_pairs, dtype=np.float32))
    for layer in range(model.layers):
        block = f"blk.{layer}"
        norm(f"{block}.attn_norm")
        for part, rows in [("q", q_width), ("k", kv_width), ("v", kv_width)]:
            gain = 1.0 if part == "v" else model.query_key_gain
            writer.add_tensor(f"{block}.attn_{part}.weight", gaussian(rng, rows, c, gain))
            if model.bias:
                writer.add_tensor(f"{block}.attn_{part}.bias", rng.standard_normal(rows).astype(np.float32))
        if model.arch in ("qwen3", "qwen3moe", "gemma3"):
            norm(f"{block}.attn_q_norm", model.head_dim, 1.5)
            norm(f"{block}.attn_k_norm", model.head_dim, 1.5)
        if model.arch == "olmoe":
            norm(f"{block}.attn_q_norm", q_width, 1.5)
            norm(f"{block}.attn_k_norm", kv_width, 1.5)
        writer.add_tensor(f"{block}.attn_output.weight", gaussian(rng, c, q_width, 1.5))
        if is_gemma:
            norm(f"{block}.post_attention_norm")
        if is_grok:
            norm(f"{block}.attn_output_norm")
        norm(f"{block}.ffn_norm")
        if model.experts:
            writer.add_tensor(f"{block}.ffn_gate_inp.weight", gaussian(rng, model.experts, c, 1.5))
            experts(f"{block}.ffn_gate_exps", expert_ffn, c, 1.5)
            experts(f"{block}.ffn_up_exps", expert_ffn, c, 1.5)
            experts(f"{block}.ffn_down_exps", c, expert_ffn, 1.0)
        if model.dense or not model.experts:
            writer.add_tensor(f"{block}.ffn_gate.weight", gaussian(rng, model.ffn, c, 1.5))
            writer.add_tensor(f"{block}.ffn_up.weight", gaussian(rng, model.ffn, c, 1.5))
            writer.add_tensor(f"{block}.ffn_down.weight", gaussian(rng, c, model.ffn, 1.0))
        if is_gemma or is_grok:
            # llama.cpp looks GELU up in f16: a branch of this size keeps what that costs below the tolerance.
            norm(f"{block}.{model.feed_forward_post_norm}", mean=0.04)
    logit_gain = 3.0 / model.logit_scale
    norm("output_norm", mean=logit_gain / embedding_gain if model.tied else 1.0)
    if not model.tied:
        writer.add_tensor("output.weight", gaussian(rng, model.vocab, c, logit_gain))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make_float(model: Model, library: Path, out: Path) -> None:
    path = out / f"{model.name}.gguf"
    write_model(model, path)
    tokens = random_tokens(model)
    expected = log_probs(library, path, tokens, "f32")
    header = {"tokens": tokens, "vocab": model.vocab}
    header["mean_top_probability"] = round(check_spread(model.name, expected), 4)
    if model.ignoring:
        with tempfile.TemporaryDirectory() as folder:
            other = Path(folder) / "other.gguf"
            write_model(replace(model, metadata=model.metadata | model.ignoring), other)
            moved = worst(log_probs(library, other, tokens, "f32"), expected)
        if moved < FEATURE_MARGIN:
            raise SystemExit(f"{model.name}: {model.ignoring} moves log-probabilities by {moved:.2e} only")
        header["max_difference_without_feature"] = round(moved, 3)
    write_fixture(out, model.name, header, {"llama_cpp": expected})
    print(model.name, json.dumps({k: v for k, v in header.items() if k != "tokens"}))


def write_dequantised(source: Path, path: Path) -> None:
    """The same weights in f32: what llama.cpp says of them is free of rounded activations."""
    reader = gguf.GGUFReader(source)
    arch = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(path, arch)
    for name, value in reader.fields.items():
        if not name.startswith("GGUF.") and name not in ("general.architecture", "general.file_type"):
            sub_type = value.types[1] if len(value.types) > 1 else None
            writer.add_key_value(name, value.contents(), value.types[0], sub_type)
    for tensor in reader.tensors:
        floats = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        dims = tuple(int(n) for n in reversed(tensor.shape))
        writer.add_tensor(tensor.name, floats.reshape(dims).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make_quantised(weight_type: str, model: Model, library: Path, quantize: Path, out: Path) -> None:
    path = out / f"{model.name}.gguf"
    tokens = random_tokens(model)
    with tempfile.TemporaryDirectory() as folder:
        source, expanded = Path(folder) / "source.gguf", Path(folder) / "expanded.gguf"
        write_model(model, source)
        command = [quantize, "--pure", source, path, QUANTIZE_NAMES.get(weight_type, weight_type), "1"]
        subprocess.run(command, check=True, capture_output=True)
        write_dequantised(path, expanded)
        truth = log_probs(library, expanded, tokens, "f32")
    found = {tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors if "exps" in tensor.name}
    if found != {weight_type}:
        raise SystemExit(f"{model.name}: experts of type {weight_type} expected, found {found}")
    measured = log_probs(library, path, tokens, "f32")
    header = {
        "tokens": tokens,
        "vocab": model.vocab,
        "weight_type": weight_type,
        "mean_top_probability": round(check_spread(model.name, truth), 4),
        "llama_cpp_against_float": {
            "max_difference": float(f"{worst(measured, truth):.3e}"),
            "mean_difference": float(f"{np.abs(measured - truth).mean():.3e}"),
        },
    }
    write_fixture(out, model.name, header, {"float": truth, "llama_cpp": measured})
    print(model.name, json.dumps({k: v for k, v in header.items() if k != "tokens"}))


def main() -> None:
    arguments = fixture_arguments(__doc__)
    for model in MODELS:
        make_float(model, arguments.library, arguments.out)
    for weight_type, model in QUANTISED.items():
        make_quantised(weight_type, model, arguments.library, arguments.quantize, arguments.out)


if __name__ == "__main__":
    main()
