"""The training queries of a seed, and what offline methods learn from: as many completions as online ones sample."""

import random

import torch

from trl_negalign.borders import query_ids, response_ids
from trl_negalign.evaluation.generation import Sampling
from trl_negalign.evaluation.queries import Queries, as_response
from trl_negalign.evaluation.samples import sample_queries


# columns of TRL's preference pairs, as texts and as the tokens that it makes of them
TEXTS = ("prompt", "chosen", "rejected")
TOKENS = ("prompt_ids", "chosen_ids", "rejected_ids")


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


def tokens_of(query: list[int], completion: list[int]) -> dict:
    """What TRL's supervised trainer takes as tokenized already, so that it adds no end of sequence to cut texts."""
    return {"input_ids": query + completion, "completion_mask": [0] * len(query) + [1] * len(completion)}


def responses(run: dict, train: list[dict], reward, policy, tokenizer) -> list[dict]:
    """As many of the dataset's good responses as an online method samples, cut to the budget's length."""
    budget = run["task_settings"]["budget"]
    good = [row for row in train if row["good"]]
    rows = draw(good, budget["steps"] * budget["completions"], run["seed"], "good responses")
    found = []
    for row in rows:
        completion = response_ids(tokenizer, row["prompt"], row["completion"])
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
    table = sample_queries(policy, tokenizer, queries, sampling, budget["group"], batch)
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
            answers = [as_response(row["completion"], not isinstance(prompt, str)) for row in (best, worst)]
            texts = (prompt, *answers)
            tokens = (best["query_ids"], best["token_ids"], worst["token_ids"])
            found.append(dict(zip(TEXTS + TOKENS, texts + tokens, strict=True)))
    if not found:
        raise ValueError("all completions of the start model have one reward, so there is no pair to learn from.")
    return found


OFFLINE = {"responses": responses, "best": best_of_group, "pairs": best_and_worst}
