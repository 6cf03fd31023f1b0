"""
Does the installed TRL still have the seams that `GroupTrainer` holds on to? Asked when a trainer is built, and of what
each generation was given and gave back.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import transformers
import trl
from accelerate.logging import get_logger

from ..phase import UnfitEnvironment


logger = get_logger(__name__)

# TRL's releases that this package's tests were run with
RUN_WITH = ("1.10.0", "1.14.2", "1.16.0")

# What TRL calls and GroupTrainer overrides, with the arguments TRL passes.
OVERRIDDEN = {
    "_generate": ("prompts",),
    "_generate_and_score_completions": ("inputs",),
    "_prepare_inputs": ("generation_batch",),
    "_calculate_rewards": ("inputs", "prompts", "completions", "completion_ids_list"),
    "_compute_loss": ("model", "inputs"),
    "_get_train_sampler": ("dataset",),
    "_save_checkpoint": ("model", "trial"),
    "_save_rng_state": ("output_dir",),
    "_load_optimizer_and_scheduler": ("checkpoint",),
}
# What GroupTrainer calls, with the arguments it passes: positional ones, then keywords.
CALLED = {
    "_tokenize_prompts": (("prompts",), ()),
    "_log_completion_extra": (("column", "values"), ()),
    "_get_output_dir": ((), ("trial",)),
    "_get_per_token_logps_and_entropies": (
        ("model", "input_ids", "attention_mask", "logits_to_keep"),
        ("compute_entropy", "compute_aux_loss"),
    ),
}
# What GroupTrainer reads of a trainer that TRL has built.
ATTRIBUTES = (
    "_buffered_inputs",
    "_metrics",
    "_step",
    "aux_loss_enabled",
    "chat_template_kwargs",
    "max_completion_length",
    "num_generations",
    "num_generations_eval",
    "num_iterations",
    "pad_to_multiple_of",
    "ref_model",
    "reward_func_names",
    "reward_funcs",
    "reward_weights",
    "router_aux_loss_coef",
    "temperature",
    "use_vllm",
)
# What is read of the configuration beyond transformers' own options.
OPTIONS = (
    "beta",
    "cast_lm_head_to_fp32",
    "chat_template_kwargs",
    "generation_batch_size",
    "generation_kwargs",
    "max_completion_length",
    "num_generations",
    "steps_per_generation",
    "use_vllm",
    "vllm_max_model_length",
)
# Helpers out of TRL's inner modules, which may move.
INNER = {
    "trl.models.utils": ("disable_gradient_checkpointing",),
    "trl.trainer.utils": ("RepeatSampler", "use_adapter"),
}
# Where `_generate` returns what group training reads. Beside these come a mask of tools, other fields and images, all
# empty for text models without tools.
GENERATED = {"prompt_ids": 0, "completion_ids": 1, "completions": 3, "logprobs": 4}


class SeamError(UnfitEnvironment):
    """The installed TRL changed something that this package overrides or calls."""

    def __init__(self, seam: str, problem: str):
        super().__init__(
            f"TRL {trl.__version__} changed {seam}: {problem}. This trl-negalign is known to work with TRL "
            f"{known_versions()}: install one of those, or a newer trl-negalign. (transformers is "
            f"{transformers.__version__}.)"
        )


def known_versions() -> str:
    """TRL's releases that this package was run with, to be read in a sentence."""
    return f"{', '.join(RUN_WITH[:-1])} and {RUN_WITH[-1]}"


def inner(module: str, name: str) -> Any:
    """A helper out of one of TRL's inner modules; a [`SeamError`] if this release does not have it there."""
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise SeamError(module, f"cannot import name {name!r} ({error})") from error


def check_seams(trainer_class: type) -> None:
    """
    Compare TRL's online trainer with what [`GroupTrainer`] expects of it, by signature, and its helpers by name.

    Args:
        trainer_class (`type`): the class that is subclassed, [`~trl.GRPOTrainer`].

    Raises:
        SeamError: naming the first seam that differs, the installed version and the versions known to work.
    """
    for module, names in INNER.items():
        for name in names:
            inner(module, name)
    for name, arguments in OVERRIDDEN.items():
        found = tuple(_signature(trainer_class, name).parameters)[1:]
        if found != arguments:
            raise SeamError(f"{trainer_class.__name__}.{name}", f"it takes {found}, expected {arguments}")
    for name, (positional, keywords) in CALLED.items():
        signature = _signature(trainer_class, name)
        try:
            signature.bind(None, *positional, **dict.fromkeys(keywords))
        except TypeError as error:
            raise SeamError(f"{trainer_class.__name__}.{name}", str(error)) from error
    for name in OPTIONS:
        if name not in trl.GRPOConfig.__dataclass_fields__:
            raise SeamError(f"GRPOConfig.{name}", "it is gone")


