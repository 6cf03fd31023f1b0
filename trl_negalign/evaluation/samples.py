"""Several completions of each query."""

import pandas as pd
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .cache import by_length
from .generation import Sampling, generate_batch
from .queries import Queries


def sample_queries(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    queries: Queries,
    sampling: Sampling,
    samples: int = 1,
    batch_size: int = 64,
    description: str | None = None,
) -> pd.DataFrame:
    """
    Completions that depend on the weights, the query and `sampling.seed`, and neither on the batch nor on torch's
    random state: sampling between two training steps leaves the training as it was. Two policies that are asked with
    the same seed use the same random numbers for the same query, which takes noise out of their difference.

    Args:
        model, tokenizer: the policy.
        queries ([`Queries`]): plain queries.
        sampling ([`~trl_negalign.evaluation.generation.Sampling`]): how. Its seed is of the sampling alone; which
            queries there are was decided by `load_queries`' own.
        samples (`int`): completions of each query.
        batch_size (`int`): completions at a time; changes results by rounding only.
        description (`str`, *optional*): label of a progress bar; left out, there is none.

    Returns:
        `pandas.DataFrame`: one row a completion, all samples of the first query first: `query` (its index in
        `queries`), `sample`, `query_ids`, `completion` (text), `token_ids` (with the end of sequence, if it was
        sampled) and `truncated` (whether it was not).
    """
    was_training = model.training
    model.eval()
    ids = queries.query_ids(tokenizer)
    places = [(query, sample) for query in range(len(ids)) for sample in range(samples)]
    rows: dict[int, dict] = {}
    batches = list(by_length({place: len(ids[query]) for place, (query, _) in enumerate(places)}, batch_size))
    for batch in tqdm(batches, desc=description, unit="batch", disable=description is None):
        chosen = [places[place] for place in batch]
        # the first sample has the random numbers that a single one has
        names = [queries.rows[query] if sample == 0 else f"{queries.rows[query]} {sample}" for query, sample in chosen]
        new_ids, truncated = generate_batch(model, tokenizer, [ids[query] for query, _ in chosen], names, sampling)
        texts = tokenizer.batch_decode(new_ids, skip_special_tokens=True)
        for place, (query, sample), *rest in zip(batch, chosen, texts, new_ids, truncated, strict=True):
            found = dict(zip(("completion", "token_ids", "truncated"), rest, strict=True))
            rows[place] = {"query": query, "sample": sample, "query_ids": ids[query]} | found
    model.train(was_training)
    return pd.DataFrame([rows[place] for place in range(len(places))])
