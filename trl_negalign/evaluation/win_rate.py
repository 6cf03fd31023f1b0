"""Win rates: every pair of responses is judged in both orders."""

import math
from collections.abc import Callable

import pandas as pd

from .judges import Verdict
from .queries import Queries, text_of
from .rewards import bootstrap_interval


OUTCOMES = ("win", "tie", "lose", "unreadable")
SWAPPED = {"first": "second", "second": "first", "tie": "tie", None: None}
# a judge that tosses a coin disagrees with itself in half of the pairs; one that alone prefers a place in 40% of them,
# and is fair in the others, names this place in 70% of its verdicts
LARGE_DISAGREEMENT, LARGE_PREFERENCE = 0.4, 0.7


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
        same place in both orders or a response in one order only; `equal`, ties of equal texts; `disagreement`, the
        share that disagreed of the readable pairs of texts that differ; `first_place`, the share of the verdicts on
        these, ties left out, that prefer the response in front (0.5 from a judge that does not look at the place);
        `win_minus_lose`, mean over the readable pairs of 1 for a win and −1 for a loss, with the ends `low` and `high`
        of its bootstrap interval (95%).
    """
    counts = {name: int((table["outcome"] == name).sum()) for name in OUTCOMES}
    readable = table[table["outcome"] != "unreadable"]
    both_tie = (readable["forward"] == "tie") & (readable["backward"] == "tie")
    scores = [{"win": 1.0, "tie": 0.0, "lose": -1.0}[name] for name in readable["outcome"]]
    low, high = bootstrap_interval(scores, seed=seed)
    disagreed, equal = int(((readable["outcome"] == "tie") & ~both_tie).sum()), int(readable["equal"].sum())
    places = pd.concat([readable["forward"], readable["backward"]])
    first, second = int((places == "first").sum()), int((places == "second").sum())
    return counts | {
        "disagreed": disagreed,
        "equal": equal,
        "disagreement": disagreed / (len(readable) - equal) if len(readable) > equal else math.nan,
        "first_place": first / (first + second) if first + second else math.nan,
        "win_minus_lose": sum(scores) / len(scores) if scores else math.nan,
        "low": low,
        "high": high,
    }


def place_warning(found: dict) -> str | None:
    """
    A sentence where a judge goes by the place of a response rather than by the response: it disagrees with itself in
    at least 40% of the pairs, or prefers one place in at least 70% of its verdicts.

    Args:
        found (`dict`): from [`win_rate`], with the labels `model` and `against`.
    """
    # what earlier versions wrote has neither
    disagreement, first = found.get("disagreement"), found.get("first_place")
    signs = []
    if disagreement is not None and disagreement >= LARGE_DISAGREEMENT:
        signs.append(f"disagrees with itself between the two orders in {disagreement:.0%} of the pairs")
    if first is not None and max(first, 1 - first) >= LARGE_PREFERENCE:
        place, share = ("first", first) if first > 0.5 else ("second", 1 - first)
        signs.append(f"prefers the {place} place in {share:.0%} of its verdicts")
    if not signs:
        return None
    return (
        f"Warning: on {found['model']} against {found['against']}, the judge {' and '.join(signs)}. Ties and "
        "intervals then tell of the judge rather than of the models: take a stronger judge or other criteria."
    )
