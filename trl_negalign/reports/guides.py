"""What `negalign guides` shows: its tables in the terminal, and one page with the samples side by side."""

import json
from collections.abc import Sequence
from datetime import datetime
from importlib.resources import files
from pathlib import Path

import pandas as pd

from ..evaluation.guide_advice import AGAINST, WORKS
from ..version import __version__
from .page import cut, page_template, visible, write_page
from .samples import as_text


# column, key of the numbers, digits, sign
COLUMNS = (
    ("reward", "reward", 3, False),
    ("− plain", "difference", 3, True),
    ("d", "effect", 2, True),
    ("wins", "wins", 2, False),
    ("ties", "ties", 2, False),
    ("nats/token", "distance", 2, False),
    ("tokens", "tokens", 1, False),
    ("cut off", "truncated", 2, False),
    ("repeats", "repeated", 3, False),
    ("copies", "copied", 3, False),
    ("(plain)", "copied_by_plain", 3, False),
)
GROUP_HEADER = ["group", "placement", "best − worst", "− that of plain", "rewards differ", "best − plain mean"]
GROUP_HEADER += ["nats/token", ""]
# of the columns, those that a terminal has no room for
PAGE_ONLY = ("ties", "truncated", "copied_by_plain", "− that of plain", "best − plain mean")
# of the tables in a terminal that is narrower, or none
WIDTH = 120
PLAIN_KEYS = ("reward", "tokens", "truncated", "repeated")


def number(found: dict | None, digits: int, sign: bool = False, whole: bool = True) -> str:
    """A number of `guides.json`, with its interval where it is wanted whole; a dash where there is none."""
    if found is None or found["value"] is None:
        return "–"
    style = f"{'+' if sign else ''}.{digits}f"
    # of an effect size, a resample in which no reward varies has none, and so has the interval
    ends = ["–" if found[end] is None else f"{found[end]:{style}}" for end in ("low", "high")] if whole else []
    return f"{found['value']:{style}}" + (f" [{', '.join(ends)}]" if ends else "")


def guide_rows(results: dict) -> list[list[str]]:
    """The cells of the guides' table, plain first: guide, placement, verdict and the numbers of `COLUMNS`."""
    plain = {key: results["plain"][key] for key in PLAIN_KEYS}
    rows = [["plain", "", "", *(number(plain.get(key), digits, sign) for _, key, digits, sign in COLUMNS)]]
    for one in results["measured"]:
        cells = [number(one[key], digits, sign) for _, key, digits, sign in COLUMNS]
        rows.append([one["kind"], one["placement"], one["verdict"], *cells])
    return rows


def group_rows(results: dict) -> list[list[str]]:
    """The cells of the groups' table."""
    chosen = results["recommendation"].get("neat", {})
    rows = []
    for group in results["groups"]:
        recommended = all(group[key] == chosen[key] for key in ("counts", "placement"))
        counts = " + ".join(f"{count} {kind}" for kind, count in group["counts"].items() if count)
        cells = [number(group["spread"], 3), number(group.get("over_plain"), 3, True), number(group["signal"], 2)]
        cells += [number(group["gain"], 3, True), f"{group['distance']:.2f}", "recommended" if recommended else ""]
        rows.append([counts, group["placement"] or "", *cells])
    return rows


