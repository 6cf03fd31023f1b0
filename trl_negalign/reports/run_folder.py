"""What a finished or still running training has left in its folder: logs, settings, warnings and samples."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from ..folders import TRAINER_STATE_NAME as STATE_NAME
from ..folders import checkpoint_folders
from ..masking import masked
from ..methods.table import GROUP_METHODS, find
from .run_config import RUN_CONFIG_NAME
from .samples import Sample, completion_files, read_sample, reward_by_kind


WARNINGS_NAME = "warnings.jsonl"
# completion tables that are read for the reward's curve where the run has no log yet
TABLES_FOR_A_CURVE = 200


@dataclass
class Run:
    """
    A run, as far as its folder tells.

    Args:
        name (`str`): short name for labels, unique among the runs of a report.
        folder (`Path`): where it was read from.
        logs (`list[dict]`): the trainer's log history, one dictionary a log, with `step`.
        step (`int`): the last step that is known.
        max_steps (`int`, *optional*): steps of the whole run.
        finished (`bool`): whether the training came to its end.
        written (`datetime`, *optional*): when the newest log or table was written.
        config (`dict[str, object]`): settings by dotted name; empty where the folder has no readable ones.
        warnings (`list[dict]`): warnings of the training, each with `step`, `name`, `message` and `advice`.
        sample (`Sample`): groups to look at.
        notes (`list[str]`): what is missing or cannot be read, in sentences.
    """

    name: str
    folder: Path
    logs: list[dict] = field(default_factory=list)
    step: int = 0
    max_steps: int | None = None
    finished: bool = False
    written: datetime | None = None
    config: dict[str, object] = field(default_factory=dict)
    warnings: list[dict] = field(default_factory=list)
    sample: Sample = field(default_factory=Sample)
    notes: list[str] = field(default_factory=list)

    @property
    def method(self) -> str:
        """The method's name by the settings, or else by its metrics; empty where nothing tells."""
        if name := str(self.config.get("method", "")):
            return known.name if (known := find(name)) else name
        logged = {key.partition("/")[0] for log in self.logs for key in log}
        return next((method.name for method in GROUP_METHODS if method.prefix in logged), "")

    @property
    def state(self) -> str:
        """How far the run is, in words."""
        if self.max_steps is None:
            return f"step {self.step}, no checkpoint yet"
        of = f"step {self.step} of {self.max_steps}"
        return f"{of}, finished" if self.finished else f"{of}, not finished"


def read_run(folder: str | Path, *, steps: int = 20, groups: int = 5) -> Run:
    """
    Read a run's folder. A file that is missing, or cut off because the run is just writing it, is noted and left out.

    Args:
        folder (`str` or `Path`): the run's `output_dir`.
        steps (`int`): how many logged steps to take groups from, spread evenly over the run.
        groups (`int`): how many groups of each of these steps.

    Raises:
        ValueError: if the folder does not exist or holds nothing of a run.
    """
    run = Run(Path(folder).resolve().name, Path(folder))
    if not run.folder.is_dir():
        raise ValueError(f"RUN_DIR {str(folder)!r} is no folder. Name the output_dir of a training run.")
    state_file = read_state(run)
    files = completion_files(run.folder, run.notes)
    if state_file is None and not files:
        found = f" {' '.join(run.notes)}" if run.notes else ""
        raise ValueError(
            f"RUN_DIR {str(folder)!r} holds no run: neither {STATE_NAME}, its own or a checkpoint's, nor "
            f"completions/*.parquet can be read.{found} Name the output_dir of a run; one that has just begun leaves "
            "the first of these at its first log with log_completions=True, or at its first checkpoint."
        )
    read_config(run)
    read_warnings(run)
    run.sample = read_sample(files, steps, groups, run.logs, run.config, run.notes)
    if not run.logs:
        logged = reward_by_kind(files, TABLES_FOR_A_CURVE, run.config, run.notes)
        run.logs = [
            {"step": step} | {f"reward/{kind}": mean for kind, mean in means.items()} for step, means in logged
        ]
        run.notes.append(
            f"There is no readable {STATE_NAME} yet, so the only curve is the reward of the logged samples. The "
            "trainer writes one with each checkpoint (save_strategy, save_steps) and by save_state() at the end."
        )
    elif files and files[-1].step > run.step:
        run.notes.append(
            f"The curves end at step {run.step}, with the newest readable {STATE_NAME}; the samples go on to step "
            f"{files[-1].step}."
        )
    run.step = max([run.step, *(file.step for file in files)])
    newest = [path.stat().st_mtime for path in (state_file, *(file.path for file in files[-1:])) if path]
    run.written = datetime.fromtimestamp(max(newest))
    return run


