"""One step of every loss of crates/train in PyTorch, by TRL's own code where TRL has the loss.

A tiny model of the fixtures (`gqa-4-2.gguf`) becomes a transformers Llama in f64 and gets an adapter that `peft`
itself writes; each loss is computed, taken back through autograd, and stepped by torch's AdamW.

    python scripts/reference/train_step.py crates/model/tests/fixtures/reference/tiny/gqa-4-2.gguf \
        crates/train/tests/fixtures/step

writes `adapter_config.json`, `adapter_model.safetensors` and `step.json` there. Needs torch, transformers, peft, trl,
gguf, numpy; versions are in `step.json`. Losses named `trl_*` run the `_compute_loss` of TRL's trainers on a stand-in
that holds its settings; the others (a margin, label smoothing, k2) have no form in TRL and are written out here.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path
from types import MethodType, SimpleNamespace

import gguf
import numpy as np
import peft
import torch
import torch.nn.functional as F
import transformers
import trl
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM
from trl import DPOTrainer, GRPOTrainer, KTOTrainer, RewardTrainer
from trl.trainer.utils import nanstd

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


def write_adapter(path, folder):
    """An adapter that changes every linear, written by peft."""
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = LoraConfig(r=3, lora_alpha=6, target_modules=modules, task_type="CAUSAL_LM")
    model = get_peft_model(load(path), config)
    rng = np.random.Generator(np.random.PCG64(7))
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if parameter.requires_grad:
                parameter.copy_(torch.tensor(rng.uniform(-0.3, 0.3, tuple(parameter.shape))))
    model.float().save_pretrained(folder)
    (Path(folder) / "README.md").unlink(missing_ok=True)
    config_file = Path(folder) / "adapter_config.json"
    config = json.loads(config_file.read_text())
    config["target_modules"].sort()  # a set of peft's
    config_file.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


def log_probs(model, tokens, first):
    """Of the tokens from `first` on."""
    logits = model(torch.tensor([tokens])).logits[0, :-1]
    picked = F.log_softmax(logits, dim=-1).gather(1, torch.tensor(tokens[1:])[:, None])[:, 0]
    return picked[first - 1:]


CHOSEN, REJECTED = [5, 17, 40, 8, 61, 33, 90, 2], [5, 17, 40, 77, 12, 50]
FIRST = 3
REFERENCE = (-62.0, -34.5)
MARGIN, BETA, SMOOTHING, SFT_WEIGHT, Z = 0.3, 0.4, 0.1, 0.25, 0.6
LIKED_WEIGHT, DISLIKED_WEIGHT = 1.2, 0.7
# Two prompts with three replies each; two rewards; the replies' first token is at FIRST.
ROLLOUTS = [
    [5, 17, 40, 8, 61, 33, 90, 2], [5, 17, 40, 77, 12, 50], [5, 17, 40, 8, 8, 31, 4],
    [9, 1, 22, 14, 15, 16], [9, 1, 22, 90, 3], [9, 1, 22, 50, 51, 52, 53, 54, 55],
]
REWARDS = [[0.2, 1.0], [0.9, 0.0], [0.4, 1.0], [0.1, 0.5], [0.1, 0.2], [0.8, 0.9]]
REWARD_WEIGHTS = [1.0, 0.5]
N_GROUP, CLIP_LOW, CLIP_HIGH, KL_WEIGHT, MAX_NEW = 3, 0.2, 0.28, 0.04, 8
CENTERING = 0.01


def pad(rows):
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def stand_in(trainer, **settings):
    """TRL's trainer as far as its loss looks at it."""
    same = lambda x, *_, **__: x
    accelerator = SimpleNamespace(
        device="cpu", num_processes=1, gather=same, gather_for_metrics=same, reduce=same, sync_gradients=True)
    common = dict(
        accelerator=accelerator, model=SimpleNamespace(training=True), aux_loss_enabled=False,
        _metrics={"train": defaultdict(list)}, _total_train_tokens=0, _tp_size=1, beta=BETA, precompute_ref_logps=True)
    made = SimpleNamespace(**{**common, **settings})
    name = "_compute_loss" if hasattr(trainer, "_compute_loss") else "compute_loss"
    made.loss = MethodType(getattr(trainer, name), made)
    return made


def pair_outputs(model, tokens):
    """What TRL's fused head would give for a batch of whole sequences, none of them padded on the left."""
    def forward(**_):
        rows = [torch.cat([torch.zeros(FIRST - 1), log_probs(model, t, FIRST)]) for t in tokens]
        picked = pad(rows)
        zeros = torch.zeros_like(picked)
        return SimpleNamespace(log_probs=picked, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())
    return forward


def masks(tokens):
    ids = pad([torch.tensor(t) for t in tokens])
    mask = pad([torch.tensor([0] * FIRST + [1] * (len(t) - FIRST)) for t in tokens])
    return {"input_ids": ids, "completion_mask": mask, "attention_mask": torch.ones_like(ids)}


