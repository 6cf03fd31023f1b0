"""From a source's splits to a folder of datasets: reading, sifting, counting and writing."""

import hashlib
import json
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ..hub import refused, why_not
from . import BadRow, UnfitRow, arc, hh, imdb, tldr
from .loading import READERS, fault_of, reader_of


COUNTS = "counts.json"
SPLITS = ("train", "validation", "test")
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


@dataclass(frozen=True)
class Source:
    """
    Where rows come from and what becomes of them.

    Args:
        option (`str`): the command's option that names another place.
        place (`str`): the official hub id.
        columns (`tuple[str, ...]`): columns that must be there; `"a or b"` for either.
        parse (`Callable`): a row of the source to a sound row; raises `BadRow` or `UnfitRow`.
        datasets (`Callable`): the sound rows of a split to the rows of each dataset, by name.
        query (`str`): column of the sound rows that holds the query.
        subset (`str`, *optional*): the subset that is read unless another is asked for.
        subset_is_folder (`bool`): the hub keeps subsets as folders, not as configurations.
        held_out (`tuple[str, ...]`): splits that may serve as the test split; the first there is does.
    """

    option: str
    place: str
    columns: tuple[str, ...]
    parse: Callable[[dict], dict]
    datasets: Callable[[list[dict]], dict[str, list[dict]]]
    query: str = "prompt"
    subset: str | None = None
    subset_is_folder: bool = False
    held_out: tuple[str, ...] = ("test",)


def sources(prefix_words: int, seed: int, pair_words: int | None = None) -> dict[str, list[Source]]:
    """The sources of every task, with their official ids."""
    reviews = (
        partial(imdb.parse, prefix_words=prefix_words),
        partial(imdb.datasets, seed=seed, pair_words=pair_words),
    )
    pairs = (tldr.PREFERENCE_SOURCE, tldr.PREFERENCE_COLUMNS, tldr.parse_preference, tldr.preference_datasets)
    return {
        "hh": [Source("source", hh.SOURCE, hh.COLUMNS, hh.parse, hh.datasets, subset_is_folder=True)],
        "imdb": [Source("source", imdb.SOURCE, imdb.COLUMNS, *reviews)],
        "tldr": [
            Source("source", tldr.SOURCE, tldr.COLUMNS, tldr.parse, tldr.datasets),
            # the official pairs are split into train and validation
            Source("preference_source", *pairs, held_out=("test", "validation")),
        ],
        "arc": [Source("source", arc.SOURCE, arc.COLUMNS, arc.parse, arc.datasets, "question", arc.SUBSET)],
    }


@dataclass
class Split:
    """A split on its way: each of its `total` rows is among `rows` or `malformed`, or counted in `dropped`."""

    origin: str
    total: int = 0
    rows: list[dict] = field(default_factory=list)
    dropped: Counter = field(default_factory=Counter)
    malformed: list[tuple[int, str]] = field(default_factory=list)

    def counts(self) -> dict:
        """`{"from", "rows", "kept", "dropped": {reason: rows}}`, where rows = kept + the sum of dropped."""
        dropped = Counter(f"malformed: {reason}" for _, reason in self.malformed) + self.dropped
        return {"from": self.origin, "rows": self.total, "kept": len(self.rows), "dropped": dict(dropped)}


def load_splits(place: str, source: Source, subset: str | None = None) -> dict:
    """
    Read every split of a source.

    Args:
        place (`str`): a hub id, a folder as the hub has it, a file (its rows are the train split), or how files' names
            begin: `P` for `P_train.jsonl.gz` and `P_test.jsonl.gz`.
        source (`Source`): what to expect there.
        subset (`str`, *optional*): a folder or configuration of the source.

    Returns:
        A `datasets.Dataset` for each split's name.

    Raises:
        OSError: if nothing is there, or it cannot be read.
        ValueError: if the subset or a column is not there.
    """
    path = Path(place).expanduser()
    files = {} if path.is_dir() else _files(path)
    if subset and files:
        raise ValueError(f"--subset {subset}: {place} is a file. Only a folder or a hub id has subsets.")
    if not files and not path.is_dir() and not HUB_ID.fullmatch(place):
        raise FileNotFoundError(
            f"--{source.option} {place}: no such file or folder, no {place}_train.* with an ending out of "
            f"{', '.join(READERS)}, and it cannot be a hub id such as {source.place}."
        )
    folder = _subset_folder(path, source, subset) if path.is_dir() else None
    try:
        splits = _load(place, files, folder, source, subset or source.subset)
    except Exception as error:  # StopIteration and EOFError are among what broken files raise
        raise OSError(_unreadable(place, files, folder, source, error)) from error
    for split, dataset in splits.items():
        for column in source.columns:
            if not set(column.split(" or ")) & set(dataset.column_names):
                raise ValueError(
                    f"--{source.option} {place} has no column {column} in its split {split}, only "
                    f"{', '.join(dataset.column_names)}. Give a source with the columns of {source.place}."
                )
    return splits


