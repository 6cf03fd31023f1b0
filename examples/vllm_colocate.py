# /// script
# requires-python = ">=3.11"
# dependencies = ["trl-negalign", "trl[vllm]", "vaderSentiment"]
# tool.uv.sources.trl-negalign = { path = "..", editable = true }
# ///
"""
Sampling by vLLM, in the trainer's own process. Needs a GPU; it was tried here with a stand-in for vLLM's engine only.

    uv run examples/vllm_colocate.py                  # or python examples/vllm_colocate.py
    accelerate launch --config_file accelerate_configs/multi_gpu.yaml examples/vllm_colocate.py
"""

import argparse

import torch
from datasets import Dataset

from trl_negalign import PLEConfig, PLETrainer
from trl_negalign.rewards.sentiment import vader_reward


OPENINGS = ["The soup came", "Our guide said", "The last chapter", "Room twelve had", "The new phone", "On stage they"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="Qwen/Qwen2.5-0.5B")
    parser.add_argument("--out", default="runs/vllm")
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    config = PLEConfig(
        output_dir=args.out,
        max_steps=args.steps,
        per_device_train_batch_size=8,
        num_generations=4,
        principle_prompt="@reviews",
        max_completion_length=40,
        use_vllm=True,
        vllm_mode="colocate",
        vllm_gpu_memory_utilization=0.3,
        # the longest query, the longest guide and the completion together; checked when the trainer is built
        vllm_max_model_length=256,
        logging_steps=1,
        bf16=torch.cuda.is_available(),  # vLLM needs a GPU; the tests put a stand-in in its place
    )
    PLETrainer(args.model, vader_reward, config, Dataset.from_dict({"prompt": OPENINGS})).train()


if __name__ == "__main__":
    main()
