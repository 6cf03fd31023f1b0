"""What is said of a guide, from its numbers."""

import pytest

from trl_negalign.evaluation.guide_advice import sentence, verdict


def numbers(kind, difference, effect, distance=0.3, copied=0.0) -> dict:
    """A guide's numbers, intervals as (low, high)."""
    found = {"kind": kind, "placement": "user", "copied": {"value": copied}, "copied_by_plain": {"value": 0.01}}
    for name, (low, high) in {"difference": difference, "effect": effect}.items():
        found[name] = {"value": (low + high) / 2, "low": low, "high": high, "queries": 40}
    return found | {"distance": {"value": distance}}


@pytest.mark.parametrize(
    ("kind", "difference", "effect", "distance", "expected"),
    [
        ("positive", (0.1, 0.3), (0.2, 0.6), 0.3, "works"),
        ("principle", (0.1, 0.3), (0.2, 0.6), 0.3, "works"),
        ("negative", (-0.3, -0.1), (-0.6, -0.2), 0.3, "works"),
        ("positive", (-0.3, -0.1), (-0.6, -0.2), 0.3, "works against its purpose"),
        ("negative", (0.1, 0.3), (0.2, 0.6), 0.3, "works against its purpose"),
        # 0 is inside, and no effect of half a deviation is
        ("positive", (-0.1, 0.1), (-0.4, 0.4), 0.3, "does nothing"),
        ("negative", (0.0, 0.1), (0.0, 0.4), 0.3, "does nothing"),
        ("positive", (-0.1, 0.3), (-0.2, 0.6), 0.3, "unclear"),
        ("positive", (-0.3, 0.1), (-0.6, 0.2), 0.3, "unclear"),
        # whatever the interval: it writes the same
        ("positive", (-0.1, 0.3), (-0.2, 0.6), 0.04, "does nothing"),
    ],
)
def test_verdicts(kind, difference, effect, distance, expected):
    assert verdict(numbers(kind, difference, effect, distance)) == expected


def said(*args, **options) -> str:
    found = numbers(*args, **options)
    return sentence(found | {"verdict": verdict(found)})


def test_verdicts_in_words():
    assert said("positive", (0.1, 0.3), (0.2, 0.6)) == (
        "positive guide, in the user message: works: reward +0.200 [+0.100, +0.300] against plain on 40 queries, "
        "d +0.40; 0.30 nats per token from the plain policy."
    )
    text = said("negative", (-0.1, 0.1), (-0.4, 0.4), distance=0.01)
    assert "DOES NOTHING: reward" in text and "hardly heeds it" in text
    assert "hardly heeds it" not in said("negative", (-0.1, 0.1), (-0.4, 0.4))
    assert "UNCLEAR, ask more queries" in (text := said("positive", (-0.1, 0.3), (-0.2, 0.6)))
    assert "d between -0.20 and +0.60" in text
    assert "copies the guide's words: 20% of its 3-grams" in said("positive", (0.1, 0.3), (0.2, 0.6), copied=0.2)
    assert "copies" not in said("positive", (0.1, 0.3), (0.2, 0.6), copied=0.03)
