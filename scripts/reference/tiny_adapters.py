"""Writes LoRA adapters of the tiny models, as peft saves them and as llama.cpp reads them, with what both say.

Each model becomes a transformers model of the same weights; peft adds a seeded adapter to it, saves it, and
its log-probabilities are the first reference. The same numbers in llama.cpp's GGUF form (rows of queries and
keys in the order of a GGUF llama) go through llama.cpp for the second. The script refuses to write anything
unless both agree with each other, and the models without adapters with the fixtures that are there.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from llama_cpp_logits import log_probs, log_softmax

TOLERANCE = 1e-4
# An adapter must move log-probabilities clearly, or the fixture shows nothing.
LEAST_CHANGE = 0.5
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
ALL = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]
FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}
GGUF_PARTS = {
    "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output",
    "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    name: str
    model: str
    seed: int
    rank: int
    alpha: float
    targets: list[str]
    rslora: bool = False


CASES = [
    Case("gqa-4-2", "tiny/gqa-4-2", 80, 3, 6, ALL),
    Case("mha", "tiny/mha", 81, 4, 2, ["q_proj", "v_proj", "down_proj"]),
    Case("attn-bias-rslora", "tiny/attn-bias", 82, 5, 3, ATTENTION, rslora=True),
    Case("qwen2", "architectures/qwen2", 83, 2, 4, ALL),
    Case("qwen3", "architectures/qwen3", 84, 8, 8, ["q_proj", "k_proj", "gate_proj", "up_proj"]),
]


def unpermuted(weights: np.ndarray, heads: int) -> np.ndarray:
    """Rows from a GGUF llama's order (rotary pairs are neighbours) to a checkpoint's (halves)."""
    rows = weights.reshape(heads, weights.shape[0] // heads // 2, 2, *weights.shape[1:])
    return rows.swapaxes(1, 2).reshape(weights.shape)


def permuted(weights: np.ndarray, heads: int) -> np.ndarray:
    """The way back, as llama.cpp's converter does it."""
    rows = weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
    return rows.swapaxes(1, 2).reshape(weights.shape)


