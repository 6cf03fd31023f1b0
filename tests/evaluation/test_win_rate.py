import math

import pandas as pd
import pytest

from tests.evaluation.judge_server import JudgeServer, say, shorter, some_queries
from trl_negalign.evaluation.judges import ChatJudge, Verdict
from trl_negalign.evaluation.win_rate import judge_pairs, outcome, place_warning, win_rate


@pytest.mark.parametrize(
    ("forward", "backward", "expected"),
    [
        ("first", "second", "win"),
        ("second", "first", "lose"),
        ("first", "first", "tie"),
        ("second", "second", "tie"),
        ("tie", "tie", "tie"),
        ("first", "tie", "tie"),
        ("tie", "first", "tie"),
        (None, "second", "unreadable"),
        ("first", None, "unreadable"),
        (None, None, "unreadable"),
    ],
)
def test_a_win_needs_both_orders(forward, backward, expected):
    assert outcome(forward, backward) == expected


def test_both_orders_are_asked_of_a_server(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    queries, short, long = some_queries(3)
    with JudgeServer(shorter) as server:
        table = judge_pairs(ChatJudge(server.url, "m", tmp_path / "judge.sqlite"), queries, short, long)
        turned = judge_pairs(ChatJudge(server.url, "m", tmp_path / "judge.sqlite"), queries, long, short)
        assert server.requests == 6  # the same six questions in the end
    assert table["outcome"].tolist() == ["win"] * 3 and turned["outcome"].tolist() == ["lose"] * 3
    assert table["forward"].tolist() == ["first"] * 3 and table["backward"].tolist() == ["second"] * 3
    assert table["forward_answer"][0] == "Short is good.\nVerdict: A"


def test_a_judge_that_looks_at_the_place_only_makes_ties(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with JudgeServer(say("Verdict: A")) as server:
        table = judge_pairs(ChatJudge(server.url, "m", tmp_path / "judge.sqlite"), *some_queries(4))
    found = win_rate(table)
    assert (found["tie"], found["disagreed"], found["win_minus_lose"]) == (4, 4, 0.0)
    assert (found["disagreement"], found["first_place"]) == (1.0, 1.0)
    warning = place_warning(found | {"model": "neat", "against": "sft"})
    assert "between the two orders in 100% of the pairs and prefers the first place in 100% of its verdicts" in warning


def test_nonsense_is_unreadable_and_no_part_of_the_shares(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    def sometimes(handler):
        asked = handler.body["messages"][-1]["content"]
        (say("bananas") if "question 0" in asked else shorter)(handler)

    with JudgeServer(sometimes) as server:
        table = judge_pairs(ChatJudge(server.url, "m", tmp_path / "judge.sqlite"), *some_queries(3))
    found = win_rate(table)
    assert (found["win"], found["tie"], found["lose"], found["unreadable"]) == (2, 0, 0, 1)
    assert found["win_minus_lose"] == 1.0


def test_equal_texts_are_a_tie_that_no_one_is_asked_about():
    asked = []

    def judge(queries, first, second):
        asked.append((queries.rows, first, second))
        return [Verdict("first", "")] * len(first)

    queries, *_ = some_queries(3)
    table = judge_pairs(judge, queries, ["a", "b", "c"], ["a", "x", "c"])
    assert asked == [([1], ["b"], ["x"]), ([1], ["x"], ["b"])]
    assert table["outcome"].tolist() == ["tie"] * 3 and win_rate(table)["equal"] == 2
    assert judge_pairs(None, queries, ["a"] * 3, ["a"] * 3)["outcome"].tolist() == ["tie"] * 3


def test_counts_and_interval_by_hand():
    rows = [("win", "first", "second")] * 6 + [("lose", "second", "first"), ("tie", "tie", "tie")] * 2
    rows += [("tie", "first", "first")] * 2 + [("unreadable", None, "first")]
    table = pd.DataFrame(rows, columns=["outcome", "forward", "backward"]).assign(equal=False)
    found = win_rate(table)
    assert [found[name] for name in ("win", "tie", "lose", "unreadable", "disagreed")] == [6, 4, 2, 1, 2]
    assert found["win_minus_lose"] == pytest.approx(2 / 6)
    assert found["low"] < 2 / 6 < found["high"] <= 1
    # in front of 6 wins, 2 losses (turned), and twice in each disagreed pair; as often behind in wins and loss
    assert found["disagreement"] == pytest.approx(1 / 6) and found["first_place"] == pytest.approx(6 / 10)
    few = win_rate(table.iloc[3:])  # nine that can be read
    assert few["win"] == 3 and math.isfinite(few["win_minus_lose"]) and math.isnan(few["low"] + few["high"])
    nothing = win_rate(table[table["outcome"] == "unreadable"])
    assert nothing["win"] == 0 and all(map(math.isnan, (nothing["disagreement"], nothing["first_place"])))


def test_equal_texts_say_nothing_about_a_judge():
    rows = [("tie", "first", "first", False), ("tie", "tie", "tie", True), ("tie", "tie", "tie", False)]
    table = pd.DataFrame(rows, columns=["outcome", "forward", "backward", "equal"])
    assert win_rate(table)["disagreement"] == 0.5 and win_rate(table)["first_place"] == 1.0


@pytest.mark.parametrize(
    ("disagreement", "first_place", "signs"),
    [
        (0.39, 0.69, None),
        (0.0, 0.31, None),
        (None, None, None),
        (0.4, 0.5, "disagrees with itself between the two orders in 40% of the pairs."),
        (0.2, 0.7, "prefers the first place in 70% of its verdicts."),
        (0.2, 0.25, "prefers the second place in 75% of its verdicts."),
    ],
)
def test_a_judge_that_goes_by_the_place_is_warned_about(disagreement, first_place, signs):
    found = {"model": "neat", "against": "sft", "disagreement": disagreement, "first_place": first_place}
    warning = place_warning(found)
    assert warning is None if signs is None else f"on neat against sft, the judge {signs}" in warning
