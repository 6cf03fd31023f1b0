"""
What the runs of Likra's heads say: accuracy by the number of examples with intervals over seeds and questions, the
verdicts L1 to L4, and their part of the page. Reads `results/likra/`, also of runs that are still under way.
"""

import gzip
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
from pages import claims_table, span, table
from plan import folder_of
from records import read_json, settled
from run_likra import LIKRA, read_runs, runs_of
from summaries import RESAMPLES
from verdicts import FEWEST, below, read_claims, verdict

from trl_negalign.evaluation.bootstrap import hierarchical_bootstrap, mean, paired_difference


NEAR, MEASURES, MODES = "same_question", ("acc", "acc_norm"), {"SFT": "positive", "Likra": "ratio"}


class Heads:
    """
    The finished runs of one task.

    Args:
        name (`str`): the task's.
        task (`dict`): from [`~run_likra.read_runs`].
        results (`Path`): where the runs are.
    """

    def __init__(self, name: str, task: dict, results: Path):
        self.name, self.task, self.trials, self.kept = name, task, [], {}
        materials: dict[int, str] = {}
        for kind in task["negatives"]:
            for run in runs_of(name, task, kind):
                folder = folder_of(results, run)
                found, reason = settled(folder, run)
                record = read_json(folder / "run.json") if found == "done" else {}
                # kinds are compared question by question
                if record and materials.setdefault(run["seed"], record["material"]) != record["material"]:
                    found, reason = "failed", "it was made with other questions than this seed's first kind"
                row = {"kind": kind, "seed": run["seed"], "outcome": found, "reason": reason}
                self.trials.append(row | {"seconds": record.get("seconds")})
                if found == "done":
                    self.kept[kind, run["seed"]] = json.loads(gzip.decompress((folder / "logps.json.gz").read_bytes()))

    def seeds(self, *kinds: str) -> list[int]:
        """Those that have finished with all these kinds of wrong answers; the positive head is the near misses'."""
        return [seed for seed in self.task["seeds"] if all((kind, seed) in self.kept for kind in (NEAR, *kinds))]

    def points(self, mode: str, examples: int, measure: str, seeds: list[int], kind: str = NEAR) -> np.ndarray:
        """
        `[seeds, questions]`: 1 where the right option scores highest, a share of it where some tie, else 0.

        Args:
            mode (`str`): `"ratio"`, `"positive"` or `"base"`.
            examples (`int`): how many a head has seen.
            measure (`str`): `"acc"`, by the score, or `"acc_norm"`, by the score per character.
            seeds (`list[int]`): whose runs.
            kind (`str`): of the wrong answers.
        """
        rows = []
        for seed in seeds:
            near, own = self.kept[NEAR, seed], self.kept[kind, seed]
            up = near["logps"]["base" if mode == "base" else f"positive-{examples}"]
            down = own["logps"][f"negative-{examples}"] if mode == "ratio" else [[0.0] * len(row) for row in up]
            row = []
            for gain, loss, lengths, answer in zip(up, down, near["characters"], near["answers"], strict=True):
                scores = np.array(gain) - np.array(loss)
                best = (scores / lengths if measure == "acc_norm" else scores).round(9)
                row.append((best[answer] == best.max()) / (best == best.max()).sum())
            rows.append(row)
        return np.array(rows)

    def sizes(self) -> list[int]:
        return self.task["negatives"][NEAR]["save_examples"]


def ahead(heads: Heads, measure: str, seeds: list[int]) -> dict:
    """Likra's accuracy − SFT's on the same right answers, with the most examples."""
    both = [heads.points(mode, heads.sizes()[-1], measure, seeds) for mode in ("ratio", "positive")]
    return hierarchical_bootstrap(paired_difference, *both, resamples=RESAMPLES)


def jump(heads: Heads, measure: str, seeds: list[int], at: int) -> dict:
    """What Likra gains from `at` to twice as many examples − the mean of what every other doubling gains."""
    curve = {size: heads.points("ratio", size, measure, seeds) for size in heads.sizes()}
    gains = {low: curve[high] - curve[low] for low, high in pairwise(heads.sizes()) if high == 2 * low}
    others = np.mean([gain for low, gain in gains.items() if low != at], axis=0)
    return hierarchical_bootstrap(paired_difference, gains[at], others, resamples=RESAMPLES)


def nearest(heads: Heads, measure: str, seeds: list[int], rival: str) -> dict:
    """Likra's accuracy with near misses − with another kind of wrong answers, with the most examples."""
    both = [heads.points("ratio", heads.sizes()[-1], measure, seeds, kind) for kind in (NEAR, rival)]
    return hierarchical_bootstrap(paired_difference, *both, resamples=RESAMPLES)


def flat(heads: Heads, measure: str, seeds: list[int]) -> dict:
    """What SFT on the most examples gains over the base."""
    both = [heads.points(mode, heads.sizes()[-1], measure, seeds) for mode in ("positive", "base")]
    return hierarchical_bootstrap(paired_difference, *both, resamples=RESAMPLES)