def dpo_by_trl(model, loss_types, loss_weights):
    trainer = stand_in(
        DPOTrainer, ld_alpha=None, f_divergence_type="reverse_kl", loss_types=loss_types, loss_weights=loss_weights,
        label_smoothing=0.0, use_weighting=False)
    inputs = {**masks([CHOSEN, REJECTED]), "ref_chosen_logps": torch.tensor([REFERENCE[0]]),
              "ref_rejected_logps": torch.tensor([REFERENCE[1]])}
    return trainer.loss(pair_outputs(model, [CHOSEN, REJECTED]), inputs, False)


def kto_by_trl(model):
    """Both replies at once: the first liked, the second not."""
    trainer = stand_in(
        KTOTrainer, loss_type="kto", calculate_KL=True, desirable_weight=LIKED_WEIGHT,
        undesirable_weight=DISLIKED_WEIGHT, _compute_kl_logps=lambda *_: torch.tensor([Z - 3.0, Z - 3.0]))
    inputs = {**masks([CHOSEN, REJECTED]), "label": torch.tensor([True, False]), "ref_logps": torch.tensor(REFERENCE),
              "ref_KL_logps": torch.tensor([-3.0, -3.0])}
    return trainer.loss(pair_outputs(model, [CHOSEN, REJECTED]), inputs, False)


def advantages(which):
    """TRL 1.16's lines for `multi_objective_aggregation` and `scale_rewards`."""
    rewards, weights = torch.tensor(REWARDS), torch.tensor(REWARD_WEIGHTS)
    if which == "gdpo":
        grouped = rewards.view(-1, N_GROUP, 2)
        std = nanstd(grouped, dim=1, keepdim=True)
        each = ((grouped - grouped.mean(1, keepdim=True)) / (std + 1e-4)).view(-1, 2)
        total = (each * weights).sum(1)
        return (total - total.mean()) / (nanstd(total) + 1e-4)
    total = (rewards * weights).sum(1)
    centred = total - total.view(-1, N_GROUP).mean(1).repeat_interleave(N_GROUP)
    if which == "mean":
        return centred
    return centred / (nanstd(total.view(-1, N_GROUP), dim=1).repeat_interleave(N_GROUP) + 1e-4)


def moved(model, seed, spread):
    """Log-probabilities of the rollouts as another policy would give them, rounded to be written down."""
    rng = np.random.Generator(np.random.PCG64(seed))
    with torch.no_grad():
        rows = [log_probs(model, tokens, FIRST) for tokens in ROLLOUTS]
    return [[round(p.item() + rng.normal() * spread, 4) for p in row] for row in rows]


def grpo_by_trl(model, old, reference, loss_type, which, kl_weight):
    rows = [log_probs(model, tokens, FIRST) for tokens in ROLLOUTS]
    mask = pad([torch.ones(len(row)) for row in rows])
    args = SimpleNamespace(use_bias_correction_kl=True, delta=None, steps_per_generation=1)
    trainer = stand_in(
        GRPOTrainer, beta=kl_weight, args=args, top_entropy_quantile=1.0, off_policy_mask_threshold=None,
        importance_sampling_level="token", loss_type=loss_type, epsilon_low=CLIP_LOW, epsilon_high=CLIP_HIGH,
        use_vllm=False, current_gradient_accumulation_steps=1, max_completion_length=MAX_NEW,
        _entropy_bonus_enabled=False,
        _get_per_token_logps_and_entropies=lambda *_, **__: (pad(rows), torch.zeros_like(mask), None))
    inputs = {
        "prompt_ids": torch.tensor([t[:FIRST] for t in ROLLOUTS]), "prompt_mask": torch.ones(len(ROLLOUTS), FIRST),
        "completion_ids": pad([torch.tensor(t[FIRST:]) for t in ROLLOUTS]), "completion_mask": mask,
        "advantages": advantages(which), "num_items_in_batch": mask.sum(),
        "old_per_token_logps": pad([torch.tensor(row) for row in old]),
        "ref_per_token_logps": pad([torch.tensor(row) for row in reference]),
    }
    return trainer.loss(model, inputs)


def reward_by_trl(model, head, margin, centering):
    def forward(**_):
        rewards = []
        for tokens in (CHOSEN, REJECTED):
            hidden = model(torch.tensor([tokens]), output_hidden_states=True).hidden_states[-1]
            rewards.append(hidden[0, -1] @ head)
        return SimpleNamespace(logits=torch.stack(rewards)[:, None])
    trainer = stand_in(RewardTrainer, args=SimpleNamespace(center_rewards_coefficient=centering))
    inputs = {"attention_mask": torch.ones(2, 8)}
    if margin is not None:
        inputs["margin"] = torch.tensor([margin])
    return trainer.loss(forward, inputs)


