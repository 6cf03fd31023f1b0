"""The tables of a task, as Markdown."""

import math
from itertools import pairwise
from pathlib import Path

from plan import START, label, read_method
from plots import path_of
from records import not_fluent, numbers_at_end, read_json
from summaries import Seeds, difference, interval


HOLE = "–"
DISTANCES = (1, 2, 4, 8)  # nats per completion
MEASURED = {
    "perplexity": ("perplexity", 1),
    "distinct-2": ("distinct_2", 3),
    "repeated 4-grams": ("repetition_4", 3),
    "length": ("length.tokens", 1),
}


def table(columns: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def span(found: dict | None, digits: int = 2, sign: bool = False) -> str:
    """A value with its interval."""
    if found is None or math.isnan(found["value"]):
        return HOLE
    form = f"{'+' if sign else ''}.{digits}f"
    return f"{found['value']:{form}} [{found['low']:{form}}, {found['high']:{form}}]"


def average(values: list[float | None], digits: int) -> str:
    """The mean over seeds and, in brackets, the least and the most; a seed without a number leaves a hole."""
    if not values or any(value is None for value in values):
        return HOLE
    mean = f"{sum(values) / len(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def rewards_table(results: Path) -> str:
    """What judges, and how often each is right on texts of neither half of its data."""
    rows = [
        [name, one["family"], str(one.get("texts", HOLE)), f"{one['accuracy_held_out']:.3f}"]
        for name, one in read_json(results / "rewards.json").items()
    ]
    return table(["reward", "what it is", "texts learnt from", "accuracy, held out"], rows)


def main_table(task: dict, selection: dict, seeds: dict[str, Seeds]) -> str:
    """A row a method: test queries where it was run with seeds, else its chosen run of the grid, in italics."""
    judges = list(task["rewards"])
    columns = ["method", "setting", "seeds", *judges, "KL, nats", *MEASURED, "fluent", "seconds", "tokens"]
    rows = []
    for name, one in selection.items():
        setting = HOLE if one["chosen"] is None else label(one["chosen"])
        if name not in seeds:
            rows.append(unfinished_row(name, setting, one, len(columns)))
            continue
        found = seeds[name]
        row = [name, setting, f"{len(found.seeds)} of {len(task['seeds'])}"]
        row += [span(interval(found, f"reward/{judge}")) for judge in judges]
        row += [span(interval(found, "kl"))]
        row += [average(found.at_end(key), digits) for key, digits in MEASURED.values()]
        row += [fluent_seeds(found, seeds.get(START))]
        costs = [record["cost"] for record in found.records]
        row += [average([cost["seconds"] for cost in costs], 0), average([cost["tokens"] for cost in costs], 0)]
        rows.append(row)
    return table(columns, rows)


def unfinished_row(name: str, setting: str, one: dict, width: int) -> list[str]:
    """A method without seeds: what its grid says on validation queries, or why there is nothing."""
    trials = {outcome: [t for t in one["trials"] if t["outcome"] == outcome] for outcome in ("done", "failed")}
    if one["chosen"] is None:
        count = len(trials["failed"])
        said = f"{count} of {len(one['trials'])} trials failed" if count else "not run"
        return [name, f"*{said}*"] + [HOLE] * (width - 2)
    best = next(trial for trial in trials["done"] if trial["setting"] == one["chosen"])
    shown = [f"*{best['reward']:.2f}, validation*"]
    return [name, setting, f"*grid, {len(trials['done'])} of {len(one['trials'])}*", *shown, *[HOLE] * (width - 4)]


def fluent_seeds(found: Seeds, start: Seeds | None) -> str:
    """How many seeds end with fluent text, beside the start model's samples with the same seed."""
    if start is None:
        return HOLE
    ends = {seed: numbers_at_end(record, "test") for seed, record in zip(start.seeds, start.records, strict=True)}
    pairs = [(seed, record) for seed, record in zip(found.seeds, found.records, strict=True) if seed in ends]
    good = sum(not not_fluent(numbers_at_end(record, "test"), ends[seed]) for seed, record in pairs)
    return f"{good} of {len(pairs)}"


def differences_table(seeds: dict[str, Seeds], judge: str) -> str:
    """A column each for the methods of this project, a row a rival: paired by seed and query."""
    ours = [name for name in seeds if name != START and read_method(name)["trainer"].startswith("trl_negalign.")]
    rows = []
    for rival in seeds:
        cells = [
            HOLE if one == rival else cell(difference(seeds[one], seeds[rival], f"reward/{judge}")) for one in ours
        ]
        rows.append([rival, *cells])
    return table([f"{judge} reward: column − row", *ours], rows)


def cell(found: dict | None) -> str:
    return HOLE if found is None else f"{span(found, sign=True)}, {found['agree']}/{found['seeds']}"


def reward_at(path: list[tuple[float, float]], kl: float) -> float | None:
    """The reward where a run first reaches a KL, between two checkpoints in a straight line; `None` if it does not."""
    for (before, low), (after, high) in pairwise(path):
        if None not in (before, after, low, high) and before <= kl <= after and before < after:
            return low + (high - low) * (kl - before) / (after - before)
    return None


def frontier_table(runs: dict[str, list[dict]], start: dict | None, judge: str) -> str:
    """Reward at some distances from the start model, of the runs that come as far."""
    rows = []
    for name, records in runs.items():
        found = [[reward_at(path_of(record, start, judge), kl) for record in records] for kl in DISTANCES]
        cells = [[value for value in values if value is not None] for values in found]
        if name != START and any(cells):
            rows.append(
                [name, *(f"{average(cell, 2)}, {len(cell)} of {len(records)}" if cell else HOLE for cell in cells)]
            )
    return table([f"{judge} reward at", *(f"{kl} nats" for kl in DISTANCES)], rows)


def claims_table(rows: list[dict]) -> str:
    shown = []
    for row in rows:
        number = HOLE if row["statistic"] is None else span(row["statistic"], 3, sign=row["metric"] != "ratio")
        shown.append([row["id"], row["says"], row["against"] or HOLE, row["metric"], number, f"**{row['verdict']}**"])
    return table(["claim", "", "against", "measure", "statistic, 95% interval", "verdict"], shown)


def trials_table(rows: list[dict]) -> str:
    """Every trial that was planned; none is left out."""
    shown = []
    for row in rows:
        said = {"done": "", "missing": "not run yet"}.get(row["outcome"], f"failed: {row.get('reason')}")
        if row["outcome"] == "done":
            said = "; ".join(row.get("not_fluent", [])) or "fluent"
        numbers = [HOLE if row.get(key) is None else f"{row[key]:.2f}" for key in ("reward", "kl")]
        chosen = "chosen" if row["chosen"] and row["stage"] == "grid" else ""
        text = said.replace("|", "\\|")
        shown.append([row["method"], row["stage"], label(row["setting"]), str(row["seed"]), *numbers, text, chosen])
    return table(["method", "stage", "setting", "seed", "reward", "KL", "text", ""], shown)
