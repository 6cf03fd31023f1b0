"""
Which files of a folder this package wrote: all that `--overwrite` removes, and what no run writes over unasked.

A command names what it writes in a manifest in its folder, before the first file: the names that it and the libraries
under it (transformers, TRL, PEFT, accelerate, DeepSpeed) use, so that an interrupted run's files are known too, and
what else was saved, as it comes. Everything else is foreign, links too, and is never removed.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from .version import __version__


MANIFEST = "negalign_files.json"
UNFINISHED = f"{MANIFEST}.tmp"
TRAINER_STATE_NAME = "trainer_state.json"  # written last into a checkpoint
OWN = (MANIFEST, UNFINISHED)

# names as in a shell, and # for a number; a pattern never reaches into another folder
ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "README.md")
MODEL = (
    *ADAPTER,
    *("config.json", "generation_config.json", "training_args.bin"),
    *("model.safetensors", "model-#-of-#.safetensors", "model.safetensors.index.json"),
    *("pytorch_model.bin", "pytorch_model-#-of-#.bin", "pytorch_model.bin.index.json", "pytorch_model_fsdp.bin"),
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "spiece.model", "chat_template.jinja"),
)
CHECKPOINT = (
    *MODEL,
    *("trainer_state.json", "optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt"),
    *("rng_state.pth", "rng_state_#.pth", "group_state.pt", "group_buffer_#.pt"),
    *("latest", "zero_to_fp32.py", "global_step#/*_states.pt"),
    *("pytorch_model_fsdp_#/*.distcp", "pytorch_model_fsdp_#/.metadata"),
    *("optimizer_#/*.distcp", "optimizer_#/.metadata"),
)
HEADS = ("positive", "negative")
SAVED_HEADS = (*(f"{head}/{name}" for head in HEADS for name in ADAPTER), "likra.json")


def inside(folder: str, names: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{folder}/{name}" for name in names)


TRAINING = (
    *MODEL,
    *inside("checkpoint-#", CHECKPOINT),
    *("trainer_state.json", "run_config.json", "warnings.jsonl", "completions/completions_#.parquet"),
    *("report.html", "report-figures/*.png"),
    *("runs/*/events.out.tfevents.*", "runs/*/*/events.out.tfevents.*"),
)
# what one head's training leaves
HEAD_TRAINING = ("README.md", *inside("checkpoint-#", (*CHECKPOINT, *SAVED_HEADS)))
PATTERNS = {
    "training": TRAINING,
    "quickstart": (*TRAINING, "held_out.jsonl", "results.json", "curves.png"),
    "likra": (
        *("settings.json", "settings.unfinished", "results.json", "table.md", "curve.png"),
        *("logps/*/*.parquet", "logps/*/*.unfinished"),
        *(*MODEL, *SAVED_HEADS, *inside("examples-#", SAVED_HEADS)),
        *(f"examples-#/{head}.unfinished/{name}" for head in HEADS for name in ADAPTER),
        *(name for head in HEADS for name in inside(f"training/{head}", HEAD_TRAINING)),
        *("runs/*/events.out.tfevents.*", "training/*/runs/*/events.out.tfevents.*"),
    ),
    "data": (
        *("README.md", "counts.json"),
        *(
            f"{name}/{split}.{ending}"
            for name in ("sft", "preference", "queries", "questions")
            for split in ("train", "test")
            for ending in ("parquet", "jsonl")
        ),
    ),
    "evaluation": (
        *("results.json", "table.md", "win_rates.png", "comparison.json"),
        *("completions.parquet", "judgements.parquet"),
        *("judge.sqlite", "judge.sqlite-*", "cache/*/*.parquet", "cache/*/*.unfinished"),
        *(f"{name}.*.unfinished" for name in ("results.json", "completions.parquet", "judgements.parquet")),
    ),
    "guides": ("guides.json", "guides.html", "samples.parquet", "cache/*/*.parquet", "cache/*/*.unfinished"),
}
# the file, and keys in it, by which a folder without a manifest is known: an older version's, or one from Python
MARKS = {
    "training": ("run_config.json", ("method", "candidates", "versions")),
    "quickstart": ("results.json", ("method", "before", "after", "gain")),
    "likra": ("settings.json", ("base_digest", "template", "examples")),
    "data": ("counts.json", ("task", "sources", "written")),
    "evaluation": ("results.json", ("settings", "data", "models", "environment")),
    "guides": ("guides.json", ("settings", "data", "guides", "environment")),
}
COMMANDS = {
    "training": "a training command",
    "quickstart": "`negalign quickstart`",
    "likra": "`negalign likra`",
    "data": "`negalign data`",
    "evaluation": "`negalign evaluate`",
    "guides": "`negalign guides`",
}


def start(folder: str | os.PathLike, kind: str, anew: bool = False) -> None:
    """
    Put the manifest of what a command of this kind will write into its folder. What an earlier run wrote there is
    removed if this one starts `anew`, and stays listed otherwise.
    """
    folder = Path(folder)
    if anew:
        remove(folder)
    folder.mkdir(parents=True, exist_ok=True)
    there = _read(folder)  # of the run that goes on, perhaps an older version's
    patterns = sorted({*PATTERNS[kind], *there.get("patterns", [])})
    manifest = {"kind": kind, "version": __version__, "patterns": patterns, "files": there.get("files", [])}
    if manifest != there:
        _write(folder, manifest)


def record(folder: str | os.PathLike, paths: Iterable[Path]) -> None:
    """Add files that were just written to the manifest, where no pattern of it names them."""
    folder = Path(folder)
    manifest = _read(folder)
    known, there = _compiled(manifest["patterns"]), {path.relative_to(folder).as_posix() for path in paths}
    earlier = {name for name in manifest["files"] if (folder / name).exists()}
    new = {name for name in there if not known.fullmatch(name)}
    _write(folder, manifest | {"files": sorted(earlier | new)})


def files_of(folder: str | os.PathLike) -> Iterator[Path]:
    """Files of a folder and those below, in order; a link counts as a file and is not followed."""
    for place, folders, names in os.walk(folder):
        folders.sort()
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        yield from (Path(place, name) for name in sorted([*names, *links]))


def kind_of(folder: str | os.PathLike) -> str | None:
    """The kind of command that wrote a folder, `None` if nothing there says that one of this package's did."""
    folder = Path(folder)
    if manifest := _read(folder):
        return manifest["kind"]
    for kind, (name, keys) in MARKS.items():
        if set(keys) <= set(_object(folder / name)):
            return kind
    return None


