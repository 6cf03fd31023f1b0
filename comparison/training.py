"""A method's trainer, with the task's budget: the same queries, as many completions a step, as long, for all."""

from dataclasses import fields

import torch
from datasets import Dataset
from offline import OFFLINE, TEXTS, TOKENS, queries_of
from plan import GUIDE_FIELDS, load_class


def config_of(run: dict, output_dir: str):
    """The configuration: the budget and the run's setting, then the method's own options."""
    method, task = run["method_settings"], run["task_settings"]
    config_class = load_class(run["method"], method["config"])
    known = {field.name for field in fields(config_class)}
    budget, added = task["budget"], len(responses_of(run))
    queries = budget["completions"] // budget["group"]
    wanted = {
        "output_dir": output_dir,
        "max_steps": budget["steps"],
        # the dataset's responses that join a group come on top of what is sampled
        "per_device_train_batch_size": budget["completions"] // method["completions_per_row"] + queries * added,
        "num_generations": budget["group"] + added,
        "max_completion_length": budget["max_new_tokens"],
        "max_new_tokens": budget["max_new_tokens"],
        "temperature": 1.0,
        "lr_scheduler_type": "constant",
        "bf16": False,
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "seed": run["seed"],
        "use_cpu": not torch.accelerator.is_available(),
        "disable_tqdm": True,
    }
    wanted |= dict.fromkeys(GUIDE_FIELDS, task["guides"])
    chosen = method["options"] | run["setting"]
    return config_class(**{name: value for name, value in wanted.items() if name in known} | chosen)


def build_trainer(run: dict, train: list[dict], reward, policy, tokenizer, output_dir: str, callbacks: list):
    """
    The trainer of a run. What an offline method learns from is sampled here, from the start model, in the same number
    as the online methods sample.

    Args:
        run (`dict`): from `plan.run_of`.
        train (`list[dict]`): the task's training rows.
        reward (`Callable`): the training reward, a TRL reward function.
        policy, tokenizer: the start model.
        output_dir (`str`): where trainers may write.
        callbacks (`list`): of the trainer.
    """
    from peft import LoraConfig
    from transformers import PrinterCallback

    method, data = run["method_settings"], run["method_settings"]["data"]
    dataset, arguments = None, {}
    if data == "queries":
        rows = queries_of(run, train)
        # a trainer that samples fewer completions of a query than the group's size gets the query more often
        repeats = run["task_settings"]["budget"]["group"] // samples_of(run)
        dataset = columns(rows * repeats, ["prompt", *responses_of(run)])
        arguments = {"reward_funcs": reward}
    else:
        rows = OFFLINE[data](run, train, reward, policy, tokenizer)
        dataset = columns(rows, TEXTS if data == "pairs" else rows[0])
    trainer = load_class(run["method"], method["trainer"])(
        model=policy,
        args=config_of(run, output_dir),
        train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=LoraConfig(task_type="CAUSAL_LM", **run["task_settings"]["lora"]),
        callbacks=callbacks,
        **arguments,
    )
    if data == "pairs":
        # TRL ends every response with an end of sequence; those that were cut at the budget's length have none
        trainer.train_dataset = columns(rows, TOKENS)
    trainer.remove_callback(PrinterCallback)
    return trainer


def responses_of(run: dict) -> list[str]:
    """Columns of the dataset's responses that the method's file puts into its groups."""
    return run["method_settings"]["options"].get("dataset_responses", [])


def columns(rows: list[dict], names) -> Dataset:
    return Dataset.from_list([{name: row[name] for name in names} for row in rows])


def samples_of(run: dict) -> int:
    """Completions of a query that the trainer samples at a time: the group, or two where it has no such option."""
    names = {field.name for field in fields(load_class(run["method"], run["method_settings"]["config"]))}
    return run["task_settings"]["budget"]["group"] if "num_generations" in names else 2