def read_state(run: Run) -> Path | None:
    """Take up the newest trainer state that can be read, the run's own or a checkpoint's; its path."""
    own = run.folder / STATE_NAME
    newest, chosen = None, None
    for path in [own, *(Path(folder, STATE_NAME) for folder in reversed(checkpoint_folders(str(run.folder))))]:
        state = read_json(path, run.notes)
        if state is None:
            continue
        if newest is None or state.get("global_step", 0) > newest.get("global_step", 0):
            newest, chosen = state, path
        if path != own:
            break
    if newest is None:
        return None
    run.logs = [log for log in newest.get("log_history", []) if isinstance(log, dict) and "step" in log]
    run.step, run.max_steps = newest.get("global_step", 0), newest.get("max_steps")
    ended = any("train_runtime" in log and log["step"] == run.step for log in run.logs)
    run.finished = ended or run.step == run.max_steps
    return chosen


def read_json(path: Path, notes: list[str]) -> dict | None:
    """A JSON file's object; `None` where there is no such file, and with a note where it cannot be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        notes.append(f"{shown_path(path)} cannot be read and was left out: {error}.")
        return None
    if not isinstance(value, dict):
        notes.append(f"{shown_path(path)} holds no JSON object and was left out.")
        return None
    return value


def shown_path(path: Path) -> str:
    """A file by its name, and its checkpoint's."""
    return f"{path.parent.name}/{path.name}" if path.parent.name.startswith("checkpoint-") else path.name


def read_config(run: Run) -> None:
    settings = read_json(run.folder / RUN_CONFIG_NAME, run.notes)
    if settings is not None:
        run.config = flatten(masked(settings))  # an older version masked less
    elif not (run.folder / RUN_CONFIG_NAME).exists():
        run.notes.append(
            f"There is no {RUN_CONFIG_NAME}, so the run's settings are not known. (training_args.bin is a pickle, "
            "which can run code, and is not opened.)"
        )


def flatten(settings: dict, prefix: str = "") -> dict[str, object]:
    """Nested settings by dotted name; an empty mapping stays one value."""
    flat = {}
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def read_warnings(run: Run) -> None:
    path = run.folder / WARNINGS_NAME
    if not path.is_file():
        return
    unreadable = 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            warning = json.loads(line)
        except ValueError:
            unreadable += bool(line.strip())
            continue
        if isinstance(warning, dict):
            run.warnings.append({name: warning.get(name) for name in ("step", "name", "message", "advice")})
        else:
            unreadable += 1
    if unreadable:
        run.notes.append(f"{WARNINGS_NAME} has {unreadable} line(s) that cannot be read.")


def name_apart(runs: Sequence[Run]) -> None:
    """Give every run the shortest end of its path that no other run shares; the same folder twice is numbered."""
    paths = [run.folder.resolve().parts for run in runs]
    for run, parts in zip(runs, paths, strict=True):
        for length in range(1, len(parts) + 1):
            run.name = "/".join(parts[-length:])
            if sum(other[-length:] == parts[-length:] for other in paths) == 1:
                break
    for run in runs:
        twins = [other for other in runs if other.name == run.name]
        for number, twin in enumerate(twins[1:], start=2):
            twin.name = f"{twin.name} ({number})"
