"""The curves of a report: what is drawn from which metrics, of one run or of several over each other."""

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle
from math import isfinite
from pathlib import Path

from ..methods.table import metric_pattern
from .curves import COLORS, LABELS, own_name


@dataclass(frozen=True)
class Panel:
    """
    A picture of the report.

    Args:
        name (`str`): of the PNG.
        title (`str`): above the curves.
        unit (`str`): of the vertical axis.
        keys (`str`): regular expression of the metrics that are drawn.
    """

    name: str
    title: str
    unit: str
    keys: str


# not logged, but drawn: how far apart the two guides are
GUIDED_GAP = "gap/guided"
PANELS = (
    Panel("reward", "Reward by kind of candidate", "mean reward", r"(eval_)?reward/.+"),
    Panel("gap", "Gap of the guided responses' reward", "reward", f"{metric_pattern('gap|threshold')}|{GUIDED_GAP}"),
    Panel(
        "ranked",
        "Ranked pairs, ranking accuracy, groups without signal",
        "share",
        f"{metric_pattern('ranked_fraction|ranking_accuracy')}|frac_groups_no_signal",
    ),
    Panel("loss", "Loss terms before their weights, and the loss", "loss", "loss|" + metric_pattern(r"loss_\w+")),
    Panel("logp", "Log-probability of best and worst", "nats per token", metric_pattern(r"logp_\w+")),
    Panel("length", "Length of the responses", "tokens", r"completions/(mean|min|max)_length"),
    Panel(
        "truncated", "Truncated responses, repeated 4-grams", "share", r"completions/(clipped_ratio|repeated_4grams)"
    ),
    Panel("kl", "KL to the reference", "nats per token", "kl"),
    Panel("entropy", "Entropy of the policy", "nats", r"entropy|diagnostics/top_k_entropy"),
    Panel(
        "diagnostics",
        "Diagnostics of a preference set",
        "share, or cosine",
        r"diagnostics/(ranking_accuracy|gradient_cosine|top_k_mass)",
    ),
    Panel("ches", "CHES score of a preference set", "per token", r"diagnostics/ches"),
    Panel("rewards", "Mean of each reward function", "reward", r"rewards/.+/mean"),
    Panel("gradient", "Gradient norm", "norm", "grad_norm"),
)
SERIES_LABELS = LABELS | {
    GUIDED_GAP: "positive − negative",
    "loss": "loss (weighted sum)",
    "ranked_fraction": "ranked pairs",
    "ranking_accuracy": "ranking accuracy",
    "frac_groups_no_signal": "groups without signal",
    "completions/mean_length": "mean",
    "completions/min_length": "shortest",
    "completions/max_length": "longest",
    "completions/clipped_ratio": "truncated",
    "completions/repeated_4grams": "repeated 4-grams",
    "kl": "KL",
    "grad_norm": "gradient norm, before clipping",
    "entropy": "of the candidates' tokens",
    "diagnostics/top_k_entropy": "top k, of chosen responses",
    "diagnostics/top_k_mass": "mass of the top k",
    "diagnostics/gradient_cosine": "cosine of gradients",
    "diagnostics/ranking_accuracy": "ranking accuracy",
    "diagnostics/ches": "CHES",
}
SERIES_COLORS = COLORS | {
    "reward/principle": "tab:olive",  # drawn beside "positive" where two methods are compared
    "loss_sft": "tab:blue",
    "loss_ranking": "tab:orange",
    "loss_penalty": "tab:red",
    "loss_wsft": "tab:purple",
    "reward/chosen": "tab:blue",
    "reward/rejected": "tab:orange",
    "eval_reward/plain": "black",
    "loss": "black",
}
OTHER_COLORS = ("tab:blue", "tab:orange", "tab:purple", "tab:brown", "tab:pink", "tab:cyan")
RUN_STYLES = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 4)))
# logs from which on a running mean over this share of them is drawn, the logs themselves faintly
MANY_LOGS, WINDOW_SHARE = 200, 50

Series = dict[str, list[tuple[int, float]]]


