"""Intervals for methods that were trained with several seeds: seeds are drawn, and within each seed its queries."""

from collections.abc import Callable

import numpy as np


Statistic = Callable[..., np.ndarray]


def hierarchical_bootstrap(
    statistic: Statistic,
    *arrays: np.ndarray,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> dict:
    """
    Percentile interval of a statistic of runs: training seeds are drawn with replacement, and for each seed drawn its
    queries are. Everything of a query stays together, so that a difference is paired by seed and by query.

    With few seeds the interval is somewhat too narrow, as any bootstrap of few things: say how many there are.

    Args:
        statistic (`Callable`): gets the arrays, resampled, as `[…, seeds, queries]`, and returns one number for each
            of the leading places, e.g. `lambda a, b: (a - b).mean((-1, -2))`.
        *arrays (`np.ndarray`): `[seeds, queries]` each, of one shape; the same place is the same seed and query.
        resamples (`int`): draws.
        level (`float`): of the interval.
        seed (`int`): of the draws; the same seed gives the same interval.

    Returns:
        `dict`: `value` (the statistic of the arrays as they are), `low`, `high`, `seeds` and `queries`.

    Raises:
        ValueError: if the arrays are empty, or not of one shape `[seeds, queries]`.
    """
    arrays = tuple(np.asarray(array, dtype=float) for array in arrays)
    shapes = {array.shape for array in arrays}
    if len(shapes) != 1 or arrays[0].ndim != 2 or not arrays[0].size:
        raise ValueError(f"the arrays have the shapes {sorted(shapes)}, and need one shape [seeds, queries].")
    seeds, queries = arrays[0].shape
    generator = np.random.default_rng(seed)
    values, chunk = [], max(1, 2_000_000 // arrays[0].size)  # some tens of megabytes at a time
    for start in range(0, resamples, chunk):
        count = min(chunk, resamples - start)
        of_seeds = generator.integers(0, seeds, (count, seeds, 1))
        of_queries = generator.integers(0, queries, (count, seeds, queries))
        values.append(statistic(*(array[of_seeds, of_queries] for array in arrays)))
    low, high = np.quantile(np.concatenate(values), [(1 - level) / 2, (1 + level) / 2])
    value = float(statistic(*(array[None] for array in arrays))[0])
    return {"value": value, "low": float(low), "high": float(high), "seeds": seeds, "queries": queries}


def mean(values: np.ndarray) -> np.ndarray:
    """Mean over seeds and queries."""
    return values.mean((-1, -2))


def paired_difference(values: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """Mean over seeds and queries of a method's value − the baseline's."""
    return (values - baseline).mean((-1, -2))
