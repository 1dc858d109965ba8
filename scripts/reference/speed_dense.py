"""Writes a dense model of random weights that fits no cache, to measure speed on: 1.07 billion at Q8_0, 1.14 GB.

The shape is that of a llama of 16 layers of width 2,048 whose output shares the embedding. Blocks are written as
they are stored, random codes under one scale a tensor, so nothing has to be quantised; the text it writes means
nothing. The vocabulary is copied from another file, as in speed_mixture.py.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import gguf
import numpy as np
from speed_mixture import copy_vocabulary, run

BLOCK = 32
CHUNK_BLOCKS = 1 << 20


@dataclass(frozen=True)
class Shape:
    layers: int = 16
    hidden: int = 2048
    heads: int = 32
    kv_heads: int = 8
    ffn: int = 8192
    context_tokens: int = 8192


def tensors(shape: Shape, vocab: int) -> dict[str, tuple[int, ...]]:
    """Every tensor's shape, rows first; one-dimensional ones are norms."""
    c, f, kv = shape.hidden, shape.ffn, shape.hidden // shape.heads * shape.kv_heads
    layer = {
        "attn_norm": (c,), "attn_q": (c, c), "attn_k": (kv, c), "attn_v": (kv, c), "attn_output": (c, c),
        "ffn_norm": (c,), "ffn_gate": (f, c), "ffn_up": (f, c), "ffn_down": (c, f),
    }  # fmt: skip
    named = {"token_embd.weight": (vocab, c)}
    for block in range(shape.layers):
        named |= {f"blk.{block}.{part}.weight": dims for part, dims in layer.items()}
    return named | {"output_norm.weight": (c,)}


def q8_0_blocks(rng: np.random.Generator, dims: tuple[int, ...]) -> np.ndarray:
    """Q8_0 blocks whose weights have a standard deviation of one over the root of a row's length."""
    n_blocks = int(np.prod(dims)) // BLOCK
    blocks = np.empty((n_blocks, 2 + BLOCK), np.uint8)
    scale = np.float16(1 / (np.sqrt(dims[-1]) * 127 / np.sqrt(3)))
    blocks[:, :2] = np.frombuffer(scale.tobytes(), np.uint8)
    for first in range(0, n_blocks, CHUNK_BLOCKS):
        chunk = blocks[first : first + CHUNK_BLOCKS]
        chunk[:, 2:] = rng.integers(-127, 128, (len(chunk), BLOCK), np.int8).view(np.uint8)
    return blocks.reshape(*dims[:-1], -1)


def write_model(shape: Shape, vocabulary: Path, path: Path, seed: int) -> None:
    writer = gguf.GGUFWriter(path, "llama", use_temp_file=True)
    writer.add_name("random dense")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_context_length(shape.context_tokens)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.hidden // shape.heads)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e5)
    vocab = copy_vocabulary(writer, gguf.GGUFReader(vocabulary))
    rng = np.random.Generator(np.random.PCG64(seed))
    for name, dims in tensors(shape, vocab).items():
        if len(dims) == 1:
            writer.add_tensor(name, np.ones(dims, np.float32))
        else:
            data = q8_0_blocks(rng, dims)
            writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    run(__doc__, "1.14 GB", partial(write_model, Shape()))
