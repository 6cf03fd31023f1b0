"""One HTML page of one run or several: curves, groups to look at, settings and warnings, in a single file."""

import base64
import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from importlib.resources import files
from pathlib import Path

from ..version import __version__
from .panels import PANELS, draw_panel, panel_series, summarize
from .run_folder import Run, name_apart


# by which a page is known for one of ours, and may be replaced
GENERATOR = "trl-negalign"
# characters of all the samples on a page together, which keeps it loadable whatever the runs hold
MAX_SAMPLE_CHARACTERS = 8_000_000
# what a text must not hide, shown by its code: control characters and those that turn the direction of writing
CONTROLS = [code for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"]
DIRECTIONS = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
VISIBLE = {code: f"\\x{code:02x}" for code in CONTROLS} | {code: f"\\u{code:04x}" for code in DIRECTIONS}


def figures_folder(page: Path) -> Path:
    """Where a page's pictures lie as PNGs."""
    return page.parent / f"{page.stem}-figures"


def check_page(path: Path) -> None:
    """Raise a `ValueError` if a report at this path would write over anything but an earlier report."""
    mark = f'<meta name="generator" content="{GENERATOR}">'
    if path.is_file() and mark in path.read_text(encoding="utf-8", errors="replace")[:4000]:
        return
    pictures = (figures_folder(path) / f"{panel.name}.png" for panel in PANELS)
    for there in filter(os.path.lexists, (path, *pictures)):
        raise ValueError(
            f"{str(there)!r} is there, is no report of negalign's, and would be written over. Name another page with "
            "--out, or move it away."
        )


def write_report(runs: Sequence[Run], path: str | Path, *, characters: int = 4000) -> list[Path]:
    """
    Write the page, and its pictures also as PNGs in a folder beside it (`report.html`: `report-figures`).

    An earlier report is replaced, see [`check_page`].

    Args:
        runs (`Sequence[Run]`): at least one; several are drawn over each other.
        path (`str` or `Path`): of the page.
        characters (`int`): longest text of a query or response; what is cut off is counted.

    Returns:
        `list[Path]`: the page, then the pictures.
    """
    path = Path(path)
    name_apart(runs)
    figures, missing = draw_figures(runs, figures_folder(path))
    script = files(__package__).joinpath("templates", "report.js").read_text(encoding="utf-8")
    html = page_template("report.html.j2").render(
        title=" and ".join(run.name for run in runs),
        runs=runs,
        figures=figures,
        missing=missing,
        samples=sample_data(runs, characters),
        config=compare_configs(runs),
        style=files(__package__).joinpath("templates", "report.css").read_text(encoding="utf-8"),
        script=script,
        generator=GENERATOR,
        # the page may load nothing, and of scripts may run this one only
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        made=datetime.now(),
        version=__version__,
    )
    write_page(path, html)
    return [path, *(figure["path"] for figure in figures)]


def page_template(name: str):
    """A page's template: every text in it is escaped, and what a text could hide is made visible."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: visible(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    return environment.get_template(name)


def write_page(path: Path, html: str) -> None:
    unfinished = path.with_name(f"{path.name}.tmp")  # a reader of the page never sees half of it
    unfinished.write_text(html, encoding="utf-8", errors="replace")
    os.replace(unfinished, path)


def draw_figures(runs: Sequence[Run], folder: Path) -> tuple[list[dict], list[str]]:
    """Draw every panel that a run has logs for; what the page needs of each, and the titles of those without logs."""
    folder.mkdir(parents=True, exist_ok=True)
    figures, missing = [], []
    for panel in PANELS:
        series = {run.name: panel_series(panel, run.logs) for run in runs}
        picture = folder / f"{panel.name}.png"
        if not any(series.values()):
            picture.unlink(missing_ok=True)  # an earlier report's
            missing.append(panel.title)
            continue
        draw_panel(panel, series, picture)
        figures.append(
            {
                "name": panel.name,
                "title": panel.title,
                "path": picture,
                "png": base64.b64encode(picture.read_bytes()).decode(),
                "numbers": {name: summarize(drawn) for name, drawn in series.items() if drawn},
            }
        )
    return figures, missing


def sample_data(runs: Sequence[Run], characters: int) -> dict:
    """The groups as JSON data for the page's script, texts cut to what the page can bear."""
    responses = sum(run.sample.shown_rows + len(run.sample.groups) for run in runs)
    longest = min(characters, max(MAX_SAMPLE_CHARACTERS // max(responses, 1), 100))
    groups = []
    for index, run in enumerate(runs):
        for group in run.sample.groups:
            data = asdict(group) | {"run": index, "query": cut(group.query, longest)}
            for response in data["responses"]:
                response |= {"kind": visible(response["kind"]), "text": cut(response["text"], longest)}
                response["rewards"] = {visible(name): value for name, value in response["rewards"].items()}
            groups.append(data)
    groups.sort(key=lambda group: group["step"])  # the runs' groups of a step stand together
    return {"runs": [visible(run.name) for run in runs], "groups": groups}


def cut(text: str, longest: int) -> dict:
    """A text's beginning, and how many characters are left out."""
    return {"shown": visible(text[:longest]), "left": max(len(text) - longest, 0)}


def visible(text: str) -> str:
    """Text whose control characters can be seen, and that UTF-8 can hold."""
    return text.translate(VISIBLE).encode("utf-8", "replace").decode()


def compare_configs(runs: Sequence[Run]) -> list[dict]:
    """The settings of all runs, one dictionary a setting; those that differ between runs first, `args` last."""
    names = sorted({name for run in runs for name in run.config}, key=lambda name: (name.startswith("args."), name))
    rows = []
    for name in names:
        values = [show_value(run.config[name]) if name in run.config else "" for run in runs]
        rows.append({"name": name, "values": values, "differs": len(set(values)) > 1})
    return sorted(rows, key=lambda row: not row["differs"])


def show_value(value: object) -> str:
    return value if isinstance(value, str) else repr(value)
