"""Curves of a run, from the trainer's log history."""

from pathlib import Path


LABELS = {
    "neat/logp_best": "best of the group",
    "neat/logp_worst": "worst of the group",
    "neat/loss_sft": "imitation",
    "neat/loss_ranking": "ranking",
    "neat/loss_penalty": "penalty",
    "ple/gap": "gap s' − s",
    "ple/threshold": "threshold τ",
    "ple/loss_ranking": "ranking",
    "ple/loss_wsft": "weighted imitation",
}
COLORS = {
    "reward/plain": "tab:gray",
    "reward/positive": "tab:green",
    "reward/principle": "tab:green",
    "reward/negative": "tab:red",
    "neat/logp_best": "tab:green",
    "neat/logp_worst": "tab:red",
    "ple/threshold": "tab:orange",
}


def plot_curves(log_history: list[dict], path: str | Path, title: str = "") -> Path:
    """
    Draw reward by kind of candidate, the method's margins and its loss terms over the steps, as one PNG.

    Margins are NEAT's log-probability per token of the best and of the worst candidate, or PLE's reward gap against
    its threshold.

    Args:
        log_history (`list[dict]`): a trainer's `state.log_history`.
        path (`str` or `Path`): where the picture goes.
        title (`str`): line above the panels.

    Returns:
        `Path`: where the picture went.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    method = "ple" if any("ple/gap" in log for log in log_history) else "neat"
    kinds = sorted({key for log in log_history for key in log if key.startswith("reward/")})
    margins = {"neat": ["neat/logp_best", "neat/logp_worst"], "ple": ["ple/gap", "ple/threshold"]}[method]
    panels = [
        ("reward by kind of candidate", "mean reward", kinds),
        {
            "neat": ("log-probability of best and worst", "nats per token", margins),
            "ple": ("reward gap against the threshold", "reward", margins),
        }[method],
        ("loss terms, before their weights", "loss", [key for key in LABELS if key.startswith(f"{method}/loss_")]),
    ]
    figure = Figure(figsize=(13, 3.8), layout="constrained")
    for axes, (name, unit, keys) in zip(figure.subplots(1, 3), panels, strict=True):
        for key in keys:
            points = [(log["step"], log[key]) for log in log_history if log.get(key) is not None]
            if points:
                label = LABELS.get(key, key.removeprefix("reward/"))
                axes.plot(*zip(*points, strict=True), color=COLORS.get(key), marker="o", markersize=3, label=label)
        axes.set(title=name, xlabel="step", ylabel=unit)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
    return Path(path)