def panel_series(panel: Panel, logs: list[dict]) -> Series:
    """A run's metrics in a panel, `{metric: [(step, value), …]}`, without the values that are no finite number."""
    found: Series = {}
    for log in logs:
        guided = [log.get(f"reward/{kind}") for kind in ("positive", "negative")]
        if all(map(finite, guided)):
            log = log | {GUIDED_GAP: guided[0] - guided[1]}
        for key, value in log.items():
            if finite(value) and re.fullmatch(panel.keys, key):
                found.setdefault(key, []).append((log["step"], value))
    places = {name: place for place, name in enumerate(SERIES_LABELS)}
    return {key: found[key] for key in sorted(found, key=lambda key: (places.get(own_name(key), len(places)), key))}


def finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)


def series_label(key: str) -> str:
    """A metric in words."""
    if own_name(key) in SERIES_LABELS:
        return SERIES_LABELS[own_name(key)]
    evaluated = ", evaluation" if key.startswith("eval_") else ""
    return re.sub(r"^(eval_)?rewards?/|/mean$", "", own_name(key)) + evaluated


def running_mean(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Each point's mean with those before it, over a fixed share of all points."""
    window, values = max(len(points) // WINDOW_SHARE, 1), [value for _, value in points]
    return [
        (step, sum(values[max(i - window + 1, 0) : i + 1]) / (i + 1 - max(i - window + 1, 0)))
        for i, (step, _) in enumerate(points)
    ]


def draw_panel(panel: Panel, runs: Mapping[str, Series], path: str | Path) -> None:
    """
    Draw a panel as a PNG: a colour for each metric, and a line style for each run where there are several.

    Args:
        panel ([`Panel`]): title and unit.
        runs (`Mapping[str, Series]`): by the run's name, what [`panel_series`] gave.
        path (`str` or `Path`): where the picture goes.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    keys = list(dict.fromkeys(key for series in runs.values() for key in series))
    known = {key: SERIES_COLORS[own_name(key)] for key in keys if own_name(key) in SERIES_COLORS}
    others = cycle([color for color in OTHER_COLORS if color not in known.values()])
    colors = {key: known.get(key) or next(others) for key in keys}
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    styles = dict(zip(runs, cycle(RUN_STYLES), strict=False))
    for name, series in runs.items():
        for key, points in series.items():
            look = {"color": colors[key], "linestyle": styles[name]}
            if len(points) >= MANY_LOGS:
                axes.plot(*zip(*points, strict=True), color=colors[key], alpha=0.2, linewidth=0.8)
                points = running_mean(points)
            elif len(points) <= 50:
                look |= {"marker": "o", "markersize": 3}
            axes.plot(*zip(*points, strict=True), **look)
    smoothed = any(len(points) >= MANY_LOGS for series in runs.values() for points in series.values())
    note = f" (strong lines: mean over the last 1/{WINDOW_SHARE} of the logs)" if smoothed else ""
    axes.set(title=panel.title, xlabel=f"step{note}", ylabel=panel.unit)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    # two methods' metrics of one label and colour are one entry
    entries = dict.fromkeys((series_label(key), color) for key, color in colors.items())
    handles = [Line2D([], [], color=color, label=plain(label)) for label, color in entries]
    if len(runs) > 1:
        drawn = [name for name, series in runs.items() if series]
        handles += [Line2D([], [], color="black", linestyle=styles[name], label=plain(name)) for name in drawn]
    figure.legend(handles=handles, loc="outside right upper", fontsize="small")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a letter that matplotlib's font lacks is drawn as a box
        figure.savefig(path, dpi=110)


def plain(text: str, longest: int = 40) -> str:
    """A label no wider than the axes bear, and without formulas between its dollar signs."""
    text = text if len(text) <= longest else f"{text[: longest // 2]}…{text[-longest // 2 :]}"
    return text.replace("$", r"\$")


def summarize(series: Series) -> dict[str, dict[str, float]]:
    """Each metric's first, last, lowest and highest value, by its label."""
    summary = {}
    for key, points in series.items():
        values = [value for _, value in points]
        ends = {"first": values[0], "last": values[-1], "lowest": min(values), "highest": max(values)}
        summary[series_label(key)] = ends
    return summary
