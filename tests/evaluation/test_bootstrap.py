import itertools

import numpy as np
import pytest

from trl_negalign.evaluation.bootstrap import hierarchical_bootstrap, mean, paired_difference


def exact_quantiles(data: np.ndarray, levels: tuple) -> np.ndarray:
    """Of every resample that there is: seeds with replacement, and for each its queries with replacement."""
    seeds, queries = data.shape
    rows = [
        [data[seed, list(q)].mean() for q in itertools.product(range(queries), repeat=queries)]
        for seed in range(seeds)
    ]
    means = [
        (rows[one][i] + rows[other][j]) / 2
        for one, other in itertools.product(range(seeds), repeat=2)
        for i, j in itertools.product(range(queries**queries), repeat=2)
    ]
    return np.quantile(means, levels)


def test_the_interval_is_that_of_all_resamples():
    data = np.array([[0.0, 1.1, 5.0], [2.3, 3.0, 9.6]])
    found = hierarchical_bootstrap(mean, data, resamples=50_000, level=0.8)
    low, high = exact_quantiles(data, (0.1, 0.9))
    assert found["value"] == pytest.approx(3.5)
    assert found["low"] == pytest.approx(low, abs=0.1) and found["high"] == pytest.approx(high, abs=0.1)
    assert (found["seeds"], found["queries"]) == (2, 3)


def test_seeds_that_differ_widen_the_interval_although_queries_do_not():
    # within a seed all queries agree: a bootstrap over queries alone, or over all values, would miss that
    data = np.repeat([[0.0], [1.0]], 100, axis=1)
    found = hierarchical_bootstrap(mean, data)
    assert (found["low"], found["high"]) == (0.0, 1.0)


def test_a_difference_is_paired():
    base = np.random.default_rng(0).normal(0, 10, (3, 20))
    found = hierarchical_bootstrap(paired_difference, base + 1, base)
    assert [found[name] for name in ("value", "low", "high")] == pytest.approx([1.0, 1.0, 1.0])


def test_the_same_seed_gives_the_same_interval():
    data = np.random.default_rng(0).normal(size=(3, 5))
    one, same, other = (hierarchical_bootstrap(mean, data, resamples=200, seed=seed) for seed in (0, 0, 1))
    assert one == same and one != other


@pytest.mark.parametrize("shapes", [((2, 3), (3, 2)), ((4,),), ((0, 3),)])
def test_arrays_that_do_not_fit_are_refused(shapes):
    with pytest.raises(ValueError, match="need one shape"):
        hierarchical_bootstrap(mean, *(np.zeros(shape) for shape in shapes))
