# /// script
# requires-python = ">=3.11"
# dependencies = ["trl-negalign"]
# tool.uv.sources.trl-negalign = { path = "..", editable = true }
# ///
"""
One script, three trainers: GRPO as TRL has it, then NEAT and PLE by changing two names. The task: short answers.
    uv run examples/swap_grpo.py --method neat    # or python examples/swap_grpo.py, where the package is installed
"""

import argparse

import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from trl_negalign import NEATConfig, NEATTrainer, PLEConfig, PLETrainer


SHORT, LONG = "Answer in one short sentence.", "Answer at great length."
METHODS = {
    "grpo": (GRPOTrainer, GRPOConfig, {}),
    "neat": (NEATTrainer, NEATConfig, {"positive_prompt": SHORT, "negative_prompt": LONG}),
    "ple": (PLETrainer, PLEConfig, {"principle_prompt": SHORT}),
}
THINGS = ["a tide", "a fugue", "an axolotl", "a cantilever", "rust", "an index fund", "a haiku", "yeast"]


def shortness(completions, **kwargs):
    return [-len(completion[-1]["content"]) / 100 for completion in completions]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--method", choices=METHODS, default="neat")
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--out", default="runs/swap")
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    trainer_class, config_class, guides = METHODS[args.method]
    trainer_class(
        model=args.model,
        reward_funcs=shortness,
        args=config_class(
            output_dir=args.out,
            max_steps=args.steps,
            per_device_train_batch_size=8,
            num_generations=4,
            max_completion_length=64,
            learning_rate=1e-5,
            logging_steps=1,
            bf16=torch.cuda.is_available(),
            **guides,
        ),
        train_dataset=Dataset.from_dict({"prompt": [[{"role": "user", "content": f"What is {x}?"}] for x in THINGS]}),
    ).train()


if __name__ == "__main__":
    main()