def _load(place: str, files: dict[str, Path], folder: Path | None, source: Source, subset: str | None) -> dict:
    from datasets import load_dataset

    if files:  # one by one: their columns need not agree
        return {
            split: load_dataset(reader_of(path), data_files=str(path), split="train") for split, path in files.items()
        }
    if folder:
        return load_dataset(str(folder))
    if source.subset_is_folder:
        return load_dataset(place, data_dir=subset)
    return load_dataset(place, subset)


def _files(path: Path) -> dict[str, Path]:
    """The file of each split: `path` itself for train, or those whose names it begins."""
    if path.is_file():
        if not reader_of(path):
            raise ValueError(f"{path} is of no known kind. Give a file with an ending out of {', '.join(READERS)}.")
        return {"train": path}
    files = {}
    for split in SPLITS:
        found = [name for ending in READERS if (name := path.with_name(f"{path.name}_{split}{ending}")).is_file()]
        if len(found) > 1:
            raise ValueError(f"{path} is ambiguous: {' and '.join(map(str, found))} are there. Give a folder of one.")
        if found:
            files[split] = found[0]
    return files


def _subset_folder(folder: Path, source: Source, subset: str | None) -> Path:
    if subset and not (folder / subset).is_dir():
        names = ", ".join(sorted(child.name for child in folder.iterdir() if child.is_dir())) or "none"
        raise ValueError(f"--subset {subset} is no folder in {folder}; its folders: {names}.")
    wanted = folder / (subset or source.subset or "")
    return wanted if wanted.is_dir() else folder


def _unreadable(place: str, files: dict[str, Path], folder: Path | None, source: Source, error: Exception) -> str:
    cause = " ".join(str(error.__cause__ or error).split()) or type(error).__name__
    if not files and not folder:
        if reason := refused(place, error):
            return f"--{source.option} {place}: {reason}"
        return (
            f"--{source.option} {place}: {cause}. Nothing of that name is here either: no file, no folder, "
            f"no {place}_train.*. Give the place of a copy of {source.place}."
        )
    paths = [*files.values(), *(sorted(folder.rglob("*")) if folder else [])]
    broken = next(filter(None, map(fault_of, paths)), None)
    return f"--{source.option} {place} cannot be read: {broken or cause}. Repair or replace it."


def choose_splits(splits: dict, place: str, source: Source, test_share: float | None) -> dict[str, str]:
    """
    Which splits of a source become train and test: `{"train": name}`, with `"test"` where the source has one.

    Raises:
        ValueError: if train is missing, or test is and no share of train is to be cut.
    """
    there = f"--{source.option} {place} has no split %s, only {', '.join(splits)}. "
    if "train" not in splits:
        raise ValueError(there % "train" + "Choose another source, or give the rows to cut up as a file.")
    test = next((name for name in source.held_out if name in splits), None)
    if test is None and test_share is None:
        raise ValueError(there % " or ".join(source.held_out) + "--test_share 0.1 cuts one from train.")
    return {"train": "train"} if test is None else {"train": "train", "test": test}


def parse_split(dataset, source: Source, origin: str) -> Split:
    """Parse every row of a `datasets.Dataset`. Rows count from 1."""
    from tqdm.auto import tqdm

    split = Split(origin)
    for split.total, row in enumerate(tqdm(dataset, desc=origin, disable=None), 1):
        try:
            split.rows.append(source.parse(row))
        except BadRow as error:
            split.malformed.append((split.total, str(error)))
        except UnfitRow as error:
            split.dropped[str(error)] += 1
    return split


