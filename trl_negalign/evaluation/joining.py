"""Several evaluations as one, for tables: results of earlier runs beside new ones, with what does not compare."""

from itertools import combinations
from pathlib import Path

import pandas as pd

from .evaluate import without_nan
from .files import COMPLETIONS, read_results
from .rewards import paired_difference


def join(paths: list[str | Path]) -> dict:
    """
    Join evaluations, the first one first. Models of two folders are compared by reward on the queries that both were
    asked, where both folders still have their completions.

    Args:
        paths (`list`): see [`read_results`].

    Returns:
        `dict`: `results` by label (with the folder's name where two models share a label), `models`, `win_rates`,
        `reward_differences`, `runs` (folder, data and settings of each) and `notes`: sentences on what differs.
    """
    read = [read_results(path) for path in paths]
    folders = [folder.resolve() for _, folder in read]
    for folder in folders:
        if folders.count(folder) > 1:
            raise ValueError(f"{folder} is named twice.")
    labels = [label for results, _ in read for label in results["results"]]
    joined: dict = {"results": {}, "models": {}, "win_rates": [], "reward_differences": [], "runs": [], "notes": []}
    tables = {}
    for results, folder in read:

        def name(label, folder=folder):
            return f"{label} ({folder})" if labels.count(label) > 1 else label

        for label, numbers in results["results"].items():
            joined["results"][name(label)] = numbers
            joined["models"][name(label)] = results["models"][label]
        for found in results["win_rates"]:
            renamed = {role: name(found[role]) for role in ("model", "against")}
            joined["win_rates"].append(found | renamed | {"judge": results["settings"]["judge"]})
        for found in results["reward_differences"]:
            joined["reward_differences"].append(found | {role: name(found[role]) for role in ("model", "baseline")})
        joined["runs"].append({"folder": str(folder), "data": results["data"], "settings": results["settings"]})
        tables[str(folder)] = completions(folder, name)
    joined["notes"] = differing(joined["runs"])
    for one, other in combinations(tables.values(), 2):
        joined["reward_differences"] += differences(one, other)
    return without_nan(joined)


def completions(folder: Path, name) -> dict[str, pd.DataFrame]:
    """Each model's completions by its label in the join; none if the file is gone."""
    if not (folder / COMPLETIONS).exists():
        return {}
    return {name(label): table for label, table in pd.read_parquet(folder / COMPLETIONS).groupby("model")}


def differences(one: dict[str, pd.DataFrame], other: dict[str, pd.DataFrame]) -> list[dict]:
    """Paired differences in reward between the models of two folders, on the queries that both were asked."""
    found = []
    for model, table in one.items():
        for baseline, base_table in other.items():
            names = [column for column in table if column.startswith("reward/") and column in base_table]
            both = table.merge(base_table, on=["row", "prompt"], suffixes=("", " of the baseline"))
            for column in names if len(both) else ():
                difference = paired_difference(both[column].tolist(), both[f"{column} of the baseline"].tolist())
                pair = {"reward": column.removeprefix("reward/"), "model": model, "baseline": baseline}
                found.append(pair | difference)
    return found


def differing(runs: list[dict]) -> list[str]:
    """A sentence for everything in which an evaluation differs from the first one and that changes its numbers."""
    notes = []
    first = runs[0]
    for run in runs[1:]:
        if run["data"]["fingerprint"] != first["data"]["fingerprint"]:
            notes.append(
                f"{run['folder']} has other queries than {first['folder']}: only paired differences compare, which "
                "are over the queries that both were asked."
            )
        ours, theirs = first["settings"]["sampling"], run["settings"]["sampling"]
        if changed := [f"{key} {theirs[key]}, not {ours[key]}" for key in ours if ours[key] != theirs[key]]:
            notes.append(f"{run['folder']} sampled otherwise than {first['folder']}: {'; '.join(changed)}.")
    return notes
