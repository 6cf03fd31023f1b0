"""The page and the tables about guides: what a model writes stays text, and nothing is loaded or run."""

import json

import pandas as pd
import pytest

from tests.reports.conftest import NASTY
from tests.reports.test_page import Page
from trl_negalign.reports.guides import guide_rows, print_guides, write_guides_page
from trl_negalign.reports.guides import number as number_as_text


def number(value, low=None, high=None):
    return {"value": value, "low": value - 1 if low is None else low, "high": value + 1 if high is None else high}


@pytest.fixture
def results():
    of_text = {key: number(0.25) for key in ("tokens", "truncated", "repeated")}
    keys = ("reward", "difference", "effect", "wins", "ties", "distance", "copied", "copied_by_plain")
    one = {"kind": "positive", "placement": "user", "verdict": "works", "sentence": NASTY[0]}
    one |= {key: number(0.5, 0.25, 0.75) for key in keys} | of_text
    nothing = {"value": None, "low": None, "high": None}
    group = {
        "placement": "user",
        "counts": {"plain": 1, "positive": 1},
        "distance": 0.5,
        "over_plain": nothing,
        "spread": number(1.5),
        "signal": number(1),
        "gain": number(0.5),
    }
    return {
        "models": {f"model {NASTY[0]}": {}},
        "data": {"data": NASTY[2], "split": "test", "queries": 40},
        "settings": {
            "samples": 1,
            "group_size": 2,
            "rewards": {f"[bold]{NASTY[1]}": 1.0},
            "sampling": {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 8},
        },
        "guides": {"positive": {"text": NASTY[0], "name": None}},
        "plain": {"reward": number(0.0)} | of_text,
        "measured": [one],
        "gaps": {"user": number(0.1)},
        "groups": [group],
        "recommendation": {"neat": group | {"yaml": f"# negalign neat\npositive_prompt: {NASTY[0]}\n"}},
        "notes": [NASTY[0]],
    }


@pytest.fixture
def table():
    rows = [
        {"kind": kind, "placement": place, "query": query, "row": query + 100, "reward": reward, "completion": text}
        for query in range(40)
        for kind, place, reward, text in (
            ("plain", None, 0.5, NASTY[query % 4]),
            ("positive", "user", float("nan"), f"{NASTY[0]} {'x' * 50}"),
        )
    ]
    talk = json.dumps([{"role": "user", "content": NASTY[0]}])
    return pd.DataFrame(rows).assign(prompt=[talk if row["query"] % 2 else NASTY[0] for row in rows])


def test_nothing_of_what_is_written_is_run(results, table, tmp_path):
    page = Page(write_guides_page(results, table, tmp_path / "guides.html", queries=4))
    tags = [tag for tag, _ in page.elements]
    assert not {"script", "img", "iframe", "object", "u", "b"} & set(tags)
    policy = next(attributes["content"] for _, attributes in page.elements if "http-equiv" in attributes)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    links = [value for _, attributes in page.elements for key, value in attributes.items() if key in ("src", "href")]
    assert all(link.startswith(("data:", "#")) for link in links)
    assert page.source.count("&lt;/script&gt;") > 5 and "</script>" not in page.source
    assert "\x00" not in page.source and "\\x00" in page.text and "\\u202e" in page.text
    assert "{{ 7 * 7 }}" in page.text


def test_samples_side_by_side(results, table, tmp_path):
    page = Page(write_guides_page(results, table, tmp_path / "guides.html", queries=4, characters=60))
    assert "4 of 40 queries." in page.text
    # spread over all
    assert [f"row {row} " in page.text for row in (100, 110, 120, 130)] == [True] * 4
    assert page.text.count("positive, user") == 4 and page.text.count("reward none") == 4
    left = len(f"{NASTY[0]} {'x' * 50}") - 60
    assert page.text.count(f"… {left} more characters") >= 4


def test_a_conversation_is_shown_by_its_turns(results, table, tmp_path):
    page = Page(write_guides_page(results, table[table["query"] == 1], tmp_path / "guides.html"))
    assert f"row 101 user: {NASTY[0]}" in page.text


def test_all_queries_of_a_few(results, table, tmp_path):
    page = Page(write_guides_page(results, table, tmp_path / "guides.html"))
    assert "20 of 40 queries." in page.text
    page = Page(write_guides_page(results, table[table["query"] < 3], tmp_path / "guides.html"))
    assert page.text.count("positive, user") == 3


def test_the_cells(results):
    rows = guide_rows(results)
    assert rows[0][:5] == ["plain", "", "", "0.000 [-1.000, 1.000]", "–"]
    assert rows[1][:6] == ["positive", "user", "works", "0.500 [0.250, 0.750]", "+0.500 [+0.250, +0.750]", rows[1][5]]
    assert rows[1][5] == "+0.50 [+0.25, +0.75]"


def test_numbers_without_an_interval_or_a_value():
    assert number_as_text({"value": None, "low": None, "high": None}, 2) == number_as_text(None, 2) == "–"
    assert number_as_text({"value": 1.5, "low": None, "high": None}, 2, sign=True) == "+1.50 [–, –]"
    assert number_as_text({"value": 1.5, "low": 1.0, "high": 2.0}, 1, whole=False) == "1.5"


def test_the_terminal_shows_texts_as_they_are(results, capsys):
    print_guides(results)
    shown = capsys.readouterr().out
    assert "[bold]nul \\x00 escape \\x1b[31m" in shown and "\x1b" not in shown and "# negalign neat" in shown
    assert "+0.500 [+0.250, +0.750]" in shown and "1 plain + 1 positive" in shown and "recommended" in shown