def print_guides(results: dict) -> None:
    """The tables, the verdicts and the lines to paste, in the terminal; the page has more columns and intervals."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(soft_wrap=True)
    console.width = max(console.width, WIDTH)

    def text(value: str) -> Text:
        return Text(visible(value))  # neither markup nor a terminal's codes

    def show(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        table = Table(title=text(title), title_justify="left")
        for place, name in enumerate(header):
            table.add_column(name, justify="left" if place < 2 else "right", no_wrap=True)
        for row in rows:
            table.add_row(*map(text, row))
        console.print(table)

    data, settings = results["data"], results["settings"]
    title = f"{data['queries']} queries × {settings['samples']} sample(s), reward {', '.join(settings['rewards'])}"
    shown = [column for column in COLUMNS if column[1] not in PAGE_ONLY]
    found = [{"kind": "plain", "placement": ""} | {key: results["plain"][key] for key in PLAIN_KEYS}]
    rows = [
        [one["kind"], one["placement"]]
        + [number(one.get(key), digits, sign, whole=key == "difference") for _, key, digits, sign in shown]
        for one in [*found, *results["measured"]]
    ]
    show(title, ["guide", "placement", *(name for name, *_ in shown)], rows)
    if results["gaps"]:
        gaps = [[place, number(gap, 3, True)] for place, gap in results["gaps"].items()]
        show("positive − negative, paired by query", ["placement", "reward"], gaps)
    if results["groups"]:
        columns = [GROUP_HEADER.index(name) for name in GROUP_HEADER if name not in PAGE_ONLY]
        rows = [[row[place] for place in columns] for row in group_rows(results)]
        show(f"groups of {settings['group_size']}", [GROUP_HEADER[place] for place in columns], rows)
    for note in results["notes"]:
        console.print(text(f"- {note}"))
    for lines in results["recommendation"].values():
        console.print(text(f"\n{lines['yaml']}"))


def write_guides_page(
    results: dict, table: pd.DataFrame, path: str | Path, *, queries: int = 20, characters: int = 2000
) -> Path:
    """
    Write the page: the numbers with their intervals, the verdicts, the lines to paste, and completions side by side.
    It runs no script and loads nothing.

    Args:
        results (`dict`): what [`~trl_negalign.evaluation.guides.measure_guides`] returned.
        table (`pandas.DataFrame`): its `samples.parquet`.
        path (`str` or `Path`): of the page.
        queries (`int`): queries on the page, spread evenly over all.
        characters (`int`): longest text of a query or a completion.
    """
    path = Path(path)
    measured = [{"verdict": "", "sentence": ""}, *results["measured"]]
    marks = {WORKS: "best", AGAINST: "worst"}
    html = page_template("guides.html.j2").render(
        results=results,
        columns=["guide", "placement", "verdict", *(name for name, *_ in COLUMNS)],
        rows=[(marks.get(one["verdict"], ""), row) for one, row in zip(measured, guide_rows(results), strict=True)],
        gaps=[(place, number(gap, 3, True)) for place, gap in results["gaps"].items()],
        group_header=GROUP_HEADER,
        groups=group_rows(results),
        samples=page_samples(table, queries, characters),
        style=files(__package__).joinpath("templates", "report.css").read_text(encoding="utf-8"),
        made=datetime.now(),
        version=__version__,
    )
    write_page(path, html)
    return path


def page_samples(table: pd.DataFrame, queries: int, characters: int) -> list[dict]:
    """Queries with their completions by condition, texts cut to what the page can bear."""
    places = sorted(table["query"].unique())
    chosen = [places[i * len(places) // queries] for i in range(queries)] if len(places) > queries else places
    shown = []
    for _, rows in table[table["query"].isin(chosen)].groupby("query"):
        prompt = rows["prompt"].iloc[0]
        conditions: dict[str, list] = {}
        for row in rows.itertuples():
            name = row.kind if row.placement is None else f"{row.kind}, {row.placement}"
            reward = "none" if pd.isna(row.reward) else f"{row.reward:.3f}"
            conditions.setdefault(name, []).append({"reward": reward, "text": cut(row.completion, characters)})
        shown.append(
            {"row": int(rows["row"].iloc[0]), "query": cut(readable(prompt), characters), "conditions": conditions}
        )
    return shown


def readable(prompt: str) -> str:
    """A query as text: a conversation, which the samples hold as JSON, by its turns."""
    try:
        value = json.loads(prompt)
    except ValueError:
        return prompt
    return as_text(value) if isinstance(value, list) else prompt
