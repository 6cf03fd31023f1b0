"""Claims that were fixed before the runs, and what the runs say of each."""

import math

import yaml
from curves import gap_curve, slope
from plan import HERE, START, PlanError
from summaries import Seeds, difference, fluency_difference, perplexity_ratio


KINDS = ("difference", "ratio", "slope", "ahead", "jump", "nearest", "flat")  # the last four are judged in likra.py
FEWEST = 3  # seeds that a verdict needs
CLAIMS = HERE / "claims.yaml"


def read_claims(path=CLAIMS) -> list[dict]:
    """
    Raises:
        PlanError: if a claim is of no known kind.
    """
    claims = yaml.safe_load(path.read_text(encoding="utf-8"))
    for claim in claims:
        if claim["kind"] not in KINDS:
            raise PlanError(f"{path.name}: {claim['id']} is of kind {claim['kind']!r}. Use one of {', '.join(KINDS)}.")
    return claims


def verdict(low: float, high: float, above: float = 0.0) -> str:
    """Of a statistic that is claimed to lie above a value."""
    if math.isnan(low) or math.isnan(high):
        return "no number"
    if low > above:
        return "shown"
    return "contradicted" if high < above else "not shown"


def below(low: float, high: float, bound: float = 0.0) -> str:
    """Of a statistic that is claimed to lie below a bound."""
    return verdict(-high, -low, -bound)


def judge(claim: dict, seeds: dict[str, Seeds], planned: int) -> list[dict]:
    """
    A row for each rival and metric: `against`, `metric`, the statistic with its interval, and the verdict, which says
    what is missing where it cannot be given. A verdict needs three seeds, and is called preliminary below those that
    are planned.
    """
    rows = []
    for rival in claim.get("rivals", [None]):
        for metric in claim.get("metrics", [claim["kind"]]):
            row = {"id": claim["id"], "says": claim["says"], "against": rival, "metric": metric}
            needed = [name for name in (claim["method"], rival) if name]
            absent = [name for name in needed if name not in seeds]
            found = None if absent else statistic(claim, metric, seeds, *needed)
            if found is None:
                said = f"no run of {', '.join(absent)}" if absent else "no number"
                rows.append(row | {"statistic": None, "verdict": said})
                continue
            decide = verdict if claim["kind"] == "difference" else below
            said = decide(found["low"], found["high"], claim.get("bound", 0.0))
            if found["seeds"] < FEWEST:
                said = "too few seeds"
            elif found["seeds"] < planned:
                said = f"preliminary: {said}"
            rows.append(row | {"statistic": found, "verdict": said})
    return rows


def statistic(claim: dict, metric: str, seeds: dict[str, Seeds], method: str, rival: str | None = None) -> dict | None:
    if claim["kind"] == "slope":
        curves = gap_curve(seeds[method])
        return curves and slope(curves[2])
    if claim["kind"] == "ratio":
        return perplexity_ratio(seeds[method], seeds[rival])
    if metric == "fluency":
        return fluency_difference(seeds[method], seeds[rival], seeds[START]) if START in seeds else None
    return difference(seeds[method], seeds[rival], f"reward/{metric}")
