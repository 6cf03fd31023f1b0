"""Models side by side: the table that papers print, and bars of wins, ties and losses."""

from pathlib import Path

from ..evaluation.win_rate import place_warning
from ..numbers import FEWEST


# metric of results.json, column, digits, whether a percentage
COLUMNS = (
    ("ppl", "perplexity", "Reference PPL ↓", 2),
    ("bleu", "bleu", "BLEU ↑", 2),
    ("diversity", "distinct_1", "Distinct-1 ↑", 3),
    ("diversity", "distinct_2", "Distinct-2 ↑", 3),
    ("diversity", "self_bleu", "Self-BLEU ↓", 1),
    ("diversity", "repetition_4", "Rep-4 ↓", 3),
    ("length", "tokens", "Tokens", 1),
    ("length", "truncated", "Truncated", 3),
    ("kl", "mean", "KL", 2),
)
OUTCOMES = (("win", "tab:green"), ("tie", "lightgray"), ("lose", "tab:red"))


def comparison_table(joined: dict) -> str:
    """
    Markdown: a row for each model with the references' perplexity, rewards (± standard error), BLEU and what else was
    measured; win rates; paired reward differences; and how the numbers came about.

    Args:
        joined (`dict`): from [`~trl_negalign.evaluation.joining.join`].
    """
    parts = [_models(joined["results"])]
    if joined["win_rates"]:
        parts.append(_win_rates(joined["win_rates"]))
    if joined["reward_differences"]:
        parts.append(_differences(joined["reward_differences"]))
    parts.append("\n".join(f"- {line}" for line in _notes(joined)))
    return "\n\n".join(parts) + "\n"


