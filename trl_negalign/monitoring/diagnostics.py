"""Diagnostics of a policy on preference pairs, asked for at evaluation time: each costs forward or backward passes."""

from collections.abc import Sequence
from statistics import fmean

import torch
import torch.nn.functional as F
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from transformers.integrations import is_deepspeed_zero3_enabled

from ..borders import check_reasoning, query_ids, response_ids


def ranking_accuracy(model: PreTrainedModel, pairs: list[tuple[list[int], list[int], list[int]]]) -> float:
    """
    Share of pairs whose chosen response has the higher log-probability per token; ties count half.

    Args:
        model ([`~transformers.PreTrainedModel`]): the policy.
        pairs (`list`): tokens of the query, the chosen and the rejected response.
    """
    wins = 0.0
    for query, chosen, rejected in pairs:
        difference = _mean_logp(model, query, chosen) - _mean_logp(model, query, rejected)
        wins += 0.5 if difference == 0 else float(difference > 0)
    return wins / len(pairs)


def ches_score(
    model: PreTrainedModel, query: list[int], chosen: list[int], rejected: list[int], per_token: bool = False
) -> float:
    """
    Centered hidden embedding similarity of a pair, ⟨Σh⁺, Σh⁻⟩ − ‖Σh⁺‖² (arXiv 2410.08847, Definition 2): the sums are
    over the last layer's states that predict the responses' tokens. The higher, the likelier that training on the pair
    displaces the likelihood of the chosen response.

    Args:
        model ([`~transformers.PreTrainedModel`]): the policy.
        query, chosen, rejected (`list[int]`): tokens.
        per_token (`bool`): divide by the responses' lengths, ⟨Σh⁺, Σh⁻⟩/(|y⁺||y⁻|) − ‖Σh⁺‖²/|y⁺|², so that pairs of
            different lengths can be compared.
    """
    with torch.no_grad():
        plus, minus = (_states(model, query, response).sum(0) for response in (chosen, rejected))
    if per_token:
        plus, minus = plus / len(chosen), minus / len(rejected)
    return (plus @ minus - plus @ plus).item()


def gradient_inner_product(
    model: PreTrainedModel, query: list[int], chosen: list[int], rejected: list[int]
) -> tuple[float, float]:
    """
    How entangled a pair is: the inner product and the cosine of the gradients of log π(y⁺|x) and log π(y⁻|x), summed
    over tokens, with respect to the parameters that are trained. Pushing y⁻ down takes y⁺ along where it is positive.

    Args:
        model ([`~transformers.PreTrainedModel`]): the policy; its gradients are left as they are.
        query, chosen, rejected (`list[int]`): tokens.

    Raises:
        ValueError: if no parameter is trained.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError("The model has no trainable parameter, so its gradients have no inner product.")
    gradients = []
    for response in (chosen, rejected):
        with torch.enable_grad():
            logp = _token_logps(model, query, response).sum()
            found = torch.autograd.grad(logp, parameters, allow_unused=True)
        gradients.append([torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)])
    dot = sum((one.float() * two.float()).sum() for one, two in zip(*gradients, strict=True))
    norms = [sum(g.float().square().sum() for g in one).sqrt() for one in gradients]
    return dot.item(), (dot / (norms[0] * norms[1])).item()


def top_k_entropy_and_mass(
    model: PreTrainedModel, query: list[int], response: list[int], k: int = 10
) -> tuple[float, float]:
    """
    Means over a response's tokens of what the k most probable next tokens hold: the entropy of the distribution
    renormalised to them, in nats, and their probability mass. Both fall or saturate when a policy collapses.

    Args:
        model ([`~transformers.PreTrainedModel`]): the policy.
        query, response (`list[int]`): tokens.
        k (`int`): tokens that count.
    """
    with torch.no_grad():
        top = _logits(model, query, response).log_softmax(-1).topk(k, dim=-1).values
    inside = top.log_softmax(-1)
    entropy = -(inside.exp() * inside).sum(-1).mean()
    return entropy.item(), top.exp().sum(-1).mean().item()


def _sequence(model, query, response):
    return torch.tensor([query + response], device=model.device)


def _logits(model, query, response) -> torch.Tensor:
    """Logits that predict each token of the response, `[tokens, vocabulary]`, in float32."""
    logits = model(input_ids=_sequence(model, query, response), use_cache=False).logits
    return logits[0, len(query) - 1 : -1].float()


def _token_logps(model, query, response) -> torch.Tensor:
    targets = torch.tensor(response, device=model.device)
    return -F.cross_entropy(_logits(model, query, response), targets, reduction="none")


def _mean_logp(model, query, response) -> float:
    with torch.no_grad():
        return _token_logps(model, query, response).mean().item()


def _states(model, query, response) -> torch.Tensor:
    """Last layer's states that predict each token of the response, `[tokens, hidden]`, in float32."""
    output = model(input_ids=_sequence(model, query, response), use_cache=False, output_hidden_states=True)
    return output.hidden_states[-1][0, len(query) - 1 : -1].float()