def first_left(folder: str | os.PathLike, kind: str) -> str | None:
    """The first file of a folder that a command of this kind would write over; `None` if there is none."""
    # what is named by its content is kept as it is
    known = _compiled(pattern for pattern in PATTERNS[kind] if not pattern.startswith(("cache/", "judge.sqlite")))
    names = (path.relative_to(folder).as_posix() for path in files_of(folder))
    return next(filter(known.fullmatch, names), None)


def check_not_written_over(option: str, folder: str | os.PathLike, kind: str) -> None:
    """Raise a `ValueError` if a command would write over a file that no earlier run of its kind wrote."""
    there = kind_of(folder)
    if there != kind and (name := first_left(folder, kind)):
        who = f"which {COMMANDS[there]} wrote" if there else "which is not negalign's"
        raise ValueError(
            f"{option} {str(folder)!r} holds {name}, {who} and this run would write over. Choose another folder."
        )


def check_inputs(option: str, folder: str | os.PathLike, inputs: dict[str, list[str | None]], overwrite: bool) -> None:
    """
    Check that a folder to write to is none of what is read, nor holds any of it where it is to be overwritten.

    Args:
        option (`str`): what the user calls the folder.
        folder (`str`): where the command writes.
        inputs (`dict[str, list[str]]`): what the command reads, by option; only what exists as a file or a folder
            counts, and the base of an adapter counts with it.
        overwrite (`bool`): whether the folder is to be cleared.

    Raises:
        ValueError: if one of them would be lost.
    """
    place = Path(folder).expanduser().resolve()
    for name, values in inputs.items():
        for value in _with_bases(value for value in values if value):
            path = Path(value).expanduser().resolve()
            if path == place:
                raise ValueError(f"{option} {str(folder)!r} is the {name} {value!r}. Choose another folder.")
            if overwrite and place in path.parents:
                raise ValueError(
                    f"--overwrite: {option} {str(folder)!r} holds the {name} {value!r}, which the run reads. Choose "
                    "another folder; nothing was removed."
                )


def check_target(
    option: str, folder: str | os.PathLike, kind: str, inputs: dict[str, list[str | None]], overwrite: bool
) -> None:
    """All of the checks of a folder to write to: [`check_inputs`], [`check_overwrite`], [`check_not_written_over`]."""
    check_inputs(option, folder, inputs, overwrite)
    if overwrite:
        check_overwrite(option, folder, kind)
    check_not_written_over(option, folder, kind)


