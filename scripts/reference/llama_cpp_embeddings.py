"""Embeddings of a few texts as llama.cpp makes them: mean over all tokens, length 1.

Usage: llama_cpp_embeddings.py MODEL.gguf OUT.json [--pairs PAIRS.tsv]

Needs the Python package xllamacpp (2026.10.11549 wrote the fixture), which brings llama.cpp built. With `--pairs` (a line:
query, tab, document) nothing is written: it says how often the document of a query is the nearest of all, pooled as
the mean of all tokens and as the last token.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import xllamacpp

TEXTS = [
    "Good morning, how are you?",
    "The cat sat on the mat.",
    "A cat was sitting on a rug.",
    "Interest rates rose by a quarter of a point on Thursday.",
    "私は昨日、友達と海へ行きました。",
    "fn main() { println!(\"hello\"); }",
    " ".join(f"Sentence number {n} says that {n} plus one is {n + 1}." for n in range(1, 31)),
]


def embed(model: Path, pooling, texts: list[str]) -> tuple[np.ndarray, list[int]]:
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.embedding = True
    params.pooling_type = pooling
    params.n_ctx = params.n_batch = params.n_ubatch = 1024
    params.n_parallel = 1
    params.cpuparams.n_threads = 2
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.warmup = False
    server = xllamacpp.Server(params)
    answers = [server.handle_embeddings({"model": "m", "input": text}) for text in texts]
    rows = np.array([answer["data"][0]["embedding"] for answer in answers], dtype=np.float64)
    return rows, [answer["usage"]["prompt_tokens"] for answer in answers]


def found(queries: np.ndarray, documents: np.ndarray) -> float:
    return float(np.mean(np.argmax(queries @ documents.T, axis=1) == np.arange(len(queries))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pairs", type=Path)
    arguments = parser.parse_args()
    kinds = xllamacpp.llama_pooling_type
    if arguments.pairs:
        pairs = [line.split("\t") for line in arguments.pairs.read_text().splitlines()]
        texts = [text for pair in pairs for text in pair]
        for name, kind in (("mean", kinds.LLAMA_POOLING_TYPE_MEAN), ("last", kinds.LLAMA_POOLING_TYPE_LAST)):
            rows, _ = embed(arguments.model, kind, texts)
            for width in (rows.shape[1], rows.shape[1] // 2):
                cut = rows[:, :width] / np.linalg.norm(rows[:, :width], axis=1, keepdims=True)
                print(f"{name}, {width} numbers: {found(cut[0::2], cut[1::2]):.3f} of {len(pairs)}")
        return
    rows, counts = embed(arguments.model, kinds.LLAMA_POOLING_TYPE_MEAN, TEXTS)
    embeddings = [
        {"text": text, "n_tokens": count, "vector": [round(float(x), 7) for x in row]}
        for text, count, row in zip(TEXTS, counts, rows, strict=True)
    ]
    lines = ",\n".join(json.dumps(embedding, ensure_ascii=False) for embedding in embeddings)
    arguments.out.write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
