"""What the pictures draw."""

import pytest

from trl_negalign.reports.panels import (
    GUIDED_GAP,
    MANY_LOGS,
    PANELS,
    draw_panel,
    panel_series,
    running_mean,
    summarize,
)
from trl_negalign.reports.run_folder import read_run


PANEL = {panel.name: panel for panel in PANELS}


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved, to look into."""
    from matplotlib.figure import Figure

    figures, savefig = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **kw: figures.append(self) or savefig(self, *args, **kw)
    )
    return figures


def keys(run, panel) -> list[str]:
    return list(panel_series(PANEL[panel], run.logs))


def test_a_neat_run_fills_its_panels(neat_run):
    run = read_run(neat_run)
    assert keys(run, "reward") == [
        f"reward/{kind}" for kind in ("chosen", "negative", "plain", "positive", "rejected")
    ]
    assert keys(run, "gap") == [GUIDED_GAP]
    assert keys(run, "ranked") == ["neat/ranking_accuracy", "frac_groups_no_signal"]
    assert keys(run, "loss") == ["neat/loss_sft", "neat/loss_ranking", "neat/loss_penalty", "loss"]
    assert keys(run, "logp") == ["neat/logp_best", "neat/logp_worst"]
    assert keys(run, "kl") == ["kl"]
    assert keys(run, "rewards") == ["rewards/even_reward/mean", "rewards/letter_reward/mean"]
    for panel in ("length", "truncated", "gradient"):
        assert keys(run, panel)


def test_a_ple_run_fills_its_panels(ple_run):
    run = read_run(ple_run)
    assert keys(run, "reward") == ["eval_reward/plain", "reward/plain", "reward/principle"]
    assert keys(run, "gap") == ["ple/gap", "ple/threshold"]
    assert keys(run, "ranked") == ["ple/ranked_fraction", "frac_groups_no_signal"]
    assert keys(run, "loss") == ["ple/loss_ranking", "ple/loss_wsft", "loss"]
    assert keys(run, "logp") == ["ple/logp_best", "ple/logp_worst"]
    assert keys(run, "kl") == []


def test_what_is_logged_on_request():
    logs = [{"step": 1, "entropy": 0.5}, {"step": 1, "diagnostics/ches": -3.0, "diagnostics/top_k_mass": 0.9}]
    assert panel_series(PANEL["entropy"], logs) == {"entropy": [(1, 0.5)]}
    assert panel_series(PANEL["ches"], logs) == {"diagnostics/ches": [(1, -3.0)]}
    assert panel_series(PANEL["diagnostics"], logs) == {"diagnostics/top_k_mass": [(1, 0.9)]}


def test_the_two_methods_best_and_worst_look_alike(drawn, tmp_path):
    runs = {name: {f"{name}/logp_best": [(1, 0.0)], f"{name}/logp_worst": [(1, 0.0)]} for name in ("neat", "ple")}
    draw_panel(PANEL["logp"], runs, tmp_path / "x.png")
    colors = [line.get_color() for line in drawn[0].axes[0].lines]
    assert colors[:2] == colors[2:] == ["tab:green", "tab:red"]
    labels = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert labels == ["best of the group", "worst of the group", "neat", "ple"]


def test_values_are_those_of_the_logs_and_only_finite_ones():
    logs = [
        {"step": 1, "kl": 0.5},
        {"step": 2, "kl": float("nan")},
        {"step": 3, "kl": None},
        {"step": 4, "kl": float("inf")},
        {"step": 5, "kl": "0.1"},
        {"step": 6, "kl": True},
        {"step": 7, "kl": 2, "eval_kl": 3.0},
    ]
    assert panel_series(PANEL["kl"], logs) == {"kl": [(1, 0.5), (7, 2)]}


def test_the_gap_between_the_guides():
    logs = [
        {"step": 1, "reward/positive": 0.5, "reward/negative": -0.25},
        {"step": 2, "reward/positive": None, "reward/negative": 0.0},
        {"step": 3, "reward/positive": 0.5},
    ]
    assert panel_series(PANEL["gap"], logs) == {GUIDED_GAP: [(1, 0.75)]}


def test_running_mean_by_hand():
    points = [(i, float(i % 2)) for i in range(100)]  # over 2 of 100
    assert running_mean(points) == [(0, 0.0)] + [(i, 0.5) for i in range(1, 100)]


def test_a_picture_has_its_metrics_and_labels(drawn, tmp_path):
    series = {"reward/positive": [(1, 0.5), (2, 0.75)], "reward/negative": [(1, -0.5)]}
    draw_panel(PANEL["reward"], {"run": series}, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    (figure,) = drawn
    (axes,) = figure.axes
    assert [list(map(tuple, line.get_xydata())) for line in axes.lines] == list(series.values())
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["positive", "negative"]
    assert (axes.get_title(), axes.get_xlabel(), axes.get_ylabel()) == (PANEL["reward"].title, "step", "mean reward")


def test_several_runs_share_colours_and_differ_in_their_lines(drawn, tmp_path):
    points = [(1, 0.5), (2, 0.75)]
    runs = {"one": {"reward/plain": points, "reward/x": points}, "two": {"reward/plain": points}, "none": {}}
    draw_panel(PANEL["reward"], runs, tmp_path / "x.png")
    first, other, second = drawn[0].axes[0].lines
    assert first.get_color() == second.get_color() != other.get_color()
    assert first.get_linestyle() == other.get_linestyle() == "-" and second.get_linestyle() == "--"
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["plain", "x", "one", "two"]


def test_no_two_metrics_of_a_picture_share_a_colour(drawn, tmp_path):
    kinds = ("plain", "positive", "negative", "principle", "chosen", "rejected", "other", "more")
    series = {f"reward/{kind}": [(1, 0.0)] for kind in kinds} | {"eval_reward/plain": [(1, 0.0)]}
    draw_panel(PANEL["reward"], {"run": series}, tmp_path / "x.png")
    assert len({line.get_color() for line in drawn[0].axes[0].lines}) == len(series)


def test_many_logs_are_drawn_faintly_under_their_running_mean(drawn, tmp_path):
    points = [(i, float(i % 2)) for i in range(MANY_LOGS)]
    draw_panel(PANEL["kl"], {"run": {"kl": points}}, tmp_path / "x.png")
    faint, strong = drawn[0].axes[0].lines
    assert list(map(tuple, faint.get_xydata())) == points and faint.get_alpha() == 0.2
    assert list(map(tuple, strong.get_xydata())) == running_mean(points)
    assert "mean over the last 1/50 of the logs" in drawn[0].axes[0].get_xlabel()


@pytest.mark.filterwarnings("error")
def test_labels_that_matplotlib_would_read_as_something_else(drawn, tmp_path):
    runs = {
        "_hidden $x_{$": {"rewards/$a^/mean": [(1, 0.0)], "rewards/日本/mean": [(1, 0.0)]},
        "y" * 99: {"rewards/b/mean": [(1, 0)]},
    }
    draw_panel(PANEL["rewards"], runs, tmp_path / "x.png")
    labels = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert labels == [r"\$a^", "日本", "b", r"_hidden \$x_{\$", "y" * 20 + "…" + "y" * 20]


def test_numbers_of_a_metric():
    assert summarize({"reward/plain": [(1, 0.5), (2, -1.0), (3, 2.0), (4, 1.0)]}) == {
        "plain": {"first": 0.5, "last": 1.0, "lowest": -1.0, "highest": 2.0}
    }
