"""The page that pressure.py writes: what each kind of group is like, and what each form does with it."""

import torch

from trl_negalign import objectives


COLUMNS = ("logp up", "logp down", "logp up - down", "entropy up", "entropy down", "balance", "flattening")
HEAD = """# What is pushed up, and what down

What each form of an objective does in its first step, on samples of the untrained model: {queries} validation queries
of `{task}`, a group of four completions of {tokens} tokens each, judged by the training reward. Made by

```bash
{command}
```

A token's *push* is minus the derivative of the loss with respect to its log-probability given the plain query, as the
package's own objectives have it. Every number is a mean over tokens weighted by push (a ratio of sums), with a 95%
bootstrap interval over the groups.

- **logp** up, down: log-probability of what is pushed up, and of what is pushed down, in nats a token; and their
  difference. Below 0, the unlikely rises and the likely falls.
- **entropy** up, down: entropy of the distributions that these tokens stand in.
- **balance**: (push up − push down) / (push up + push down). 0 for an advantage; 1 where all is pushed up.
- **flattening**: by how much the entropy grows for a unit of push, in thousandths of a nat, if the step moved the
  logits of each token's place alone, −π_a(log π_a + H) + Σ_b π_b²(log π_b + H). On a policy's own samples it is 0 on
  average for any push that does not look at the token.
"""


def page(found: dict, tokens: int, task: str, queries: int, command: str) -> str:
    parts = [HEAD.format(queries=queries, task=task, tokens=tokens, command=command)]
    for name, group in found.items():
        lines = [f"\n## Groups of {name}\n", *facts(group["batch"]), ""]
        lines += [f"| form | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
        for form, numbers in group["forms"].items():
            lines.append(f"| {form} | {' | '.join(cell(numbers, column) for column in COLUMNS)} |")
        parts.append("\n".join(lines) + "\n")
    return "".join(parts)


def cell(numbers: dict, column: str) -> str:
    if column not in numbers:
        return "–"
    scale = 1000 if column == "flattening" else 1
    value, low, high = (scale * numbers[column][key] for key in ("value", "low", "high"))
    return _numbers(f"{value:.2f} ({low:.2f}, {high:.2f})")


def _numbers(text: str) -> str:
    return text.replace("-0.00", "0.00").replace("-", "−")


def facts(batch: dict) -> list[str]:
    """What the hinge, the prefix and the taper depend on, as a list of points."""
    mask, rewards = batch["mask"], batch["rewards"]
    means = objectives.sequence_logps(batch["logp"], mask, "mean")
    pairs = rewards.unsqueeze(2) < rewards.unsqueeze(1)
    likelier = means.unsqueeze(2) > means.unsqueeze(1)
    best, worst = objectives.best_and_worst(rewards)
    place = torch.arange(len(best))
    shared = objectives.shared_prefixes(batch["ids"], mask)[place, best, worst].float()
    lengths = mask.sum(-1)
    alike = (lengths[place, best] == lengths[place, worst]).float().mean()
    lines = [
        "- log-probability a token given the plain query: best "
        + _numbers(f"{means[place, best].mean():.2f}, worst {means[place, worst].mean():.2f}, all {means.mean():.2f}"),
        f"- the worse completion is the likelier one in {(pairs & likelier).sum() / pairs.sum():.0%} of the pairs: "
        "there the hinge acts",
        f"- best and worst share {shared.mean():.2f} tokens at their beginning on average (none in "
        f"{(shared == 0).float().mean():.0%} of the groups), and are equally long in {alike:.0%}",
    ]
    guided = (batch["guided_logp"] > -torch.inf) & (mask != 0)
    if guided.any():
        weights = objectives.taper_weights(batch["logp"], batch["guided_logp"])[guided]
        lines.append(f"- taper weight of guided tokens: {weights.mean():.2f} on average")
    return lines
