"""A method's trainer, with the task's budget: the same queries, as many completions a step, as long, for every method."""

import random
from dataclasses import fields

import torch
from datasets import Dataset
from plan import GUIDE_FIELDS, START, load_class

from trl_negalign.evaluation.generation import Sampling
from trl_negalign.evaluation.queries import Queries, query_ids
from trl_negalign.evaluation.samples import sample_completions


OFFLINE = ("responses", "best", "pairs")


def config_of(run: dict, output_dir: str):
    """The configuration: the budget and the run's setting, then the method's own options."""
    method, task = run["method_settings"], run["task_settings"]
    config_class = load_class(run["method"], method["config"])
    known = {field.name for field in fields(config_class)}
    budget = task["budget"]
    wanted = {
        "output_dir": output_dir,
        "max_steps": budget["steps"],
        "per_device_train_batch_size": budget["completions"] // method["completions_per_row"],
        "num_generations": budget["group"],
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


def queries_of(run: dict, train: list[dict]) -> list[dict]:
    """
    The training queries of a seed, the same for every method, each of which is sampled `group` times.

    Raises:
        ValueError: if there are too few.
    """
    budget = run["task_settings"]["budget"]
    count = budget["steps"] * budget["completions"] // budget["group"]
    return draw(train, count, run["seed"], "training queries")


def draw(rows: list[dict], count: int, seed: int, what: str) -> list[dict]:
    if len(rows) < count:
        raise ValueError(f"the task has {len(rows)} {what}, and its budget takes {count}. Lower its steps.")
    return random.Random(seed).sample(rows, count)


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
        dataset = Dataset.from_dict({"prompt": [row["prompt"] for row in rows] * repeats})
        arguments = {"reward_funcs": reward}
    elif data == "responses":
        dataset = Dataset.from_list(responses(run, train, tokenizer))
    elif data == "best":
        dataset = Dataset.from_list(best_of_group(run, train, reward, policy, tokenizer))
    elif data == "pairs":
        pairs = best_and_worst(run, train, reward, policy, tokenizer)
        dataset = Dataset.from_list(
            [{name: pair[name] for name in ("prompt", "chosen", "rejected")} for pair in pairs]
        )
    else:
        raise ValueError(f"methods/{run['method']}.yaml: data {data!r} is unknown. Use queries, {', '.join(OFFLINE)}.")
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
        trainer.train_dataset = Dataset.from_list(
            [{name: pair[name] for name in ("prompt_ids", "chosen_ids", "rejected_ids")} for pair in pairs]
        )
    trainer.remove_callback(PrinterCallback)
    return trainer


def samples_of(run: dict) -> int:
    """Completions of a query that the trainer samples at a time: the group, or two where it has no such option."""
    names = {field.name for field in fields(load_class(run["method"], run["method_settings"]["config"]))}
    return run["task_settings"]["budget"]["group"] if "num_generations" in names else 2


def tokens_of(query: list[int], completion: list[int]) -> dict:
    """What TRL's supervised trainer takes as tokenized already, so that it adds no end of sequence to cut texts."""
    return {"input_ids": query + completion, "completion_mask": [0] * len(query) + [1] * len(completion)}


def responses(run: dict, train: list[dict], tokenizer) -> list[dict]:
    """As many of the dataset's good responses as an online method samples, cut to the budget's length."""
    budget = run["task_settings"]["budget"]
    good = [row for row in train if row["good"]]
    rows = draw(good, budget["steps"] * budget["completions"], run["seed"], "good responses")
    found = []
    for row in rows:
        completion = tokenizer(row["completion"], add_special_tokens=False)["input_ids"]
        found.append(tokens_of(query_ids(tokenizer, row["prompt"]), completion[: budget["max_new_tokens"]]))
    return found


def groups_of_start(run: dict, train: list[dict], reward, policy, tokenizer):
    """A group of the start model's completions for each training query, with rewards, the best first."""
    budget, rows = run["task_settings"]["budget"], queries_of(run, train)
    queries = Queries(list(range(len(rows))), [row["prompt"] for row in rows], None, {}, {})
    if torch.accelerator.is_available():
        policy.to(torch.accelerator.current_accelerator())
    # a seed that is not the evaluation's, so that what is learnt from is not what is judged
    sampling = Sampling(budget["max_new_tokens"], seed=1_000_000 + run["seed"])
    batch = run["task_settings"]["evaluation"]["batch_size"]
    table = sample_completions(policy, tokenizer, queries, sampling, budget["group"], batch)
    prompts = [queries.prompts[query] for query in table["query"]]
    table["reward"] = reward(prompts=prompts, completions=table["completion"].tolist())
    for query, group in table.groupby("query"):
        yield queries.prompts[query], group.sort_values("reward", ascending=False, kind="stable")


def best_of_group(run: dict, *rest) -> list[dict]:
    """The best of each group of the start model's completions."""
    return [
        tokens_of(group["query_ids"].iloc[0], group["token_ids"].iloc[0]) for _, group in groups_of_start(run, *rest)
    ]


def best_and_worst(run: dict, *rest) -> list[dict]:
    """The best and the worst of each group of the start model's completions, unless all have one reward."""
    found = []
    for prompt, group in groups_of_start(run, *rest):
        best, worst = group.iloc[0], group.iloc[-1]
        if best["reward"] > worst["reward"]:
            texts = {"prompt": prompt, "chosen": best["completion"], "rejected": worst["completion"]}
            ids = {
                "prompt_ids": best["query_ids"],
                "chosen_ids": best["token_ids"],
                "rejected_ids": worst["token_ids"],
            }
            found.append(texts | ids)
    if not found:
        raise ValueError("all completions of the start model have one reward, so there is no pair to learn from.")
    return found


def is_trained(run: dict) -> bool:
    return run["method"] != START
