# /// script
# requires-python = ">=3.11"
# dependencies = ["trl-negalign"]
# tool.uv.sources.trl-negalign = { path = "..", editable = true }
# ///
"""
Your data, reward and guides. A row has a prompt, a good response, which joins the group, and a column for the reward.

    uv run examples/own_reward_and_data.py                     # or python examples/own_reward_and_data.py
    uv run examples/own_reward_and_data.py --data mine.jsonl   # lines with prompt, chosen and words
"""

import argparse

import torch
from datasets import Dataset, load_dataset
from peft import LoraConfig

from trl_negalign import NEATConfig, NEATTrainer


ROWS = [
    {"prompt": "To make tea,", "chosen": " boil water, warm the pot and wait.", "words": ["water", "pot"]},
    {"prompt": "To plant a tree,", "chosen": " dig a hole and water the roots.", "words": ["hole", "roots"]},
    {"prompt": "To mend a shirt,", "chosen": " thread a needle and knot the end.", "words": ["needle", "knot"]},
    {"prompt": "To cross a road,", "chosen": " look left, look right, and walk.", "words": ["left", "right"]},
]


def mentions(completions, words, **kwargs):
    """The share of its row's words that a completion has; a column of the dataset comes by its name."""
    return [sum(word in text for word in row) / len(row) for text, row in zip(completions, words, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data")
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M")
    parser.add_argument("--out", default="runs/own")
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    config = NEATConfig(
        output_dir=args.out,
        max_steps=args.steps,
        per_device_train_batch_size=4,  # one group: its good response, and three samples
        num_generations=4,
        positive_prompt="This is a careful instruction that names every thing that is needed.",
        negative_prompt="This is a vague remark that leads nowhere.",
        dataset_responses=["chosen"],
        max_completion_length=24,
        bf16=torch.cuda.is_available(),
        log_completions=True,  # every group with its rewards, in completions/
    )
    data = load_dataset("json", data_files=args.data, split="train") if args.data else Dataset.from_list(ROWS)
    lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    NEATTrainer(args.model, mentions, config, data, peft_config=lora).train()


if __name__ == "__main__":
    main()