def judge_heads(claim: dict, heads: Heads) -> list[dict]:
    """A row for each rival and measure, as [`~verdicts.judge`] gives them; what is missing is named."""
    rows = []
    for rival in claim.get("rivals", [None]):
        for measure in MEASURES:
            row = {"id": f"{claim['id']} {heads.name}", "says": claim["says"], "against": rival, "metric": measure}
            kinds = [rival] if rival else []
            seeds = heads.seeds(*kinds)
            if not seeds:
                rows.append(row | {"statistic": None, "verdict": f"no run of {', '.join([NEAR, *kinds])}"})
                continue
            extra = {"jump": [claim.get("at")], "nearest": kinds}.get(claim["kind"], [])
            found = STATISTICS[claim["kind"]](heads, measure, seeds, *extra)
            decide = below if claim["kind"] == "flat" else verdict
            said = decide(found["low"], found["high"], claim.get("bound", 0.0))
            if len(seeds) < FEWEST:
                said = "too few seeds"
            elif len(seeds) < len(heads.task["seeds"]):
                said = f"preliminary: {said}"
            rows.append(row | {"statistic": found, "verdict": said})
    return rows


STATISTICS = {"ahead": ahead, "jump": jump, "nearest": nearest, "flat": flat}


def accuracies_table(heads: Heads) -> str:
    """A row a number of examples: SFT's and Likra's accuracy with near misses, over the seeds that are there."""
    seeds, rows = heads.seeds(), []
    for size in [0, *heads.sizes()] if seeds else []:
        cells = [
            interval(heads.points("base" if size == 0 else mode, size, measure, seeds))
            for mode in MODES.values()
            for measure in MEASURES
        ]
        # heads that have learnt nothing score nothing
        rows.append([str(size) if size else "0 (the base)", *(cells if size else cells[:2] + ["–"] * 2)])
    return table(["examples", *(f"{name}, {measure}" for name in MODES for measure in MEASURES)], rows)


def kinds_table(heads: Heads) -> str:
    """Likra's accuracy with the most examples, a row a kind of wrong answers."""
    rows = []
    for kind in heads.task["negatives"]:
        seeds = heads.seeds(kind)
        cells = [
            interval(heads.points("ratio", heads.sizes()[-1], measure, seeds, kind)) if seeds else "–"
            for measure in MEASURES
        ]
        rows.append([kind.replace("_", " "), f"{len(seeds)} of {len(heads.task['seeds'])}", *cells])
    return table(["wrong answers", "seeds", *(f"Likra, {measure}" for measure in MEASURES)], rows)


def interval(points: np.ndarray) -> str:
    return span(hierarchical_bootstrap(mean, points, resamples=RESAMPLES), 3)


def runs_table(heads: Heads) -> str:
    """Every run that is planned; none is left out."""
    said = {"done": "done", "missing": "not run yet"}
    rows = []
    for trial in heads.trials:
        text = said.get(trial["outcome"], f"failed: {trial['reason']}").replace("|", "\\|")
        seconds = "–" if trial["seconds"] is None else f"{trial['seconds']:.0f}"
        rows.append([trial["kind"].replace("_", " "), str(trial["seed"]), text, seconds])
    return table(["wrong answers", "seed", "", "seconds of the last sitting"], rows)


def curve(heads: Heads, path: Path) -> None:
    """Accuracy against the number of examples: means over seeds, and bands from the least to the most."""
    from matplotlib.figure import Figure

    seeds, sizes = heads.seeds(), heads.sizes()
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    for axes, measure in zip(figure.subplots(1, len(MEASURES), sharey=True), MEASURES, strict=True):
        for label, mode in MODES.items():
            by_size = np.array([heads.points(mode, size, measure, seeds).mean(1) for size in sizes])
            (line,) = axes.plot(sizes, by_size.mean(1), marker="o", markersize=4, label=label)
            axes.fill_between(sizes, by_size.min(1), by_size.max(1), color=line.get_color(), alpha=0.15)
        base = heads.points("base", 0, measure, seeds).mean()
        axes.axhline(base, color="gray", linestyle="--", label="base")
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.set(title=measure, xlabel="examples")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("accuracy")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def section(results: Path, link: str) -> str:
    """
    Likra's part of the page; its pictures are written beside the results.

    Args:
        results (`Path`): where the runs are.
        link (`str`): path from the page to the results.
    """
    parts = []
    for name, task in read_runs().items():
        heads = Heads(name, task, results)
        count = sum(trial["outcome"] == "done" for trial in heads.trials)
        failed = sum(trial["outcome"] == "failed" for trial in heads.trials)
        parts.append(f"### {name}\n\n{count} of {len(heads.trials)} runs are done, {failed} failed.")
        if heads.seeds():
            picture = f"{LIKRA}/{name}.png"
            curve(heads, results / picture)
            seeds, questions = len(heads.seeds()), len(heads.kept[NEAR, heads.seeds()[0]]["answers"])
            parts += [
                f"Accuracy with near misses, {seeds} of {len(task['seeds'])} seeds, {questions} test questions each, "
                "with 95% intervals over seeds and questions.",
                accuracies_table(heads),
                f"![Accuracy against the number of examples]({link}/{picture})",
            ]
        parts.append(kinds_table(heads))
        rows = [row for claim in read_claims() if name in claim.get("tasks", []) for row in judge_heads(claim, heads)]
        parts += ["**Claims**", claims_table(rows), "<details><summary>Every run</summary>", runs_table(heads)]
        parts.append("</details>")
    return "\n\n".join(parts)
