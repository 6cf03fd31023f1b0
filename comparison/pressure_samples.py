"""Samples of the start model, plain and guided, each token with what pressure.py weighs."""

from collections.abc import Callable
from dataclasses import replace

import torch

from trl_negalign.borders import query_ids
from trl_negalign.evaluation.cache import by_length
from trl_negalign.evaluation.generation import Sampling
from trl_negalign.evaluation.samples import sample_queries
from trl_negalign.groups import pad_and_stack
from trl_negalign.guides import apply_guide, resolve_guide


# which samples make a group: guide, top_p and how many
GROUPS = {
    "four plain": [("plain", 1.0, 4)],
    "two positive, two negative": [("positive", 1.0, 2), ("negative", 1.0, 2)],
    "two positive, two negative, with top_p 0.9": [("positive", 0.9, 2), ("negative", 0.9, 2)],
    "two plain, a positive, a negative": [("plain", 1.0, 2), ("positive", 1.0, 1), ("negative", 1.0, 1)],
}


@torch.no_grad()
def score(model, pairs: list[tuple[list[int], list[int]]], batch_size: int) -> list[dict]:
    """
    Of each completion's tokens, given a query: `logp`; `entropy` of their distribution; and `flattening`, by how much
    the entropy grows with the step that raises the token's log-probability, if that step moved this place's logits
    alone: −π_a(log π_a + H) + Σ_b π_b²(log π_b + H), of which π's own samples have a mean of 0.
    """
    found: dict[int, dict] = {}
    for batch in by_length({index: len(x) + len(y) for index, (x, y) in enumerate(pairs)}, batch_size):
        rows = [torch.tensor([pairs[index][0] + pairs[index][1]]) for index in batch]
        ids, mask = pad_and_stack(rows), pad_and_stack([torch.ones_like(row) for row in rows])
        logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False).logits
        for row, index in enumerate(batch):
            query, response = pairs[index]
            logps = logits[row, len(query) - 1 : len(query) + len(response) - 1].float().log_softmax(-1).cpu()
            own = logps.gather(1, torch.tensor(response)[:, None])[:, 0]
            entropy = -(logps.exp() * logps).sum(-1)
            surplus = logps + entropy[:, None]
            flattening = (logps.exp() ** 2 * surplus).sum(-1) - own.exp() * (own + entropy)
            found[index] = {"logp": own, "entropy": entropy, "flattening": flattening}
    return [found[index] for index in range(len(pairs))]


def sample_kinds(model, tokenizer, queries, task: dict, rewarded: Callable) -> dict[tuple, list[list[dict]]]:
    """By guide and top_p, the samples of each query: their tokens with [`score`]'s numbers and their reward."""
    found: dict[tuple, list] = {}
    budget, size = task["budget"]["max_new_tokens"], task["evaluation"]["batch_size"]
    wanted = sorted({(kind, top_p) for group in GROUPS.values() for kind, top_p, _ in group})
    for seed, (kind, top_p) in enumerate(wanted):
        count = max(n for group in GROUPS.values() for k, p, n in group if (k, p) == (kind, top_p))
        guide = None if kind == "plain" else resolve_guide(task["guides"], f"{kind}_prompt", kind)
        guided = replace(queries, prompts=[apply_guide(prompt, guide) for prompt in queries.prompts])
        table = sample_queries(model, tokenizer, guided, Sampling(budget, top_p=top_p, seed=seed), count, size)
        prompts, answers = [queries.prompts[query] for query in table["query"]], table["token_ids"]
        plain = score(model, [(query_ids(tokenizer, x), y) for x, y in zip(prompts, answers, strict=True)], size // 4)
        under_guide = score(model, list(zip(table["query_ids"], answers, strict=True)), size // 4) if guide else None
        rewards = rewarded(prompts=prompts, completions=table["completion"].tolist())
        found[kind, top_p] = [[] for _ in queries.prompts]
        for place, query in enumerate(table["query"]):
            own = plain[place]["logp"]
            guided_logp = under_guide[place]["logp"] if guide else torch.full_like(own, -torch.inf)
            row = plain[place] | {"guided_logp": guided_logp, "ids": torch.tensor(table["token_ids"][place])}
            found[kind, top_p][query].append(row | {"reward": rewards[place]})
        print(f"{kind}, top_p {top_p}: {len(table)} completions", flush=True)
    return found


def as_batch(groups: list[list[dict]]) -> dict[str, torch.Tensor]:
    """Samples as tensors `[groups, G, T]`, padded with 0, their `mask`, and `rewards` `[groups, G]`."""
    batch = {"rewards": torch.tensor([[row["reward"] for row in group] for group in groups])}
    names = [name for name in groups[0][0] if name != "reward"]
    for name in (*names, "mask"):
        rows = [torch.ones_like(row["ids"]) if name == "mask" else row[name] for group in groups for row in group]
        batch[name] = pad_and_stack([row[None] for row in rows]).view(len(groups), len(groups[0]), -1)
    return batch
