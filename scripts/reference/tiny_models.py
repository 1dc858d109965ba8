"""Writes tiny seeded models of the `llama` architecture with the log-probabilities they must give.

One f32 model for each shape an engine can get wrong (`SHAPES`) and one model for each weight type
(`WEIGHT_TYPES`). Weights are random, from numpy's PCG64, scaled so that predictions are far from uniform
and attention looks at positions. The files are checked while they are written: llama.cpp and numpy_llama.py
must agree, and a model made for a feature must give other numbers with the feature taken out, so that
no fixture passes an engine that ignores it. Formats and tolerances: README.md.
"""

import argparse
import json
import subprocess
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import gguf
import numpy as np

import numpy_llama
from llama_cpp_logits import LlamaCppError, log_probs, log_softmax

# Log-probabilities of llama.cpp on f32 weights against f64 numpy.
F32_TOLERANCE = 1e-4
# A feature taken out must move some log-probability by this much.
FEATURE_MARGIN = 0.05
N_TOKENS = 32


@dataclass(frozen=True)
class Shape:
    name: str
    seed: int
    hidden: int = 32
    layers: int = 2
    heads: int = 4
    kv_heads: int = 4
    head_dim: int = 8
    ffn: int = 64
    vocab: int = 97
    byte_bpe: bool = False
    tied: bool = False
    attention_bias: bool = False
    rope_base: float = 10000.0
    rope_dim: int | None = None
    llama3_factors: bool = False
    context_tokens: int = 256
    rope_metadata: dict[str, str | int | float] = field(default_factory=dict)
    n_tokens: int = N_TOKENS


SHAPES = [
    Shape("mha", 1),
    Shape("gqa-4-2", 2, kv_heads=2),
    # Heads wider together than the hidden size: 6 * 16 = 96 from 40.
    Shape("gqa-6-2-tied", 3, hidden=40, heads=6, kv_heads=2, head_dim=16, ffn=48, tied=True),
    Shape("rope-llama3", 4, vocab=263, byte_bpe=True, tied=True, rope_base=50.0, llama3_factors=True,
          heads=2, kv_heads=1, head_dim=16, n_tokens=24),
    Shape("rope-linear", 5, kv_heads=2, rope_metadata={"type": "linear", "factor": 4.0}),
    Shape("rope-yarn", 6, heads=2, kv_heads=2, head_dim=16, context_tokens=1024,
          rope_metadata={"type": "yarn", "factor": 4.0, "original_context_length": 256}),
    Shape("rope-yarn-attn-factor", 7, heads=2, kv_heads=1, head_dim=16, context_tokens=1024, rope_base=500.0,
          rope_metadata={"type": "yarn", "factor": 8.0, "original_context_length": 128, "attn_factor": 0.75}),
    Shape("attn-bias", 8, kv_heads=2, attention_bias=True),
    # Not a file llama.cpp accepts for this architecture: numpy only.
    Shape("rope-partial", 9, heads=2, kv_heads=2, head_dim=16, rope_dim=8),
    # Nothing is a multiple of 8: rows of 36, 38 and 50, 97 outputs, 37 positions, 3 layers.
    Shape("odd-sizes", 10, hidden=38, layers=3, heads=2, kv_heads=1, head_dim=18, ffn=50, tied=True, n_tokens=37),
]  # fmt: skip

# Rows of 64 and 128 for types with blocks of 32, of 256 for those with blocks of 256.
BLOCK_32 = Shape("block-32", 20, hidden=64, layers=1, heads=4, kv_heads=2, head_dim=16, ffn=128, tied=True)
BLOCK_256 = Shape("block-256", 21, hidden=256, layers=1, heads=8, kv_heads=1, head_dim=32, ffn=256, tied=True)
WEIGHT_TYPES = {
    **dict.fromkeys(["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"], BLOCK_32),
    **dict.fromkeys(["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"], BLOCK_256),
}
# llama-quantize names some types after the usual mixture; with --pure all matrices get the one type.
QUANTIZE_NAMES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}


def gaussian(rng: np.random.Generator, rows: int, row_length: int, gain: float) -> np.ndarray:
    """(rows, row_length) with outputs of standard deviation `gain` for inputs of mean square 1."""
    return (rng.standard_normal((rows, row_length)) * gain / np.sqrt(row_length)).astype(np.float32)


