"""The files of an evaluation's folder: their names, writing them whole, and reading the results."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


RESULTS, COMPLETIONS, JUDGEMENTS, CACHE = "results.json", "completions.parquet", "judgements.parquet", "cache"


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """
    A file beside `path` to write to, which takes its place when the block ends: who reads `path` finds what was there
    before or all of the new, and after an error what was there before.
    """
    unfinished = path.with_name(f"{path.name}.{uuid4().hex}.unfinished")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a text as [`whole_file`] does."""
    with whole_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def read_results(path: str | Path) -> tuple[dict, Path]:
    """
    An evaluation's results and its folder.

    Args:
        path (`str` or `Path`): a `results.json`, or the folder that holds one.

    Raises:
        ValueError: if there is none, or it is no evaluation's.
    """
    path = Path(path)
    file = path / RESULTS if path.is_dir() else path
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} holds no results of an evaluation: {error}") from error
    if not isinstance(results, dict) or "reward_differences" not in results:
        raise ValueError(f"{file} was not written by `negalign evaluate`. Name a results.json that was.")
    return results, file.parent
