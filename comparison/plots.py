"""The pictures of a task: reward against KL, learning curves, and PLE's two rewards over its rounds."""

from pathlib import Path

import numpy as np
from curves import gap_curve
from plan import START
from records import not_fluent, numbers_at_end
from summaries import Seeds


def colors(names: list[str]) -> dict:
    from matplotlib import colormaps

    shades = [*colormaps["tab20"].colors[::2], *colormaps["tab20"].colors[1::2]]
    others = [name for name in names if name != START]
    return {START: "black"} | {name: shades[index % len(shades)] for index, name in enumerate(others)}


def frontier(task: dict, runs: dict[str, list[dict]], start: dict | None, path: Path) -> None:
    """
    Reward against KL, a panel a trained judge: every checkpoint of every run on validation queries, joined by a line.
    The end of a run is a large mark, hollow where its text is not fluent.

    Args:
        task (`dict`): the task's file.
        runs (`dict[str, list[dict]]`): records by method, of the stage `seeds` or, without one, of the grid.
        start (`dict`, *optional*): the start model's numbers on validation queries.
        path (`Path`): the picture.
    """
    from matplotlib.figure import Figure

    judges = list(task["rewards"])
    figure = Figure(figsize=(5.2 * len(judges), 5.6), layout="constrained")
    shade = colors(list(runs))
    for axes, judge in zip(figure.subplots(1, len(judges), squeeze=False)[0], judges, strict=True):
        for name, records in runs.items():
            for index, record in enumerate(records):
                pairs = path_of(record, start, judge)
                if any(value is None for pair in pairs for value in pair):
                    continue
                x, y = zip(*pairs, strict=True)
                fluent = start is None or not not_fluent(numbers_at_end(record, "validation"), start)
                axes.plot(x, y, color=shade[name], linewidth=0.7, marker=".", markersize=3, alpha=0.7)
                face = shade[name] if fluent else "none"
                shown = {"label": name} if index == 0 else {}
                axes.plot(x[-1], y[-1], "o", color=shade[name], markerfacecolor=face, markersize=6, **shown)
        # the first nats count most, and 0 must have a place
        axes.set_xscale("function", functions=(lambda x: np.sqrt(np.maximum(x, 0)), np.square))
        axes.set(xlabel="KL from the start model, nats per completion", ylabel=f"{judge} reward", xlim=(0, None))
        axes.grid(alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=6, fontsize=8)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def learning_curves(task: dict, runs: dict[str, list[dict]], start: dict | None, path: Path) -> None:
    """Reward of validation queries over the steps: the mean over runs, and a band from the least to the most."""
    from matplotlib.figure import Figure

    judges = list(task["rewards"])
    figure = Figure(figsize=(5.2 * len(judges), 5.2), layout="constrained")
    shade = colors(list(runs))
    for axes, judge in zip(figure.subplots(1, len(judges), squeeze=False)[0], judges, strict=True):
        for name, records in runs.items():
            by_step: dict[int, list[float]] = {}
            for record in records if name != START else []:
                for one in [one for one in record["numbers"] if one["part"] == "validation"]:
                    value = one[f"reward/{judge}"]
                    by_step.setdefault(one["step"], []).append(np.nan if value is None else value)
            if start is not None and by_step:
                by_step[0] = [start[f"reward/{judge}"]]
            steps = sorted(by_step)
            if steps:
                means, least, most = ([f(by_step[step]) for step in steps] for f in (np.mean, min, max))
                axes.plot(steps, means, color=shade[name], marker=".", label=name)
                axes.fill_between(steps, least, most, color=shade[name], alpha=0.12)
        axes.set(xlabel="optimizer steps", ylabel=f"{judge} reward")
        axes.grid(alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=6, fontsize=8)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def gap(seeds: Seeds, path: Path) -> bool:
    """PLE's rewards of plain and guided samples and their gap over the rounds, as its Fig. 3; `False` without them."""
    from matplotlib.figure import Figure

    curves = gap_curve(seeds)
    if curves is None:
        return False
    figure = Figure(figsize=(6, 3.8), layout="constrained")
    axes = figure.subplots()
    names = ("plain samples", "guided samples", "gap")
    for values, name, color in zip(curves, names, ("tab:gray", "tab:blue", "tab:red"), strict=True):
        rounds = np.arange(1, values.shape[1] + 1)
        axes.plot(rounds, values.mean(0), color=color, label=name)
        axes.fill_between(rounds, values.min(0), values.max(0), color=color, alpha=0.15)
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set(xlabel="round", ylabel="training reward")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    return True


def path_of(record: dict, start: dict | None, judge: str) -> list[tuple[float, float]]:
    """KL and reward of a run's checkpoints on validation queries, from the start model on."""
    points = [one for one in record["numbers"] if one["part"] == "validation"]
    if start is not None and record["run"]["method"] != START:
        points = [start, *points]
    return [(one["kl"]["mean"], one[f"reward/{judge}"]) for one in points]


def end_of(records: list[dict], part: str) -> dict | None:
    """The numbers of the first record's end."""
    return numbers_at_end(records[0], part) if records else None
