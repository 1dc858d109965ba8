"""Tokens a second of a LoRA step, ours and PyTorch's (transformers with peft), taking turns.

    cargo bench -p rapport-train --bench step --no-run      # prints where the program is
    python scripts/reference/train_speed.py PROGRAM [ROUNDS]

Both train rank 8 on all linears of a model of SmolLM2-135M's shape on two sequences of 256 tokens, all of them learned,
forward and backward, on two threads; PyTorch in f32 with random weights, which cost what others cost. Each turn is a
process of its own that warms up first; its peak memory is the system's figure. The last line is JSON.
"""

import json
import os
import statistics
import subprocess
import sys
import time

STEPS = 3


def torch_turn():
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(2)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, tie_word_embeddings=True, max_position_embeddings=8192, rope_theta=100000.0)
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = get_peft_model(LlamaForCausalLM(config), LoraConfig(r=8, lora_alpha=16, target_modules=modules))
    tokens = torch.randint(0, 49000, (2, 256))
    rates = []
    for step in range(STEPS + 1):
        begun = time.perf_counter()
        model(tokens, labels=tokens).loss.backward()
        model.zero_grad()
        if step:
            rates.append(tokens.numel() / (time.perf_counter() - begun))
    print(json.dumps({"torch f32": statistics.median(rates)}))


def turn(command):
    """What a process printed last, and the most memory it held in bytes."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command} failed")
    return json.loads(output.strip().splitlines()[-1]), usage.ru_maxrss * 1024


def main():
    program, n_rounds = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 3
    commands = {
        "torch f32": [sys.executable, __file__, "--torch"],
        "f32 dense": [program, "f32 dense"],
        "bf16 dense": [program, "bf16 dense"],
    }
    rates, peaks = {name: [] for name in commands}, {name: 0 for name in commands}
    for _ in range(n_rounds):
        for name, command in commands.items():
            printed, peak = turn(command)
            rates[name].append(printed[name])
            peaks[name] = max(peaks[name], peak)
            print(f"{name:<12} {printed[name]:>6.0f} tokens/s, {peak / 1e9:.2f} GB, load {os.getloadavg()[0]:.1f}")
    result = {}
    for name in commands:
        ratio = statistics.median(a / b for a, b in zip(rates[name], rates["torch f32"]))
        result[name] = {"tokens_per_second": round(statistics.median(rates[name]), 1), "times_torch": round(ratio, 2),
                        "peak_gb": round(peaks[name] / 1e9, 2)}
    print(json.dumps(result))


if sys.argv[1:2] == ["--torch"]:
    torch_turn()
else:
    main()