def llama3_rope_factors(head_dim: int, base: float, context_tokens: int) -> np.ndarray:
    """Llama 3.1's division of frequencies: factor 8, low 1, high 4."""
    factor, low, high = 8.0, 1.0, 4.0
    wavelength = 2 * np.pi * base ** (np.arange(0, head_dim, 2) / head_dim)
    smooth = (context_tokens / wavelength - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    factors = np.where(wavelength > context_tokens / low, factor, between)
    return np.where(wavelength < context_tokens / high, 1.0, factors).astype(np.float32)


def add_vocabulary(writer: gguf.GGUFWriter, shape: Shape) -> None:
    if shape.byte_bpe:
        # GPT-2's printable stand-ins for the 256 bytes, two merges, then control tokens.
        printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
        hidden = [byte for byte in range(256) if byte not in printable]
        tokens = [chr(code) for code in printable] + [chr(256 + i) for i in range(len(hidden))]
        tokens += ["th", "the"]
        n_control = shape.vocab - len(tokens)
        types = [gguf.TokenType.NORMAL] * len(tokens) + [gguf.TokenType.CONTROL] * n_control
        tokens += [f"<|control_{i}|>" for i in range(n_control)]
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("llama-bpe")
        writer.add_token_list(tokens)
        writer.add_token_types(types)
        writer.add_token_merges(["t h", "th e"])
        writer.add_bos_token_id(len(tokens) - n_control)
        writer.add_eos_token_id(len(tokens) - n_control + 1)
        return
    pieces = ["\u2581", *(chr(code) for code in range(0x21, 0x7F) if chr(code) not in "`^~")]
    pieces += ["\u2581t", "he", "\u2581the"]
    tokens = ["<unk>", "<s>", "</s>", *pieces][: shape.vocab]
    assert len(tokens) == shape.vocab
    types = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * 3 + [-float(i) for i in range(len(tokens) - 3)])
    writer.add_token_types(types + [gguf.TokenType.NORMAL] * (len(tokens) - 3))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)


