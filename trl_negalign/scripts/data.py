"""
The papers' public datasets in TRL's formats: `negalign data hh|imdb|tldr|arc --out DIR` writes DIR/sft, DIR/preference
and DIR/queries (arc: DIR/questions), each with a train and a test split, and DIR/counts.json, which accounts for every
row. `load_dataset(DIR, "preference")`, or `--dataset_name DIR --dataset_config preference` in TRL, reads one of them.
"""

import glob
from argparse import Namespace
from dataclasses import asdict, dataclass, field
from pathlib import Path


LISTED = 20
TASKS = {
    "hh": "dialogues with a chosen and a rejected answer",
    "imdb": "openings of reviews, and pairs of a positive and a negative review",
    "tldr": "posts to summarize, and pairs of summaries",
    "arc": "multiple-choice questions",
}


@dataclass
class DataArguments:
    """Options of `negalign data`."""

    out: str = field(metadata={"help": "Folder for the datasets. It appears whole or not at all."})
    source: str | None = field(
        default=None,
        metadata={
            "help": "Hub id; or a folder as the hub has it; or a file; or P for P_train.jsonl.gz and P_test.jsonl.gz "
            "(also .jsonl, .json, .json.gz, .parquet). Left out, the official hub id."
        },
    )
    preference_source: str | None = field(default=None, metadata={"help": "tldr: the same for its preference pairs."})
    subset: str | None = field(
        default=None, metadata={"help": "Part of the source, e.g. 'harmless-base' (hh) or 'ARC-Easy' (arc)."}
    )
    prefix_words: int | None = field(default=None, metadata={"help": "imdb: words of a query. Left out, 8."})
    pair_words: int | None = field(
        default=None, metadata={"help": "imdb: first words of a review that a preference pair keeps. Left out, all."}
    )
    test_share: float | None = field(
        default=None, metadata={"help": "Share of the queries to cut from train where the source has no test split."}
    )
    max_query_tokens: int | None = field(
        default=None, metadata={"help": "Drop rows with a longer query (arc: question without choices)."}
    )
    tokenizer: str | None = field(default=None, metadata={"help": "Model id or path whose tokenizer counts."})
    limit: int | None = field(default=None, metadata={"help": "Keep a random sample of so many rows of each split."})
    skip_bad: bool = field(default=False, metadata={"help": "Leave malformed rows out; the official HH has some."})
    format: str = field(default="parquet", metadata={"help": "'parquet' or 'jsonl'.", "choices": ["parquet", "jsonl"]})
    overwrite: bool = field(default=False, metadata={"help": "Replace the dataset that --out holds."})
    seed: int = field(default=42, metadata={"help": "Of the sample, of the cut test split and of imdb's pairs."})


def make_parser(prog: str | None = None):
    from transformers import HfArgumentParser

    parser = HfArgumentParser(DataArguments, prog=prog, description=__doc__)
    tasks = "; ".join(f"{name}: {text}" for name, text in TASKS.items())
    parser.add_argument("task", choices=TASKS, metavar="|".join(TASKS), help=tasks)
    return parser


