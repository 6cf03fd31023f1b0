"""Sampling from a policy and scoring what it wrote, outside of any trainer."""

import math
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from tqdm.auto import tqdm
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, set_seed

from ..borders import query_ids, response_ids
from .generation import end_tokens, no_generation_settings


def sample_completions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    queries: list[str],
    *,
    max_new_tokens: int,
    batch_size: int = 32,
    temperature: float = 1.0,
    seed: int = 0,
    description: str = "sampling",
) -> list[str]:
    """
    One completion of each query, sampled from the model's whole distribution. Of the model's own generation settings
    only `eos_token_id` is used, beside the tokenizer's end of sequence.

    Args:
        model, tokenizer: the policy.
        queries (`list[str]`): plain texts; repeat a query to sample it more than once.
        max_new_tokens (`int`): longest completion in tokens.
        batch_size (`int`): queries sampled at a time.
        temperature (`float`): sampling temperature.
        seed (`int`): the same seed gives the same completions on the same machine.
        description (`str`): label of the progress bar.

    Returns:
        `list[str]`: the completions, without special tokens.
    """
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=True,
        temperature=temperature,
        top_k=0,
        top_p=1.0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=end_tokens(model, tokenizer) or None,
    )
    was_training = model.training
    model.eval()
    set_seed(seed)
    completions = []
    for start in tqdm(range(0, len(queries), batch_size), desc=description, unit="batch"):
        inputs = tokenizer(
            queries[start : start + batch_size], return_tensors="pt", padding=True, padding_side="left"
        ).to(model.device)
        with torch.no_grad(), no_generation_settings(model):
            output = model.generate(**inputs, generation_config=config)
        new_tokens = output[:, inputs["input_ids"].shape[1] :]
        completions += tokenizer.batch_decode(new_tokens, skip_special_tokens=True)
    model.train(was_training)
    return completions


def completion_perplexity(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    queries: list[str],
    completions: list[str],
    *,
    batch_size: int = 16,
    without_adapter: bool = False,
) -> float:
    """
    Perplexity of completions given their queries: exp of the mean negative log-likelihood per completion token, over
    all completions together. Query tokens are not counted.

    Args:
        model, tokenizer: the judging language model.
        queries, completions (`list[str]`): one completion a query; empty completions are left out.
        batch_size (`int`): sequences scored at a time.
        without_adapter (`bool`): judge by a PEFT model's base.
    """
    total, count = 0.0, 0
    pairs = [(query, completion) for query, completion in zip(queries, completions, strict=True) if completion]
    was_training = model.training
    model.eval()
    with torch.no_grad(), model.disable_adapter() if without_adapter else nullcontext():
        for start in range(0, len(pairs), batch_size):
            batch = pairs[start : start + batch_size]
            tokens = [(query_ids(tokenizer, x), response_ids(tokenizer, x, y)) for x, y in batch]
            longest = max(len(query) + len(new) for query, new in tokens)
            ids = torch.full((len(batch), longest), tokenizer.pad_token_id)
            mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
            for row, (query, new) in enumerate(tokens):
                end = len(query) + len(new)
                ids[row, :end] = torch.tensor(query + new)
                mask[row, :end] = 1
                labels[row, len(query) : end] = ids[row, len(query) : end]
            logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits[:, :-1].float()
            labels = labels[:, 1:].to(logits.device)
            total += F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=-100, reduction="sum").item()
            count += (labels != -100).sum().item()
    model.train(was_training)
    return math.exp(total / count) if count else float("nan")