def check_overwrite(option: str, folder: str | os.PathLike, kind: str) -> None:
    """Raise a `ValueError`, naming the first of them, if a folder to be overwritten holds files of anything else."""
    there = kind_of(folder)
    known = _compiled(_patterns(folder)) if there == kind else None
    for path in files_of(folder):
        name = path.relative_to(folder).as_posix()
        if known and name not in OWN and (path.is_symlink() or not known.fullmatch(name)):
            why = f"which is no file of the run that was there (see {MANIFEST})"
        elif known:
            continue
        elif there:
            why = f"and was written by {COMMANDS[there]}"
        else:
            why = f"and nothing there says that negalign wrote it (no {MANIFEST})"
        raise ValueError(
            f"--overwrite: {option} {str(folder)!r} holds {name}, {why}. Move or remove it yourself, or choose "
            "another folder; nothing was removed."
        )


def remove(folder: str | os.PathLike, patterns: Iterable[str] | None = None) -> None:
    """Remove the files that a folder's manifest names (or that fit `patterns`), and folders that this leaves empty."""
    folder = Path(folder)
    if patterns is None and kind_of(folder) is None:
        return
    known, emptied = _compiled(_patterns(folder) if patterns is None else patterns), set()
    for path in list(files_of(folder)):
        name = path.relative_to(folder)
        if known.fullmatch(name.as_posix()) and not path.is_symlink():
            path.unlink()
            emptied |= set(name.parents) - {Path()}
    for name in sorted(emptied, key=lambda name: -len(name.parts)):
        if not any((folder / name).iterdir()):
            (folder / name).rmdir()
    if patterns is None:
        for name in reversed(OWN):  # last, so that a removal that was interrupted can go on
            (folder / name).unlink(missing_ok=True)


def _patterns(folder: str | os.PathLike) -> list[str]:
    manifest = _read(Path(folder))
    return [*manifest["patterns"], *map(_literal, manifest["files"])] if manifest else list(PATTERNS[kind_of(folder)])


def _literal(name: str) -> str:
    return re.sub(r"[\\*#]", r"\\\g<0>", name)


def _compiled(patterns: Iterable[str]) -> re.Pattern:
    """One expression for many patterns; a backslash takes the next character as it is."""

    def translate(pattern: str) -> str:
        parts = re.findall(r"\\.|\*|#|[^\\*#]+", pattern, flags=re.DOTALL)
        return "".join({"*": "[^/]*", "#": "[0-9]+"}.get(part) or re.escape(part.removeprefix("\\")) for part in parts)

    return re.compile("|".join(map(translate, patterns)) or r"(?!)", flags=re.DOTALL)


def _with_bases(values: Iterable[str]) -> Iterator[str]:
    """What exists of the named things, with the bases that adapters, also those in folders of heads, stand on."""
    for value in values:
        path = Path(value).expanduser()
        if not path.exists():
            continue
        yield value
        for file in [path / "adapter_config.json", *path.glob("*/adapter_config.json")]:
            base = _object(file).get("base_model_name_or_path")
            if base and Path(base).exists():
                yield base


def _read(folder: Path) -> dict:
    manifest = _object(folder / MANIFEST)
    return manifest if {"kind", "patterns", "files"} <= set(manifest) else {}


def _object(path: Path) -> dict:
    """A JSON file's object; an empty one where there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _write(folder: Path, manifest: dict) -> None:
    unfinished = folder / UNFINISHED
    unfinished.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(unfinished, folder / MANIFEST)


def checkpoint_folders(output_dir: str) -> list[str]:
    """The checkpoints of a run, whole or not, by their step, the newest last."""
    steps = {str(path): path.name.rpartition("-")[2] for path in Path(output_dir).glob("checkpoint-*")}
    folders = [path for path, step in steps.items() if step.isdecimal() and os.path.isdir(path)]
    return sorted(folders, key=lambda path: int(steps[path]))


def is_whole(checkpoint: str) -> bool:
    """Whether a checkpoint was written to its end: its trainer state, which is written last, can be read."""
    try:
        with open(os.path.join(checkpoint, TRAINER_STATE_NAME), encoding="utf-8") as file:
            json.load(file)
    except (OSError, ValueError):
        return False
    return True
