"""`--check_guides N` of the training commands: no training starts whose guides do not separate on N queries."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from accelerate.utils.memory import clear_device_cache
from datasets import Dataset
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase
from trl import get_quantization_config

from ..extras import need
from ..groups import Candidate
from ..guides import check_guide_columns
from .inputs import model_kwargs


def check_guides(
    script_args,
    args,
    model_args,
    tokenizer: PreTrainedTokenizerBase,
    dataset,
    candidates: Sequence[Candidate],
    names: Sequence[str],
    launched: bool,
) -> None:
    """
    Sample `check_guides` queries of the training set under the guides, once each, with the model, rewards and sampling
    that the training starts from, and print the difference of their rewards. A resumed run was checked at its start.

    The guides separate if the whole 95% interval of the paired difference positive − negative (PLE: principle − plain;
    plain takes the place of what a group lacks) is above 0.

    Raises:
        ValueError: if they do not, or cannot be checked.
    """
    count = script_args.check_guides
    if args.resume_from_checkpoint:
        return
    need("evaluation", "requests", "sacrebleu")
    from ..evaluation.evaluate import made_up
    from ..evaluation.generation import Sampling
    from ..evaluation.guides import probe
    from ..evaluation.rewards import Scorer
    from ..evaluation.separation import conditions_of, separation

    check_count(count, candidates, launched)
    queries = read_queries(dataset, count, args.seed, args.chat_template_kwargs)
    conditions = conditions_of(candidates, args.guide_placement, queries.conversational)
    for condition in conditions:
        check_guide_columns(condition.text, ["prompt", *queries.columns], queries.source["data"])
    sampling = Sampling(args.max_completion_length, args.temperature, args.top_p, args.top_k or 0, args.seed)
    with TemporaryDirectory() as folder:
        scorers = {name: Scorer(name, Path(folder)) for name in names}
        for scorer in scorers.values():
            probe(scorer, queries, *made_up(queries, tokenizer))
        model = AutoModelForCausalLM.from_pretrained(
            model_args.model_name_or_path,
            quantization_config=get_quantization_config(model_args),
            **({"device_map": {"": args.device}} | model_kwargs(args, model_args)),
        )
        found = separation(
            model.eval(),
            tokenizer,
            queries,
            conditions,
            scorers,
            args.reward_weights or [1.0] * len(names),
            sampling,
            Path(folder),
            batch_size=args.per_device_train_batch_size,
        )
    del model, scorers  # the training needs their memory
    clear_device_cache(garbage_collection=True)
    difference = f"{found['mean']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}] on {found['count']} queries"
    kinds = " − ".join(condition.kind for condition in conditions)
    if not found["low"] > 0:
        fields = [f"{one.kind}_prompt={getattr(args, f'{one.kind}_prompt')!r}" for one in conditions if one.text]
        if queries.conversational:
            fields.append(f"guide_placement={args.guide_placement!r}")
        raise ValueError(
            f"check_guides={count}: the guides do not separate. Reward of {kinds} samples: {difference}; the whole "
            f"interval must lie above 0 ({', '.join(fields)}). Compare other guides and placements with `negalign "
            "guides`, raise check_guides for a narrower interval, or set check_guides=0 to train all the same."
        )
    print(f"The guides separate: reward of {kinds} samples {difference}.")


def check_count(count: int, candidates: Sequence[Candidate], launched: bool) -> None:
    """Raise a `ValueError` if guides cannot be checked: on so few queries, in many processes, or without a guide."""
    from ..evaluation.guided import FEWEST_QUERIES
    from ..evaluation.separation import compared_kinds

    if count < FEWEST_QUERIES:
        raise ValueError(
            f"check_guides={count} must be 0 (no check) or {FEWEST_QUERIES} or more: fewer queries cannot tell a "
            "guide from chance."
        )
    if launched:
        raise ValueError(
            f"check_guides={count} runs before processes are launched. Start the training with `negalign`, which "
            "launches them itself (--accelerate_config), or set check_guides=0."
        )
    if compared_kinds(candidates) is None:
        raise ValueError(
            f"check_guides={count}: no candidate of the group is guided, so there is nothing to check. Set "
            "check_guides=0."
        )


def read_queries(dataset, count: int, seed: int, chat_template_kwargs: dict | None):
    """A random sample of a training set, of a stream its first rows, as an evaluation's queries."""
    from ..evaluation.queries import Queries

    if isinstance(dataset, Dataset):
        rows = dataset.shuffle(seed=seed).select(range(min(count, len(dataset)))).to_list()
    else:
        rows = list(islice(dataset, count))
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    source = {"data": "the training set"}
    return Queries([*range(len(rows))], columns.pop("prompt"), None, columns, source, chat_template_kwargs or None)
