"""
What each form of an objective pushes up and down on the start model's own samples: before any training, how likely it
is, how certain the model was where it stands, and whether the two balance. Writes PRESSURE.md beside this file.

    python comparison/pressure.py --task sentiment --data DIR
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from judges import identity, load_judges
from material import load_material
from plan import HERE, add_places, read_task
from pressure_page import page
from pressure_samples import GROUPS, as_batch, sample_kinds
from start import start_model

from trl_negalign import objectives
from trl_negalign.evaluation.bootstrap import hierarchical_bootstrap
from trl_negalign.fingerprints import digest
from trl_negalign.methods.neat.objective import PENALTY_TYPES, RANKING_LOSS_TYPES, neat_loss


# the parts' weights in methods/neat.yaml
NEAT = {"sft_weight": 1.0, "ranking_weight": 0.5, "penalty_weight": 0.1}


def neat(logps, mask, rewards, sft_weight=0.0, ranking_weight=0.0, penalty_weight=0.0, **options):
    """NEAT's objective with the parts that are given a weight; at the start, the policy is its own reference."""
    weights = {"sft_weight": sft_weight, "ranking_weight": ranking_weight, "penalty_weight": penalty_weight}
    return neat_loss(logps, mask, rewards, ref_token_logps=logps.detach(), **weights, **options).loss


def advantages(logps, mask, rewards):
    """GRPO's first step: −A_i·p(y_i), A_i the reward's standard score in its group."""
    spread = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
    return -(spread * objectives.sequence_logps(logps, mask, "mean")).mean(1)


FORMS: dict[str, Callable] = {
    "imitation": partial(neat, sft_weight=1.0),
    **{f"ranking, {kind}": partial(neat, ranking_weight=1.0, ranking_loss_type=kind) for kind in RANKING_LOSS_TYPES},
    **{f"penalty, {kind}": partial(neat, penalty_weight=1.0, penalty_type=kind) for kind in PENALTY_TYPES},
    "NEAT (imitation + 0.5 hinge + 0.1 penalty)": partial(neat, **NEAT),
    "NEAT with the linear ranking": partial(neat, **NEAT, ranking_loss_type="linear"),
    "advantages (GRPO)": advantages,
}
TAPERED = ("imitation", "ranking, hinge", "ranking, linear", "NEAT (imitation + 0.5 hinge + 0.1 penalty)")


def pressure(batch: dict, form: Callable, tapered: bool) -> dict[str, dict]:
    """What a form does: ratios of sums over the tokens, weighted by push, each with its interval over the groups."""
    leaf = batch["logp"].clone().requires_grad_()
    weights = objectives.taper_weights(leaf, batch["guided_logp"]) if tapered else torch.ones_like(leaf)
    loss = form(objectives.weight_gradients(leaf, weights), batch["mask"], batch["rewards"])
    push = -torch.autograd.grad(loss.sum(), leaf)[0] * batch["mask"]
    up, down = push.clamp(min=0), (-push).clamp(min=0)

    def ratio(*terms):
        """Σ a/Σ b of one pair of terms, or the first's less the second's of two."""
        sums = [term.sum((1, 2)).double().numpy()[None] for term in terms]
        return hierarchical_bootstrap(_difference_of_ratios, *sums)

    found = {"balance": ratio(up - down, up + down), "flattening": ratio(push * batch["flattening"], up + down)}
    for side, amount in {"up": up, "down": down}.items():
        if amount.any():
            found |= {f"{name} {side}": ratio(amount * batch[name], amount) for name in ("logp", "entropy")}
    if up.any() and down.any():
        found["logp up - down"] = ratio(up * batch["logp"], up, down * batch["logp"], down)
    return found


def _difference_of_ratios(*sums):
    totals = [part.sum((-1, -2)) for part in sums]
    ratios = [a / b.clip(1e-9) for a, b in zip(totals[::2], totals[1::2], strict=True)]
    return ratios[0] - (ratios[1] if len(ratios) > 1 else 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True)
    parser.add_argument("--queries", type=int, default=96, help="validation queries, a group each")
    parser.add_argument("--page", type=Path, default=HERE / "PRESSURE.md")
    add_places(parser)
    args = parser.parse_args()
    task = read_task(args.task)
    material, cache = load_material(task["corpus"], args.data), args.cache / args.task
    queries = material.validation.select(range(min(args.queries, len(material.validation.rows))))
    model, tokenizer = start_model(task["start"], cache)
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    settings = (identity(task, material), queries.fingerprint, GROUPS, task["start"], task["guides"], task["budget"])
    kept = cache / f"pressure-{digest(*settings)}.pt"  # sampling takes minutes
    if not kept.exists():
        reward = load_judges(task, material, cache)["training"]
        torch.save(sample_kinds(model, tokenizer, queries, task, reward), kept)
    samples = torch.load(kept)
    found = {}
    for name, parts in GROUPS.items():
        groups = [[row for k, p, n in parts for row in samples[k, p][query][:n]] for query in range(len(queries.rows))]
        batch = as_batch(groups)
        found[name] = {"batch": batch, "forms": {form: pressure(batch, call, False) for form, call in FORMS.items()}}
        if any(kind != "plain" for kind, *_ in parts):
            found[name]["forms"] |= {f"{form}, tapered": pressure(batch, FORMS[form], True) for form in TAPERED}
    command = f"python comparison/pressure.py --task {args.task} --data DIR --queries {len(queries.rows)}"
    text = page(found, task["budget"]["max_new_tokens"], args.task, len(queries.rows), command)
    args.page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
