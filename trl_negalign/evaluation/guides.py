"""Guides measured before any training, from models and queries to `guides.json`; bad input is refused before that."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from .. import folders
from ..fingerprints import PARTS, digest
from ..masking import masked
from ..phase import begin_work
from . import guide_advice as advice
from .evaluate import environment, made_up, refuse_changed, refuse_other, without_nan
from .files import CACHE, whole_file
from .generation import Sampling
from .guide_numbers import GROUP_KINDS, difference, guide_numbers, interval, plain_numbers, query_means, rewards_of
from .guided import (
    Condition,
    Guide,
    add_distances,
    add_rewards,
    fitting_queries,
    make_conditions,
    sample_conditions,
)
from .policies import Policy
from .queries import Queries
from .rewards import Scorer


RESULTS, SAMPLES = "guides.json", "samples.parquet"
RESPONSE_COLUMNS = ("chosen", "rejected")


def measure_guides(
    policy: Policy,
    queries: Queries,
    guides: Sequence[Guide],
    rewards: Sequence[str],
    out: str | Path,
    *,
    weights: Sequence[float] | None = None,
    placements: Sequence[str] = ("user", "system", "both"),
    group_size: int = 4,
    samples: int | None = None,
    sampling: Sampling | None = None,
    max_query_tokens: int | None = None,
    batch_size: int = 16,
    dtype: str = "float32",
    overwrite: bool = False,
) -> dict:
    """
    Measure guides on a policy: each query is sampled plain and under each guide in each place, scored for the plain
    query, and compared. What a stopped run computed is kept in `out` and not computed again, as in
    [`~trl_negalign.evaluation.evaluate.evaluate`].

    Args:
        policy ([`Policy`]): the model that is to be trained.
        queries ([`Queries`]): from [`load_queries`].
        guides (`Sequence[Guide]`): from [`~trl_negalign.evaluation.guided.parse_guides`].
        rewards (`Sequence[str]`): names that [`load_reward`] reads.
        out (`str` or `Path`): folder for `guides.json`, `samples.parquet` (every completion) and `cache`.
        weights (`Sequence[float]`, *optional*): one a reward; left out, all 1.
        placements (`Sequence[str]`): out of `"user"`, `"system"` and `"both"`; of no effect on texts.
        group_size (`int`): sampled candidates of a group, for the recommendation.
        samples (`int`, *optional*): completions of each query under each condition; left out, `group_size`. A group
            takes at most as many of a kind.
        sampling ([`Sampling`], *optional*): how completions are generated; best as in training.
        max_query_tokens, batch_size, dtype, overwrite: see [`~trl_negalign.evaluation.evaluate.evaluate`].

    Returns:
        `dict`: what `guides.json` holds.

    Raises:
        ValueError, OSError, ImportError: if something is missing or does not fit, before the model is run.
    """
    out, sampling = Path(out), sampling or Sampling()
    samples = group_size if samples is None else samples
    weights = check(guides, rewards, weights, group_size, samples, batch_size)
    conditions = make_conditions(guides, placements, queries.conversational)
    scorers = {name: Scorer(name, out / CACHE, batch_size, dtype) for name in rewards}
    reader = {policy.label: policy.reader()}
    queries = fitting_queries(queries, conditions, reader, sampling.max_new_tokens, max_query_tokens)
    settings = {
        "sampling": asdict(sampling),
        "samples": samples,
        "group_size": group_size,
        "placements": [*dict.fromkeys(one.placement for one in conditions if one.placement)],
        "rewards": dict(zip(rewards, weights, strict=True)),
        "max_query_tokens": max_query_tokens,
        "chat_template_kwargs": queries.chat_template_kwargs,
        "batch_size": batch_size,
        "dtype": dtype,
    }
    data = queries.source | {"queries": len(queries.rows), "fingerprint": queries.fingerprint}
    asked = {guide.kind: asdict(guide) for guide in guides}
    earlier = None if overwrite else read_earlier(out)
    named = {policy.label: {"model": policy.base, "adapter": policy.adapter}}
    refuse_other(out, earlier, {"settings": settings, "data": data, "guides": asked, "models": named})
    completion, ids = made_up(queries, reader[policy.label][0])
    for name, scorer in scorers.items():
        probe(scorer, queries, completion, ids)
        refuse_changed(out, earlier, "rewards", name, scorer.identity)
    model, tokenizer, identity = policy.load(dtype)
    refuse_changed(out, earlier, "models", policy.label, identity)

    begin_work()
    folders.start(out, "guides")
    options = {"model_id": digest([identity[part] for part in PARTS]), "batch_size": batch_size}
    cache = out / CACHE
    table = sample_conditions(model, tokenizer, queries, conditions, sampling, cache, samples=samples, **options)
    table = add_distances(table, model, tokenizer, queries, conditions, cache, **options)
    table = add_rewards(table, queries, scorers, weights)
    results = {
        "settings": settings,
        "data": data,
        "models": {policy.label: identity},
        "rewards": {name: scorer.identity for name, scorer in scorers.items()},
        "guides": asked,
        "environment": environment(),
        **conclude(table, guides, conditions, group_size, samples, queries),
    }
    results = masked(without_nan(results))
    write(out, queries, results, table)
    return results


def check(
    guides: Sequence[Guide],
    rewards: Sequence[str],
    weights: Sequence[float] | None,
    group_size: int,
    samples: int,
    batch_size: int,
) -> list[float]:
    """Check what needs no model; the rewards' weights."""
    if not rewards:
        raise ValueError("reward is missing. Name a packaged reward, an import path or a reward model.")
    if len(set(rewards)) < len(rewards):
        raise ValueError(f"reward names one twice: {', '.join(rewards)}. Keep one of them.")
    if weights is not None and len(weights) != len(rewards):
        raise ValueError(f"reward_weights has {len(weights)} value(s) for {len(rewards)} reward(s).")
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size} must be 1 or more.")
    if samples < 1:
        raise ValueError(f"samples {samples} must be 1 or more.")
    if group_size < 2:
        raise ValueError(f"group_size {group_size} must be 2 or more: a group compares its candidates.")
    kinds = 1 + sum(guide.kind in GROUP_KINDS for guide in guides)
    if kinds > 1 and group_size > kinds * samples:
        raise ValueError(
            f"group_size {group_size} cannot be made of {samples} sample(s) of each of {kinds} kinds. Set samples to "
            f"{-(-group_size // kinds)} or more, or lower group_size."
        )
    return [1.0] * len(rewards) if weights is None else [*map(float, weights)]