class DiagnosticsCallback(TrainerCallback):
    """
    Logs the diagnostics of a preference set, as `diagnostics/…`, whenever the trainer evaluates: `ranking_accuracy`,
    `ches` (per token), `gradient_cosine`, `top_k_entropy` and `top_k_mass` (of the chosen responses), as means over
    the pairs.

    It runs the unwrapped model on one sequence at a time, on every process alike. Not for weights that are split over
    processes (ZeRO-3, FSDP): it raises there.

    Args:
        dataset ([`~datasets.Dataset`]): columns `prompt`, `chosen` and `rejected`, texts or conversations.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): the policy's.
        num_pairs (`int`): first pairs that are used.
        max_tokens (`int`): responses are cut after as many tokens.
        k (`int`): of the top-k diagnostics.
        chat_template_kwargs (`dict`, *optional*): arguments for the chat template, as in the training.

    Raises:
        ValueError: if a column is missing, a pair has an empty response, or one does not close the reasoning that its
            prompt opens.
    """

    def __init__(
        self,
        dataset,
        tokenizer: PreTrainedTokenizerBase,
        num_pairs: int = 16,
        max_tokens: int = 256,
        k: int = 10,
        chat_template_kwargs: dict | None = None,
    ):
        for column in ("prompt", "chosen", "rejected"):
            if column not in dataset.column_names:
                raise ValueError(f"The preference set has no column {column!r}, only {dataset.column_names}.")
        self.k = k
        self.pairs = []
        for i, row in enumerate(dataset.select(range(min(num_pairs, len(dataset))))):
            prompt = row["prompt"]
            query = query_ids(tokenizer, prompt, chat_template_kwargs)
            chosen, rejected = (
                response_ids(tokenizer, prompt, row[name], chat_template_kwargs) for name in ("chosen", "rejected")
            )
            for name in ("chosen", "rejected"):
                check_reasoning(tokenizer, prompt, row[name], f"row {i}: {name}", chat_template_kwargs)
            if not chosen or not rejected:
                raise ValueError(f"A response to {prompt!r} is empty. Drop such rows.")
            self.pairs.append((query, chosen[:max_tokens], rejected[:max_tokens]))

    def on_evaluate(self, args, state, control, model=None, metrics: dict | None = None, **kwargs):
        if is_deepspeed_zero3_enabled() or isinstance(model, FSDPModule):
            raise ValueError(
                "DiagnosticsCallback needs whole weights on a process: leave it out with ZeRO-3 and FSDP."
            )
        values = {f"diagnostics/{name}": value for name, value in diagnose(model, self.pairs, self.k).items()}
        if metrics is not None:
            metrics.update(values)
        state.log_history.append({"step": state.global_step, "epoch": state.epoch} | values)


def diagnose(
    model: PreTrainedModel, pairs: Sequence[tuple[list[int], list[int], list[int]]], k: int = 10
) -> dict[str, float]:
    """All diagnostics of a preference set, as means over its pairs, with the model as it is deployed (no dropout)."""
    was_training = model.training
    model.eval()
    try:
        entropies, masses = zip(*(top_k_entropy_and_mass(model, query, y, k) for query, y, _ in pairs), strict=True)
        return {
            "ranking_accuracy": ranking_accuracy(model, list(pairs)),
            "ches": fmean(ches_score(model, *pair, per_token=True) for pair in pairs),
            "gradient_cosine": fmean(gradient_inner_product(model, *pair)[1] for pair in pairs),
            "top_k_entropy": fmean(entropies),
            "top_k_mass": fmean(masses),
        }
    finally:
        model.train(was_training)
