"""A learning curve of heads: accuracy against the number of examples, as rows, as a table and as a picture."""

from collections.abc import Sequence
from pathlib import Path

import torch

from ..numbers import FEWEST
from .questions import Question
from .scoring import MODES, accuracies, binomial_error, needed


LABELS = {"positive": "SFT", "ratio": "Likra", "negative_vs_base": "negative vs base"}
COLORS = {"positive": "tab:blue", "ratio": "tab:green", "negative_vs_base": "tab:orange"}
MEASURES = ("acc", "acc_norm", "acc_token")


def curve_row(
    examples: int,
    logps: dict[str, Sequence[torch.Tensor]],
    questions: Sequence[Question],
    weight: float = 1.0,
    tokens: Sequence[Sequence[int]] | None = None,
) -> dict:
    """
    Accuracy of the heads at one number of examples.

    Args:
        examples (`int`): how many each head has seen.
        logps (`dict[str, Sequence[torch.Tensor]]`): `[options]` a question, under `base` and the heads that are there.
        questions (`Sequence[Question]`): the test questions.
        weight (`float`): the negative head's.
        tokens (`Sequence[Sequence[int]]`, *optional*): of each option, for the accuracy by the scores per token.

    Returns:
        `dict`: `examples`, and for each mode with its heads what [`accuracies`] gives, `None` where undefined.
    """
    options, answers = [question.options for question in questions], [question.answer for question in questions]
    modes = [mode for mode in MODES if set(needed(mode)) <= set(logps)]
    measured = {mode: accuracies(logps, options, answers, mode, weight, tokens) for mode in modes}
    return {"examples": examples} | measured


def measures_of(row: dict) -> list[str]:
    """Which accuracies a row has."""
    return [measure for measure in MEASURES if any(measure in row.get(mode, {}) for mode in LABELS)]


def chance(questions: Sequence[Question]) -> float:
    """Accuracy of guessing."""
    return sum(1 / len(question.options) for question in questions) / len(questions)


def with_error(share: float | None, count: int) -> str:
    """A share with its binomial standard error, where there are questions enough for one."""
    if share is None:
        return "undefined"
    return f"{share:.3f}" + (f" (n < {FEWEST})" if count < FEWEST else f" ± {binomial_error(share, count):.3f}")


def curve_table(rows: list[dict], count: int) -> str:
    """
    The curve as a Markdown table.

    Args:
        rows (`list[dict]`): of [`curve_row`].
        count (`int`): how many test questions there are.
    """
    modes = [mode for mode in LABELS if mode in rows[-1]]
    measures = measures_of(rows[-1])
    names = [f"{LABELS[mode]}, {measure}" for mode in modes for measure in measures]
    lines = ["| " + " | ".join(["examples", *names]) + " |", "|---" * (len(names) + 1) + "|"]
    for row in rows:
        cells = [with_error(row[mode][measure], count) for mode in modes for measure in measures]
        lines.append("| " + " | ".join([str(row["examples"]), *cells]) + " |")
    return "\n".join(lines) + "\n"


def plot_curve(
    rows: list[dict], count: int, base: dict[str, float], guessing: float, path: str | Path, title: str = ""
) -> Path:
    """
    Draw accuracy against the number of examples on a logarithmic axis, with binomial standard errors where there are
    questions enough for them.

    Args:
        rows (`list[dict]`): of [`curve_row`]; the row without examples is left out, the base takes its place.
        count (`int`): how many test questions there are.
        base (`dict[str, float]`): the base's accuracies.
        guessing (`float`): accuracy of guessing.
        path (`str` or `Path`): where the picture goes.
        title (`str`): line above the panels.

    Returns:
        `Path`: where the picture went.
    """
    from matplotlib.figure import Figure

    measures = measures_of(rows[-1])
    figure = Figure(figsize=(5 * len(measures), 4.4), layout="constrained")
    for axes, measure in zip(figure.subplots(1, len(measures), sharey=True), measures, strict=True):
        for mode, label in LABELS.items():
            points = [
                (row["examples"], row[mode][measure])
                for row in rows
                if row["examples"] and row.get(mode, {}).get(measure) is not None
            ]
            if points:
                examples, shares = zip(*points, strict=True)
                errors = [binomial_error(share, count) for share in shares] if count >= FEWEST else None
                axes.errorbar(
                    examples, shares, errors, color=COLORS[mode], marker="o", markersize=4, capsize=3, label=label
                )
        axes.axhline(base[measure], color="gray", linestyle="--", label="base")
        axes.axhline(guessing, color="gray", linestyle=":", label="guessing")
        ticks = [row["examples"] for row in rows if row["examples"]]
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [str(tick) for tick in ticks], rotation=45)
        axes.set(title=measure, xlabel="examples")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("accuracy")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
    return Path(path)