def write_model(shape: Shape, path: Path) -> None:
    rng = np.random.Generator(np.random.PCG64(shape.seed))
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(f"tiny {shape.name}")
    writer.add_context_length(shape.context_tokens)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_rope_dimension_count(shape.rope_dim or shape.head_dim)
    writer.add_vocab_size(shape.vocab)
    if shape.heads * shape.head_dim != shape.hidden:
        writer.add_key_length(shape.head_dim)
        writer.add_value_length(shape.head_dim)
    for key, value in shape.rope_metadata.items():
        add = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32}[type(value)]
        add(f"llama.rope.scaling.{key}", value)
    add_vocabulary(writer, shape)

    c, q_width, kv_width = shape.hidden, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim

    def norm() -> np.ndarray:
        return (1 + 0.2 * rng.standard_normal(c)).astype(np.float32)

    # The last norm brings hidden states to mean square 1, so logits have a standard deviation near 3.
    writer.add_tensor("token_embd.weight", gaussian(rng, shape.vocab, c, 3.0 if shape.tied else np.sqrt(c)))
    if shape.llama3_factors:
        # A quarter of the context as the original one spreads the pairs over all three branches.
        factors = llama3_rope_factors(shape.head_dim, shape.rope_base, shape.context_tokens // 4)
        writer.add_tensor("rope_freqs.weight", factors)
    for layer in range(shape.layers):
        block = f"blk.{layer}"
        writer.add_tensor(f"{block}.attn_norm.weight", norm())
        # Queries and keys of standard deviation 1.5 give scores near 2: attention picks, and sees angles.
        for part, rows, gain in [("q", q_width, 1.5), ("k", kv_width, 1.5), ("v", kv_width, 1.0)]:
            writer.add_tensor(f"{block}.attn_{part}.weight", gaussian(rng, rows, c, gain))
            if shape.attention_bias:
                writer.add_tensor(f"{block}.attn_{part}.bias", rng.standard_normal(rows).astype(np.float32))
        writer.add_tensor(f"{block}.attn_output.weight", gaussian(rng, c, q_width, 1.5))
        if shape.attention_bias:
            writer.add_tensor(f"{block}.attn_output.bias", 0.5 * rng.standard_normal(c).astype(np.float32))
        writer.add_tensor(f"{block}.ffn_norm.weight", norm())
        writer.add_tensor(f"{block}.ffn_gate.weight", gaussian(rng, shape.ffn, c, 1.5))
        writer.add_tensor(f"{block}.ffn_up.weight", gaussian(rng, shape.ffn, c, 1.5))
        writer.add_tensor(f"{block}.ffn_down.weight", gaussian(rng, c, shape.ffn, 1.0))
    writer.add_tensor("output_norm.weight", norm())
    if not shape.tied:
        writer.add_tensor("output.weight", gaussian(rng, shape.vocab, c, 3.0))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def random_tokens(shape: Shape) -> list[int]:
    rng = np.random.Generator(np.random.PCG64(1000 + shape.seed))
    return [int(token) for token in rng.integers(0, shape.vocab, shape.n_tokens)]


def without_feature(shape: Shape, model: numpy_llama.Llama) -> numpy_llama.Llama | None:
    """The model as an engine would run it that overlooks what the shape is about."""
    none = numpy_llama.RopeScaling(kind="none")
    if "attn_factor" in shape.rope_metadata:
        return replace(model, rope_scaling=replace(model.rope_scaling, attention_factor=1.0))
    if shape.rope_metadata.get("type") == "yarn":
        # Linear scaling by the same factor, the usual mistake.
        return replace(model, rope_scaling=replace(model.rope_scaling, kind="linear"))
    if shape.rope_metadata:
        return replace(model, rope_scaling=none)
    if shape.llama3_factors:
        return replace(model, weights={k: v for k, v in model.weights.items() if k != "rope_freqs.weight"})
    if shape.attention_bias:
        return replace(model, weights={k: v for k, v in model.weights.items() if not k.endswith(".bias")})
    if shape.rope_dim is not None:
        return replace(model, rope_dim=model.head_dim)
    return None


def worst(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max())


def check_spread(name: str, expected: np.ndarray) -> float:
    """The mean over positions of the most likely token's probability; refuses near-uniform models."""
    mean_top = float(np.exp(expected.max(axis=1)).mean())
    if mean_top < 10 / expected.shape[1]:
        raise SystemExit(f"{name}: predictions are close to uniform: mean top probability {mean_top:.3f}")
    return mean_top


def write_fixture(out: Path, name: str, header: dict, arrays: dict[str, np.ndarray]) -> None:
    for suffix, array in arrays.items():
        array.astype("<f4").tofile(out / f"{name}.{suffix}.f32")
    (out / f"{name}.json").write_text(json.dumps(header, indent=1, sort_keys=True) + "\n")


def make_shape(shape: Shape, library: Path, out: Path) -> None:
    path = out / f"{shape.name}.gguf"
    write_model(shape, path)
    tokens = random_tokens(shape)
    model = numpy_llama.load(path)
    truth = log_softmax(numpy_llama.forward(model, tokens))
    header = {"tokens": tokens, "vocab": shape.vocab, "mean_top_probability": round(check_spread(shape.name, truth), 4)}

    ignorant = without_feature(shape, model)
    if ignorant is not None:
        moved = worst(log_softmax(numpy_llama.forward(ignorant, tokens)), truth)
        if moved < FEATURE_MARGIN:
            raise SystemExit(f"{shape.name}: taking the feature out moves log-probabilities by {moved:.2e} only")
        header["max_difference_without_feature"] = round(moved, 3)

    arrays = {"numpy": truth}
    if shape.rope_dim is None:
        measured = log_probs(library, path, tokens, "f32")
        difference = worst(measured, truth)
        if difference > F32_TOLERANCE:
            raise SystemExit(f"{shape.name}: llama.cpp and numpy differ by {difference:.2e}")
        header["max_difference_llama_cpp_numpy"] = float(f"{difference:.2e}")
        arrays = {"llama_cpp": measured}
    else:
        try:
            log_probs(library, path, tokens, "f32")
        except LlamaCppError as refusal:
            header["llama_cpp_refuses"] = str(refusal).split(": ", 1)[1].replace(str(path), path.name)
        else:
            raise SystemExit(f"{shape.name}: llama.cpp accepts this now; store its log-probabilities")
    write_fixture(out, shape.name, header, arrays)
    print(shape.name, json.dumps({k: v for k, v in header.items() if k != "tokens"}))


def make_weight_type(weight_type: str, shape: Shape, library: Path, quantize: Path, out: Path) -> None:
    name = f"type-{weight_type.lower().replace('_', '')}"
    path = out / f"{name}.gguf"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source.gguf"
        write_model(shape, source)
        command = [quantize, "--pure", source, path, QUANTIZE_NAMES.get(weight_type, weight_type), "1"]
        subprocess.run(command, check=True, capture_output=True)
    found = {tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors if len(tensor.shape) == 2}
    if found != {weight_type}:
        raise SystemExit(f"{name}: matrices of type {weight_type} expected, found {found}")
    tokens = random_tokens(shape)
    truth = log_softmax(numpy_llama.forward(numpy_llama.load(path), tokens))
    measured = log_probs(library, path, tokens, "f32")
    kl = (np.exp(truth) * (truth - measured)).sum(axis=1)
    header = {
        "tokens": tokens,
        "vocab": shape.vocab,
        "weight_type": weight_type,
        "mean_top_probability": round(check_spread(name, truth), 4),
        # How far llama.cpp itself is from the float truth: its activations are rounded, ours may be as well.
        "llama_cpp_against_numpy": {
            "max_difference": float(f"{worst(measured, truth):.3e}"),
            "mean_difference": float(f"{np.abs(measured - truth).mean():.3e}"),
            "max_kl_divergence": float(f"{kl.max():.3e}"),
            "top_1_agreement": float((measured.argmax(axis=1) == truth.argmax(axis=1)).mean()),
        },
    }
    write_fixture(out, name, header, {"numpy": truth, "llama_cpp": measured})
    print(name, json.dumps({k: v for k, v in header.items() if k != "tokens"}))


def fixture_arguments(doc: str) -> argparse.Namespace:
    """The command line of a script that makes fixtures; their folder is there afterwards."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--library", type=Path, required=True, help="libllama.so of the version named in README.md")
    parser.add_argument("--quantize", type=Path, required=True, help="llama-quantize of the same version")
    parser.add_argument("--out", type=Path, required=True, help="folder for the fixtures")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    return arguments


def main() -> None:
    arguments = fixture_arguments(__doc__)
    for shape in SHAPES:
        make_shape(shape, arguments.library, arguments.out)
    for weight_type, shape in WEIGHT_TYPES.items():
        make_weight_type(weight_type, shape, arguments.library, arguments.quantize, arguments.out)


if __name__ == "__main__":
    main()
