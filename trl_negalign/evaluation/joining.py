"""Several evaluations as one, for tables: results of earlier runs beside new ones, with what does not compare."""

from itertools import combinations
from pathlib import Path

import pandas as pd

from ..fingerprints import digest
from .evaluate import without_nan
from .files import COMPLETIONS, read_results
from .rewards import paired_difference


def join(paths: list[str | Path]) -> dict:
    """
    Join evaluations, the first one first. Models of two folders are compared by reward on the queries that both were
    asked, where both folders still have their completions. Rewards are the same if what identifies them is: a reward
    model's weights, wherever they lie, and a function's name and source.

    Args:
        paths (`list`): see [`read_results`].

    Returns:
        `dict`: `results` by label (with the folder's name where two models share a label), `models`, `win_rates`,
        `reward_differences`, `runs` (folder, data and settings of each) and `notes`: sentences on what differs. A
        reward's name has a digest behind it where two rewards share the name.
    """
    read = [read_results(path) for path in paths]
    check_folders([folder for _, folder in read])
    labels = [label for results, _ in read for label in results["results"]]
    joined: dict = {"results": {}, "models": {}, "win_rates": [], "reward_differences": [], "runs": [], "notes": []}
    tables = {}
    names, joined["notes"] = reward_names(read)
    for (results, folder), rewards in zip(read, names, strict=True):

        def name(label, folder=folder):
            return f"{label} ({folder})" if labels.count(label) > 1 else label

        for label, numbers in results["results"].items():
            scores = {rewards[reward]: score for reward, score in numbers.get("reward", {}).items()}
            joined["results"][name(label)] = numbers | ({"reward": scores} if scores else {})
            joined["models"][name(label)] = results["models"][label]
        for found in results["win_rates"]:
            renamed = {role: name(found[role]) for role in ("model", "against")}
            judge = results["settings"]["judge"]
            if judge["kind"] == "reward":
                judge = judge | {"reward": rewards[judge["reward"]]}
            joined["win_rates"].append(found | renamed | {"judge": judge})
        for found in results["reward_differences"]:
            renamed = {role: name(found[role]) for role in ("model", "baseline")}
            joined["reward_differences"].append(found | renamed | {"reward": rewards[found["reward"]]})
        joined["runs"].append({"folder": str(folder), "data": results["data"], "settings": results["settings"]})
        tables[str(folder)] = completions(folder, name, rewards)
    joined["notes"] += differing(joined["runs"])
    for one, other in combinations(tables.values(), 2):
        joined["reward_differences"] += differences(one, other)
    return without_nan(joined)


def check_folders(folders: list[Path]) -> None:
    """
    Raises:
        ValueError: if two are the same, whose models would be compared with themselves.
    """
    resolved = [folder.resolve() for folder in folders]
    for folder in resolved:
        if resolved.count(folder) > 1:
            raise ValueError(f"{folder} is named twice. Name it once; --out is compared too where --model is given.")


def reward_names(read: list[tuple[dict, Path]]) -> tuple[list[dict[str, str]], list[str]]:
    """The names in the join of each evaluation's rewards, and a sentence for each name that is of two rewards."""
    # by the name in the join: its rewards, and a folder of each
    known: dict[str, list[tuple[dict, Path]]] = {}
    chosen: list[dict[str, tuple[str, dict]]] = []
    for results, folder in read:
        mine: dict[str, tuple[str, dict]] = {}
        for name, reward in results["rewards"].items():
            identity = {key: value for key, value in reward.items() if key != "name"}
            same = [other for other, rewards in known.items() if identity in [one for one, _ in rewards]]
            # a model may lie elsewhere by now; two functions may be set up by the same source
            taken = name in same or identity["weights"] is None
            joined = name if taken else next((other for other in same if other not in results["rewards"]), name)
            if joined not in same:
                known.setdefault(joined, []).append((identity, folder))
            mine[name] = joined, identity
        chosen.append(mine)
    several = {name for name, rewards in known.items() if len(rewards) > 1}

    def unique(name: str, identity: dict) -> str:
        return f"{name} ({digest(identity)[:8]})" if name in several else name

    notes = []
    for name in sorted(several):
        where = "; ".join(f"{unique(name, identity)} in {folder.resolve()}" for identity, folder in known[name])
        notes.append(f"{name} is not one reward but {len(known[name])}, which are not subtracted: {where}.")
    return [{name: unique(*found) for name, found in mine.items()} for mine in chosen], notes


def completions(folder: Path, name, rewards: dict[str, str]) -> dict[str, pd.DataFrame]:
    """Each model's completions by its label in the join; none if the file is gone."""
    if not (folder / COMPLETIONS).exists():
        return {}
    renamed = {f"reward/{reward}": f"reward/{joined}" for reward, joined in rewards.items()}
    table = pd.read_parquet(folder / COMPLETIONS).rename(columns=renamed)
    return {name(label): part for label, part in table.groupby("model")}


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
        if changed := changes(first["settings"]["sampling"], run["settings"]["sampling"]):
            notes.append(f"{run['folder']} sampled otherwise than {first['folder']}: {'; '.join(changed)}.")
        # what earlier versions wrote has none
        rendered = [one["settings"].get("chat_template_kwargs") for one in (first, run)]
        if rendered[0] != rendered[1]:
            notes.append(
                f"{run['folder']} rendered conversations otherwise than {first['folder']}: chat_template_kwargs "
                f"{rendered[1]}, not {rendered[0]}."
            )
        ours, theirs = (one["settings"]["judge"] for one in (first, run))
        if ours and theirs and (changed := [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]):
            notes.append(
                f"{run['folder']} was judged otherwise than {first['folder']} (other {', '.join(changed)}): their win "
                "rates do not compare."
            )
    return notes


def changes(ours: dict, theirs: dict) -> list[str]:
    """What differs between the settings of two evaluations, in words."""
    keys = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
    return [f"{key} {theirs.get(key)}, not {ours.get(key)}" for key in keys]
