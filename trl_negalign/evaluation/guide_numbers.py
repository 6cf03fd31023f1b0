"""
Numbers about guides, from a table of completions: what each does to the reward, how far its samples lie from the
plain policy, what a group of plain and guided samples would have to teach. Samples of one query are not independent:
intervals are over queries, each with all its samples.
"""

import math
from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import pandas as pd

from ..groups import PLAIN, repeated_share
from .bootstrap import hierarchical_bootstrap, mean
from .guided import Condition, Guide
from .text_metrics import ngrams, words


COPIED_WORDS = 3
# a NEAT group is made of these, in this order
GROUP_KINDS = (PLAIN, "positive", "negative")


def interval(statistic: Callable[..., np.ndarray], *columns: Sequence[float]) -> dict:
    """
    A statistic over queries with its 95% bootstrap interval.

    Args:
        statistic (`Callable`): as [`hierarchical_bootstrap`] takes it.
        *columns (`Sequence[float]`): one number a query each; queries with a NaN in any of them are left out.

    Returns:
        `dict`: `value`, `low`, `high`, and `queries`, how many have part; NaN where there is none.
    """
    table = np.array(columns, dtype=float)
    table = table[:, ~np.isnan(table).any(0)]
    if not table.shape[1]:
        return {"value": math.nan, "low": math.nan, "high": math.nan, "queries": 0}
    found = hierarchical_bootstrap(statistic, *table[:, None])
    return {key: found[key] for key in ("value", "low", "high", "queries")}


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Σ of one column / Σ of another."""
    return numerator.sum((-1, -2)) / denominator.sum((-1, -2))


def difference(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    return (ours - theirs).mean((-1, -2))


def effect_size(
    ours: np.ndarray, our_squares: np.ndarray, theirs: np.ndarray, their_squares: np.ndarray
) -> np.ndarray:
    """
    Cohen's d: the difference of two means over the pooled standard deviation of single completions,
    √((s₁² + s₂²) / 2). Each column holds the queries' means of rewards or of squared rewards. 0 where nothing differs,
    NaN where each side is constant and they differ.
    """

    def variance(first: np.ndarray, squares: np.ndarray) -> np.ndarray:
        return np.maximum(squares.mean((-1, -2)) - first.mean((-1, -2)) ** 2, 0)

    gap = difference(ours, theirs)
    pooled = np.sqrt((variance(ours, our_squares) + variance(theirs, their_squares)) / 2)
    spread = pooled > 1e-9
    return np.where(spread, gap / np.where(spread, pooled, 1), np.where(np.abs(gap) <= 1e-9, 0.0, np.nan))


def rewards_of(table: pd.DataFrame, condition: Condition) -> np.ndarray:
    """Rewards of a condition's completions, `[queries, samples]`."""
    rows = table[table["kind"] == condition.kind]
    if condition.placement is not None:
        rows = rows[rows["placement"] == condition.placement]
    return rows.pivot(index="query", columns="sample", values="reward").to_numpy()


def query_means(values: np.ndarray) -> np.ndarray:
    """Mean over a query's samples that have a number, NaN without any: `[queries]`."""
    scored = ~np.isnan(values)
    count = scored.sum(1)
    return np.where(count, np.where(scored, values, 0).sum(1) / np.maximum(count, 1), np.nan)


