"""A dataset by its name: a folder, a file or a hub id, as its splits."""

import gzip
import json
from pathlib import Path
from tempfile import TemporaryDirectory

from datasets import Dataset, load_dataset

from ..hub import refused


READERS = {".parquet": "parquet", ".jsonl": "json", ".jsonl.gz": "json", ".json": "json", ".json.gz": "json"}
TEXTS = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".txt")


def reader_of(path: Path) -> str | None:
    """What `datasets` calls the reader of such files, `None` if it is of no known kind."""
    return next((reader for ending, reader in READERS.items() if path.name.endswith(ending)), None)


def fault_of(path: Path) -> str | None:
    """What is wrong with a file of data, with its line where it has lines; `None` if nothing is that can be seen."""
    if path.is_file() and path.stat().st_size == 0:
        return f"{path} is empty"
    if not path.name.endswith(TEXTS):
        return None
    by_line, number = ".jsonl" in path.suffixes, 0
    try:
        with opened(path) as lines:
            for number, line in enumerate(lines, 1):
                text = line.decode("utf-8")
                if by_line and text.strip() and not isinstance(json.loads(text), dict):
                    return f"{path}, line {number} is no JSON object"
    except UnicodeDecodeError as error:
        return f"{path}, line {number} is no UTF-8 text: {error.reason} at byte {error.start + 1}. Save it as UTF-8"
    except json.JSONDecodeError as error:
        return f"{path}, line {number}: {error.msg.removesuffix(' at')} at column {error.colno}"
    except (OSError, EOFError) as error:
        return f"{path}, after line {number}: {error}"
    return None if number else f"{path} is empty"


def opened(path: Path):
    return (gzip.open if path.suffix == ".gz" else open)(path, "rb")


def files_in(path: Path) -> list[Path]:
    return sorted(path.rglob("*")) if path.is_dir() else [path]


def faults(path: Path) -> str | None:
    """The first fault among a folder's files, or a file's own."""
    return next(filter(None, map(fault_of, files_in(path))), None)


def undecodable(path: Path) -> str | None:
    """The first text that is no UTF-8, which `datasets` may notice only when the row is used."""
    for file in files_in(path):
        if not file.name.endswith(TEXTS) or not file.is_file():
            continue
        try:
            with opened(file) as lines:
                for line in lines:
                    line.decode("utf-8")
        except UnicodeDecodeError:
            return fault_of(file)
        except (OSError, EOFError):  # the loader's to tell
            continue
    return None


def read_splits(name: str, field: str, config: str | None = None, split_of_file: str = "train") -> dict[str, Dataset]:
    """
    A dataset's splits. What is local is read as it is now: the cache of `datasets` takes folders of one name with the
    same card for one.

    Args:
        name (`str`): a folder, a hub id, or a file with an ending out of [`READERS`].
        field (`str`): the option that names it, for the messages.
        config (`str`, *optional*): the dataset's configuration; a file has none.
        split_of_file (`str`): the split that a file's rows are.

    Raises:
        ValueError: if it is not there or cannot be read.
    """
    path = Path(name).expanduser()
    # a hub id is `owner/name` or `name`
    is_path = name.startswith((".", "/", "~")) or name.count("/") > 1 or name.endswith(tuple(READERS))
    if is_path and not path.exists():
        raise ValueError(f"{field} {name!r} does not exist. Make it with `negalign data`, or name another.")
    if fault := undecodable(path):
        raise ValueError(f"{field} {name!r} cannot be loaded: {fault}")
    try:
        if not path.exists():
            return dict(load_dataset(name, config))
        with TemporaryDirectory() as cache:
            fresh = {"cache_dir": cache, "keep_in_memory": True}
            if path.is_dir():
                return dict(load_dataset(str(path), config, **fresh))
            reader = reader_of(path)
            if reader is None:
                raise ValueError(f"it is of no known kind. Give a folder, or a file out of {', '.join(READERS)}.")
            return dict(load_dataset(reader, data_files={split_of_file: str(path)}, **fresh))
    except Exception as error:  # a broken file raises what its reader raises
        fault = faults(path) if path.exists() else refused(name, error)
        raise ValueError(f"{field} {name!r} cannot be loaded: {fault or ' '.join(str(error).split())}") from error
