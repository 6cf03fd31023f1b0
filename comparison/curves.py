"""What the logs of trainings say over their rounds: PLE's two rewards and the gap between them."""

import gzip
import json
from pathlib import Path

import numpy as np
from summaries import RESAMPLES, Seeds

from trl_negalign.evaluation.bootstrap import hierarchical_bootstrap, mean


def gap_curve(seeds: Seeds) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """
    PLE's rewards by round, `[seeds, rounds]` each: of plain samples, of guided ones, and the gap between the two.
    `None` where a log has none.
    """
    curves = []
    for record in seeds.records:
        history = read_log(record["folder"])
        rows = [(line["reward/plain"], line["reward/principle"]) for line in history if "reward/principle" in line]
        curves.append(rows)
    lengths = {len(rows) for rows in curves}
    if len(lengths) != 1 or not lengths.pop():
        return None
    plain, guided = np.moveaxis(np.array(curves, dtype=float), -1, 0)
    return plain, guided, guided - plain


def slope(curves: np.ndarray) -> dict:
    """Least-squares slope a round, the mean over seeds, with an interval over seeds."""
    rounds = np.arange(curves.shape[1])
    slopes = np.polyfit(rounds, curves.T, 1)[0] if len(rounds) > 1 else np.full(len(curves), np.nan)
    found = hierarchical_bootstrap(mean, slopes[:, None], resamples=RESAMPLES)
    return found | {"agree": int((np.sign(slopes) == np.sign(found["value"])).sum())}


def read_log(folder: Path) -> list[dict]:
    return json.loads(gzip.decompress((folder / "log.json.gz").read_bytes()))
