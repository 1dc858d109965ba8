"""A short run of TRL's own GRPO trainer with rewards from `rapport reward serve`, on a CPU.

    rapport train export data/pairs --format trl --out OUT
    rapport reward serve
    PYTHONPATH=clients/python python scripts/reference/trl_run.py MODEL.gguf OUT/prompts.jsonl [STEPS] [URL]

Needs torch, transformers, gguf, peft, trl and datasets. The model is read out of the GGUF file, in f32; a LoRA of rank 8 is trained.
Prints what TRL logged of each step: the mean of every reward must have been computed, and the loss be a number.
"""

import json
import math
import sys
from pathlib import Path

import torch
from datasets import load_dataset
from peft import LoraConfig
from rapport_rewards.trl import reward_funcs
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

model_file, prompts = Path(sys.argv[1]), sys.argv[2]
n_steps = int(sys.argv[3]) if len(sys.argv) > 3 else 4
url = sys.argv[4] if len(sys.argv) > 4 else "http://127.0.0.1:8460"

torch.set_num_threads(2)
tokenizer = AutoTokenizer.from_pretrained(model_file.parent, gguf_file=model_file.name)
read = AutoModelForCausalLM.from_pretrained(model_file.parent, gguf_file=model_file.name, dtype=torch.float32)
# What was read from a GGUF file still calls itself quantised, which the trainer refuses.
settings = {key: value for key, value in read.config.to_dict().items() if key != "quantization_config"}
model = AutoModelForCausalLM.from_config(type(read.config)(**settings), dtype=torch.float32)
model.load_state_dict(read.state_dict())
config = GRPOConfig(
    output_dir="/tmp/trl-run", use_cpu=True, bf16=False, max_steps=n_steps, per_device_train_batch_size=4, num_generations=4,
    max_completion_length=32, learning_rate=1e-4, logging_steps=1, save_strategy="no", report_to=[], seed=1,
    multi_objective_aggregation="normalize_then_sum")
trainer = GRPOTrainer(
    model=model, processing_class=tokenizer, args=config, reward_funcs=reward_funcs(url),
    train_dataset=load_dataset("json", data_files=prompts, split="train"),
    peft_config=LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], task_type="CAUSAL_LM"))
trainer.train()
for step in trainer.state.log_history:
    means = {name.split("/")[1]: value for name, value in step.items() if name.startswith("rewards/") and name.endswith("/mean")}
    if not means:
        continue
    # A component that applies to no prompt of the step has no mean.
    rewards = {name: round(value, 3) for name, value in means.items() if value is not None and not math.isnan(value)}
    assert rewards and math.isfinite(step["loss"]) and math.isfinite(step["reward"])
    print(json.dumps({"step": step["step"], "loss": step["loss"], "reward": round(step["reward"], 4), **rewards}))