def _table(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def _number(value: float | None, digits: int, sign: bool = False) -> str:
    return "–" if value is None else f"{value:{'+' if sign else ''}.{digits}f}"


def _models(results: dict) -> str:
    rewards = list(dict.fromkeys(name for found in results.values() for name in found.get("reward", {})))
    columns = [column for column in COLUMNS if any(column[0] in found for found in results.values())]
    place = 1 if columns and columns[0][0] == "ppl" else 0
    header = [title for *_, title, _ in columns]
    # the paper's order: perplexity, rewards, BLEU
    header[place:place] = [f"{short} ↑" for short in _short(rewards).values()]
    rows = [["Model", *header]]
    for label, found in results.items():
        cells = [_number(found.get(metric, {}).get(key), digits) for metric, key, _, digits in columns]
        cells[place:place] = [_mean_and_error(found.get("reward", {}).get(name)) for name in rewards]
        rows.append([label, *cells])
    return _table(rows)


def _mean_and_error(score: dict | None) -> str:
    if score is None:
        return _number(None, 3)
    few = score["mean"] is not None and score["count"] < FEWEST
    error = "" if few or score["standard_error"] is None else f" ± {score['standard_error']:.3f}"
    remarks = [f"n < {FEWEST}"] * few + [f"{score['unscored']} unscored"] * (score["unscored"] > 0)
    return _number(score["mean"], 3) + error + (f" ({'; '.join(remarks)})" if remarks else "")


def _interval(mean: float | None, low: float | None, high: float | None, count: int, digits: int) -> str:
    if mean is None:
        return _number(None, digits)
    if count < FEWEST:
        return f"{_number(mean, digits, True)} (n < {FEWEST})"
    return f"{_number(mean, digits, True)} [{_number(low, digits, True)}, {_number(high, digits, True)}]"


def _short(names: list[str]) -> dict[str, str]:
    """Rewards by the ends of their paths, as long as it takes to tell them apart."""

    def end(name: str, parts: int) -> str:
        return "/".join(name.rstrip("/").split("/")[-parts:])

    found = {}
    for name in names:
        others = [other for other in names if other != name]
        lengths = range(1, name.count("/") + 2)
        clear = (end(name, n) for n in lengths if end(name, n) not in [end(other, n) for other in others])
        found[name] = next(clear, name)
    return found


def _shares(found: dict) -> dict[str, float | None]:
    readable = sum(found[name] for name, _ in OUTCOMES)
    return {name: 100 * found[name] / readable if readable else None for name, _ in OUTCOMES}


def _win_rates(win_rates: list[dict]) -> str:
    several = len({_judge(found["judge"]) for found in win_rates}) > 1
    header = ["Model", "against", *["Judge"] * several, "Win %", "Tie %", "Lose %", "Win − lose, 95% interval"]
    rows = [[*header, "Judged", "Unreadable", "Orders disagree %", "First place %"]]
    for found in win_rates:
        shares = [_number(share, 1) for share in _shares(found).values()]
        judged = sum(found[name] for name, _ in OUTCOMES)
        interval = _interval(*(_percent(found[key]) for key in ("win_minus_lose", "low", "high")), judged, 1)
        places = [_number(_percent(found.get(key)), 1) for key in ("disagreement", "first_place")]
        who = [found["model"], found["against"], *[_judge(found["judge"])] * several]
        rows.append([*who, *shares, interval, str(judged), str(found["unreadable"]), *places])
    return _table(rows)


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _differences(differences: list[dict]) -> str:
    rows = [["Reward", "Model", "minus", "Difference, 95% interval", "Queries"]]
    short = _short(list(dict.fromkeys(found["reward"] for found in differences)))
    for found in differences:
        interval = _interval(*(found[key] for key in ("mean", "low", "high", "count")), 3)
        rows.append([short[found["reward"]], found["model"], found["baseline"], interval, str(found["count"])])
    return _table(rows)


def _notes(joined: dict) -> list[str]:
    lines = []
    for run in joined["runs"]:
        data, sampling = run["data"], run["settings"]["sampling"]
        where = f"{run['folder']}: " if len(joined["runs"]) > 1 else ""
        lines.append(
            f"{where}{data['queries']} queries of {data['data']} (split {data['split']}, seed {data['seed']}); "
            f"sampled at temperature {sampling['temperature']:g}, top-p {sampling['top_p']:g}, at most "
            f"{sampling['max_new_tokens']} new tokens, seed {sampling['seed']}."
        )
        if dropped := data.get("dropped"):
            lines.append(where + "left out: " + "; ".join(f"{count} ({why})" for why, count in dropped.items()) + ".")
    lines += joined["notes"]
    signatures = {found["bleu"]["signature"] for found in joined["results"].values() if "bleu" in found}
    lines += [f"BLEU: {signature}." for signature in sorted(filter(None, signatures))]
    judges = {_judge(found["judge"]) for found in joined["win_rates"]}
    lines += [f"Judged by {name}, each pair in both orders; a win needs both." for name in sorted(judges)]
    if judges:
        lines.append(
            "Orders disagree: share of the readable pairs of different texts on which the two verdicts differ. "
            "First place: share of the verdicts, ties left out, that prefer the response in front; 50% from a judge "
            "that does not look at the place."
        )
    lines += filter(None, map(place_warning, joined["win_rates"]))
    if any("kl" in found for found in joined["results"].values()):
        lines.append("KL: from the model that kl_reference names, nats per completion, on the model's own samples.")
    if any("ppl" in found for found in joined["results"].values()):
        lines.append(
            "Reference PPL: perplexity of the dataset's references given their queries, not of what the model wrote. "
            "Perplexities of models with different tokenizers do not compare."
        )
    return lines


def _judge(settings: dict) -> str:
    return settings.get("model") or f"the reward {settings['reward']}"


def plot_win_rates(win_rates: list[dict], path: str | Path, title: str = "") -> Path:
    """
    Bars of win, tie and lose in percent of the readable pairs, one for each pair of models, as a PNG.

    Args:
        win_rates (`list[dict]`): of [`~trl_negalign.evaluation.joining.join`].
        path (`str` or `Path`): where the picture goes.
        title (`str`): line above the bars.

    Returns:
        `Path`: where the picture went.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.5 + 0.45 * len(win_rates)), layout="constrained")
    axes = figure.subplots()
    several = len({_judge(found["judge"]) for found in win_rates}) > 1
    names = [
        f"{found['model']} against {found['against']}" + (f" by {_judge(found['judge'])}" if several else "")
        for found in win_rates
    ]
    shares = [_shares(found) for found in win_rates]
    left = [0.0] * len(names)
    for outcome, color in OUTCOMES:
        widths = [share[outcome] or 0.0 for share in shares]
        # by place, since two runs may have judged models of the same names
        bars = axes.barh(range(len(names)), widths, left=left, color=color, label=outcome)
        axes.bar_label(bars, [f"{width:.0f}" if width >= 4 else "" for width in widths], label_type="center")
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set_yticks(range(len(names)), names)
    axes.set(xlim=(0, 100), ylim=(len(names) - 0.5, -0.5), title=title)
    axes.set_xlabel("% of readable pairs, each judged in both orders")
    figure.legend(ncols=3, loc="outside lower center", frameon=False)
    figure.savefig(path, dpi=110, format="png")
    return Path(path)