def heads_of(module: str, arch: str, config: object) -> int | None:
    """How many heads' rows are permuted in a projection; None where none are."""
    if arch != "llama":
        return None
    return {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(module)


def transformers_model(path: Path) -> tuple[str, torch.nn.Module]:
    reader = gguf.GGUFReader(path)
    arch = reader.fields["general.architecture"].contents()

    def key(name: str, default: object = None) -> object:
        field = reader.fields.get(f"{arch}.{name}")
        return field.contents() if field else default

    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    hidden, heads = key("embedding_length"), key("attention.head_count")
    config_class, model_class = FAMILIES[arch]
    config = config_class(
        hidden_size=hidden,
        intermediate_size=key("feed_forward_length"),
        num_hidden_layers=key("block_count"),
        num_attention_heads=heads,
        num_key_value_heads=key("attention.head_count_kv"),
        head_dim=key("attention.key_length", hidden // heads),
        rms_norm_eps=key("attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": key("rope.freq_base")},
        max_position_embeddings=key("context_length"),
        vocab_size=tensors["token_embd.weight"].shape[0],
        tie_word_embeddings="output.weight" not in tensors,
        **({"attention_bias": "blk.0.attn_q.bias" in tensors} if arch == "llama" else {}),
    )
    state = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    if not config.tie_word_embeddings:
        state["lm_head.weight"] = "output.weight"
    for layer in range(config.num_hidden_layers):
        for theirs, ours in [
            ("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm"),
            ("self_attn.q_norm", "attn_q_norm"), ("self_attn.k_norm", "attn_k_norm"),
            *((f"{'self_attn' if module in ATTENTION else 'mlp'}.{module}", part) for module, part in GGUF_PARTS.items()),
        ]:  # fmt: skip
            for kind in ("weight", "bias"):
                if f"blk.{layer}.{ours}.{kind}" in tensors:
                    state[f"model.layers.{layer}.{theirs}.{kind}"] = f"blk.{layer}.{ours}.{kind}"
    weights = {}
    for theirs, ours in state.items():
        module = theirs.split(".")[-2]
        count = heads_of(module, arch, config)
        data = np.array(tensors[ours], dtype=np.float32)
        weights[theirs] = torch.from_numpy(unpermuted(data, count) if count else data)
    model = model_class(config).float().eval()
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if set(missing) - {"lm_head.weight"} or unexpected or len(state) != len(tensors):
        raise SystemExit(f"{path}: missing {missing}, unexpected {unexpected}")
    model.tie_weights()
    return arch, model


def torch_log_probs(model: torch.nn.Module, tokens: list[int]) -> np.ndarray:
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0].numpy()
    return log_softmax(logits)


def write_gguf(case: Case, arch: str, config: object, folder: Path, path: Path) -> None:
    writer = gguf.GGUFWriter(path, arch)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    # llama.cpp divides alpha by the rank.
    alpha = case.alpha * case.rank**0.5 if case.rslora else case.alpha
    writer.add_float32("adapter.lora.alpha", alpha)
    for name, data in sorted(load_file(folder / "adapter_model.safetensors").items()):
        parts = name.removeprefix("base_model.model.model.layers.").split(".")
        layer, module, half = parts[0], parts[2], parts[3]
        count = heads_of(module, arch, config)
        if half == "lora_B" and count:
            data = permuted(data, count)
        writer.add_tensor(f"blk.{layer}.{GGUF_PARTS[module]}.weight.{half.lower()}", np.ascontiguousarray(data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def worst(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max())


def make(case: Case, library: Path, fixtures: Path, out: Path) -> None:
    base = fixtures / f"{case.model}.gguf"
    tokens = json.loads((fixtures / f"{case.model}.json").read_text())["tokens"]
    arch, model = transformers_model(base)
    kept = np.fromfile(fixtures / f"{case.model}.llama_cpp.f32", "<f4").reshape(len(tokens), -1)
    for name, plain in [("transformers", torch_log_probs(model, tokens)), ("llama.cpp", log_probs(library, base, tokens, "f32"))]:
        if worst(plain, kept) > TOLERANCE:
            raise SystemExit(f"{case.name}: {name} without an adapter is {worst(plain, kept):.2e} off the fixture")
    torch.manual_seed(case.seed)
    config = LoraConfig(
        r=case.rank, lora_alpha=case.alpha, target_modules=case.targets, use_rslora=case.rslora,
        task_type="CAUSAL_LM", base_model_name_or_path="",
    )  # fmt: skip
    adapted = get_peft_model(model, config).eval()
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.4)
    expected = torch_log_probs(adapted, tokens)
    folder = out / case.name
    adapted.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    saved = json.loads((folder / "adapter_config.json").read_text())
    saved["target_modules"] = sorted(saved["target_modules"])
    (folder / "adapter_config.json").write_text(json.dumps(saved, indent=2, sort_keys=True) + "\n")
    path = out / f"{case.name}.lora.gguf"
    write_gguf(case, arch, model.config, folder, path)
    found = log_probs(library, base, tokens, "f32", path)
    change, apart = worst(expected, kept), worst(found, expected)
    print(f"{case.name}: the adapter moves {change:.2f}, llama.cpp and peft are {apart:.1e} apart")
    if change < LEAST_CHANGE or apart > TOLERANCE:
        raise SystemExit(f"{case.name}: not fit for a reference")
    expected.astype("<f4").tofile(out / f"{case.name}.peft.f32")
    found.astype("<f4").tofile(out / f"{case.name}.llama_cpp.f32")
    header = {
        "model": case.model,
        "tokens": tokens,
        "max_difference_without_adapter": round(change, 3),
        "llama_cpp_against_peft": float(f"{apart:.1e}"),
    }
    (out / f"{case.name}.json").write_text(json.dumps(header) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", type=Path, required=True, help="a llama.cpp of a version named in README.md")
    parser.add_argument("--fixtures", type=Path, required=True, help="the folder of `tiny` and `architectures`")
    arguments = parser.parse_args()
    out = arguments.fixtures / "adapters"
    out.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    for case in CASES:
        make(case, arguments.library, arguments.fixtures, out)


if __name__ == "__main__":
    main()
