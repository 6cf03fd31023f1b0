"""
Log-probabilities of options, the query's forward shared among them.

Many queries stand in one row without any padding: each query once, behind it its options, and an attention mask that
lets an option see its own query and itself only. Logits are computed only where an option's token is predicted.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from .encoding import Encoded, context_length


QUERY = -1  # the option number of a query's own tokens
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
    # an option's last token is only predicted, never read
    read = [[len(option) - 1 for option in item.options] for item in encoded]
    longest = [len(item.query) + max(options) for item, options in zip(encoded, read, strict=True)]
    window = _window(model)
    packed = [i for i in range(len(encoded)) if share and (window is None or longest[i] <= window)]
    # the longest first: what does not fit in memory shows at once, and rows of like length waste little padding
    separate = sorted(set(range(len(encoded))) - set(packed), key=lambda i: -longest[i])

    def packed_tokens(batch: list[int]) -> int:
        return sum(len(encoded[i].query) + sum(read[i]) for i in batch)

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
    if not {"position_ids", "logits_to_keep", "attention_mask"} <= set(inspect.signature(model.forward).parameters):
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
    """ℓ of each option, `[options]` a query, from one row that holds each query once and its options behind it."""
    ids, positions, items, options = [], [], [], []
    kept, rows, targets, counts = [], [], [], []
    for item, (query, choices) in enumerate(batch):
        ids += query
        positions += range(len(query))
        items += [item] * len(query)
        options += [QUERY] * len(query)
        kept.append(len(ids) - 1)  # the query's last token predicts the first of every option
        first = len(kept) - 1
        for number, choice in enumerate(choices):
            rows += [first, *range(len(kept), len(kept) + len(choice) - 1)]
            kept += range(len(ids), len(ids) + len(choice) - 1)
            ids += choice[:-1]
            positions += range(len(query), len(query) + len(choice) - 1)
            items += [item] * (len(choice) - 1)
            options += [number] * (len(choice) - 1)
            targets += choice
            counts.append(len(choice))
    device = model.device
    position, item, option = (torch.tensor(values, device=device) for values in (positions, items, options))
    visible = (item[:, None] == item) & ((option == QUERY) | (option[:, None] == option))
    visible &= position <= position[:, None]
    mask = torch.zeros(visible.shape, dtype=model.dtype, device=device)
    mask.masked_fill_(~visible, torch.finfo(model.dtype).min)
    logits = model(
        input_ids=torch.tensor([ids], device=device),
        attention_mask=mask[None, None],
        position_ids=position[None],
        logits_to_keep=torch.tensor(kept, device=device),
        use_cache=False,
    ).logits[0]
    token_logps = _token_logps(logits, torch.tensor(rows, device=device), torch.tensor(targets, device=device))
    sums = torch.stack([part.sum() for part in token_logps.split(counts)])
    return list(sums.split([len(item.options) for item in batch]))


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
