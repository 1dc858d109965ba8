"""Writes `tiny-chat.gguf`: a seeded random model of 90,000 weights that holds conversations, for tests of training.

    python scripts/reference/tiny_chat.py crates/testkit/fixtures/tiny-chat.gguf

Its vocabulary is the 256 bytes, two merges and ChatML's control tokens. What it says means nothing, but is plain ASCII: one
component of the hidden state is the same everywhere and keeps other bytes improbable. Needs gguf and numpy; the same
bytes each time.
"""

import sys

import gguf
import numpy as np

HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, FFN, CONTEXT = 64, 2, 4, 2, 16, 128, 512
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

rng = np.random.Generator(np.random.PCG64(11))


def gaussian(rows, columns, gain):
    return rng.standard_normal((rows, columns)) * gain / np.sqrt(columns)


def keeps_constant(matrix):
    """No output to the first component."""
    matrix[0] = 0
    return matrix


printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
hidden_bytes = [byte for byte in range(256) if byte not in printable]
byte_of = [*printable, *hidden_bytes]
tokens = [chr(code) for code in printable] + [chr(256 + i) for i in range(len(hidden_bytes))]
tokens += ["th", "the", *CONTROL]  # a vocabulary without merges is not one that files can have
n_vocab = len(tokens)

writer = gguf.GGUFWriter(sys.argv[1], "llama")
writer.add_name("tiny chat")
writer.add_context_length(CONTEXT)
writer.add_embedding_length(HIDDEN)
writer.add_block_count(LAYERS)
writer.add_feed_forward_length(FFN)
writer.add_head_count(HEADS)
writer.add_head_count_kv(KV_HEADS)
writer.add_layer_norm_rms_eps(1e-5)
writer.add_rope_freq_base(10000.0)
writer.add_rope_dimension_count(HEAD_DIM)
writer.add_vocab_size(n_vocab)
writer.add_tokenizer_model("gpt2")
writer.add_tokenizer_pre("llama-bpe")
writer.add_token_list(tokens)
writer.add_token_types([gguf.TokenType.NORMAL] * 258 + [gguf.TokenType.CONTROL] * len(CONTROL))
writer.add_token_merges(["t h", "th e"])
writer.add_bos_token_id(258)
writer.add_eos_token_id(260)
writer.add_add_bos_token(False)
writer.add_chat_template(TEMPLATE)

half = lambda array: array.astype(np.float16)
embedding = gaussian(n_vocab, HIDDEN, np.sqrt(HIDDEN))
embedding[:, 0] = 6.0
writer.add_tensor("token_embd.weight", half(embedding))
for layer in range(LAYERS):
    block = f"blk.{layer}"
    writer.add_tensor(f"{block}.attn_norm.weight", np.ones(HIDDEN, dtype=np.float32))
    writer.add_tensor(f"{block}.attn_q.weight", half(gaussian(HEADS * HEAD_DIM, HIDDEN, 1.5)))
    writer.add_tensor(f"{block}.attn_k.weight", half(gaussian(KV_HEADS * HEAD_DIM, HIDDEN, 1.5)))
    writer.add_tensor(f"{block}.attn_v.weight", half(gaussian(KV_HEADS * HEAD_DIM, HIDDEN, 1.0)))
    writer.add_tensor(f"{block}.attn_output.weight", half(keeps_constant(gaussian(HIDDEN, HEADS * HEAD_DIM, 1.0))))
    writer.add_tensor(f"{block}.ffn_norm.weight", np.ones(HIDDEN, dtype=np.float32))
    writer.add_tensor(f"{block}.ffn_gate.weight", half(gaussian(FFN, HIDDEN, 1.0)))
    writer.add_tensor(f"{block}.ffn_up.weight", half(gaussian(FFN, HIDDEN, 1.0)))
    writer.add_tensor(f"{block}.ffn_down.weight", half(keeps_constant(gaussian(HIDDEN, FFN, 1.0))))
writer.add_tensor("output_norm.weight", np.ones(HIDDEN, dtype=np.float32))
output = gaussian(n_vocab, HIDDEN, 1.0)
is_plain = [byte == 0x20 or 0x21 <= byte < 0x7F for byte in byte_of] + [True, True, False, False, True]
output[:, 0] = np.where(is_plain, 0.0, -8.0)
writer.add_tensor("output.weight", half(output))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
