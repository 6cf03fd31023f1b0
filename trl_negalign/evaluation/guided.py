"""What a policy writes to the same queries plain and under guides: samples, their rewards, their distance."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..fingerprints import digest, tokenizer_fingerprint
from ..groups import PLAIN
from ..guides import GUIDE_KINDS, GUIDE_PLACEMENTS, apply_guide, check_guide_columns, resolve_guide
from ..trainer.rounds.scores import combine
from .cache import by_length, cached_table
from .generation import Sampling, generate_cached
from .perplexity import response_nlls
from .queries import Queries, as_response, drop_long
from .rewards import Scorer


# queries below which a bootstrap interval covers the truth too rarely to judge a guide by
FEWEST_QUERIES = 10
# a text query takes a guide in one way only
PREFIX = "prefix"


@dataclass(frozen=True)
class Guide:
    """
    A guide to measure.

    Args:
        kind (`str`): `"positive"`, `"negative"` or `"principle"`.
        text (`str`): what is put before a query.
        name (`str`, *optional*): `"@name"` of a packaged guide, which a configuration can say instead of the text.
    """

    kind: str
    text: str
    name: str | None = None


@dataclass(frozen=True)
class Condition:
    """
    One way to ask: plain, or under a guide in one place.

    Args:
        kind (`str`): `"plain"`, or the guide's kind.
        placement (`str`, *optional*): of the guide.
        text (`str`, *optional*): of the guide.
    """

    kind: str
    placement: str | None = None
    text: str | None = None

    def ask(self, queries: Queries) -> Queries:
        """Plain queries as they are asked under this condition; a guide's columns are those of the queries."""
        columns = {"prompt": queries.prompts, **queries.columns}
        check_guide_columns(self.text, columns, queries.source["data"])
        rows = (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
        return replace(queries, prompts=[apply_guide(row["prompt"], self.text, self.placement, row) for row in rows])


def parse_guides(texts: Sequence[str]) -> list[Guide]:
    """
    Read guides as a command line has them: `KIND=@name`, `KIND=FILE` or `KIND=TEXT`.

    Raises:
        ValueError: if there is none, a kind is unknown or named twice, or a guide is missing or empty.
    """
    if not texts:
        raise ValueError(
            "--guide is missing. Name at least one, e.g. positive=@helpful negative=@helpful principle=file.txt."
        )
    guides: dict[str, Guide] = {}
    for text in texts:
        kind, given, value = text.partition("=")
        if not given or kind not in GUIDE_KINDS:
            raise ValueError(
                f"--guide {text!r} must be KIND=@name, KIND=FILE or KIND=TEXT with a kind out of "
                f"{', '.join(GUIDE_KINDS)}."
            )
        if kind in guides:
            raise ValueError(
                f"--guide names two {kind} guides. Measure them one after the other, each in its own --out."
            )
        if is_file_name(value):
            guides[kind] = Guide(kind, resolve_guide(read_guide_file(text, value), f"--guide {kind}", kind))
        else:
            name = value if value.startswith("@") else None
            guides[kind] = Guide(kind, resolve_guide(value, f"--guide {kind}", kind), name)
    return list(guides.values())


def is_file_name(value: str) -> bool:
    """Whether a guide's value names a file: one word with an ending or a folder in it. A text has several words."""
    return not value.startswith("@") and len(value.split()) == 1 and ("/" in value or bool(Path(value).suffix))


def read_guide_file(option: str, name: str) -> str:
    try:
        text = Path(name).expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"--guide {option!r}: the file {name} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"--guide {option!r}: the file {name} is no UTF-8 text: {error}.") from error
    if text.lstrip().startswith("@"):
        raise ValueError(f"--guide {option!r}: the file {name} begins with '@', which stands for a packaged guide.")
    return text


def make_conditions(guides: Sequence[Guide], placements: Sequence[str], conversational: bool) -> list[Condition]:
    """Plain, and each guide in each place; a text query takes a guide as a prefix only."""
    if unknown := [place for place in placements if place not in GUIDE_PLACEMENTS]:
        raise ValueError(f"placements {unknown} must be out of {', '.join(GUIDE_PLACEMENTS)}.")
    places = tuple(dict.fromkeys(placements)) if conversational else (PREFIX,)
    return [Condition(PLAIN), *(Condition(guide.kind, place, guide.text) for guide in guides for place in places)]


def fitting_queries(
    queries: Queries,
    conditions: Sequence[Condition],
    reader: dict[str, tuple],
    max_new_tokens: int,
    max_query_tokens: int | None = None,
) -> Queries:
    """
    Leave out what is too long for the model under any of the conditions, so that all are asked the same queries.

    Args:
        queries ([`Queries`]): plain.
        conditions (`Sequence[Condition]`): all of them.
        reader (`dict[str, tuple]`): see [`drop_long`].
        max_new_tokens (`int`): room for the completion.
        max_query_tokens (`int`, *optional*): longest plain query.

    Raises:
        ValueError: if fewer than `FEWEST_QUERIES` are left, or a query takes no guide in that place.
    """
    dropped: dict[str, int] = {}
    for condition in conditions:
        limit = max_query_tokens if condition.kind == PLAIN else None
        left = drop_long(
            condition.ask(queries),
            reader,
            max_new_tokens=max_new_tokens,
            with_references=False,
            max_query_tokens=limit,
        )
        dropped |= {why: dropped.get(why, 0) + count for why, count in left.source["dropped"].items()}
        rows = set(left.rows)
        queries = queries.select([i for i, row in enumerate(queries.rows) if row in rows], dropped=dropped)
    if len(queries.rows) < FEWEST_QUERIES:
        count = f"{len(queries.rows)} {'query' if len(queries.rows) == 1 else 'queries'}"
        out = "".join(f" {count} left out: {why}." for why, count in dropped.items())
        raise ValueError(
            f"{queries.source['data']} has {count} to ask, and a guide cannot be told from chance on fewer than "
            f"{FEWEST_QUERIES}.{out} Give more rows, or raise num_queries."
        )
    return queries


def sample_conditions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    queries: Queries,
    conditions: Sequence[Condition],
    sampling: Sampling,
    folder: Path,
    *,
    samples: int = 1,
    model_id: str,
    batch_size: int = 32,
) -> pd.DataFrame:
    """
    Completions of each query under each condition, each generated once: what `folder` holds is not sampled again.

    Plain, positive, negative and principle samples have random numbers of their own, as the candidates of a group do.
    One guide in two places has the same ones, which takes noise out of their difference.

    Args:
        model, tokenizer: the policy.
        queries ([`Queries`]): plain queries.
        conditions (`Sequence[Condition]`): how they are asked.
        sampling ([`Sampling`]): how completions are generated.
        folder (`Path`): where they are kept.
        samples (`int`): completions of each query under each condition.
        model_id, batch_size: see [`generate_cached`].

    Returns:
        `pandas.DataFrame`: one row a completion, in the order of conditions, queries and samples: `kind`, `placement`,
        `query` (index in `queries`), `sample`, `completion`, `token_ids`, `truncated` and `tokens`.
    """
    places = [
        (condition, query, sample)
        for condition in conditions
        for query in range(len(queries.rows))
        for sample in range(samples)
    ]
    prompts = {condition: condition.ask(queries).prompts for condition in conditions}

    def name(condition: Condition, query: int, sample: int) -> str:
        kind = "" if condition.kind == PLAIN else f" {condition.kind}"
        return f"{queries.rows[query]}{kind}{f' {sample}' if sample else ''}"

    asked = replace(
        queries,
        rows=[name(*place) for place in places],
        prompts=[prompts[condition][query] for condition, query, _ in places],
        references=None,
        columns={},
    )
    found = generate_cached(
        model,
        tokenizer,
        asked,
        sampling,
        folder,
        model_id=model_id,
        batch_size=batch_size,
        description="samples, plain and guided",
    )
    rows = [(condition.kind, condition.placement, query, sample) for condition, query, sample in places]
    table = pd.DataFrame(rows, columns=["kind", "placement", "query", "sample"])
    return table.join(found.assign(tokens=found["token_ids"].map(len)))


