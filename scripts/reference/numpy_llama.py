"""The `llama` architecture in numpy, written to be read: the float truth that kernels are judged against.

Weights are dequantised exactly as the GGUF block formats define, activations are floats throughout
(f64 by default) and attention is one dense masked matrix product. It deliberately has no KV cache, no
batching, no mixture of experts and no speed. Start at `forward`.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

# Rotations over the original context above which a pair keeps its frequency, and below which it is
# interpolated. llama.cpp reads no metadata key for them in this architecture (it does in others).
YARN_BETA_FAST = 32.0
YARN_BETA_SLOW = 1.0


@dataclass(frozen=True)
class RopeScaling:
    kind: str  # "none", "linear" or "yarn"
    factor: float = 1.0
    original_context_tokens: int = 0
    attention_factor: float = 1.0


@dataclass(frozen=True)
class Llama:
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    rope_dim: int
    rope_base: float
    rope_scaling: RopeScaling
    norm_epsilon: float
    weights: dict[str, np.ndarray]

    def weight(self, name: str) -> np.ndarray:
        return self.weights[name]

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        # (T, in) x (out, in) -> (T, out)
        y = x @ self.weights[f"{name}.weight"].T
        bias = self.weights.get(f"{name}.bias")
        return y if bias is None else y + bias


def load(path: Path, dtype: type = np.float64) -> Llama:
    reader = gguf.GGUFReader(path)

    def metadata(key: str, default: object = None) -> object:
        field = reader.get_field(key)
        if field is None:
            if default is None:
                raise KeyError(f"{path}: metadata key {key} is absent")
            return default
        return field.contents()

    architecture = metadata("general.architecture")
    if architecture != "llama":
        raise ValueError(f"{path}: architecture expected llama, found {architecture}")
    weights = {}
    for tensor in reader.tensors:
        # GGUF lists dimensions innermost first; the dequantised array is (rows, row length).
        floats = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        weights[tensor.name] = floats.reshape(tuple(int(n) for n in reversed(tensor.shape))).astype(dtype)
    weights.setdefault("output.weight", weights["token_embd.weight"])

    n_heads = metadata("llama.attention.head_count")
    head_dim = metadata("llama.attention.key_length", metadata("llama.embedding_length") // n_heads)
    scaling = RopeScaling(
        kind=metadata("llama.rope.scaling.type", "linear"),
        factor=metadata("llama.rope.scaling.factor", 1.0),
        original_context_tokens=metadata(
            "llama.rope.scaling.original_context_length", metadata("llama.context_length")
        ),
        attention_factor=metadata("llama.rope.scaling.attn_factor", 1.0),
    )
    return Llama(
        n_layers=metadata("llama.block_count"),
        n_heads=n_heads,
        n_kv_heads=metadata("llama.attention.head_count_kv", n_heads),
        head_dim=head_dim,
        rope_dim=metadata("llama.rope.dimension_count", head_dim),
        rope_base=metadata("llama.rope.freq_base", 10000.0),
        rope_scaling=scaling,
        norm_epsilon=metadata("llama.attention.layer_norm_rms_epsilon"),
        weights=weights,
    )


def rms_norm(x: np.ndarray, weight: np.ndarray, epsilon: float) -> np.ndarray:
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + epsilon) * weight


def rope_angles(model: Llama, n_tokens: int) -> tuple[np.ndarray, float]:
    """Angles (T, rope_dim / 2) and the factor on cosine and sine."""
    n_pairs = model.rope_dim // 2
    pair = np.arange(n_pairs)
    frequency = model.rope_base ** (-2.0 * pair / model.rope_dim)
    if "rope_freqs.weight" in model.weights:
        frequency = frequency / model.weights["rope_freqs.weight"].astype(np.float64)
    scaling, magnitude = model.rope_scaling, 1.0
    if scaling.kind == "linear":
        frequency = frequency / scaling.factor
    elif scaling.kind == "yarn":
        # YaRN, arXiv 2309.00071, sections 3.2 to 3.4: fast pairs keep their frequency, slow ones are
        # interpolated, and a linear ramp over the pair index joins them.
        def pair_of_rotations(rotations: float) -> float:
            wavelength = scaling.original_context_tokens / (rotations * 2 * np.pi)
            return model.rope_dim * np.log(wavelength) / (2 * np.log(model.rope_base))

        low = max(0.0, np.floor(pair_of_rotations(YARN_BETA_FAST)))
        high = min(model.rope_dim - 1.0, np.ceil(pair_of_rotations(YARN_BETA_SLOW)))
        keep = 1 - np.clip((pair - low) / max(0.001, high - low), 0, 1)
        frequency = frequency * keep + frequency / scaling.factor * (1 - keep)
        magnitude = 1 + 0.1 * np.log(scaling.factor)
    magnitude *= scaling.attention_factor
    return np.outer(np.arange(n_tokens), frequency), magnitude


def rotate(x: np.ndarray, angles: np.ndarray, magnitude: float) -> np.ndarray:
    """Rotates neighbouring pairs (2i, 2i + 1) of (T, heads, D); what lies past the rope dimension stays."""
    cos = (np.cos(angles) * magnitude).astype(x.dtype)[:, None, :]
    sin = (np.sin(angles) * magnitude).astype(x.dtype)[:, None, :]
    n = 2 * angles.shape[1]
    even, odd = x[..., 0:n:2], x[..., 1:n:2]
    rotated = x.copy()
    rotated[..., 0:n:2] = even * cos - odd * sin
    rotated[..., 1:n:2] = even * sin + odd * cos
    return rotated


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def forward(model: Llama, tokens: list[int]) -> np.ndarray:
    """Logits (T, V): row i follows tokens 0..=i."""
    n_tokens, group = len(tokens), model.n_heads // model.n_kv_heads
    angles, magnitude = rope_angles(model, n_tokens)
    future = np.triu(np.ones((n_tokens, n_tokens), dtype=bool), k=1)
    x = model.weight("token_embd.weight")[tokens]  # (T, C)
    for layer in range(model.n_layers):
        block = f"blk.{layer}"
        h = rms_norm(x, model.weight(f"{block}.attn_norm.weight"), model.norm_epsilon)
        q = model.linear(f"{block}.attn_q", h).reshape(n_tokens, model.n_heads, model.head_dim)
        k = model.linear(f"{block}.attn_k", h).reshape(n_tokens, model.n_kv_heads, model.head_dim)
        v = model.linear(f"{block}.attn_v", h).reshape(n_tokens, model.n_kv_heads, model.head_dim)
        q = rotate(q, angles, magnitude).transpose(1, 0, 2)  # (H, T, D)
        k = np.repeat(rotate(k, angles, magnitude), group, axis=1).transpose(1, 2, 0)  # (H, D, T)
        v = np.repeat(v, group, axis=1).transpose(1, 0, 2)  # (H, T, D)
        scores = q @ k / np.sqrt(model.head_dim).astype(x.dtype)  # (H, T, T)
        scores[:, future] = -np.inf
        attended = (softmax(scores) @ v).transpose(1, 0, 2).reshape(n_tokens, -1)  # (T, H * D)
        x = x + model.linear(f"{block}.attn_output", attended)
        h = rms_norm(x, model.weight(f"{block}.ffn_norm.weight"), model.norm_epsilon)
        gate = model.linear(f"{block}.ffn_gate", h)
        x = x + model.linear(f"{block}.ffn_down", gate / (1 + np.exp(-gate)) * model.linear(f"{block}.ffn_up", h))
    x = rms_norm(x, model.weight("output_norm.weight"), model.norm_epsilon)
    return model.linear("output", x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("tokens", type=int, nargs="+")
    arguments = parser.parse_args()
    for position, row in enumerate(forward(load(arguments.model), arguments.tokens)):
        best = np.argsort(-row)[:5]
        print(position, ", ".join(f"{token}: {row[token]:.4f}" for token in best))


if __name__ == "__main__":
    main()
