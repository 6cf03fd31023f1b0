"""Curves of a run, from the trainer's log history."""

from pathlib import Path

from ..methods.table import metric_name


# of the methods' own metrics, by what stands behind the prefix
LABELS = {
    "logp_best": "best of the group",
    "logp_worst": "worst of the group",
    "logp_right": "right answers",
    "logp_wrong": "wrong answers",
    "loss_sft": "imitation",
    "loss_ranking": "ranking",
    "loss_penalty": "penalty",
    "gap": "gap s' − s",
    "threshold": "threshold τ",
    "loss_wsft": "weighted imitation",
}
COLORS = {
    "reward/plain": "tab:gray",
    "reward/positive": "tab:green",
    "reward/principle": "tab:green",
    "reward/negative": "tab:red",
    "logp_best": "tab:green",
    "logp_worst": "tab:red",
    "logp_right": "tab:green",
    "logp_wrong": "tab:red",
    "threshold": "tab:orange",
}
# what a method is drawn to learn by: the first of these that it logs
MARGINS = (
    ("reward gap against the threshold", "reward", ("gap", "threshold")),
    ("log-probability of right and wrong answers", "nats per token", ("logp_right", "logp_wrong")),
    ("log-probability of best and worst", "nats per token", ("logp_best", "logp_worst")),
)


def own_name(key: str) -> str:
    """A metric without its method's prefix; others as they are."""
    return metric_name(key) or key


def plot_curves(log_history: list[dict], path: str | Path, title: str = "") -> Path:
    """
    Draw reward by kind of candidate, the method's margins and its loss terms over the steps, as one PNG.

    Margins are the reward gap against its threshold where the method has one, or else the log-probability per token of
    the best and of the worst candidate.

    Args:
        log_history (`list[dict]`): a trainer's `state.log_history`.
        path (`str` or `Path`): where the picture goes.
        title (`str`): line above the panels.

    Returns:
        `Path`: where the picture went.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    logged = list(dict.fromkeys(key for log in log_history for key in log))
    own = {metric_name(key): key for key in logged if metric_name(key)}
    title_of_margins, unit, names = next((m for m in MARGINS if all(name in own for name in m[2])), MARGINS[-1])
    panels = [
        ("reward by kind of candidate", "mean reward", sorted(key for key in logged if key.startswith("reward/"))),
        (title_of_margins, unit, [own[name] for name in names if name in own]),
        ("loss terms, before their weights", "loss", [own[name] for name in LABELS if name in own and "loss" in name]),
    ]
    figure = Figure(figsize=(13, 3.8), layout="constrained")
    for axes, (name, unit, keys) in zip(figure.subplots(1, 3), panels, strict=True):
        for key in keys:
            points = [(log["step"], log[key]) for log in log_history if log.get(key) is not None]
            if points:
                label = LABELS.get(own_name(key), key.removeprefix("reward/"))
                color = COLORS.get(own_name(key))
                axes.plot(*zip(*points, strict=True), color=color, marker="o", markersize=3, label=label)
        axes.set(title=name, xlabel="step", ylabel=unit)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
    return Path(path)