def add_rewards(
    table: pd.DataFrame, queries: Queries, scorers: dict[str, Scorer], weights: Sequence[float]
) -> pd.DataFrame:
    """
    The table with the completions' rewards for their plain queries, as in training: a column `reward/NAME` each, and
    their weighted sum `reward`, NaN where no reward gave a score.
    """
    asked = queries.select(table["query"].tolist())
    responses = [as_response(text, queries.conversational) for text in table["completion"]]
    ids = table["token_ids"].tolist()
    each = {f"reward/{name}": scorer(asked, responses, ids, name) for name, scorer in scorers.items()}
    total = combine(torch.tensor(list(each.values()), dtype=torch.float64).T, torch.tensor(weights).double())
    return table.assign(**each, reward=total.tolist())


def add_distances(
    table: pd.DataFrame,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    queries: Queries,
    conditions: Sequence[Condition],
    folder: Path,
    *,
    model_id: str,
    batch_size: int = 16,
) -> pd.DataFrame:
    """
    The table with `distance`, log π(y|[g,x]) − log π(y|x) of each completion in nats, of the whole distribution at
    temperature 1: what imitating the guided sample given the plain query has to bridge. 0 of plain samples.
    """
    prompts = {
        (condition.kind, condition.placement): condition.ask(queries).query_ids(tokenizer) for condition in conditions
    }
    guided = table[table["kind"] != PLAIN]
    rows = list(zip(guided["kind"], guided["placement"], guided["query"], guided["token_ids"], strict=True))
    pairs = [(prompts[kind, place][query], ids) for kind, place, query, ids in rows]
    pairs += [(prompts[PLAIN, None][query], ids) for *_, query, ids in rows]

    def compute(missing: list[int]) -> Iterator[tuple[list[int], dict[str, list]]]:
        for batch in by_length({index: sum(map(len, pairs[index])) for index in missing}, batch_size):
            yield batch, {"nll": response_nlls(model, [pairs[index] for index in batch])}

    name = f"logps-{digest(model_id, tokenizer_fingerprint(tokenizer))}"
    nlls = cached_table(folder / name, [digest(*pair) for pair in pairs], compute, "distance from plain")[
        "nll"
    ].to_numpy()
    distance = pd.Series(nlls[len(rows) :] - nlls[: len(rows)], index=guided.index)
    return table.assign(distance=distance.reindex(table.index, fill_value=0.0))
