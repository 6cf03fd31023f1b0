"""The comparison's files, which find each other by their folder, and made-up folders of runs."""

import gzip
import importlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest


COMPARISON = Path(__file__).parents[2] / "comparison"


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(str(COMPARISON))
    return importlib.import_module


@pytest.fixture
def task(module):
    """The smoke task with a grid of two and three seeds."""
    return module("plan").read_task("smoke") | {"learning_rates": [1e-3, 1e-2], "seeds": [1, 2, 3]}


def numbers(step: int, part: str, **changed) -> dict:
    found = {
        "step": step,
        "part": part,
        "reward/training": 1.0,
        "reward/gold": 2.0,
        "kl": {"mean": 0.5, "standard_error": 0.1, "per_token": 0.1},
        "perplexity": 30.0,
        "distinct_2": 0.9,
        "repetition_4": 0.01,
        "length": {"tokens": 6.0, "words": 3.0, "truncated": 1.0, "empty": 0.0},
    }
    return found | changed


@pytest.fixture
def finish(module, tmp_path):
    """Leave a run's folder as a worker would, with numbers of one's choice and a shift of every reward."""

    def leave(run: dict, shift: float = 0.0, history: list | None = None, **changed) -> Path:
        folder = module("plan").folder_of(tmp_path, run)
        folder.mkdir(parents=True)
        parts = ["validation"] + ["test"] * (run["stage"] == "seeds")
        measured = [numbers(2, part, **changed) for part in parts]
        cost = {"seconds": 10.0, "tokens": 100, "steps": 2}
        (folder / "run.json").write_text(json.dumps({"run": run, "cost": cost, "numbers": measured}))
        noise = np.random.default_rng(run["seed"]).normal(size=10)
        rows = pd.DataFrame({"query": range(10), "sample": 0, "completion": "a b", "tokens": 6, "kl": 0.5})
        rows = rows.assign(reference_logp=-20.0 - shift, response_nll=10.0 + shift, response_tokens=5)
        rows = rows.assign(**{"reward/training": noise + shift, "reward/gold": noise - shift})
        pd.concat([rows.assign(part=part) for part in parts]).to_parquet(folder / "completions.parquet")
        (folder / "log.json.gz").write_bytes(gzip.compress(json.dumps(history or []).encode()))
        return folder

    return leave


@pytest.fixture
def break_off(module, tmp_path):
    """Leave a run's folder as one that failed."""

    def leave(run: dict, reason: str) -> Path:
        folder = module("plan").folder_of(tmp_path, run)
        folder.mkdir(parents=True)
        (folder / "failed.json").write_text(json.dumps({"run": run, "reason": reason}))
        return folder

    return leave
