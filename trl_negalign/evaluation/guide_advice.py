"""What follows from the numbers about guides: whether one works, where to put it, and which group to train on."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import yaml

from ..groups import PLAIN
from .guide_numbers import (
    GROUP_KINDS,
    compositions,
    difference,
    group_columns,
    interval,
    mean,
)
from .guided import PREFIX, Condition, Guide


WORKS, NOTHING, AGAINST, UNCLEAR = "works", "does nothing", "works against its purpose", "unclear"
# standard deviations of a completion's reward up to which an effect counts as nothing: Cohen's medium effect
MEDIUM = 0.5
# nats per token below which a policy writes about the same with and without the guide
HEEDED = 0.05
# of the largest signal, what another group or place may have to be preferred for being nearer to the plain policy
NEARLY = 0.9
# groups that are kept for the tables, the largest spread first
SHOWN_GROUPS = 6
# share of copied 3-grams beyond those of plain samples from which on it is worth a line
COPIES = 0.05


def verdict(found: dict) -> str:
    """
    A guide works where its difference from plain is above 0 (negative: below) with the whole interval, and works
    against its purpose where it is on the other side. Where 0 is inside, it does nothing if its samples lie nearer to
    the plain policy than `HEEDED`, or an effect of `MEDIUM` can be ruled out either way; else it is unclear.
    """
    sign = -1 if found["kind"] == "negative" else 1
    low, high = sorted(sign * found["difference"][end] for end in ("low", "high"))
    if low > 0 or high < 0:
        return WORKS if low > 0 else AGAINST
    small = -MEDIUM < found["effect"]["low"] and found["effect"]["high"] < MEDIUM
    return NOTHING if small or found["distance"]["value"] < HEEDED else UNCLEAR


def shown(found: dict, digits: int = 3, sign: bool = True) -> str:
    """A number with its interval."""
    style = f"{'+' if sign else ''}.{digits}f"
    return f"{found['value']:{style}} [{found['low']:{style}}, {found['high']:{style}}]"


def sentence(found: dict) -> str:
    """A guide's verdict in words, with its figures."""
    where = f"{found['kind']} guide, {placed(found['placement'])}"
    figures = f"reward {shown(found['difference'])} against plain on {found['difference']['queries']} queries"
    effect = found["effect"]
    lines = {
        WORKS: f"{where}: works: {figures}, d {effect['value']:+.2f}",
        NOTHING: f"{where}: DOES NOTHING: {figures}",
        AGAINST: f"{where}: works AGAINST its purpose: {figures}, d {effect['value']:+.2f}",
        UNCLEAR: f"{where}: UNCLEAR, ask more queries: {figures}, d between {effect['low']:+.2f} and "
        f"{effect['high']:+.2f}",
    }
    text = lines[found["verdict"]] + f"; {found['distance']['value']:.2f} nats per token from the plain policy."
    if found["verdict"] == NOTHING and found["distance"]["value"] < HEEDED:
        text += " The model hardly heeds it: it writes about the same with it and without."
    extra = found["copied"]["value"] - found["copied_by_plain"]["value"]
    if extra > COPIES:
        text += f" It copies the guide's words: {found['copied']['value']:.0%} of its 3-grams stand in the guide."
    return text


def placed(placement: str) -> str:
    return {PREFIX: "as a prefix", "both": "in both places"}.get(placement, f"in the {placement} message")


def neat_groups(
    table: pd.DataFrame,
    guides: Sequence[Guide],
    found: Sequence[dict],
    gaps: dict[str, dict],
    size: int,
    samples: int,
) -> tuple[list[dict], dict] | None:
    """
    Groups of `size` plain, positive and negative samples, and the one that is recommended: of those whose spread (best
    − worst reward) is within a tenth of the largest, the nearest to the plain policy, since what lies near is imitated
    without flattening the policy. A guide takes part in a place where it works, alone or against the other guide.

    Args:
        table (`pandas.DataFrame`): all samples with their rewards.
        guides (`Sequence[Guide]`): all of them.
        found (`Sequence[dict]`): of [`guide_numbers`], with `verdict`.
        gaps (`dict[str, dict]`): positive − negative by placement, where both are measured.
        size, samples (`int`): of the group; of each kind, at most.

    Returns:
        `tuple`: the `SHOWN_GROUPS` largest spreads, that of plain samples alone and the recommended one, each with
        `placement`, `counts`, `spread`, `signal`, `gain`, `over_plain` (its spread − that of plain samples alone) and
        `distance` (nats per token, mean over the group); and the recommended one. `None` without a positive or
        negative guide, or where too few samples have a reward.
    """
    kinds = [kind for kind in GROUP_KINDS if kind == PLAIN or kind in {guide.kind for guide in guides}]
    if kinds == [PLAIN]:
        return None
    columns: dict[tuple, dict] = {}
    for placement in dict.fromkeys(one["placement"] for one in found):
        separated = placement in gaps and gaps[placement]["low"] > 0
        at = {one["kind"]: one for one in found if one["placement"] == placement}
        for counts in compositions(kinds, size, samples):
            guided = [kind for kind in kinds[1:] if counts[kind]]
            pair = separated and len(guided) == 2
            if not all(at[kind]["verdict"] == WORKS or (pair and at[kind]["verdict"] != AGAINST) for kind in guided):
                continue
            key = (placement if guided else None, *counts.values())
            if key not in columns:
                conditions = [Condition(kind, None if kind == PLAIN else placement) for kind in kinds]
                far = sum(counts[kind] * at[kind]["distance"]["value"] for kind in guided) / size
                columns[key] = group_columns(table, conditions, counts) | {"counts": counts, "distance": far}
    spreads = {key: np.nanmean(one["spread"]) for key, one in columns.items() if not np.isnan(one["spread"]).all()}
    if not spreads:
        return None
    order = sorted(spreads, key=lambda key: (-spreads[key], columns[key]["distance"]))
    near = [key for key in order if spreads[key] >= NEARLY * spreads[order[0]]]
    chosen = min(near, key=lambda key: columns[key]["distance"])
    plain = next((key for key in order if key[0] is None), None)
    groups = {}
    for key in order:
        if key in (*order[:SHOWN_GROUPS], plain, chosen):
            one = columns[key]
            groups[key] = {"placement": key[0], "counts": one["counts"], "distance": one["distance"]}
            groups[key] |= {name: interval(mean, one[name]) for name in ("spread", "signal", "gain")}
            if plain is not None:
                groups[key]["over_plain"] = interval(difference, one["spread"], columns[plain]["spread"])
    return [*groups.values()], groups[chosen]


