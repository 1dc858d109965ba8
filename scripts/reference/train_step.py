"""Loss, gradients and one optimiser step of SFT, DPO and KTO in PyTorch, for crates/train.

A tiny model of the fixtures (`gqa-6-2-tied.gguf`) becomes a transformers Llama in f64, gets the
adapter that crates/train's test wrote (`peft` loads it from disk), and takes one step of each loss.

    python scripts/reference/train_step.py TINY.gguf ADAPTER_FOLDER > crates/train/tests/fixtures/step.json

Needs torch, transformers, peft, gguf, numpy. The formulas of the losses are those of TRL 1.16
(`sigmoid`, `sigmoid_norm`, label smoothing; KTO with a given KL).
"""

import json
import sys

import gguf
import numpy as np
import torch
import torch.nn.functional as F
from peft import PeftModel
from transformers import LlamaConfig, LlamaForCausalLM

torch.set_default_dtype(torch.float64)


def unpermute(weight, n_heads):
    """GGUF's neighbouring rotary pairs to Hugging Face's halves."""
    rows = weight.shape[0]
    return weight.reshape(n_heads, rows // n_heads // 2, 2, -1).swapaxes(1, 2).reshape(weight.shape)


def load(path):
    reader = gguf.GGUFReader(path)
    field = lambda key: reader.get_field(key).contents()
    tensors = {
        t.name: np.array(gguf.quants.dequantize(t.data, t.tensor_type), dtype=np.float64)
        for t in reader.tensors
    }
    heads, kv_heads = field("llama.attention.head_count"), field("llama.attention.head_count_kv")
    config = LlamaConfig(
        vocab_size=tensors["token_embd.weight"].shape[0],
        hidden_size=field("llama.embedding_length"),
        intermediate_size=field("llama.feed_forward_length"),
        num_hidden_layers=field("llama.block_count"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=tensors["blk.0.attn_q.weight"].shape[0] // heads,
        rms_norm_eps=field("llama.attention.layer_norm_rms_epsilon"),
        rope_theta=field("llama.rope.freq_base"),
        tie_word_embeddings="output.weight" not in tensors,
        max_position_embeddings=field("llama.context_length"),
        attn_implementation="eager",
    )
    model = LlamaForCausalLM(config).double()
    names = {
        "attn_q": ("self_attn.q_proj", heads), "attn_k": ("self_attn.k_proj", kv_heads),
        "attn_v": ("self_attn.v_proj", 0), "attn_output": ("self_attn.o_proj", 0),
        "ffn_gate": ("mlp.gate_proj", 0), "ffn_up": ("mlp.up_proj", 0),
        "ffn_down": ("mlp.down_proj", 0), "attn_norm": ("input_layernorm", 0),
        "ffn_norm": ("post_attention_layernorm", 0),
    }
    state = {"model.embed_tokens.weight": tensors["token_embd.weight"],
             "model.norm.weight": tensors["output_norm.weight"],
             "lm_head.weight": tensors.get("output.weight", tensors["token_embd.weight"])}
    for layer in range(config.num_hidden_layers):
        for short, (long, permuted_heads) in names.items():
            weight = tensors[f"blk.{layer}.{short}.weight"]
            if permuted_heads:
                weight = unpermute(weight, permuted_heads)
            state[f"model.layers.{layer}.{long}.weight"] = weight
    model.load_state_dict({k: torch.tensor(v) for k, v in state.items()})
    return model


def log_probs(model, tokens, first):
    """Of the tokens from `first` on."""
    logits = model(torch.tensor([tokens])).logits[0, :-1]
    picked = F.log_softmax(logits, dim=-1).gather(1, torch.tensor(tokens[1:])[:, None])[:, 0]
    return picked[first - 1:]


CHOSEN, REJECTED = [5, 17, 40, 8, 61, 33, 90, 2], [5, 17, 40, 77, 12, 50]
FIRST = 3
REFERENCE = (-21.0, -12.5)
MARGIN, BETA, SMOOTHING, SFT_WEIGHT, Z = 0.3, 0.4, 0.1, 0.25, 0.6


def losses(model):
    chosen, rejected = log_probs(model, CHOSEN, FIRST), log_probs(model, REJECTED, FIRST)
    yield "log_probs", torch.cat([chosen, rejected])
    weights = torch.tensor([0.5, 0.5, 1.0, 1.0, 1.0])
    yield "sft", -(chosen * weights).sum() / weights.sum()
    for name, normalised in (("dpo", False), ("dpo_normalised", True)):
        scale = (len(chosen), len(rejected)) if normalised else (1, 1)
        ahead = (chosen.sum() - REFERENCE[0]) / scale[0]
        behind = (rejected.sum() - REFERENCE[1]) / scale[1]
        h = BETA * (ahead - behind) - MARGIN
        loss = -F.logsigmoid(h) * (1 - SMOOTHING) - F.logsigmoid(-h) * SMOOTHING
        yield name, loss - SFT_WEIGHT * chosen.mean()
    yield "kto_liked", 1 - torch.sigmoid(BETA * (chosen.sum() - REFERENCE[0] - Z))
    yield "kto_disliked", 1 - torch.sigmoid(BETA * (Z - (rejected.sum() - REFERENCE[1])))


def main():
    path, adapter = sys.argv[1:]
    result = {
        "chosen": CHOSEN, "rejected": REJECTED, "first": FIRST, "reference": REFERENCE,
        "margin": MARGIN, "beta": BETA, "smoothing": SMOOTHING, "sft_weight": SFT_WEIGHT, "z": Z,
        "versions": {"torch": torch.__version__},
    }
    names = [name for name, _ in losses(PeftModel.from_pretrained(load(path), adapter))]
    for which in names:
        model = PeftModel.from_pretrained(load(path), adapter, is_trainable=True).double()
        value = dict(losses(model))[which]
        if which == "log_probs":
            result["log_probs"] = value.tolist()
            continue
        trained = {n.replace(".default", ""): p for n, p in model.named_parameters() if p.requires_grad}
        optimizer = torch.optim.AdamW(trained.values(), lr=1e-2, betas=(0.9, 0.999), weight_decay=0.1)
        value.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained.values(), 1e9).item()
        probes = {}
        for name, parameter in trained.items():
            place = (parameter.numel() * 5 // 7)
            probes[name] = {"place": place, "gradient": parameter.grad.flatten()[place].item()}
        optimizer.step()
        for name, parameter in trained.items():
            probes[name]["after"] = parameter.detach().flatten()[probes[name]["place"]].item()
        result[which] = {"loss": value.item(), "gradient_norm": norm, "probes": probes}
    json.dump(result, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