def main(args: DataArguments, positional: Namespace) -> None:
    from trl_negalign import folders, phase
    from trl_negalign.data import convert
    from trl_negalign.masking import masked

    task = positional.task
    check_options(args, task)
    out = Path(args.out).resolve()
    places = [args.source, args.preference_source]
    sources = [name for place in places if place for name in (place, *glob.glob(f"{glob.escape(place)}_*"))]
    convert.check_out(out, args.overwrite)
    folders.check_target("--out", out, "data", {"source": sources, "tokenizer": [args.tokenizer]}, args.overwrite)
    tokenizer = convert.load_tokenizer(args.tokenizer, task == "hh") if args.tokenizer else None

    loaded = []
    for source in convert.sources(args.prefix_words or 8, args.seed, args.pair_words)[task]:
        place = getattr(args, source.option) or source.place
        splits = convert.load_splits(place, source, args.subset)
        loaded.append((source, place, splits, convert.choose_splits(splits, place, source, args.test_share)))
    if args.test_share and all("test" in names for *_, names in loaded):
        raise ValueError(f"--test_share {args.test_share}: the source has a test split. Leave the option out.")
    parsed = [
        {name: convert.parse_split(splits[split], source, f"{place}, split {split}") for name, split in names.items()}
        for source, place, splits, names in loaded
    ]
    malformed = list_malformed([split for splits in parsed for split in splits.values()])
    if malformed and not args.skip_bad:
        raise ValueError(f"{len(malformed)} malformed rows. Repair them, or leave them out with --skip-bad.")

    datasets = {}
    counts = {"task": task, "options": asdict(args), "sources": [], "written": {}, "malformed": malformed}
    for (source, place, splits, names), sifted in zip(loaded, parsed, strict=True):
        if tokenizer:
            for split in sifted.values():
                convert.drop_long_queries(split, source.query, tokenizer, args.max_query_tokens)
        if "test" not in sifted:
            sifted["test"] = convert.cut_test(sifted["train"], source.query, args.test_share, args.seed)
        for name, split in sifted.items():
            if args.limit:
                convert.sample_rows(split, args.limit, args.seed)
            show(name, split.counts())
            for dataset, rows in source.datasets(split.rows).items():
                datasets.setdefault(dataset, {})[name] = rows
        unused = [name for name in splits if name not in names.values()]
        split_counts = {name: split.counts() for name, split in sifted.items()}
        shared = {"test_rows_with_query_in_train": convert.count_shared(sifted, source.query)}
        counts["sources"].append({"source": place, "splits": split_counts, "unused_splits": unused} | shared)
        if unused:
            print(f"{place}: not used: {', '.join(unused)}")
    counts["written"] = {name: {split: len(rows) for split, rows in both.items()} for name, both in datasets.items()}
    phase.begin_work()
    convert.write(out, datasets, args.format, masked(counts))
    folders.start(out, "data")
    print(f"In {args.out}: {convert.COUNTS},")
    for name, rows in counts["written"].items():
        print(f"  {name}: {rows['train']} rows to train, {rows['test']} to test")


def check_options(args: DataArguments, task: str) -> None:
    for name in ("prefix_words", "pair_words", "max_query_tokens", "limit"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} {value} must be 1 or more.")
    if args.test_share is not None and not 0 < args.test_share < 1:
        raise ValueError(f"--test_share {args.test_share} must lie between 0 and 1.")
    for name, owner in (("prefix_words", "imdb"), ("pair_words", "imdb"), ("preference_source", "tldr")):
        if getattr(args, name) is not None and task != owner:
            raise ValueError(f"--{name} {getattr(args, name)} is for {owner}, not for {task}. Leave it out.")
    if (args.tokenizer is None) != (args.max_query_tokens is None):
        raise ValueError(
            f"--max_query_tokens {args.max_query_tokens} and --tokenizer {args.tokenizer} need each other: "
            "give both or neither."
        )


def list_malformed(splits: list) -> list[dict]:
    """Print the first malformed rows and return all of them."""
    rows = [{"from": split.origin, "row": row, "reason": why} for split in splits for row, why in split.malformed]
    for row in rows[:LISTED]:
        print(f"{row['from']}, row {row['row']}: {row['reason']}")
    if len(rows) > LISTED:
        print(f"… and {len(rows) - LISTED} more malformed rows")
    return rows


def show(name: str, counts: dict) -> None:
    """Print a split's table; a split of which nothing is left raises `ValueError`."""
    print(f"{name} ({counts['from']})\n{counts['rows']:>9} rows\n{counts['kept']:>9} kept")
    for reason, rows in counts["dropped"].items():
        print(f"{rows:>9} dropped: {reason}")
    if not counts["kept"]:
        raise ValueError(f"{counts['from']}: no row is left for {name}; nothing was written.")


def run(options: list[str]) -> None:
    main(*make_parser("negalign data").parse_args_into_dataclasses(options))
