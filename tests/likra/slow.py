"""Log-probabilities one option at a time, token by token: the independent path that the package is held against."""

import torch


@torch.no_grad()
def option_logp(model, query_ids: list[int], option_ids: list[int]) -> float:
    logits = model(input_ids=torch.tensor([query_ids + option_ids])).logits[0].double()
    logps = torch.log_softmax(logits, dim=-1)
    return sum(logps[len(query_ids) - 1 + i, token].item() for i, token in enumerate(option_ids))


def head_logp(heads, state: str, query_ids: list[int], option_ids: list[int]) -> float:
    """Under one head of a `LikraModel`, or its base."""
    heads.model.eval()
    if state == "base":
        with heads.model.disable_adapter():
            return option_logp(heads.model, query_ids, option_ids)
    heads.model.set_adapter(state)
    return option_logp(heads.model, query_ids, option_ids)


def text_logp(heads, state: str, query: str, option: str) -> float:
    """Of an option behind a query, both texts as they are."""
    query_ids = heads.tokenizer(query)["input_ids"]
    both = heads.tokenizer(query + option)["input_ids"]
    assert both[: len(query_ids)] == query_ids
    return head_logp(heads, state, query_ids, both[len(query_ids) :])
