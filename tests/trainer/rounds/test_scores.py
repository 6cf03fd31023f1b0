"""Rewards of several functions put together, by hand."""

import math

import pytest
import torch

from trl_negalign.trainer.rounds.data import fill_in
from trl_negalign.trainer.rounds.scores import combine, means_by_kind, refuse_infinite


NAN = math.nan


def test_functions_without_a_score_are_left_out():
    found = combine(torch.tensor([[1.0, 2.0], [NAN, 2.0], [NAN, NAN]]), torch.tensor([1.0, 0.5]))
    assert found.tolist() == pytest.approx([2.0, 1.0, NAN], nan_ok=True)


def test_means_by_kind():
    rewards = torch.tensor([1.0, NAN, 3.0, 4.0, NAN])
    found = means_by_kind(rewards, ["plain", "positive", "plain", "positive", "chosen"])
    assert list(found) == ["plain", "positive", "chosen"]
    assert found == pytest.approx({"plain": 2.0, "positive": 4.0, "chosen": NAN}, nan_ok=True)


def test_an_infinite_reward_names_function_and_query():
    rewards = torch.tensor([[1.0, NAN], [2.0, math.inf]])
    with pytest.raises(ValueError, match="'second' returned inf for the query 'b'"):
        refuse_infinite(rewards, ["first", "second"], lambda: ["a", "b"])
    refuse_infinite(rewards[:1], ["first", "second"], pytest.fail)  # the queries are not even gathered


def test_rows_that_were_not_sampled_are_filled_in():
    assert fill_in(["a", "b", "c"], {1: "x", 4: "y"}) == ["a", "x", "b", "c", "y"]
