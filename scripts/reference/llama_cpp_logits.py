"""Log-probabilities of given tokens as llama.cpp computes them.

A binding of the few functions needed (ctypes, no build step) and a command line that writes one
fixture file. It deliberately has no sampling, no batching of several sequences and no GPU.
Start at `LlamaCpp.logits`.

The structs below mirror `include/llama.h` of one llama.cpp version (see README.md). Passing a struct of
another layout to a C function is silent nonsense, so `LlamaCpp.__init__` compares the library's
default parameters with known values first and refuses a library that does not match.
"""

import argparse
import ctypes
import json
from collections.abc import Iterator, Sequence
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int, c_int8, c_int32, c_size_t, c_uint32, c_void_p
from pathlib import Path

import numpy as np

FLASH_ATTENTION_DISABLED = 0
LOAD_MODE_MMAP = 1
GGML_TYPES = {"f32": 0, "f16": 1}


class ModelParams(ctypes.Structure):
    _fields_ = [
        ("devices", c_void_p),
        ("tensor_buft_overrides", c_void_p),
        ("n_gpu_layers", c_int32),
        ("split_mode", c_int),
        ("load_mode", c_int),
        ("lazy_mode", c_int),
        ("main_gpu", c_int32),
        ("tensor_split", c_void_p),
        ("progress_callback", c_void_p),
        ("progress_callback_user_data", c_void_p),
        ("kv_overrides", c_void_p),
        ("vocab_only", c_bool),
        ("check_tensors", c_bool),
        ("use_extra_bufts", c_bool),
        ("no_host", c_bool),
        ("no_alloc", c_bool),
        ("load_mtp", c_bool),
    ]


class ContextParams(ctypes.Structure):
    _fields_ = [
        ("n_ctx", c_uint32),
        ("n_batch", c_uint32),
        ("n_ubatch", c_uint32),
        ("n_seq_max", c_uint32),
        ("n_rs_seq", c_uint32),
        ("n_outputs_max", c_uint32),
        ("n_outputs_max_per_seq", c_uint32),
        ("n_threads", c_int32),
        ("n_threads_batch", c_int32),
        ("ctx_type", c_int),
        ("rope_scaling_type", c_int),
        ("pooling_type", c_int),
        ("attention_type", c_int),
        ("flash_attn_type", c_int),
        ("rope_freq_base", c_float),
        ("rope_freq_scale", c_float),
        ("yarn_ext_factor", c_float),
        ("yarn_attn_factor", c_float),
        ("yarn_beta_fast", c_float),
        ("yarn_beta_slow", c_float),
        ("yarn_orig_ctx", c_uint32),
        ("defrag_thold", c_float),
        ("cb_eval", c_void_p),
        ("cb_eval_user_data", c_void_p),
        ("type_k", c_int),
        ("type_v", c_int),
        ("abort_callback", c_void_p),
        ("abort_callback_data", c_void_p),
        ("embeddings", c_bool),
        ("offload_kqv", c_bool),
        ("no_perf", c_bool),
        ("op_offload", c_bool),
        ("swa_full", c_bool),
        ("kv_unified", c_bool),
        ("samplers", c_void_p),
        ("n_samplers", c_size_t),
        ("ctx_other", c_void_p),
    ]


class LaterContextParams(ctypes.Structure):
    """As in the llama.cpp of xllamacpp 2026.10: one pointer more, which stays zero here."""

    _fields_ = [
        field
        for known in ContextParams._fields_
        for field in ([("later", c_void_p), known] if known[0] == "embeddings" else [known])
    ]


class Batch(ctypes.Structure):
    _fields_ = [
        ("n_tokens", c_int32),
        ("token", POINTER(c_int32)),
        ("embd", POINTER(c_float)),
        ("pos", POINTER(c_int32)),
        ("n_seq_id", POINTER(c_int32)),
        ("seq_id", POINTER(POINTER(c_int32))),
        ("logits", POINTER(c_int8)),
    ]


LOG_CALLBACK = ctypes.CFUNCTYPE(None, c_int, c_char_p, c_void_p)


class LlamaCppError(Exception):
    """llama.cpp refused something; the message holds what it logged."""


