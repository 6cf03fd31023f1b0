"""The learning curve as rows, as a table and as a picture."""

import pytest
import torch

from trl_negalign.likra.curve import chance, curve_row, curve_table, plot_curve
from trl_negalign.likra.questions import Question


QUESTIONS = [Question("q", ("a", "bcd"), 0), Question("r", ("a", "b", "c", "d"), 3)]
BASE = [torch.tensor([-1.0, -2.0]), torch.tensor([-1.0, -2.0, -3.0, -4.0])]
BETTER = [torch.tensor([-1.0, -2.0]), torch.tensor([-5.0, -5.0, -5.0, -1.0])]


def rows():
    untrained = curve_row(0, {"base": BASE, "positive": BASE, "negative": BASE}, QUESTIONS)
    return [untrained, curve_row(32, {"base": BASE, "positive": BETTER, "negative": BASE}, QUESTIONS)]


def test_a_row_holds_every_mode():
    undefined = {"acc": None, "acc_norm": None}
    first, second = rows()
    # -1 and -2 in one and three characters: the longer one is likelier per character
    base = {"acc": 0.5, "acc_norm": 0.0}
    assert first == {"examples": 0, "ratio": undefined, "positive": base, "negative_vs_base": undefined}
    assert second["positive"] == {"acc": 1.0, "acc_norm": 0.5}
    # the first question's options still tie: half a point
    assert second["ratio"] == {"acc": 0.75, "acc_norm": 0.75}


def test_a_row_of_one_head():
    row = curve_row(32, {"base": BASE, "negative": BETTER}, QUESTIONS)
    assert set(row) == {"examples", "negative_vs_base"}


def test_guessing():
    assert chance(QUESTIONS) == pytest.approx((1 / 2 + 1 / 4) / 2)


def test_the_table_shows_errors_and_what_is_undefined():
    lines = curve_table(rows(), 100).splitlines()
    assert lines[0].startswith("| examples | SFT, acc | SFT, acc_norm | Likra, acc |")
    assert lines[2].startswith("| 0 | 0.500 ± 0.050 | 0.000 ± 0.000 | undefined | undefined | undefined |")
    assert lines[3].startswith("| 32 | 1.000 ± 0.000 | 0.500 ± 0.050 | 0.750 ± 0.043 |")


def test_a_few_questions_have_no_errors(tmp_path, monkeypatch):
    import matplotlib.axes

    drawn, original = [], matplotlib.axes.Axes.errorbar

    def spy(self, examples, shares, errors, **options):
        drawn.append(errors)
        return original(self, examples, shares, errors, **options)

    monkeypatch.setattr(matplotlib.axes.Axes, "errorbar", spy)
    assert "| 32 | 1.000 (n < 10) | 0.500 (n < 10) | 0.750 (n < 10) |" in curve_table(rows(), 9)
    assert "±" not in curve_table(rows(), 9) and "±" in curve_table(rows(), 10)
    plot_curve(rows(), 9, {"acc": 0.5, "acc_norm": 0.0}, 0.375, tmp_path / "curve.png")
    assert drawn and set(drawn) == {None}


def test_the_picture_shows_accuracies_with_their_errors(tmp_path, monkeypatch):
    import matplotlib.axes

    drawn, original = [], matplotlib.axes.Axes.errorbar

    def spy(self, examples, shares, errors, **options):
        drawn.append((options["label"], list(examples), list(shares), errors))
        return original(self, examples, shares, errors, **options)

    monkeypatch.setattr(matplotlib.axes.Axes, "errorbar", spy)
    path = plot_curve(rows(), 100, {"acc": 0.5, "acc_norm": 0.0}, 0.375, tmp_path / "curve.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    # nothing is drawn at 0 examples
    assert ("SFT", [32], [1.0], [0.0]) in drawn and ("SFT", [32], [0.5], [pytest.approx(0.05)]) in drawn
    # where all options tie, neither
    assert {label for label, *_ in drawn} == {"SFT", "Likra"}
