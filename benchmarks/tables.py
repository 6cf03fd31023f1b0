"""
Tables and a plot of what `speed.py` measured, from its JSON and nothing else:

    python benchmarks/tables.py benchmarks/speed-cpu.json

Both bear the JSON's name: the tables go between `<!-- speed-cpu:begin -->` and `<!-- speed-cpu:end -->` of this
folder's README.md, the plot to `speed-cpu.png` beside the JSON.
"""

import argparse
import json
import os
from pathlib import Path
from statistics import median


README = Path(__file__).parent / "README.md"
BASELINE = "GRPO"
COLORS = {"GRPO": "tab:gray", "NEAT": "tab:green", "PLE": "tab:blue", "Online DPO": "tab:orange"}
MEASURES = {
    "generate": ("generate",),
    "score": ("score", "passes"),
    "update": ("update",),
    "total": ("generate", "score", "passes", "update"),
}
RATIOS = ("generate", "update", "total")
CELL = ("query", "completion", "group")


def seconds(method: dict, measure: str) -> list[float]:
    """What every timed step took, in one of `MEASURES`."""
    return [sum(parts) for parts in zip(*(method[part] for part in MEASURES[measure]), strict=True)]


def ratios(method: dict, baseline: dict, measure: str) -> list[float]:
    """The method's seconds for each of the baseline's, of steps that were taken in the same turn."""
    return [ours / theirs for ours, theirs in zip(seconds(method, measure), seconds(baseline, measure), strict=True)]


def spread(values: list[float], digits: int, bold_above: float | None = None) -> str:
    """The median and, in brackets, the least and the most; in bold where the median as printed is above a bound."""
    middle, least, most = (f"{value:.{digits}f}" for value in (median(values), min(values), max(values)))
    text = middle if least == most else f"{middle} ({least}–{most})"
    return f"**{text}**" if bold_above is not None and float(middle) > bold_above else text


def tables(results: dict) -> str:
    """
    Markdown: the baseline's seconds and MiB, then for each other method its ratios to the baseline in the same cell.

    Raises:
        ValueError: if the baseline was not measured.
    """
    cells = sorted(results["cells"], key=lambda cell: [cell[name] for name in CELL])
    if any(BASELINE not in cell["methods"] for cell in cells):
        raise ValueError(f"the results lack {BASELINE}, which the others are compared with. Measure it too.")
    lines = [", ".join(f"{name}: {value}" for name, value in results["machine"].items()) + ".", ""]
    lines += ["Options: " + json.dumps(results["options"]) + "."]
    for name in COLORS:
        measured = [cell for cell in cells if name in cell["methods"]]
        of_baseline = name == BASELINE
        columns = (*MEASURES, "memory") if of_baseline else (*RATIOS, "memory", "score, seconds")
        if measured:
            lines += ["", f"**{name}**, {'seconds and MiB' if of_baseline else f'{BASELINE} = 1'}", ""]
            lines += ["| " + " | ".join([*CELL, *columns, "tokens/s"]) + " |"]
            lines += ["|" + " ---: |" * (len(CELL) + len(columns) + 1)]
        for cell in measured:
            method, baseline = cell["methods"][name], cell["methods"][BASELINE]
            row = [str(cell[column]) for column in CELL]
            if of_baseline:
                row += [spread(seconds(method, measure), 3) for measure in MEASURES]
                row += [f"{method['memory'] / 2**20:.0f}"]
            else:
                row += [spread(ratios(method, baseline, measure), 2, bold_above=1) for measure in RATIOS]
                row += [spread([method["memory"] / baseline["memory"]], 2, bold_above=1)]
                # next to nothing in the baseline, so a ratio would say nothing
                row += [spread(seconds(method, "score"), 3)]
            tokens = results["options"]["queries"] * cell["group"] * cell["completion"]
            lines += ["| " + " | ".join([*row, f"{tokens / median(seconds(method, 'total')):.0f}"]) + " |"]
    return "\n".join(lines)


def put_between(page: str, name: str, text: str) -> str:
    """
    The page with the text between the markers of that name, in place of what stood there.

    Raises:
        ValueError: if the page does not have both markers, in order.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, found, rest = page.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found or not found_end:
        raise ValueError(f"the page has no {begin} with {end} after it. Add both, or rename the JSON.")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def plot(results: dict, path: Path) -> None:
    """Draw seconds against the query's length: a line a method, a column a group size, rows of update and of total."""
    from matplotlib.figure import Figure

    cells = sorted(results["cells"], key=lambda cell: cell["query"])
    queries, completions, groups = (sorted({cell[name] for cell in cells}) for name in CELL)
    rows = [(measure, completion) for measure in ("update", "total") for completion in completions]
    figure = Figure(figsize=(3.6 * len(groups) + 1, 2.7 * len(rows) + 0.5), layout="constrained")
    grid = figure.subplots(len(rows), len(groups), sharex=True, sharey="row", squeeze=False)
    for (measure, completion), panels in zip(rows, grid, strict=True):
        for group, axes in zip(groups, panels, strict=True):
            for name, color in COLORS.items():
                points = [
                    (cell["query"], seconds(cell["methods"][name], measure))
                    for cell in cells
                    if (cell["completion"], cell["group"]) == (completion, group) and name in cell["methods"]
                ]
                if points:
                    x, steps = zip(*points, strict=True)
                    axes.plot(x, list(map(median, steps)), color=color, marker="o", markersize=3, label=name)
                    axes.fill_between(x, list(map(min, steps)), list(map(max, steps)), color=color, alpha=0.2)
            axes.set_title(f"group of {group}, {completion} tokens a completion", fontsize=9)
            axes.set(xticks=queries)
            axes.grid(alpha=0.3)
        # the panels of a row share their axis, whose end is known when all are drawn
        panels[0].set(ylabel=f"{measure}, seconds", ylim=(0, None))
    for axes in grid[-1]:
        axes.set_xlabel("tokens of the query")
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=len(COLORS))
    figure.savefig(path, dpi=110)


def main(options: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="a JSON of speed.py")
    parser.add_argument("--readme", type=Path, default=README, help="the page with the markers")
    args = parser.parse_args(options)
    results = json.loads(args.results.read_text(encoding="utf-8"))
    picture = args.results.with_suffix(".png")
    link = os.path.relpath(picture, args.readme.parent)
    text = f"{tables(results)}\n\n![Seconds of a step against the query's length]({link})"
    page = put_between(args.readme.read_text(encoding="utf-8"), args.results.stem, text)
    plot(results, picture)
    args.readme.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