def ple_place(table: pd.DataFrame, found: Sequence[dict]) -> dict | None:
    """
    Where the principle belongs: of the placements in which it works and whose gap is within a tenth of the largest,
    the nearest to the plain policy. With `signal`, the share of pairs with two different rewards.

    Returns:
        `dict`: `placement`, `gap`, `signal` and `distance`, or `None` where the principle works nowhere.
    """
    working = [one for one in found if one["kind"] == "principle" and one["verdict"] == WORKS]
    if not working:
        return None
    largest = max(one["difference"]["value"] for one in working)
    near = [one for one in working if one["difference"]["value"] >= NEARLY * largest]
    chosen = min(near, key=lambda one: one["distance"]["value"])
    conditions = [Condition(PLAIN), Condition("principle", chosen["placement"])]
    pairs = group_columns(table, conditions, {PLAIN: 1, "principle": 1})
    return {
        "placement": chosen["placement"],
        "gap": chosen["difference"],
        "signal": interval(mean, pairs["signal"]),
        "distance": chosen["distance"]["value"],
    }


def about_group(group: dict) -> str:
    """The recommended NEAT group in words, beside one of plain samples alone."""
    counts = ", ".join(f"{count} {kind}" for kind, count in group["counts"].items() if count)
    where = "" if group["placement"] is None else f" {placed(group['placement'])}"
    text = f"NEAT: {counts}{where}: best − worst reward {shown(group['spread'], sign=False)}, rewards differ in "
    text += f"{group['signal']['value']:.0%} of the groups, {group['distance']:.2f} nats per token to bridge."
    if group["placement"] is None:
        return text + " No group with guided samples has clearly more to teach: train without guides, or change them."
    if "over_plain" in group:
        text += f" Over plain samples alone: {shown(group['over_plain'])}."
    return text


def about_place(place: dict) -> str:
    return (
        f"PLE: principle {placed(place['placement'])}: gap {shown(place['gap'])}, rewards differ in "
        f"{place['signal']['value']:.0%} of the pairs, {place['distance']:.2f} nats per token to bridge."
    )


def neat_lines(guides: Sequence[Guide], group: dict, responses: Sequence[str]) -> str:
    """The YAML lines of a recommended group; the dataset's own responses join it and are counted."""
    counts = {f"num_{kind}": group["counts"].get(kind, 0) for kind in GROUP_KINDS}
    lines = {f"{guide.kind}_prompt": guide.name or guide.text for guide in guides if group["counts"].get(guide.kind)}
    if group["placement"] not in (None, PREFIX):
        lines["guide_placement"] = group["placement"]
    lines |= {"num_generations": sum(counts.values()) + len(responses)} | counts
    note = f"# the group holds the dataset's {' and '.join(responses)} too\n" if responses else ""
    return f"# negalign neat\n{note}{as_yaml(lines)}"


def ple_lines(guides: Sequence[Guide], place: dict, size: int) -> str:
    guide = next(guide for guide in guides if guide.kind == "principle")
    lines = {"principle_prompt": guide.name or guide.text}
    if place["placement"] != PREFIX:
        lines["guide_placement"] = place["placement"]
    return f"# negalign ple\n{as_yaml(lines | {'num_generations': size + size % 2})}"


def as_yaml(lines: dict) -> str:
    return yaml.safe_dump(lines, sort_keys=False, allow_unicode=True, width=10_000)
