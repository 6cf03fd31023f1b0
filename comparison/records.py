"""What the folders of finished runs say, and which setting of a method they choose."""

import json
from pathlib import Path

from plan import START, PlanError, folder_of, grid_runs


SELECTION = "selection.json"
# what counts as fluent, beside the start model's own samples of the same queries
PERPLEXITY = (0.6, 1.5)
DISTINCT = 0.85
REPEATED = 0.02


class OtherSettings(PlanError):
    """A folder holds a run of other settings than the one that is asked for."""


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, value: dict) -> None:
    """The file appears whole or not at all."""
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    unfinished.rename(path)


def outcome(folder: Path, run: dict) -> str:
    """
    `"done"`, `"failed"` or `"missing"`.

    Raises:
        OtherSettings: if the folder's run is another.
    """
    for name, found in (("run.json", "done"), ("failed.json", "failed")):
        if (folder / name).exists():
            there = read_json(folder / name)["run"]
            if different := differences(there, json.loads(json.dumps(run))):
                raise OtherSettings(
                    f"{folder} holds a run of other settings ({', '.join(different)}). Choose another --results, or "
                    "move the folder away."
                )
            return found
    return "missing"


def settled(folder: Path, run: dict) -> tuple[str, str]:
    """What became of a run and, where it has no numbers, why: one of other settings stands in its place as failed."""
    try:
        found = outcome(folder, run)
    except OtherSettings as error:
        return "failed", str(error).replace(str(folder), "its folder")  # no path of this machine on the page
    return found, read_json(folder / "failed.json")["reason"] if found == "failed" else ""


def refuse_other_data(folder: Path, fingerprint: str) -> None:
    """Raise [`OtherSettings`] if a run in a task's folder was made with other queries or texts than these."""
    for path in sorted(folder.glob("*/*/run.json")):
        if read_json(path)["material"] != fingerprint:
            raise OtherSettings(
                f"{path.parent} was made with other data than --data now gives. Choose another --results, or the data "
                "of before."
            )


def differences(one: dict, other: dict, prefix: str = "") -> list[str]:
    """Names of what differs, with the sections they stand in."""
    found = []
    for key in sorted(one.keys() | other.keys()):
        left, right = one.get(key), other.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            found += differences(left, right, f"{prefix}{key}.")
        elif left != right:
            found.append(prefix + key)
    return found


def numbers_at_end(record: dict, part: str) -> dict:
    """What was measured last on a part of the queries."""
    return [one for one in record["numbers"] if one["part"] == part][-1]


def not_fluent(numbers: dict, start: dict) -> list[str]:
    """The rules of fluency that a text breaks beside the start model's own; none if it is fluent."""
    ratio = numbers["perplexity"] / start["perplexity"] if numbers["perplexity"] is not None else float("inf")
    distinct, repeated = (numbers[name] for name in ("distinct_2", "repetition_4"))
    broken = []
    if ratio < PERPLEXITY[0]:
        broken.append(f"perplexity {ratio:.2f}× of the start's")
    if ratio > PERPLEXITY[1]:
        broken.append(f"perplexity {ratio:.1f}× of the start's")
    if distinct is None or distinct < DISTINCT * start["distinct_2"]:
        broken.append("distinct-2 too low")
    if repeated is None or repeated > start["repetition_4"] + REPEATED:
        broken.append("repeated 4-grams")
    return broken


def select(task: dict, methods: list[dict], results: Path) -> dict:
    """
    The setting of each method by the grid's folders, with every trial: the highest training reward on validation
    queries among the runs whose text stays fluent. Where none is, the lowest learning rate is taken, which drifted
    least, and that is noted.

    Returns:
        `dict`: by method `trials` (setting, outcome, reward, broken rules, KL), `chosen` (`None` without a finished
        run) and `fluent`.
    """
    found, start = {}, None
    for method in sorted(methods, key=lambda one: one["name"] != START):
        trials = []
        for run in grid_runs(task, method):
            folder = folder_of(results, run)
            found_there, reason = settled(folder, run)
            trial = {"setting": run["setting"], "outcome": found_there} | ({"reason": reason} if reason else {})
            if trial["outcome"] == "done":
                numbers = numbers_at_end(read_json(folder / "run.json"), "validation")
                start = numbers if method["name"] == START else start
                trial |= {"reward": numbers["reward/training"], "kl": numbers["kl"]["mean"]}
                trial["not_fluent"] = not_fluent(numbers, start) if start else ["the start model was not run"]
            trials.append(trial)
        done = [trial for trial in trials if trial["outcome"] == "done" and trial["reward"] is not None]
        fluent = [trial for trial in done if not trial["not_fluent"]]
        best = max(fluent, key=lambda trial: trial["reward"], default=None)
        if best is None and done:
            best = min(done, key=lambda trial: trial["setting"].get("learning_rate", 0))
        chosen = best and best["setting"]
        found[method["name"]] = {"chosen": chosen, "fluent": bool(fluent), "trials": trials}
    return found


def done_runs(runs: list[dict], results: Path) -> list[dict]:
    """Records of those of the runs that are done, each with its `folder`."""
    folders = [folder for run in runs if settled(folder := folder_of(results, run), run)[0] == "done"]
    return [read_json(folder / "run.json") | {"folder": folder} for folder in folders]
