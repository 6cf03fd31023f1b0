import math

import pytest
import torch

from trl_negalign.methods.ple.schedules import THRESHOLD_SCHEDULES, threshold


GAPS = torch.tensor([0.0, 1.0, 2.0, 3.0, math.nan])


def at(schedule, generation_round, init=0.2, decay=0.9, total=10, gaps=GAPS):
    return threshold(schedule, generation_round, init, decay, total, gaps)


def test_geometric_is_equation_7():
    expected = 0.2
    for generation_round in range(5):
        assert at("geometric", generation_round) == pytest.approx(expected)
        expected = 0.9 * expected


def test_constant():
    assert [at("constant", t) for t in (0, 5, 100)] == [0.2] * 3


def test_linear_and_cosine_run_from_the_start_to_zero():
    assert [at("linear", t) for t in (0, 5, 10, 11)] == pytest.approx([0.2, 0.1, 0.0, 0.0])
    assert [at("cosine", t) for t in (0, 5, 10, 11)] == pytest.approx([0.2, 0.1, 0.0, 0.0], abs=1e-12)
    assert at("cosine", 2.5) == pytest.approx(0.2 * (1 + math.sqrt(0.5)) / 2)


def test_quantile_of_the_scored_gaps():
    assert at("quantile", 0, init=0.5) == pytest.approx(1.5)
    assert at("quantile", 1, init=0.5, decay=0.5) == pytest.approx(0.75)
    assert at("quantile", 0, gaps=torch.tensor([math.nan])) == 0.0


@pytest.mark.parametrize("schedule", THRESHOLD_SCHEDULES)
def test_never_grows_from_round_to_round(schedule):
    values = [at(schedule, t) for t in range(12)]
    assert values == sorted(values, reverse=True)


def test_unknown_schedule():
    with pytest.raises(ValueError, match="threshold_schedule='step' is unknown. Use one of geometric"):
        at("step", 0)
