"""What a policy writes to held-out queries and how good it is, at some steps of a training."""

import time
from collections.abc import Callable

import pandas as pd
import torch
from transformers import TrainerCallback

from trl_negalign.borders import query_ids, response_ids
from trl_negalign.evaluation import text_metrics
from trl_negalign.evaluation.cache import by_length
from trl_negalign.evaluation.generation import Sampling
from trl_negalign.evaluation.kl import completion_kl, kl_statistics
from trl_negalign.evaluation.perplexity import perplexity, response_nlls
from trl_negalign.evaluation.queries import Queries
from trl_negalign.evaluation.samples import sample_queries


KEPT = ("query", "sample", "completion", "truncated")


def measure(
    policy, tokenizer, queries: Queries, judges: dict[str, Callable], run: dict, references: bool = False
) -> tuple[dict, pd.DataFrame]:
    """
    Numbers of a policy on plain queries at temperature 1, from its whole distribution, and every completion with its
    own numbers. The sampling's seed is the run's, so two methods with one seed meet the same random numbers.

    Args:
        policy: a PEFT model, whose base is what KL and perplexity refer to.
        tokenizer: of both.
        queries ([`Queries`]): with references.
        judges (`dict[str, Callable]`): reward functions.
        run (`dict`): from `plan.run_of`.
        references (`bool`): judge the dataset's responses by the policy too.
    """
    task = run["task_settings"]
    evaluation, batch_size = task["evaluation"], task["evaluation"]["batch_size"]
    sampling = Sampling(task["budget"]["max_new_tokens"], seed=run["seed"])
    table = sample_queries(policy, tokenizer, queries, sampling, evaluation["samples"], batch_size)
    pairs = list(zip(table["query_ids"], table["token_ids"], strict=True))
    table = table[list(KEPT)].join(completion_kl(policy, pairs, batch_size=batch_size // 2))
    texts, prompts = table["completion"].tolist(), [queries.prompts[query] for query in table["query"]]
    for name, judge in judges.items():
        table[f"reward/{name}"] = judge(prompts=prompts, completions=texts)
    found = {}
    if references:
        likelihoods = reference_nlls(policy, tokenizer, queries, batch_size=batch_size // 2)
        found = {"reference_perplexity": perplexity(likelihoods["nll"].tolist(), likelihoods["tokens"].tolist())}
        # once a query, beside its first sample
        likelihoods = likelihoods.add_prefix("response_").assign(query=range(len(likelihoods)), sample=0)
        table = table.merge(likelihoods, how="left")
    numbers = {f"reward/{name}": float(table[f"reward/{name}"].mean()) for name in judges}
    numbers |= {
        "kl": kl_statistics(table[["kl", "logp", "reference_logp", "tokens"]], table["query"].tolist()),
        "perplexity": perplexity((-table["reference_logp"]).tolist(), table["tokens"].tolist()),
        "distinct_2": text_metrics.distinct_n(texts, 2),
        "repetition_4": text_metrics.repetition(texts),
        "length": text_metrics.length(texts, table["tokens"].tolist(), table["truncated"].tolist()),
    }
    return numbers | found, table


def reference_nlls(policy, tokenizer, queries: Queries, batch_size: int) -> pd.DataFrame:
    """`nll` (summed, nats) and `tokens` of each query's reference, in their order."""
    rows = zip(queries.prompts, queries.references, strict=True)
    pairs = [(query_ids(tokenizer, query), response_ids(tokenizer, query, reference)) for query, reference in rows]
    was_training = policy.training
    policy.eval()
    found: dict[int, float] = {}
    for batch in by_length({index: len(x) + len(y) for index, (x, y) in enumerate(pairs)}, batch_size):
        found.update(zip(batch, response_nlls(policy, [pairs[index] for index in batch]), strict=True))
    policy.train(was_training)
    return pd.DataFrame({"nll": [found[i] for i in range(len(pairs))], "tokens": [len(y) for _, y in pairs]})


def clock() -> float:
    """Seconds: of this process's own work on a CPU, whatever runs beside it; by the wall on a GPU."""
    return time.perf_counter() if torch.accelerator.is_available() else time.process_time()


class Measuring(TrainerCallback):
    """
    Measures a policy at some steps, and stops a training whose loss is not finite.

    Args:
        measure_at (`Callable`): gets the model and the step.
        steps (`list[int]`): when.
        report (`Callable`): gets the step after each, for the progress.
    """

    def __init__(self, measure_at: Callable, steps: list[int], report: Callable[[int], None]):
        self.measure_at, self.steps, self.report = measure_at, steps, report
        self.seconds = 0.0

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.report(state.global_step)
        if state.global_step in self.steps:
            began = clock()
            self.measure_at(model, state.global_step)
            self.seconds += clock() - began

    def on_log(self, args, state, control, logs=None, **kwargs):
        for name in ("loss", "grad_norm"):
            value = (logs or {}).get(name)
            if value is not None and not abs(float(value)) < float("inf"):
                raise FloatingPointError(f"the {name} is {value} at step {state.global_step}")
