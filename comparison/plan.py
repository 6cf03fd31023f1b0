"""What is to be run: tasks and methods as their files say, checked, and the runs of each stage with their folders."""

import itertools
from argparse import ArgumentParser
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import yaml


HERE = Path(__file__).parent
RESULTS = HERE / "results"
CACHE = HERE.parent / "runs" / "comparison"
STAGES = ("grid", "seeds")
START = "start"  # the method that trains nothing
TASK_KEYS = {
    "start", "corpus", "rewards", "budget", "lora", "guides", "learning_rates", "grid_seed", "seeds", "evaluation",
}  # fmt: skip
METHOD_KEYS = {"trainer", "config", "data", "options", "tune", "completions_per_row", "tasks", "says"}
DATA = ("queries", "responses", "best", "pairs")
GUIDE_FIELDS = ("positive_prompt", "negative_prompt", "principle_prompt")


class PlanError(ValueError):
    """What is wrong with a file or a folder, in one line."""


def add_places(parser: ArgumentParser) -> None:
    parser.add_argument("--data", help="folder with the task's files; left out, the hub's datasets")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where runs are kept")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where trained rewards are kept")


def read(folder: str, name: str, keys: set[str], needed: set[str]) -> dict:
    """
    A task's or a method's file.

    Raises:
        PlanError: if it is not there, or has a key that means nothing or lacks one.
    """
    path = HERE / folder / f"{name}.yaml"
    if not path.exists():
        there = ", ".join(sorted(one.stem for one in path.parent.glob("*.yaml")))
        raise PlanError(f"{folder}/{name}.yaml is not there. There are {there}.")
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise PlanError(f"{folder}/{name}.yaml is no mapping of keys.")
    for key in sorted(set(found) - keys):
        raise PlanError(f"{folder}/{name}.yaml: {key!r} is unknown. Use {', '.join(sorted(keys))}.")
    for key in sorted(needed - set(found)):
        raise PlanError(f"{folder}/{name}.yaml lacks {key!r}.")
    return found


def read_task(name: str) -> dict:
    return read("tasks", name, TASK_KEYS, TASK_KEYS) | {"name": name}


def read_method(name: str) -> dict:
    """
    Raises:
        PlanError: also if the trainer's configuration has no such option.
    """
    method = read("methods", name, METHOD_KEYS, {"says"} if name == START else {"says", "trainer", "config"})
    method = {"data": "queries", "options": {}, "tune": {}, "completions_per_row": 1, "tasks": None} | method
    if method["data"] not in DATA:
        raise PlanError(f"methods/{name}.yaml: data {method['data']!r} is unknown. Use one of {', '.join(DATA)}.")
    if name != START:
        known = {field.name for field in fields(load_class(name, method["config"]))}
        load_class(name, method["trainer"])
        for option in itertools.chain(method["options"], method["tune"]):
            if option not in known:
                raise PlanError(f"methods/{name}.yaml: {method['config']} has no option {option!r}.")
    return method | {"name": name}


def load_class(method: str, path: str):
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise PlanError(f"methods/{method}.yaml: {path!r} cannot be imported: {error}") from error


def task_names() -> list[str]:
    return sorted(path.stem for path in (HERE / "tasks").glob("*.yaml"))


def read_methods(task: dict, asked: list[str] | None = None) -> tuple[list[dict], list[str]]:
    """
    The methods that were asked for, or all that fit the task, the start model always first; and a line for each whose
    file is wrong, which is left out.

    Raises:
        PlanError: if one that was asked for has no file.
    """
    names = asked or sorted(path.stem for path in (HERE / "methods").glob("*.yaml"))
    found, faults = [read_method(START)], []
    for name in names:
        if not (HERE / "methods" / f"{name}.yaml").exists():
            read_method(name)  # says what there is
        try:
            method = read_method(name)
        except PlanError as error:
            faults.append(str(error))
            continue
        if name != START and (method["tasks"] is None or task["name"] in method["tasks"]):
            found.append(method)
    return found, faults


def method_names(task: dict, asked: list[str] | None = None) -> list[str]:
    return [method["name"] for method in read_methods(task, asked)[0]]


def settings_of(task: dict, method: dict) -> list[dict]:
    """What is tried for a method: every learning rate of the task with every value of its tuned options."""
    if method["name"] == START:
        return [{}]
    tuned = {"learning_rate": task["learning_rates"]} | method["tune"]
    return [dict(zip(tuned, values, strict=True)) for values in itertools.product(*tuned.values())]


def label(setting: dict) -> str:
    """A setting as the name of a folder."""
    names = {"learning_rate": "lr"}
    parts = [
        f"{names.get(name, name)}{value:g}" if isinstance(value, float) else f"{name}{value}"
        for name, value in setting.items()
    ]
    return "-".join(part.replace("/", "_") for part in parts) or "as-it-is"


def run_of(task: dict, method: dict, setting: dict, stage: str, seed: int) -> dict:
    """Everything that decides a run's numbers, except for the versions of what computes them."""
    part = {key: task[key] for key in ("start", "corpus", "rewards", "budget", "lora", "guides", "evaluation")}
    kept = {key: method[key] for key in method.keys() - {"tune", "says", "tasks", "name"}}
    return {
        "task": task["name"],
        "method": method["name"],
        "stage": stage,
        "seed": seed,
        "setting": setting,
        "task_settings": part,
        "method_settings": kept,
    }


def folder_of(results: Path, run: dict) -> Path:
    name = f"{run['stage']}-{label(run['setting'])}-seed{run['seed']}"
    return Path(results) / run["task"] / run["method"] / name


def grid_runs(task: dict, method: dict) -> list[dict]:
    return [run_of(task, method, setting, "grid", task["grid_seed"]) for setting in settings_of(task, method)]


def seed_runs(task: dict, method: dict, setting: dict) -> list[dict]:
    return [run_of(task, method, setting, "seeds", seed) for seed in task["seeds"]]
