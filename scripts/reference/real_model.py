"""Measures a real model through llama.cpp on English prose and on short conversations.

Writes what a second engine needs to be judged position by position: the log-probability of the actual next
token and the most likely token, for windows of 512 tokens and for one long pass, beside the same numbers
from numpy_llama.py with unrounded activations; and greedy answers to ten prompts. Formats: README.md.
"""

import argparse
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import gguf
import jinja2
import numpy as np

import numpy_llama
from llama_cpp_logits import LlamaCpp, log_softmax

WINDOW_TOKENS = 512
LONG_TOKENS = 2048
CONTINUATION_TOKENS = 32

CONVERSATIONS = [
    [("user", "What is the capital of New Zealand?")],
    [("user", "My dog died this morning and I don't know what to do with myself.")],
    [("user", "Write two lines of verse about rain on a tin roof.")],
    [("system", "You are a patient teacher of mathematics."), ("user", "Why is 7 times 8 equal to 56?")],
    [("user", "I got the job! I start on Monday!!")],
    [("system", "Answer in one sentence."), ("user", "What makes bread rise?")],
    [("user", "Hello"), ("assistant", "Hello! How can I help you today?"), ("user", "Tell me a fact about otters.")],
    [("user", "Is it true that the Great Wall of China can be seen from the Moon?")],
    [("user", "List three things to pack for a walk in the hills.")],
    [("user", "Übersetze ins Deutsche: “Good morning, how are you?” 🙂")],
]


@dataclass
class Scored:
    """One pass from an empty context over T tokens."""

    next_log_prob: list[float]  # T - 1: of token i + 1 after tokens 0..=i, log-softmax in f64
    top_token: list[int]  # T: most likely token after tokens 0..=i; the smaller id on a tie

    @property
    def nll_sum(self) -> float:
        return -float(np.sum(self.next_log_prob))


def score(tokens: Sequence[int], rows: Iterable[np.ndarray]) -> Scored:
    scored = Scored([], [])
    for position, row in enumerate(rows):
        scored.top_token.append(int(np.argmax(row)))
        if position + 1 < len(tokens):
            scored.next_log_prob.append(float(log_softmax(row)[tokens[position + 1]]))
    return scored


def write_pass(folder: Path, name: str, passes: list[Scored]) -> dict:
    """Files of one engine: passes one after another, f32 and i32 little-endian."""
    np.concatenate([p.next_log_prob for p in passes]).astype("<f4").tofile(folder / f"{name}.next_log_prob.f32")
    np.concatenate([p.top_token for p in passes]).astype("<i4").tofile(folder / f"{name}.top_token.i32")
    n_scored = sum(len(p.next_log_prob) for p in passes)
    nll_sums = [p.nll_sum for p in passes]
    return {
        "nll_sums": nll_sums,
        "scored_tokens": n_scored,
        "perplexity": float(np.exp(sum(nll_sums) / n_scored)),
    }


def distance(measured: list[Scored], truth: list[Scored]) -> dict:
    a = np.concatenate([p.next_log_prob for p in measured])
    b = np.concatenate([p.next_log_prob for p in truth])
    tops = np.concatenate([p.top_token for p in measured]) == np.concatenate([p.top_token for p in truth])
    return {
        "mean_absolute_log_prob_difference": float(np.abs(a - b).mean()),
        "max_absolute_log_prob_difference": float(np.abs(a - b).max()),
        "top_1_agreement": float(tops.mean()),
    }


def measure_english(llama: LlamaCpp, model_path: Path, text_path: Path, out: Path) -> None:
    tokens = llama.tokenize(text_path.read_bytes().decode(), add_special=True, parse_special=False)
    if len(tokens) < LONG_TOKENS:
        raise SystemExit(f"{text_path}: at least {LONG_TOKENS} tokens expected, found {len(tokens)}")
    np.asarray(tokens, "<i4").tofile(out / "english.tokens.i32")
    n_windows = len(tokens) // WINDOW_TOKENS
    windows = [tokens[i * WINDOW_TOKENS : (i + 1) * WINDOW_TOKENS] for i in range(n_windows)]
    header: dict = {
        "model_sha256": hashlib.sha256(model_path.read_bytes()).hexdigest(),
        "text_sha256": hashlib.sha256(text_path.read_bytes()).hexdigest(),
        "tokens": len(tokens),
        "add_bos": llama.adds_bos,
        "llama_cpp_kv_type": "f16",
        "window_tokens": WINDOW_TOKENS,
        "long_tokens": LONG_TOKENS,
    }
    floats = numpy_llama.load(model_path, np.float32)
    for name, sequences in [("windows", windows), ("long", [tokens[:LONG_TOKENS]])]:
        measured = [score(s, llama.logits(s, kv_type="f16")) for s in sequences]
        truth = [score(s, numpy_llama.forward(floats, s)) for s in sequences]
        header[name] = {
            "llama_cpp": write_pass(out, f"english.{name}.llama_cpp", measured),
            "numpy": write_pass(out, f"english.{name}.numpy", truth),
            "llama_cpp_against_numpy": distance(measured, truth),
        }
        print(name, json.dumps(header[name]))
    (out / "english.json").write_text(json.dumps(header, indent=1) + "\n")


def measure_conversations(llama: LlamaCpp, model_path: Path, out: Path) -> None:
    fields = gguf.GGUFReader(model_path).fields
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(
        fields["tokenizer.chat_template"].contents()
    )
    entries = []
    for conversation in CONVERSATIONS:
        messages = [{"role": role, "content": content} for role, content in conversation]
        prompt = template.render(messages=messages, add_generation_prompt=True)
        # The template writes every control token itself, so none is added.
        tokens = llama.tokenize(prompt, add_special=False, parse_special=True)
        rows = list(llama.logits(tokens, kv_type="f16", grow=CONTINUATION_TOKENS - 1))[len(tokens) - 1 :]
        continuation = [int(np.argmax(row)) for row in rows]
        # How safe each choice is: where it is small, another engine may rightly choose the other token.
        margins = [float(np.diff(np.partition(row, -2)[-2:])[0]) for row in rows]
        ends = [i for i, token in enumerate(continuation) if llama.is_end_of_generation(token)]
        entries.append(
            {
                "messages": messages,
                "prompt": prompt,
                "prompt_tokens": tokens,
                "continuation": continuation,
                "ends_at": ends[0] if ends else None,
                "logit_margins": [round(margin, 4) for margin in margins],
                "text": llama.detokenize(continuation),
            }
        )
    (out / "conversations.json").write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", type=Path, required=True, help="libllama.so of the version named in README.md")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True, help="UTF-8 prose of at least 2,048 tokens")
    parser.add_argument("--out", type=Path, required=True, help="folder for the fixtures")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with LlamaCpp(arguments.library, arguments.model) as llama:
        measure_conversations(llama, arguments.model, arguments.out)
        measure_english(llama, arguments.model, arguments.text, arguments.out)


if __name__ == "__main__":
    main()
