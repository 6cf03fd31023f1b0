"""
One training run on the tiny model, started once a process by a launcher. Options come as JSON; the main process writes
the final weights and the log history to `out`, so that a test can compare runs of different worlds.
"""

import json
import os
import sys
import time
from pathlib import Path

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.helpers import build, dataset, letter_reward


def rank_of(trainer) -> int:
    return trainer.accelerator.process_index


def main(options: dict) -> None:
    torch.set_num_threads(1)
    method, folder, out = options.pop("method"), options.pop("model"), Path(options.pop("out"))
    reward_kind, responses = options.pop("reward", "letters"), options.pop("responses", False)
    lora, rows = options.pop("lora", False), options.pop("rows", 16)
    state = {}

    def reward(prompts, completions, **kwargs):
        rank = rank_of(state["trainer"])
        if reward_kind == "raises on process 1" and rank == 1:
            raise ZeroDivisionError("a broken reward")
        if reward_kind == "tied on process 1" and rank == 1:
            return [1.0] * len(completions)
        if reward_kind == "none on process 1" and rank == 1:
            return [None] * len(completions)
        return letter_reward(completions)

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    peft_config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False) if lora else None
    trainer = build(
        method,
        model,
        tokenizer,
        out,
        dataset(rows=rows, responses=responses),
        reward,
        peft_config=peft_config,
        top_k=1,  # the sampled token is the likeliest, whatever the process
        optim="sgd",
        learning_rate=0.01,
        max_grad_norm=0.0,  # clipping would hide a wrong scale
        lr_scheduler_type="constant",
        **options,
    )
    state["trainer"] = trainer
    trainer.train()
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if trainer.is_world_process_zero():
        trained = {name.removeprefix("module."): tensor.clone() for name, tensor in weights.items()}
        out.mkdir(parents=True, exist_ok=True)
        save_file(trained, out / "weights.safetensors")
        (out / "log.json").write_text(json.dumps(trainer.state.log_history))
    trainer.accelerator.wait_for_everyone()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
    # gloo's threads now and then abort the interpreter's own shutdown, long after all that is tested
    sys.stderr.flush()
    time.sleep(0.5)
    os._exit(0)