def beaten(ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Of all pairs of one of our and one of their samples of a query, the share that ours wins and the share that is
    tied, `[queries]` each; NaN for a query without such a pair.
    """
    pairs = ours[:, :, None] - theirs[:, None, :]
    scored = (~np.isnan(pairs)).sum((1, 2))
    with np.errstate(invalid="ignore"):
        wins, ties = (pairs > 0).sum((1, 2)), (pairs == 0).sum((1, 2))
    count = np.where(scored, scored, np.nan)
    return wins / count, ties / count


def copied_share(text: str, guide: str, n: int = COPIED_WORDS) -> float:
    """Share of a completion's n-grams of words that stand in the guide, in any case; NaN for fewer than n words."""
    own = [*ngrams([word.lower() for word in words(text)], n)]
    of_guide = set(ngrams([word.lower() for word in words(guide)], n))
    return float(np.mean([gram in of_guide for gram in own])) if own else math.nan


def text_numbers(rows: pd.DataFrame) -> dict:
    """Length in tokens, share that was cut before an end, repeated 4-grams of tokens, each with its interval."""
    columns = rows.assign(
        truncated=rows["truncated"].astype(float), repeated=[repeated_share(ids) for ids in rows["token_ids"]]
    )
    means = columns.groupby("query")[["tokens", "truncated", "repeated"]].mean()
    return {name: interval(mean, values) for name, values in means.items()}


def plain_numbers(table: pd.DataFrame) -> dict:
    """What the policy does without a guide: `reward`, `deviation` (of single completions), and of the texts."""
    rewards = rewards_of(table, Condition(PLAIN))
    scored = rewards[~np.isnan(rewards)]
    found = {"reward": interval(mean, query_means(rewards)), "unscored": int(np.isnan(rewards).sum())}
    found["deviation"] = float(scored.std()) if len(scored) else math.nan
    return found | text_numbers(table[table["kind"] == PLAIN])


def guide_numbers(table: pd.DataFrame, guide: Guide, condition: Condition) -> dict:
    """
    What a guide does in one place, each number with its interval over queries.

    Returns:
        `dict`: `reward`; `difference` from plain, paired by query; `effect` ([`effect_size`]); `wins` and `ties`
        against plain samples ([`beaten`]); `distance`, Σ log π(y|[g,x]) − log π(y|x) over Σ tokens, nats per token;
        `tokens`, `truncated`, `repeated`; `copied`, the share of its word 3-grams that stand in the guide, and
        `copied_by_plain`, that of plain samples, which is chance; `unscored` completions.
    """
    rows = table[(table["kind"] == condition.kind) & (table["placement"] == condition.placement)]
    plain_rows = table[table["kind"] == PLAIN]
    rewards, plain = rewards_of(table, condition), rewards_of(table, Condition(PLAIN))
    ours, theirs = query_means(rewards), query_means(plain)
    wins, ties = beaten(rewards, plain)
    sums = rows.groupby("query")[["distance", "tokens"]].sum()
    squares = [query_means(values**2) for values in (rewards, plain)]
    found = {
        "kind": guide.kind,
        "placement": condition.placement,
        "reward": interval(mean, ours),
        "difference": interval(difference, ours, theirs),
        "effect": interval(effect_size, ours, squares[0], theirs, squares[1]),
        "wins": interval(mean, wins),
        "ties": interval(mean, ties),
        "distance": interval(ratio, sums["distance"], sums["tokens"]),
        "unscored": int(np.isnan(rewards).sum()),
    } | text_numbers(rows)
    for name, texts in (("copied", rows), ("copied_by_plain", plain_rows)):
        shares = pd.Series([copied_share(text, guide.text) for text in texts["completion"]], index=texts["query"])
        found[name] = interval(mean, shares.groupby(level=0).mean().to_numpy())
    return found


def expected_group(rewards: dict[str, np.ndarray], counts: dict[str, int]) -> tuple[float, float, float]:
    """
    A query's group of `counts[kind]` samples of each kind, drawn without replacement from those that were measured,
    in expectation over all such draws: no bias, and no noise but that of the samples.

    With m(≤v) of K samples of a kind at most v, P(max ≤ v) = Π_kind C(m(≤v), n) / C(K, n); the lowest likewise.

    Args:
        rewards (`dict[str, np.ndarray]`): `[samples]` by kind, NaN where there is none.
        counts (`dict[str, int]`): by kind.

    Returns:
        `tuple`: mean of the best and of the worst reward, and the chance that not all are the same; NaN where a kind
        has fewer scored samples than the group takes.
    """
    own = {kind: np.sort(rewards[kind][~np.isnan(rewards[kind])]) for kind, count in counts.items() if count}
    if any(len(own[kind]) < counts[kind] for kind in own):
        return math.nan, math.nan, math.nan
    pool = np.unique(np.concatenate([*own.values()]))
    at_most, at_least, all_equal = np.ones(len(pool)), np.ones(len(pool)), np.ones(len(pool))
    for kind, values in own.items():
        below = np.searchsorted(values, pool, side="right")
        above = len(values) - np.searchsorted(values, pool, side="left")
        for chance, matching in ((at_most, below), (at_least, above), (all_equal, below + above - len(values))):
            ways = [math.comb(int(count), counts[kind]) for count in matching]
            chance *= np.array(ways) / math.comb(len(values), counts[kind])
    best = (pool * np.diff(at_most, prepend=0.0)).sum()
    worst = -(pool * np.diff(at_least, append=0.0)).sum()
    return float(best), float(worst), float(1 - all_equal.sum())


def group_columns(
    table: pd.DataFrame, conditions: Sequence[Condition], counts: dict[str, int]
) -> dict[str, np.ndarray]:
    """
    Of a group with `counts` samples of the conditions' kinds, by query: `spread`, best − worst reward; `signal`, the
    chance that two rewards differ; `gain`, best − the mean of plain samples.
    """
    rewards = {condition.kind: rewards_of(table, condition) for condition in conditions}
    plain = query_means(rewards_of(table, Condition(PLAIN)))
    expected = [
        expected_group({kind: values[query] for kind, values in rewards.items()}, counts)
        for query in range(len(plain))
    ]
    best, worst, signal = np.array(expected).T
    return {"spread": best - worst, "signal": signal, "gain": best - plain}


def compositions(kinds: Sequence[str], size: int, samples: int) -> list[dict[str, int]]:
    """All groups of a size out of these kinds, at most `samples` of each."""
    found = (dict(zip(kinds, counts, strict=True)) for counts in product(range(samples + 1), repeat=len(kinds)))
    return [counts for counts in found if sum(counts.values()) == size]