def load_tokenizer(name: str, for_dialogues: bool):
    """The tokenizer of a model; raises `OSError` if there is none, `ValueError` if dialogues lack a chat template."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = why_not(name, error)
        raise OSError(f"--tokenizer {name} cannot be loaded: {reason} Give a model id or path.") from error
    if for_dialogues and tokenizer.chat_template is None:
        raise ValueError(f"--tokenizer {name} has no chat template, which dialogues need. Choose a chat model's.")
    return tokenizer


def drop_long_queries(split: Split, query: str, tokenizer, max_tokens: int) -> None:
    """
    Drop rows whose query is over `max_tokens` tokens; messages count with chat template and generation prompt.

    Raises:
        ValueError: if the chat template refuses a query.
    """
    from jinja2 import TemplateError
    from tqdm.auto import tqdm

    from ..borders import query_ids

    progress = tqdm(split.rows, desc=f"{split.origin}: tokens", disable=None)
    try:
        rows = [row for row in progress if len(query_ids(tokenizer, row[query])) <= max_tokens]
    except TemplateError as error:
        raise ValueError(f"--tokenizer: its chat template refuses a query ({error}). Choose another.") from error
    split.dropped[f"query over {max_tokens} tokens"] += len(split.rows) - len(rows)
    split.rows = rows


def cut_test(train: Split, query: str, share: float, seed: int) -> Split:
    """
    Move a seeded share of the queries, each with all its rows, from train to a new test split.

    Raises:
        ValueError: if train or test would be empty.
    """
    keys = [json.dumps(row[query]) for row in train.rows]
    queries = list(dict.fromkeys(keys))
    count = round(share * len(queries))
    if not 0 < count < len(queries):
        raise ValueError(f"--test_share {share} of {len(queries)} queries leaves train or test empty. Choose another.")
    chosen = set(random.Random(seed).sample(queries, count))
    moved = [row for row, key in zip(train.rows, keys, strict=True) if key in chosen]
    train.rows = [row for row, key in zip(train.rows, keys, strict=True) if key not in chosen]
    train.dropped["moved to test"] += len(moved)
    return Split(f"{train.origin}, {share:g} of its queries", len(moved), moved)


def count_shared(splits: dict[str, Split], query: str) -> int:
    """How many rows to test have a query that train has too, said aloud: a policy may know the answers by heart."""
    trained = {json.dumps(row[query]) for row in splits["train"].rows}
    shared = sum(json.dumps(row[query]) in trained for row in splits["test"].rows)
    if shared:
        print(f"{shared} of {len(splits['test'].rows)} rows to test have a query that stands in train too")  # noqa: T201
    return shared


def sample_rows(split: Split, limit: int, seed: int) -> None:
    """Keep a seeded sample of `limit` rows, in their order; the first rows may all be of one label or subset."""
    over = len(split.rows) - limit
    if over > 0:
        kept = sorted(random.Random(seed).sample(range(len(split.rows)), limit))
        split.rows = [split.rows[i] for i in kept]
        split.dropped["over the limit"] += over


def check_out(out: Path, overwrite: bool) -> None:
    """Raise `ValueError` unless `out` is new, empty, or a dataset of this command that may be replaced."""
    if out.is_file():
        raise ValueError(f"--out {out} is a file. Choose a folder.")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not (out / COUNTS).is_file():
        raise ValueError(f"--out {out} holds files of something else. Choose another folder.")
    if not overwrite:
        raise ValueError(f"--out {out} holds a dataset. Choose another folder, or replace it with --overwrite.")


def write(out: Path, datasets: dict[str, dict[str, list[dict]]], file_format: str, counts: dict) -> None:
    """
    Write `{name: {split: rows}}` as `out/name/split.parquet` or `.jsonl`, a dataset card and `counts.json`: all of it,
    or, if that is interrupted, nothing. A folder that is there is replaced.
    """
    from datasets import Dataset

    new, old = (out.with_name(f".{out.name}.{state}") for state in ("partial", "old"))
    shutil.rmtree(new, ignore_errors=True)
    try:
        for name, splits in datasets.items():
            (new / name).mkdir(parents=True)
            for split, rows in splits.items():
                dataset, path = Dataset.from_list(rows), str(new / name / f"{split}.{file_format}")
                if file_format == "parquet":
                    dataset.to_parquet(path)
                else:
                    dataset.to_json(path, force_ascii=False)
        (new / "README.md").write_text(_card(datasets, file_format, _digest(new)), encoding="utf-8")
        (new / COUNTS).write_text(json.dumps(counts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        if out.exists():
            shutil.rmtree(old, ignore_errors=True)
            out.rename(old)
        new.rename(out)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        if old.exists() and not out.exists():
            old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _digest(folder: Path) -> str:
    """A short digest of all files in a folder."""
    content = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content.update(path.read_bytes())
    return content.hexdigest()[:16]


def _card(datasets: dict[str, dict[str, list[dict]]], file_format: str, digest: str) -> str:
    """
    The dataset card from which `load_dataset(folder, name)` knows the files of a name.

    The digest is for `datasets`, which caches a local folder by its last name and its card alone: without it, another
    task's folder of the same name, or what a folder held before, would be read instead.
    """
    import yaml

    configs = [
        {
            "config_name": name,
            "data_files": [{"split": split, "path": f"{name}/{split}.{file_format}"} for split in splits],
            "default": name in ("queries", "questions"),
            "description": f"content {digest}",
        }
        for name, splits in datasets.items()
    ]
    return f"---\n{yaml.safe_dump({'configs': configs}, sort_keys=False)}---\n\nWritten by `negalign data`.\n"
