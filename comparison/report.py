"""
Tables, plots and verdicts from the folders of a comparison, also of one that still runs: what is missing is a hole.

    python comparison/report.py

For each task with results, the text goes between `<!-- TASK:begin -->` and `<!-- TASK:end -->` of README.md, pictures
beside the results.
"""

import argparse
import os
import sys
from pathlib import Path

from likra import section as likra_section
from pages import claims_table, differences_table, frontier_table, main_table, rewards_table, trials_table
from plan import HERE, RESULTS, START, PlanError, grid_runs, read_method, read_methods, read_task, task_names
from plots import end_of, frontier, gap, learning_curves
from records import SELECTION, done_runs, select, write_json
from run_likra import LIKRA
from summaries import all_trials, chosen_seeds
from verdicts import judge, read_claims


README = HERE / "README.md"


def put_between(page: str, name: str, text: str) -> str:
    """
    The page with the text between a task's markers, which are added at the end of a page without them.

    Raises:
        PlanError: if only one of the two is there.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if begin not in page and end not in page:
        page = f"{page.rstrip()}\n\n## {name.capitalize()}\n\n{begin}\n{end}\n"
    before, found, rest = page.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found or not found_end:
        raise PlanError(f"the page has no {begin} with {end} after it. Add both, or neither.")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def section(task: dict, results: Path, page_folder: Path) -> str:
    """A task's part of the page; its pictures and its selection are written beside its results."""
    folder = results / task["name"]
    methods, faults = read_methods(task)
    selection = select(task, methods, results)
    write_json(folder / SELECTION, selection)
    seeds = chosen_seeds(task, selection, results)
    verdicts = [
        row
        for claim in read_claims()
        if task["name"] in claim.get("tasks", [task["name"]])
        for row in judge(claim, seeds, len(task["seeds"]))
    ]
    trials = all_trials(task, selection, results)
    done, failed, missing = (sum(row["outcome"] == name for row in trials) for name in ("done", "failed", "missing"))
    parts = [
        f"{done} of {len(trials)} runs are done, {failed} failed, {missing} are missing; a method's seeds are counted "
        "once its grid has a setting to choose.",
        *(f"**Left out:** {fault}" for fault in faults),
        rewards_table(folder),
        "**At the end of the budget**, test queries: means over seeds and queries with 95% intervals; other numbers "
        "as the mean over seeds (least–most).",
        main_table(task, selection, seeds),
    ]
    for reward in [name for name in task["rewards"] if seeds]:
        parts += [
            f"**Differences in {reward} reward**, paired by seed and query, with 95% intervals and how many seeds "
            "agree in sign.",
            differences_table(seeds, reward),
        ]
    runs = shown_runs(task, selection, seeds, results)
    start = end_of(runs.get(START, []), "validation")
    for reward in task["rewards"]:
        parts += [
            f"**{reward.capitalize()} reward by distance from the start model**, validation queries: means over the "
            "runs that come as far (least–most), and how many do.",
            frontier_table(runs, start, reward),
        ]
    parts += ["**Claims**", claims_table(verdicts), *pictures(task, runs, start, seeds, results, page_folder)]
    parts += ["<details><summary>Every trial</summary>", trials_table(trials), "</details>"]
    return "\n\n".join(parts)


def shown_runs(task: dict, selection: dict, seeds: dict, results: Path) -> dict[str, list[dict]]:
    """Records by method: of all seeds at the chosen setting or, without one, the grid's."""
    runs = {}
    for name, one in selection.items():
        if one["chosen"] is not None:
            grid = [run for run in grid_runs(task, read_method(name)) if run["setting"] == one["chosen"]]
            runs[name] = seeds[name].records if name in seeds else done_runs(grid, results)
    return runs


def pictures(task: dict, runs: dict, start: dict | None, seeds: dict, results: Path, page_folder: Path) -> list[str]:
    folder = results / task["name"]
    frontier(task, runs, start, folder / "frontier.png")
    learning_curves(task, runs, start, folder / "curves.png")
    found = [
        ("frontier.png", "Reward against KL from the start model, all runs and checkpoints"),
        ("curves.png", "Reward of validation queries over the steps"),
    ]
    if "ple" in seeds and gap(seeds["ple"], folder / "gap.png"):
        found.append(("gap.png", "PLE's rewards of plain and guided samples, and their gap"))
    return [f"![{text}]({os.path.relpath(folder / name, page_folder)})" for name, text in found]


def main(options: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the runs are")
    parser.add_argument("--readme", type=Path, default=README, help="the page")
    args = parser.parse_args(options)
    results = args.results.resolve()
    names = [name for name in task_names() if (results / name / "rewards.json").exists()]
    try:
        if not names and not (results / LIKRA).exists():
            raise PlanError(f"{args.results} has no results. Run `python comparison/run.py --task sentiment` first.")
        page = args.readme.read_text(encoding="utf-8") if args.readme.exists() else "# Comparison\n"
        for name in names:
            page = put_between(page, name, section(read_task(name), results, args.readme.resolve().parent))
        if (results / LIKRA).exists():
            link = os.path.relpath(results, args.readme.resolve().parent)
            page = put_between(page, LIKRA, likra_section(results, link))
    except (PlanError, ValueError) as error:
        sys.exit(f"comparison: {error}")
    args.readme.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
