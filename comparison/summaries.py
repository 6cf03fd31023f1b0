"""What a task's runs say together: numbers with intervals over seeds and queries, and differences paired by both."""

from pathlib import Path

import numpy as np
import pandas as pd
from plan import START, folder_of, read_method, seed_runs
from records import done_runs, not_fluent, numbers_at_end, read_json, settled

from trl_negalign.evaluation.bootstrap import hierarchical_bootstrap, mean, paired_difference


RESAMPLES = 10_000


class Seeds:
    """
    A method's finished runs of the stage `seeds`, at its chosen setting.

    Args:
        name (`str`): the method's.
        records (`list[dict]`): from [`~records.done_runs`].
    """

    def __init__(self, name: str, records: list[dict]):
        self.name, self.records = name, records
        self.seeds = [record["run"]["seed"] for record in records]
        self._tables: dict[int, pd.DataFrame] = {}

    def table(self, seed: int) -> pd.DataFrame:
        """Every completion of the test queries, of one seed."""
        if seed not in self._tables:
            found = pd.read_parquet(self.records[self.seeds.index(seed)]["folder"] / "completions.parquet")
            self._tables[seed] = found[found["part"] == "test"]
        return self._tables[seed]

    def array(self, column: str, seeds: list[int]) -> np.ndarray:
        """`[seeds, queries]`: a column of the completions, the mean over a query's samples."""
        return np.stack([self.table(seed).groupby("query")[column].mean().to_numpy() for seed in seeds])

    def at_end(self, name: str) -> list[float]:
        """A number of the test queries, one a seed; `name` with a dot looks into a section."""
        section, _, key = name.partition(".")
        ends = [numbers_at_end(record, "test")[section] for record in self.records]
        return [end[key] if key else end for end in ends]


def chosen_seeds(task: dict, selection: dict, results: Path) -> dict[str, Seeds]:
    """The methods that have a finished run of the stage `seeds`."""
    found = {}
    for name, one in selection.items():
        if one["chosen"] is not None:
            records = done_runs(seed_runs(task, read_method(name), one["chosen"]), results)
            found |= {name: Seeds(name, records)} if records else {}
    return found


def interval(seeds: Seeds, column: str) -> dict:
    """A method's mean with its 95% interval."""
    return hierarchical_bootstrap(mean, seeds.array(column, seeds.seeds), resamples=RESAMPLES)


def difference(method: Seeds, rival: Seeds, column: str) -> dict | None:
    """
    A method's mean − a rival's, paired by seed and query over the seeds that both have, with its 95% interval and
    `agree`, the number of seeds whose difference has the sign of the whole; `None` without a common seed.
    """
    common = [seed for seed in method.seeds if seed in rival.seeds]
    if not common:
        return None
    both = [one.array(column, common) for one in (method, rival)]
    found = hierarchical_bootstrap(paired_difference, *both, resamples=RESAMPLES)
    by_seed = (both[0] - both[1]).mean(1)
    return found | {"agree": int((np.sign(by_seed) == np.sign(found["value"])).sum())}


def distance(nll: np.ndarray, tokens: np.ndarray, start_nll: np.ndarray, start_tokens: np.ndarray) -> np.ndarray:
    """|log(perplexity / the start's)| over seeds and queries: 0 is as fluent as the start model, up and down count."""
    logs = [one.sum((-1, -2)) / count.sum((-1, -2)) for one, count in ((nll, tokens), (start_nll, start_tokens))]
    return np.abs(logs[0] - logs[1])


def fluency_difference(method: Seeds, rival: Seeds, start: Seeds) -> dict | None:
    """How much further from the start's perplexity a rival's text is than a method's, paired by seed and query."""
    common = [seed for seed in method.seeds if seed in rival.seeds and seed in start.seeds]
    if not common:
        return None
    arrays = []
    for one in (method, rival, start):
        arrays += [-one.array("reference_logp", common), one.array("tokens", common)]

    def closer(*parts):
        return distance(*parts[2:4], *parts[4:]) - distance(*parts[:2], *parts[4:])

    found = hierarchical_bootstrap(closer, *arrays, resamples=RESAMPLES)
    by_seed = [closer(*(part[None, row : row + 1] for part in arrays))[0] for row in range(len(common))]
    return found | {"agree": int((np.sign(by_seed) == np.sign(found["value"])).sum())}


def perplexity_ratio(method: Seeds, rival: Seeds) -> dict | None:
    """A method's perplexity of the dataset's responses over a rival's, paired by seed and query."""
    common = [seed for seed in method.seeds if seed in rival.seeds]
    if not common:
        return None
    arrays = []
    for one in (method, rival):
        arrays += [one.array("response_nll", common), one.array("response_tokens", common)]

    def ratio(nll, tokens, rival_nll, rival_tokens):
        own, other = (a.sum((-1, -2)) / b.sum((-1, -2)) for a, b in ((nll, tokens), (rival_nll, rival_tokens)))
        return np.exp(own - other)

    found = hierarchical_bootstrap(ratio, *arrays, resamples=RESAMPLES)
    return found | {"agree": len(common)}


def all_trials(task: dict, selection: dict, results: Path) -> list[dict]:
    """Every run that the plan has, with what became of it, in the order of the methods."""
    rows = []
    for name, one in selection.items():
        for trial in one["trials"]:
            chosen = trial["setting"] == one["chosen"]
            rows.append({"method": name, "stage": "grid", "seed": task["grid_seed"], "chosen": chosen} | trial)
        if one["chosen"] is None:
            continue
        for run in seed_runs(task, read_method(name), one["chosen"]):
            folder = folder_of(results, run)
            row = {"method": name, "stage": "seeds", "seed": run["seed"], "setting": run["setting"], "chosen": True}
            row["outcome"], row["reason"] = settled(folder, run)
            if row["outcome"] == "done":
                numbers = numbers_at_end(read_json(folder / "run.json"), "test")
                row |= {"reward": numbers["reward/training"], "kl": numbers["kl"]["mean"]}
                start = folder_of(results, run | {"method": START, "setting": {}})
                if (start / "run.json").exists():
                    beside = numbers_at_end(read_json(start / "run.json"), "test")
                    row["not_fluent"] = not_fluent(numbers, beside)
            rows.append(row)
    return rows
