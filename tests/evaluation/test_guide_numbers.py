"""Numbers about guides against hand-computed ones and slow ways to the same."""

from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest

from trl_negalign.evaluation.bootstrap import mean
from trl_negalign.evaluation.guide_numbers import (
    beaten,
    compositions,
    copied_share,
    difference,
    effect_size,
    expected_group,
    group_columns,
    guide_numbers,
    interval,
    plain_numbers,
    query_means,
    ratio,
    rewards_of,
)
from trl_negalign.evaluation.guided import Condition, Guide


NAN = float("nan")


def table(plain, positive, **columns) -> pd.DataFrame:
    """Samples of plain and of positive under `user`, rewards as `[queries][samples]`."""
    rows = [
        {"kind": kind, "placement": place, "query": query, "sample": sample, "reward": reward}
        for kind, place, rewards in (("plain", None, plain), ("positive", "user", positive))
        for query, samples in enumerate(rewards)
        for sample, reward in enumerate(samples)
    ]
    frame = pd.DataFrame(rows)
    defaults = {
        "completion": "one two three four",
        "token_ids": [[1, 2, 3, 4]] * len(rows),
        "tokens": 4,
        "truncated": False,
        "distance": 0.0,
    }
    return frame.assign(**(defaults | columns))


def test_an_interval_is_over_queries_that_have_all_numbers():
    found = interval(difference, [1.0, 2.0, NAN, 4.0], [0.0, 2.0, 5.0, NAN])
    assert found["queries"] == 2 and found["value"] == 0.5
    assert 0 <= found["low"] < 0.5 < found["high"] <= 1
    assert interval(mean, [3.0] * 20) == {"value": 3.0, "low": 3.0, "high": 3.0, "queries": 20}
    nothing = interval(mean, [NAN])
    assert nothing["queries"] == 0 and np.isnan([nothing[key] for key in ("value", "low", "high")]).all()


def test_a_ratio_is_of_the_sums():
    # 6 nats over 12 tokens; the mean of the queries' own ratios would be (1 + 0.4) / 2
    assert interval(ratio, [2.0, 4.0], [2.0, 10.0])["value"] == pytest.approx(0.5)


def test_effect_size_by_hand():
    # guided 3, 5 and plain 0, 2: means 4 and 1, both of variance 1
    ours, theirs = np.array([[3.0, 5.0]]), np.array([[0.0, 2.0]])
    found = interval(effect_size, *(values for side in (ours, theirs) for values in (side[0], side[0] ** 2)))
    assert found["value"] == pytest.approx(3.0)
    constant = np.ones(3)
    assert interval(effect_size, constant, constant, constant, constant)["value"] == 0
    assert np.isnan(interval(effect_size, 2 * constant, 4 * constant, constant, constant)["value"])


def test_pairs_of_samples_won_and_tied():
    # query 0: 1 > 0, 1 > −1, 0 = 0, 0 > −1; query 1: one pair has both rewards, lost; query 2: none
    ours = np.array([[1.0, 0.0], [0.0, NAN], [NAN, NAN]])
    theirs = np.array([[0.0, -1.0], [1.0, NAN], [1.0, 2.0]])
    wins, ties = beaten(ours, theirs)
    assert wins[:2].tolist() == [0.75, 0.0] and ties[:2].tolist() == [0.25, 0.0]
    assert np.isnan([wins[2], ties[2]]).all()


def test_means_of_a_query_leave_out_what_has_no_reward():
    assert query_means(np.array([[1.0, 3.0], [NAN, 2.0]])).tolist() == [2.0, 2.0]
    assert np.isnan(query_means(np.array([[NAN, NAN]]))).all()


@pytest.mark.parametrize(
    ("text", "guide", "share"),
    [
        ("Answer it as a bored man", "Here. Answer it as a bored assistant would", 0.75),  # 3 of 4 trigrams
        ("ANSWER IT AS", "answer it as a friend", 1.0),
        ("nothing of it at all", "answer it as a friend", 0.0),
    ],
)
def test_copied_words(text, guide, share):
    assert copied_share(text, guide) == pytest.approx(share)
    assert np.isnan(copied_share("two words", guide))


