"""Writes a mixture of random weights that is large enough to measure speed on: 1.37 billion, of the qwen3moe shape.

Weights are Gaussian at F16, so routing spreads over all experts as it does in a balanced model; the text it
writes means nothing. The vocabulary is copied from another file, so that engines can load it as they load any.
llama-quantize then makes the file that is measured: README.md has the commands.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import gguf
import numpy as np


@dataclass(frozen=True)
class Shape:
    layers: int = 24
    hidden: int = 1024
    heads: int = 16
    kv_heads: int = 4
    head_dim: int = 64
    experts: int = 32
    experts_used: int = 4
    expert_ffn: int = 512
    context_tokens: int = 8192


def tensors(shape: Shape, vocab: int) -> dict[str, tuple[int, ...]]:
    """Every tensor's shape, rows first; one-dimensional ones are norms."""
    c, f, e = shape.hidden, shape.expert_ffn, shape.experts
    q_width, kv_width = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    layer = {
        "attn_norm": (c,), "attn_q": (q_width, c), "attn_k": (kv_width, c), "attn_v": (kv_width, c),
        "attn_q_norm": (shape.head_dim,), "attn_k_norm": (shape.head_dim,), "attn_output": (c, q_width),
        "ffn_norm": (c,), "ffn_gate_inp": (e, c),
        "ffn_gate_exps": (e, f, c), "ffn_up_exps": (e, f, c), "ffn_down_exps": (e, c, f),
    }  # fmt: skip
    named = {"token_embd.weight": (vocab, c)}
    for block in range(shape.layers):
        named |= {f"blk.{block}.{part}.weight": dims for part, dims in layer.items()}
    return named | {"output_norm.weight": (c,), "output.weight": (vocab, c)}


def copy_vocabulary(writer: gguf.GGUFWriter, source: gguf.GGUFReader) -> int:
    """Copies every `tokenizer.*` key and returns the number of tokens."""
    for field in source.fields.values():
        if field.name.startswith("tokenizer."):
            sub_type = field.types[1] if len(field.types) > 1 else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type)
    return len(source.fields["tokenizer.ggml.tokens"].data)


def write_model(shape: Shape, vocabulary: Path, path: Path, seed: int) -> None:
    writer = gguf.GGUFWriter(path, "qwen3moe")
    writer.add_name("random mixture")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(shape.context_tokens)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.expert_ffn * shape.experts_used)
    writer.add_expert_feed_forward_length(shape.expert_ffn)
    writer.add_expert_count(shape.experts)
    writer.add_expert_used_count(shape.experts_used)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    vocab = copy_vocabulary(writer, gguf.GGUFReader(vocabulary))
    # Norms and routers stay F32, as converters leave them.
    dtypes = {}
    for name, dims in tensors(shape, vocab).items():
        dtypes[name] = np.float32 if len(dims) == 1 or "ffn_gate_inp" in name else np.float16
        n_bytes = int(np.prod(dims)) * np.dtype(dtypes[name]).itemsize
        writer.add_tensor_info(name, dims, np.dtype(dtypes[name]), n_bytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    rng = np.random.Generator(np.random.PCG64(seed))
    for name, dims in tensors(shape, vocab).items():
        if len(dims) == 1:
            data = np.ones(dims, np.float32)
        else:
            data = rng.standard_normal(dims, np.float32) / np.float32(np.sqrt(dims[-1]))
        writer.write_tensor_data(data.astype(dtypes[name]))
    writer.close()


def run(description: str, size: str, write: Callable[[Path, Path, int], None]) -> None:
    """What a script that writes such a model takes: `write` gets the vocabulary's file, the one to write, and a seed."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--vocabulary", type=Path, required=True, help="GGUF file whose tokenizer is copied")
    parser.add_argument("--out", type=Path, required=True, help=f"file to write: {size}")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write(arguments.vocabulary, arguments.out, arguments.seed)


if __name__ == "__main__":
    run(__doc__, "2.7 GB at F16", partial(write_model, Shape()))
