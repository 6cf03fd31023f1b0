"""
Log-probabilities of options, the query's forward shared among them: a packed row a query, as the trainer packs groups
(`trl_negalign/trainer/sharing/packing.py`). Logits are computed only where an option's token is predicted.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from ..trainer.sharing.exactness import causal_lm_of
from ..trainer.sharing.packing import NO_LABEL, only_positions, pack_shared_prompts
from .encoding import Encoded, context_length


TRIAL_TOKENS = 320  # of the longest text that `can_share` tries: over the windows of models that do not name theirs


def option_logps(
    model: PreTrainedModel, encoded: Sequence[Encoded], tokens_per_batch: int = 512, share: bool = True
) -> Iterator[tuple[list[int], list[torch.Tensor]]]:
    """
    ℓ of every option, batch by batch.

    Args:
        model (`PreTrainedModel` or `PeftModel`): in evaluation mode, its adapter chosen.
        encoded (`Sequence[Encoded]`): queries and options.
        tokens_per_batch (`int`): tokens of a forward, unless one query has more.
        share (`bool`): whether options share their query's forward; see [`can_share`].

    Yields:
        Indices into `encoded`, and for each the summed log-probabilities of its options in nats, `[options]` on the
        CPU in float64.
    """
    # an option's last token is only predicted, never read; packed, each option begins with the query's last token
    read = [[len(option) - 1 for option in item.options] for item in encoded]
    longest = [len(item.query) + max(options) for item, options in zip(encoded, read, strict=True)]
    window = _window(model)
    row = [len(item.query) - 1 + sum(map(len, item.options)) for item in encoded]
    packed = [i for i in range(len(encoded)) if share and (window is None or longest[i] <= window)]
    # the longest first: what does not fit in memory shows at once, and rows of like length waste little padding
    separate = sorted(set(range(len(encoded))) - set(packed), key=lambda i: -longest[i])
    packed = sorted(packed, key=lambda i: -row[i])

    def packed_tokens(batch: list[int]) -> int:
        return len(batch) * max(row[i] for i in batch)

    def padded_tokens(batch: list[int]) -> int:
        return sum(len(read[i]) for i in batch) * max(longest[i] for i in batch)

    for batch in _batches(packed, packed_tokens, tokens_per_batch):
        yield batch, shared_logps(model, [encoded[i] for i in batch])
    for batch in _batches(separate, padded_tokens, tokens_per_batch):
        yield batch, separate_logps(model, [encoded[i] for i in batch])


def _batches(order: list[int], size: Callable[[list[int]], int], limit: int) -> Iterator[list[int]]:
    """Neighbours in `order`, as many as `limit` allows, and at least one."""
    batch: list[int] = []
    for i in order:
        if batch and size([*batch, i]) > limit:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _window(model) -> int | None:
    """Longest text whose tokens all see each other, where the model's layers see a window only."""
    config = model.config.get_text_config()
    windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    return min((window for window in windows if window), default=None)


def can_share(model: PreTrainedModel) -> bool:
    """
    Whether the model computes the same for options that share their query's forward as for each alone, tried on random
    tokens. State-space models and those that count positions themselves do not, nor those whose window goes by the
    place in the row.
    """
    # the fused attention kernels take no mask of our own
    if model.config._attn_implementation not in ("sdpa", "eager"):
        return False
    if not {"position_ids", "attention_mask"} <= set(inspect.signature(model.forward).parameters):
        return False
    vocabulary = model.config.get_text_config().vocab_size
    limits = (TRIAL_TOKENS, _window(model), context_length(model.config))
    longest = min(limit for limit in limits if limit is not None)
    ids = torch.randint(vocabulary, (longest + 28,), generator=torch.Generator().manual_seed(0)).tolist()
    # the second option stands far behind its query
    last = ids[longest:]
    items = [Encoded(ids[:8], [ids[8:longest], last[:8]]), Encoded(last[8:16], [last[16:22], last[22:]])]
    try:
        shared = torch.cat(shared_logps(model, items))
    except (RuntimeError, ValueError, TypeError, IndexError):  # the model takes no mask of our own
        return False
    separate = torch.cat(separate_logps(model, items))
    tokens = torch.tensor([len(option) for item in items for option in item.options])
    exact = model.dtype in (torch.float32, torch.float64)
    return bool(((shared - separate).abs() / tokens < (1e-3 if exact else 0.1)).all())


@torch.no_grad()
def shared_logps(model: PreTrainedModel, batch: Sequence[Encoded]) -> list[torch.Tensor]:
    """ℓ of each option, `[options]` a query, from one packed row a query, see [`pack_shared_prompts`]."""
    causal_lm, device = causal_lm_of(model), model.device
    ones = [([1] * len(query), [[1] * len(option) for option in options]) for query, options in batch]
    packed = pack_shared_prompts(
        _padded([item.query for item in batch], "left").to(device),
        _padded([query for query, _ in ones], "left").to(device),
        _padded_groups([item.options for item in batch]).to(device),
        _padded_groups([options for _, options in ones]).to(device),
    )
    scored = packed.labels != NO_LABEL
    with only_positions(causal_lm.base_model, scored):
        logits = model(
            input_ids=packed.input_ids,
            # a mask of 0 and the lowest number is taken by eager attention as well as by "sdpa"
            attention_mask=packed.attention_mask(model.dtype),
            position_ids=packed.position_ids,
            use_cache=False,
        ).logits[0]
    targets = packed.labels[scored]
    token_logps = _token_logps(logits, torch.arange(len(targets), device=device), targets)
    counts = [len(option) for item in batch for option in item.options]
    sums = torch.stack([part.sum() for part in token_logps.split(counts)])
    return list(sums.split([len(item.options) for item in batch]))


def _padded(rows: Sequence[list[int]], side: str) -> torch.Tensor:
    """Rows of numbers, `[rows, longest]`, padded with 0."""
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_side=side)


def _padded_groups(groups: Sequence[list[list[int]]]) -> torch.Tensor:
    """Groups of rows of numbers, `[groups, largest, longest]`, padded with 0; a group may lack rows."""
    size = max(map(len, groups))
    rows = [row for group in groups for row in [*group, *([[]] * (size - len(group)))]]
    return _padded(rows, "right").long().unflatten(0, (-1, size))


@torch.no_grad()
def separate_logps(model: PreTrainedModel, batch: Sequence[Encoded]) -> list[torch.Tensor]:
    """As [`shared_logps`], each option in its own row together with its query, padded on the right."""
    pairs = [(item.query, option) for item in batch for option in item.options]
    rows = [torch.tensor(query + option[:-1]) for query, option in pairs]
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    logits = model(
        input_ids=pad_sequence(rows, batch_first=True).to(model.device),
        attention_mask=mask.to(model.device),
        use_cache=False,
    ).logits
    sums = []
    for row, (query, option) in zip(logits, pairs, strict=True):
        predicting = row[len(query) - 1 : len(query) + len(option) - 1]
        numbers = torch.arange(len(option), device=row.device)
        sums.append(_token_logps(predicting, numbers, torch.tensor(option, device=row.device)).sum())
    return list(torch.stack(sums).split([len(item.options) for item in batch]))


def _token_logps(logits: torch.Tensor, rows: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Log-probability of each target under its row of `[rows, vocabulary]` logits, in float64 on the CPU."""
    logits = logits.float()
    # some devices have no float64
    return logits[rows, targets].cpu().double() - logits.logsumexp(-1)[rows].cpu().double()
