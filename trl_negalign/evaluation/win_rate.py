"""Win rates: every pair of responses is judged in both orders."""

import math
from collections.abc import Callable

import pandas as pd

from .judges import Verdict
from .queries import Queries, text_of
from .rewards import bootstrap_interval


OUTCOMES = ("win", "tie", "lose", "unreadable")
SWAPPED = {"first": "second", "second": "first", "tie": "tie", None: None}


def outcome(forward: str | None, backward: str | None) -> str:
    """
    How the first of two responses did.

    Args:
        forward (`str`, *optional*): the judge's preference with the first response in front: `"first"`, `"second"`,
            `"tie"` or `None`.
        backward (`str`, *optional*): its preference with the second response in front.

    Returns:
        `str`: `"unreadable"` if either answer cannot be read; `"win"` or `"lose"` if both orders prefer the same
        response; `"tie"` otherwise.
    """
    if forward is None or backward is None:
        return "unreadable"
    if forward != SWAPPED[backward]:
        return "tie"
    return {"first": "win", "second": "lose", "tie": "tie"}[forward]


def judge_pairs(
    judge: Callable[[Queries, list, list], list[Verdict]], queries: Queries, first: list, second: list
) -> pd.DataFrame:
    """
    Judge two models' responses, each pair in both orders. Two equal texts are a tie that no judge is asked about.

    Args:
        judge (`Callable`): verdicts on queries, responses in front and responses behind.
        queries ([`Queries`]): what was answered.
        first, second (`list`): the two models' responses, as texts or messages.

    Returns:
        `pandas.DataFrame`: one row a query: `outcome` of the first model, `forward` and `backward` (the judge's
        preferences by place), `forward_answer` and `backward_answer` (its words), `equal`.
    """
    equal = [text_of(a) == text_of(b) for a, b in zip(first, second, strict=True)]
    asked = [i for i, same in enumerate(equal) if not same]
    forward, backward = {}, {}
    if asked:
        part, a, b = queries.select(asked), [first[i] for i in asked], [second[i] for i in asked]
        forward = dict(zip(asked, judge(part, a, b), strict=True))
        backward = dict(zip(asked, judge(part, b, a), strict=True))
    same = Verdict("tie", "")
    rows = []
    for i in range(len(equal)):
        one, other = forward.get(i, same), backward.get(i, same)
        rows.append(
            {
                "outcome": outcome(one.preferred, other.preferred),
                "forward": one.preferred,
                "backward": other.preferred,
                "forward_answer": one.answer,
                "backward_answer": other.answer,
                "equal": equal[i],
            }
        )
    return pd.DataFrame(rows)


def win_rate(table: pd.DataFrame, seed: int = 0) -> dict:
    """
    Counts and shares of what [`judge_pairs`] found.

    Returns:
        `dict`: counts of `win`, `tie`, `lose` and `unreadable`; `disagreed`, ties in which the judge preferred the
        same place in both orders or a response in one order only; `equal`, ties of equal texts; `win_minus_lose`, mean
        over the readable pairs of 1 for a win and −1 for a loss, with the ends `low` and `high` of its bootstrap
        interval (95%).
    """
    counts = {name: int((table["outcome"] == name).sum()) for name in OUTCOMES}
    readable = table[table["outcome"] != "unreadable"]
    both_tie = (readable["forward"] == "tie") & (readable["backward"] == "tie")
    scores = [{"win": 1.0, "tie": 0.0, "lose": -1.0}[name] for name in readable["outcome"]]
    low, high = bootstrap_interval(scores, seed=seed)
    return counts | {
        "disagreed": int(((readable["outcome"] == "tie") & ~both_tie).sum()),
        "equal": int(readable["equal"].sum()),
        "win_minus_lose": sum(scores) / len(scores) if scores else math.nan,
        "low": low,
        "high": high,
    }
