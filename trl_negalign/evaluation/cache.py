"""A cache of tables that are computed batch by batch, on disk, so that stopped work goes on where it was."""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from uuid import uuid4

import pandas as pd
from tqdm.auto import tqdm

from .files import whole_file


logger = logging.getLogger(__name__)


def cached_table(
    folder: Path,
    keys: list[str],
    compute: Callable[[list[int]], Iterable[tuple[list[int], dict[str, list]]]],
    description: str,
) -> pd.DataFrame:
    """
    A table with one row for each key. Rows that `folder` holds are read, the others are computed and written there,
    each batch as one file that appears whole or not at all.

    Args:
        folder (`Path`): made if it is missing. Its name should say everything that the values depend on beside their
            keys, for instance by a [`digest`] of the settings.
        keys (`list[str]`): different for different inputs.
        compute (`Callable`): gets the indices of the keys that are missing, and yields batches: the indices of a batch
            and its columns.
        description (`str`): label of the progress bar.

    Returns:
        `pandas.DataFrame`: the columns, in the order of the keys.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = [part for path in sorted(folder.glob("*.parquet")) if (part := read_part(path)) is not None]
    found = {key for part in parts for key in part["key"]}
    missing = [index for index, key in enumerate(keys) if key not in found]
    with tqdm(total=len(keys), initial=len(keys) - len(missing), desc=description, unit="row") as bar:
        for indices, columns in compute(missing) if missing else ():
            part = pd.DataFrame({"key": [keys[index] for index in indices]} | columns)
            with whole_file(folder / f"{uuid4().hex}.parquet") as path:
                part.to_parquet(path)
            parts.append(part)
            bar.update(len(part))
    return pd.concat(parts).drop_duplicates("key").set_index("key").loc[keys].reset_index(drop=True)


def read_part(path: Path) -> pd.DataFrame | None:
    """Rows of one file; `None`, with a warning, for an empty or broken one, whose rows are computed again."""
    try:
        part = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
    else:
        if "key" in part:
            return part
        reason = "it has no column `key`"
    logger.warning("%s cannot be read (%s): its rows are computed again. Delete the file.", path, reason)
    return None


def by_length(lengths: dict[int, int], batch_size: int) -> list[list[int]]:
    """Batches of indices of like length, the longest first, so that what does not fit in memory shows at once."""
    order = sorted(lengths, key=lambda index: -lengths[index])
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