def losses(model, given):
    chosen, rejected = log_probs(model, CHOSEN, FIRST), log_probs(model, REJECTED, FIRST)
    weights = torch.tensor([0.5, 0.5, 1.0, 1.0, 1.0])
    yield "sft", lambda: -(chosen * weights).sum() / weights.sum()
    yield "trl_dpo", lambda: dpo_by_trl(model, ["sigmoid"], [1.0])
    yield "trl_dpo_with_sft", lambda: dpo_by_trl(model, ["sigmoid", "sft"], [1.0, SFT_WEIGHT])
    yield "trl_dpo_normalised", lambda: dpo_by_trl(model, ["sigmoid_norm"], [1.0])

    def full_dpo(normalised):
        scale = (len(chosen), len(rejected)) if normalised else (1, 1)
        ahead = (chosen.sum() - REFERENCE[0]) / scale[0]
        behind = (rejected.sum() - REFERENCE[1]) / scale[1]
        h = BETA * (ahead - behind) - MARGIN
        loss = -F.logsigmoid(h) * (1 - SMOOTHING) - F.logsigmoid(-h) * SMOOTHING
        return loss - SFT_WEIGHT * chosen.mean()

    yield "dpo_with_all", lambda: full_dpo(False)
    yield "dpo_with_all_normalised", lambda: full_dpo(True)
    yield "trl_kto", lambda: kto_by_trl(model)
    old, reference = given["old"], given["rollout_reference"]
    for name, loss_type, which in (
        ("dapo_gdpo", "dapo", "gdpo"), ("dr_grpo_mean", "dr_grpo", "mean"), ("dapo_group", "dapo", "group")):
        yield f"trl_{name}_k3", lambda a=loss_type, b=which: grpo_by_trl(model, old, reference, a, b, KL_WEIGHT)

    def with_k2():
        loss = grpo_by_trl(model, old, reference, "dapo", "gdpo", 0.0)
        rows = [log_probs(model, tokens, FIRST) for tokens in ROLLOUTS]
        n_tokens = sum(len(row) for row in rows)
        k2 = sum(((row - torch.tensor(r)) ** 2 / 2).sum() for row, r in zip(rows, reference))
        return loss + KL_WEIGHT * k2 / n_tokens

    yield "dapo_gdpo_k2", with_k2
    head = model.reward_head
    yield "trl_reward", lambda: reward_by_trl(model, head, None, None)
    yield "trl_reward_with_all", lambda: reward_by_trl(model, head, MARGIN, CENTERING)


def main():
    path, folder = sys.argv[1:]
    write_adapter(path, folder)

    def fresh():
        model = PeftModel.from_pretrained(load(path), folder, is_trainable=True).double()
        rng = np.random.Generator(np.random.PCG64(8))
        model.reward_head = torch.nn.Parameter(torch.tensor(np.round(rng.normal(size=model.config.hidden_size) * 0.03, 4)))
        return model

    model = fresh()
    given = {"old": moved(model, 1, 0.15), "rollout_reference": moved(model, 2, 0.3)}
    result = {
        "chosen": CHOSEN, "rejected": REJECTED, "first": FIRST, "reference": REFERENCE,
        "margin": MARGIN, "beta": BETA, "smoothing": SMOOTHING, "sft_weight": SFT_WEIGHT, "z": Z,
        "liked_weight": LIKED_WEIGHT, "disliked_weight": DISLIKED_WEIGHT,
        "rollouts": ROLLOUTS, "rewards": REWARDS, "reward_weights": REWARD_WEIGHTS, "group": N_GROUP,
        "clip_low": CLIP_LOW, "clip_high": CLIP_HIGH, "kl_weight": KL_WEIGHT, "max_new_tokens": MAX_NEW,
        "centering": CENTERING, "head": model.reward_head.tolist(), **given,
        "advantages": {which: advantages(which).tolist() for which in ("gdpo", "group", "mean")},
        "log_probs": {
            "chosen": log_probs(model, CHOSEN, FIRST).tolist(), "rejected": log_probs(model, REJECTED, FIRST).tolist()},
        "versions": {m.__name__: m.__version__ for m in (torch, transformers, peft, trl)},
        "losses": {},
    }
    for which, _ in losses(model, given):
        model = fresh()
        value = dict(losses(model, given))[which]()
        trained = {
            n.replace(".default", ""): p for n, p in model.named_parameters()
            if p.requires_grad and ("reward" in which or n != "reward_head")}
        optimizer = torch.optim.AdamW(trained.values(), lr=1e-2, betas=(0.9, 0.999), weight_decay=0.1)
        value.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained.values(), 1e9).item()
        probes = {}
        for name, parameter in trained.items():
            place = parameter.numel() * 5 // 7
            probes[name] = {"place": place, "gradient": parameter.grad.flatten()[place].item()}
        optimizer.step()
        for name, parameter in trained.items():
            probes[name]["after"] = parameter.detach().flatten()[probes[name]["place"]].item()
        result["losses"][which] = {"loss": value.item(), "gradient_norm": norm, "probes": probes}
    text = json.dumps(result, indent=1)
    # Lists of numbers on one line each.
    import re
    text = re.sub(r"\[[^\[\]{}]*\]", lambda m: re.sub(r"\s+", " ", m.group()), text)
    (Path(folder) / "step.json").write_text(text + "\n")


main()