def read_earlier(out: Path) -> dict | None:
    """The numbers of an earlier run in the folder, `None` without any; a `ValueError` if the file is broken."""
    if not (out / RESULTS).exists():
        return None
    try:
        earlier = json.loads((out / RESULTS).read_text(encoding="utf-8"))
        return {part: earlier[part] for part in ("settings", "data", "guides", "models", "rewards")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{out / RESULTS} cannot be read ({type(error).__name__}: {error}). Choose another folder, or replace it "
            "with overwrite; completions that fit are used again."
        ) from error


def probe(scorer: Scorer, queries: Queries, completion: str | list[dict], ids: list[int]) -> None:
    """As [`Scorer.probe`]; a failure also says which columns there are, since rewards may need some."""
    try:
        scorer.probe(queries, completion, ids)
    except ValueError as error:
        columns = ", ".join(["prompt", *queries.columns])
        raise ValueError(f"{error} {queries.source['data']} has the columns {columns}.") from error


def conclude(
    table: pd.DataFrame,
    guides: Sequence[Guide],
    conditions: Sequence[Condition],
    group_size: int,
    samples: int,
    queries: Queries,
) -> dict:
    """The numbers, and what follows from them: `plain`, `measured`, `gaps`, `groups`, `recommendation`, `notes`."""
    of_kind = {guide.kind: guide for guide in guides}
    found = []
    for condition in conditions[1:]:
        one = guide_numbers(table, of_kind[condition.kind], condition)
        one["verdict"] = advice.verdict(one)
        found.append(one | {"sentence": advice.sentence(one)})
    gaps: dict[str, dict] = {}
    if {"positive", "negative"} <= set(of_kind):
        for place in dict.fromkeys(one["placement"] for one in found):
            both = [query_means(rewards_of(table, Condition(kind, place))) for kind in ("positive", "negative")]
            gaps[place] = interval(difference, *both)
    groups, recommendation, notes = [], {}, [one["sentence"] for one in found]
    if neat := advice.neat_groups(table, guides, found, gaps, group_size, samples):
        groups, group = neat
        responses = [column for column in RESPONSE_COLUMNS if column in queries.columns]
        recommendation["neat"] = group | {"yaml": advice.neat_lines(guides, group, responses)}
        notes.append(advice.about_group(group))
    elif set(of_kind) & set(GROUP_KINDS):
        notes.append("NEAT: not recommended: no guide works in any of the places, alone or against the other one.")
    if "principle" in of_kind:
        if place := advice.ple_place(table, found):
            recommendation["ple"] = place | {"yaml": advice.ple_lines(guides, place, group_size)}
            notes.append(advice.about_place(place))
        else:
            notes.append("PLE: not recommended: the principle raises the reward in none of the places.")
    return {
        "plain": plain_numbers(table),
        "measured": found,
        "gaps": gaps,
        "groups": groups,
        "recommendation": recommendation,
        "notes": notes,
    }


def write(out: Path, queries: Queries, results: dict, table: pd.DataFrame) -> None:
    """Write the samples and the numbers, each whole; the numbers come last."""
    prompts = [
        prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False) for prompt in queries.prompts
    ]
    samples = table.drop(columns="token_ids").assign(
        row=[queries.rows[query] for query in table["query"]], prompt=[prompts[query] for query in table["query"]]
    )
    # the last one opened takes its place first
    with ExitStack() as files:
        path = files.enter_context(whole_file(out / RESULTS))
        path.write_text(json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
        samples.to_parquet(files.enter_context(whole_file(out / SAMPLES)))
