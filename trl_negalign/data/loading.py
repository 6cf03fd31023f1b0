"""A dataset by its name: a folder, a file or a hub id, as its splits."""

from pathlib import Path
from tempfile import TemporaryDirectory

from datasets import Dataset, load_dataset


READERS = {".parquet": "parquet", ".jsonl": "json", ".jsonl.gz": "json", ".json": "json", ".json.gz": "json"}


def reader_of(path: Path) -> str | None:
    """What `datasets` calls the reader of such files, `None` if it is of no known kind."""
    return next((reader for ending, reader in READERS.items() if path.name.endswith(ending)), None)


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
        raise ValueError(f"{field} {name!r} cannot be loaded: {' '.join(str(error).split())}") from error