def check_attributes(trainer: Any) -> None:
    """
    Check a trainer that TRL has built for what [`GroupTrainer`] reads of it, and warn, once and on the main process,
    of a TRL that this package was never run with.

    Raises:
        SeamError: naming the first attribute that is gone.
    """
    for name in (*ATTRIBUTES, *(["vllm_generation"] if trainer.args.use_vllm else [])):
        if not hasattr(trainer, name):
            raise SeamError(f"GRPOTrainer.{name}", "it is gone")
    if trainer.args.use_vllm:
        found = inspect.signature(trainer.vllm_generation.generate).parameters
        if not {"prompts", "num_generations"} <= found.keys():
            raise SeamError("VLLMGeneration.generate", f"it takes {tuple(found)}, expected prompts, num_generations")
    if trl.__version__ not in RUN_WITH:
        logger.warning_once(
            f"trl-negalign was never run with TRL {trl.__version__}, only with {known_versions()}. Its internals look "
            "as they should."
        )


def _signature(trainer_class: type, name: str) -> inspect.Signature:
    method = getattr(trainer_class, name, None)
    if method is None:
        raise SeamError(f"{trainer_class.__name__}.{name}", "it is gone")
    return inspect.signature(method)


@contextmanager
def watch_vllm(generation: Any | None) -> Iterator[list[tuple] | None]:
    """
    Collect the calls of TRL's `VLLMGeneration.generate` inside this context: the prompts' tokens, how many completions
    of each were asked for, and the prompts' tokens that came back with the completions.

    Args:
        generation (`VLLMGeneration`, *optional*): what a trainer samples with; `None` if it does not use vLLM, and
            nothing is collected.
    """
    if generation is None:
        yield None
        return
    calls = []
    generate = generation.generate

    def watched(*args, **kwargs):
        output = generate(*args, **kwargs)
        given = inspect.signature(generate).bind(*args, **kwargs).arguments
        calls.append((given["prompts"], given["num_generations"], output[0]))
        return output

    generation.generate = watched
    try:
        yield calls
    finally:
        generation.generate = generate


def check_generated(generated: Sequence, prompt_ids: list[list[int]], vllm_calls: Sequence[tuple] | None) -> None:
    """
    Check that each candidate was sampled once, in order and from its own query, and that TRL returned nothing by row
    that is not known and could not be filled in for dataset responses.

    Args:
        generated (`Sequence`): what `_generate` returned.
        prompt_ids (`list[list[int]]`): the tokens of the queries that were to be sampled, with their guides.
        vllm_calls (`Sequence[tuple]`, *optional*): what [`watch_vllm`] collected; `None` where vLLM is not used.

    Raises:
        SeamError: naming what is not as expected.
    """
    if vllm_calls is not None:
        if not vllm_calls:
            raise SeamError("GRPOTrainer._generate_single_turn", "it samples without VLLMGeneration.generate")
        handed, counts, returned = zip(*vllm_calls, strict=True)
        if set(counts) != {1}:
            raise SeamError(
                "GRPOTrainer._generate",
                f"it asked vLLM for {max(counts)} completions of one query, and each candidate has a query of its own",
            )
        _check_queries("GRPOTrainer._generate_single_turn", sum(handed, []), prompt_ids)
        _check_queries("VLLMGeneration.generate", sum(returned, []), prompt_ids)
    parts = dict(enumerate(generated))
    found = {name: parts.pop(place, None) for name, place in GENERATED.items()}
    logprobs = found.pop("logprobs")
    if any(not isinstance(rows, list) or len(rows) != len(prompt_ids) for rows in found.values()):
        raise SeamError("GRPOTrainer._generate", "it no longer returns prompts, completions and texts in order")
    _check_queries("GRPOTrainer._generate", found["prompt_ids"], prompt_ids)
    lengths = [len(ids) for ids in found["completion_ids"]]
    if logprobs is not None and not (
        isinstance(logprobs, list) and [_count_floats(row) for row in logprobs] == lengths
    ):
        raise SeamError(
            "GRPOTrainer._generate", f"what it returns at place {GENERATED['logprobs']} is not the log-probabilities"
        )
    for place, part in parts.items():
        if part is not None and not (isinstance(part, (list, dict)) and len(part) == 0):
            raise SeamError(
                "GRPOTrainer._generate",
                f"it returns a {type(part).__name__} at place {place}, which is not known and may not be filled in",
            )


def _check_queries(seam: str, queries: Sequence[Sequence[int]], expected: Sequence[Sequence[int]]) -> None:
    if len(queries) != len(expected):
        raise SeamError(seam, f"it sampled from {len(queries)} queries in place of {len(expected)}")
    for row, (query, own) in enumerate(zip(queries, expected, strict=True)):
        if list(query) != list(own):
            raise SeamError(seam, f"candidate {row} was not sampled from its own query under its own guide")


def _count_floats(row: Any) -> int | None:
    """How many log-probabilities a row holds (vLLM writes None for NaN), None where it holds anything else."""
    if isinstance(row, list) and all(value is None or isinstance(value, float) for value in row):
        return len(row)
    return None