class LlamaCpp:
    """One model loaded through llama.cpp: memory-mapped, CPU, weights in the layout of the file.

    `use_extra_bufts` is off, so weights are not repacked and the plain per-type dot products run.
    """

    def __init__(self, library: Path, model: Path, adapter: Path | None = None):
        self.lib = lib = ctypes.CDLL(str(library))
        context_params = self._context_params()
        self._log: list[str] = []
        self._log_callback = LOG_CALLBACK(self._keep_warning)
        signatures = {
            "llama_log_set": (None, [LOG_CALLBACK, c_void_p]),
            "llama_model_default_params": (ModelParams, []),
            "llama_context_default_params": (context_params, []),
            "llama_model_load_from_file": (c_void_p, [c_char_p, ModelParams]),
            "llama_model_free": (None, [c_void_p]),
            "llama_init_from_model": (c_void_p, [c_void_p, context_params]),
            "llama_free": (None, [c_void_p]),
            "llama_model_get_vocab": (c_void_p, [c_void_p]),
            "llama_vocab_n_tokens": (c_int32, [c_void_p]),
            "llama_vocab_get_add_bos": (c_bool, [c_void_p]),
            "llama_vocab_is_eog": (c_bool, [c_void_p, c_int32]),
            "llama_tokenize": (c_int32, [c_void_p, c_char_p, c_int32, POINTER(c_int32), c_int32, c_bool, c_bool]),
            "llama_detokenize": (c_int32, [c_void_p, POINTER(c_int32), c_int32, c_char_p, c_int32, c_bool, c_bool]),
            "llama_batch_init": (Batch, [c_int32, c_int32, c_int32]),
            "llama_batch_free": (None, [Batch]),
            "llama_decode": (c_int32, [c_void_p, Batch]),
            "llama_get_logits_ith": (POINTER(c_float), [c_void_p, c_int32]),
            "llama_backend_init": (None, []),
        }
        if adapter:
            signatures["llama_adapter_lora_init"] = (c_void_p, [c_void_p, c_char_p])
            adapters = [c_void_p, POINTER(c_void_p), c_size_t, POINTER(c_float)]
            signatures["llama_set_adapters_lora"] = (c_int32, adapters)
        for name, (result, arguments) in signatures.items():
            function = getattr(lib, name)
            function.restype, function.argtypes = result, arguments
        lib.llama_log_set(self._log_callback, None)
        lib.llama_backend_init()

        params = lib.llama_model_default_params()
        params.n_gpu_layers = 0
        params.load_mode = LOAD_MODE_MMAP
        params.use_extra_bufts = False
        self.model = lib.llama_model_load_from_file(str(model).encode(), params)
        if not self.model:
            raise LlamaCppError(f"{model}: not loaded: {' '.join(self._log)}")
        self.adapter = lib.llama_adapter_lora_init(self.model, str(adapter).encode()) if adapter else None
        if adapter and not self.adapter:
            raise LlamaCppError(f"{adapter}: not loaded: {' '.join(self._log)}")
        self.vocab = lib.llama_model_get_vocab(self.model)
        self.n_vocab = lib.llama_vocab_n_tokens(self.vocab)

    def _keep_warning(self, level: int, text: bytes, _user_data: object) -> None:
        if level >= 3:  # GGML_LOG_LEVEL_WARN = 3, _ERROR = 4, _CONT = 5
            self._log.append(text.decode(errors="replace").strip())

    def _context_params(self) -> type[ctypes.Structure]:
        """The layout in which the library's default values are the known ones."""
        self.lib.llama_model_default_params.restype = ModelParams
        model = self.lib.llama_model_default_params()
        expected = (512, 2048, 512, 1, -1, -1, -1.0, 1, 1, True, True, 0, None, False, True)
        for layout in (ContextParams, LaterContextParams):
            self.lib.llama_context_default_params.restype = layout
            context = self.lib.llama_context_default_params()
            found = (
                context.n_ctx, context.n_batch, context.n_ubatch, context.n_seq_max, context.rope_scaling_type,
                context.flash_attn_type, context.yarn_ext_factor, context.type_k, context.type_v,
                context.offload_kqv, context.no_perf, context.n_samplers, context.ctx_other, model.vocab_only,
                model.use_extra_bufts,
            )  # fmt: skip
            if found == expected:
                return layout
        raise LlamaCppError(
            f"parameter structs differ from this script's: default values expected {expected}, found {found}; "
            "use a llama.cpp version named in README.md or bring the structs up to date"
        )

    def __enter__(self) -> "LlamaCpp":
        return self

    def __exit__(self, *_exception: object) -> None:
        self.lib.llama_model_free(self.model)

    @property
    def adds_bos(self) -> bool:
        return self.lib.llama_vocab_get_add_bos(self.vocab)

    def is_end_of_generation(self, token: int) -> bool:
        return self.lib.llama_vocab_is_eog(self.vocab, token)

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        data = text.encode()
        capacity = len(data) + 8
        tokens = (c_int32 * capacity)()
        n = self.lib.llama_tokenize(self.vocab, data, len(data), tokens, capacity, add_special, parse_special)
        if n < 0:
            raise LlamaCppError(f"tokenizing {len(data)} bytes returned {n}")
        return list(tokens[:n])

    def detokenize(self, tokens: Sequence[int]) -> str:
        array = (c_int32 * len(tokens))(*tokens)
        text = ctypes.create_string_buffer(64 * len(tokens) + 64)
        n = self.lib.llama_detokenize(self.vocab, array, len(tokens), text, len(text), False, True)
        if n < 0:
            raise LlamaCppError(f"detokenizing {len(tokens)} tokens returned {n}")
        return text.raw[:n].decode(errors="replace")

    def logits(
        self,
        tokens: Sequence[int],
        *,
        kv_type: str,
        n_threads: int = 1,
        batch_tokens: int = 512,
        grow: int = 0,
    ) -> Iterator[np.ndarray]:
        """Logits (V,) f32 after every token, from an empty context; position i predicts token i + 1.

        `grow` goes on past the end: greedily, one token at a time, yielding `grow` more rows.
        """
        params = self.lib.llama_context_default_params()
        params.n_ctx = len(tokens) + grow
        params.n_batch = params.n_ubatch = batch_tokens
        params.n_threads = params.n_threads_batch = n_threads
        params.flash_attn_type = FLASH_ATTENTION_DISABLED
        params.type_k = params.type_v = GGML_TYPES[kv_type]
        params.offload_kqv = params.op_offload = False
        context = self.lib.llama_init_from_model(self.model, params)
        if not context:
            raise LlamaCppError(f"no context: {' '.join(self._log)}")
        if self.adapter:
            self.lib.llama_set_adapters_lora(context, (c_void_p * 1)(self.adapter), 1, (c_float * 1)(1.0))
        try:
            last = None
            for start in range(0, len(tokens), batch_tokens):
                for last in self._decode(context, tokens[start : start + batch_tokens], start):
                    yield last
            for step in range(grow):
                (last,) = self._decode(context, [int(np.argmax(last))], len(tokens) + step)
                yield last
        finally:
            self.lib.llama_free(context)

    def _decode(self, context: int, tokens: Sequence[int], first_position: int) -> list[np.ndarray]:
        batch = self.lib.llama_batch_init(len(tokens), 0, 1)
        try:
            batch.n_tokens = len(tokens)
            for i, token in enumerate(tokens):
                batch.token[i] = token
                batch.pos[i] = first_position + i
                batch.n_seq_id[i] = 1
                batch.seq_id[i][0] = 0
                batch.logits[i] = 1
            code = self.lib.llama_decode(context, batch)
            if code != 0:
                raise LlamaCppError(f"llama_decode returned {code}: {' '.join(self._log)}")
            return [
                np.ctypeslib.as_array(self.lib.llama_get_logits_ith(context, i), (self.n_vocab,)).copy()
                for i in range(len(tokens))
            ]
        finally:
            self.lib.llama_batch_free(batch)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities over the last dimension, computed in f64 with the maximum taken off first."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True).astype(np.float64)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def log_probs(
    library: Path, model: Path, tokens: Sequence[int], kv_type: str, adapter: Path | None = None
) -> np.ndarray:
    """All log-probabilities (T, V) f64 of one sequence from an empty context."""
    with LlamaCpp(library, model, adapter) as llama:
        return np.stack([log_softmax(row) for row in llama.logits(tokens, kv_type=kv_type)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", type=Path, required=True, help="libllama.so of the version named in README.md")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--tokens", required=True, help="JSON list of token ids")
    parser.add_argument("--kv-type", choices=GGML_TYPES, default="f32")
    parser.add_argument("--out", type=Path, required=True, help="f32 little-endian (T, V), row-major")
    arguments = parser.parse_args()
    result = log_probs(arguments.library, arguments.model, json.loads(arguments.tokens), arguments.kv_type)
    result.astype("<f4").tofile(arguments.out)


if __name__ == "__main__":
    main()