def slow_group(rewards, counts):
    """Every group that can be drawn, one after the other."""
    draws = [list(combinations(rewards[kind], count)) for kind, count in counts.items()]
    groups = [[reward for part in parts for reward in part] for parts in product(*draws)]
    best, worst = ([choose(group) for group in groups] for choose in (max, min))
    return np.mean(best), np.mean(worst), np.mean([len(set(group)) > 1 for group in groups])


@pytest.mark.parametrize("counts", [(2, 0, 0), (1, 1, 0), (1, 2, 1), (0, 3, 3), (3, 1, 2)])
def test_a_group_in_expectation_over_all_draws(counts):
    draw = np.random.default_rng(0)
    kinds = ("plain", "positive", "negative")
    counts = dict(zip(kinds, counts, strict=True))
    for _ in range(5):
        # whole numbers, so that many are tied
        rewards = {kind: draw.integers(0, 3, 3).astype(float) for kind in kinds}
        assert expected_group(rewards, counts) == pytest.approx(slow_group(rewards, counts))


def test_a_group_by_hand():
    rewards = {"plain": np.array([0.0, 1.0]), "positive": np.array([2.0, 4.0]), "negative": np.array([1.0, 1.0])}
    assert expected_group(rewards, {"plain": 1, "positive": 1}) == (3.0, 0.5, 1.0)
    # negative and plain are both 1 in half of the draws
    assert expected_group(rewards, {"plain": 1, "negative": 1}) == (1.0, 0.5, 0.5)


def test_a_group_needs_as_many_scored_samples():
    rewards = {"plain": np.array([0.0, NAN]), "positive": np.array([NAN, NAN])}
    assert np.isnan(expected_group(rewards, {"plain": 2})).all()
    assert expected_group(rewards, {"plain": 1, "positive": 0}) == (0.0, 0.0, 0.0)


def test_groups_of_a_table():
    frame = table([[0.0, 1.0], [2.0, 2.0]], [[2.0, 4.0], [2.0, 2.0]])
    conditions = [Condition("plain"), Condition("positive", "user")]
    found = group_columns(frame, conditions, {"plain": 1, "positive": 1})
    assert found["spread"].tolist() == [2.5, 0.0] and found["signal"].tolist() == [1.0, 0.0]
    assert found["gain"].tolist() == [2.5, 0.0]


def test_all_groups_of_a_size():
    found = compositions(("plain", "positive"), 3, 2)
    assert found == [{"plain": 1, "positive": 2}, {"plain": 2, "positive": 1}]
    assert len(compositions(("plain", "positive", "negative"), 4, 4)) == 15


def test_numbers_of_a_guide():
    plain, positive = [[0.0, 1.0], [1.0, 2.0]], [[2.0, 2.0], [3.0, NAN]]
    distances = [0.0] * 4 + [4.0, 4.0, 2.0, 6.0]
    texts = ["one two three"] * 4 + ["be kind to all"] * 4
    frame = table(plain, positive, distance=distances, completion=texts, truncated=[False] * 4 + [True] * 4)
    found = guide_numbers(frame, Guide("positive", "Be kind to me"), Condition("positive", "user", "Be kind to me"))
    assert found["reward"]["value"] == 2.5 and found["unscored"] == 1
    assert found["difference"]["value"] == 1.5 and found["difference"]["queries"] == 2
    assert found["wins"]["value"] == 1.0 and found["ties"]["value"] == 0.0
    assert found["distance"]["value"] == 1.0  # 16 nats over 16 tokens
    assert found["copied"]["value"] == 0.5 and found["copied_by_plain"]["value"] == 0.0
    assert found["tokens"]["value"] == 4 and found["truncated"]["value"] == 1.0
    of_plain = plain_numbers(frame)
    assert of_plain["reward"]["value"] == 1.0 and of_plain["truncated"]["value"] == 0.0
    assert of_plain["deviation"] == pytest.approx(np.std([0, 1, 1, 2]))


def test_rewards_in_their_order():
    frame = table([[0.0, 1.0], [2.0, 3.0]], [[4.0, 5.0], [6.0, 7.0]]).sample(frac=1, random_state=0)
    assert rewards_of(frame, Condition("positive", "user")).tolist() == [[4.0, 5.0], [6.0, 7.0]]
