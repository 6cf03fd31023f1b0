"""What every group method shares in its configuration."""

from argparse import ArgumentTypeError
from dataclasses import dataclass, field, fields
from typing import ClassVar

from transformers.hf_argparser import string_to_bool
from trl import GRPOConfig

from ..guides import GUIDE_PLACEMENTS
from ..objectives import AVERAGES
from .method import Method


# GRPO's options that steer its own loss. They mean nothing here, so a value other than the default is an error.
UNUSED_GRPO_OPTIONS = (
    "loss_type",
    "epsilon",
    "epsilon_high",
    "delta",
    "importance_sampling_level",
    "scale_rewards",
    "multi_objective_aggregation",
    "sapo_temperature_neg",
    "sapo_temperature_pos",
    "vespo_k_pos",
    "vespo_lambda_pos",
    "vespo_k_neg",
    "vespo_lambda_neg",
    "top_entropy_quantile",
    "entropy_coef",
    "use_adaptive_entropy",
    "entropy_coef_min",
    "entropy_coef_max",
    "entropy_coef_delta",
    "entropy_target",
    "off_policy_mask_threshold",
    "use_bias_correction_kl",
    "vllm_importance_sampling_correction",
    "vllm_importance_sampling_mode",
    "vllm_importance_sampling_cap",
    "vllm_importance_sampling_clip_max",
    "vllm_importance_sampling_clip_min",
    "max_tool_calling_iterations",
)


@dataclass
class GroupConfig(GRPOConfig):
    r"""
    What NEAT and PLE share. Every option of [`~trl.GRPOConfig`] and [`~transformers.TrainingArguments`] works, except
    those that steer GRPO's own loss, which are refused.

    Parameters:
        > Parameters that control the guides

        guide_placement (`str`, *optional*, defaults to `"user"`):
            Where a conversation takes a guide: before the last user message's text (`"user"`), as the system message
            or before the one there is (`"system"`), or both (`"both"`). A plain-text query takes it as a prefix.
        share_prompts (`str` or `bool`, *optional*, defaults to `"auto"`):
            Run a query once for all its candidates. In scoring, a group becomes one packed sequence: the same
            log-probabilities and gradients, in less time where queries are long; a micro-batch for which packing would
            cost more is scored as usual. `"auto"` does so for the models where it is known to be exact (see
            [`~trl_negalign.trainer.sharing.packing.supports_shared_prompts`]) and says once why not for the others,
            `True` refuses the others, `False` never shares anything and leaves the model as TRL has made it. With
            dropout, the candidates of a packed group share what is dropped from their query. In sampling with
            transformers, prompts that are the same are run once and their cache is copied (see
            [`~trl_negalign.trainer.sharing.prefill.prefill_once`]), without dropout only; in fp32 the completions
            stay the same, in half precision rounding may change some.
        log_entropy (`bool`, *optional*, defaults to `False`):
            Log the mean entropy of the policy over the candidates' tokens, in nats. Costs some time: entropies are not
            computed otherwise (but by TRL's own head, which stays with `share_prompts=False`), and with them every
            candidate goes through the model, also those that teach nothing.
        tapered (`bool`, *optional*, defaults to `False`):
            Weight the gradient of every token that was sampled under a guide by min(1, π(y_t|x, y_<t) /
            μ(y_t|[g,x], y_<t)): the policy's probability of it given the plain query over the one that it was sampled
            with (see [`~trl_negalign.objectives.taper_weights`], after TOPR, arXiv 2503.14286). Imitating what is
            unlikely without the guide flattens the policy. Applies to all parts of the objective and not to `beta`'s
            term; plain candidates and the dataset's responses keep a weight of 1, plain ones also in later steps of a
            round. Both probabilities are of the whole distribution at `temperature`, also where `top_p`, `top_k` or
            `min_p` cut what was sampled from. Costs one pass without gradients over the guided candidates a round. The
            mean weight is logged as `taper_weight`.
        mean_over (`str`, *optional*, defaults to `"groups"`):
            What the loss of an optimizer step is averaged over: all groups of all processes (`"groups"`), or those
            alone that teach something (`"signal"`; for PLE, pairs), so that a step is as long however many are silent
            (huggingface/trl#6367; AGPO, arXiv 2503.15952). `beta`'s term is averaged over all groups. `"signal"` needs
            `gradient_accumulation_steps` to divide `steps_per_generation`: the groups are counted before the step.
        pad_to_multiple_of (`int`, *optional*):
            As in [`~trl.GRPOConfig`], and packed groups are padded so too. Left out, it is 64 in scoring on anything
            but a CPU, so that shapes repeat there.
        num_generations (`int`, *optional*):
            Size of a query's whole group, dataset responses included. `per_device_train_batch_size` must be a multiple
            of it, so that no group is torn.
        vllm_importance_sampling_correction (`bool`, *optional*, defaults to `False`):
            Must stay off: it would compare the log-probability given the plain query with the one given the guided
            query that was sampled from.
    """

    method: ClassVar[Method]
    read_grpo_options: ClassVar[tuple[str, ...]] = ()  # of UNUSED_GRPO_OPTIONS, those that the method reads itself

    guide_placement: str = field(
        default="user",
        metadata={
            "help": "Where a conversation takes a guide: before the last user message's text ('user'), as the system "
            "message or before the one there is ('system'), or both ('both')."
        },
    )
    share_prompts: str = field(
        default="auto",
        metadata={
            "help": "Score a group as one packed sequence, the query once for all its candidates, where that is "
            "cheaper: 'auto' for models where it is known to be exact, 'true' to refuse other models, 'false' never.",
            # the flag alone, as for any boolean option
            "nargs": "?",
            "const": "true",
        },
    )
    log_entropy: bool = field(
        default=False,
        metadata={
            "help": "Log the mean entropy of the policy over the candidates' tokens, which costs some time: also "
            "candidates that teach nothing then go through the model."
        },
    )
    tapered: bool = field(
        default=False,
        metadata={
            "help": "Weight the gradient of every token sampled under a guide by min(1, its probability given the "
            "plain query / the one given the guided query)."
        },
    )
    mean_over: str = field(
        default="groups",
        metadata={"help": "Average the loss over all 'groups', or over those that teach something ('signal')."},
    )
    num_generations: int | None = field(
        default=None,
        metadata={"help": "Size of a query's whole group, dataset responses included."},
    )
    vllm_importance_sampling_correction: bool = field(
        default=False,
        metadata={"help": "Must stay off: the guided query that was sampled from is not the query that is trained."},
    )

    @property
    def needs_reference(self) -> bool:
        """Whether the objective itself reads a reference model, which is then loaded even where `beta` is 0."""
        return False

    @property
    def needs_guided(self) -> bool:
        """
        Whether the log-probabilities of guided candidates under the guided query that they were sampled from are read:
        `guided_token_logps` in the batch, made before replayed groups join it and kept with them.
        """
        return self.tapered

    def __post_init__(self):
        if self.num_generations is None:
            self.num_generations = GRPOConfig.num_generations
        if self.num_generations < 2:
            raise ValueError(
                f"num_generations={self.num_generations} must be 2 or larger: a group compares its candidates."
            )
        # before TRL, which would name generation_batch_size, whoever set it
        if self.per_device_train_batch_size % self.num_generations != 0:
            raise ValueError(
                f"per_device_train_batch_size={self.per_device_train_batch_size} must be a multiple of the group, "
                f"num_generations={self.num_generations}. Set it to "
                f"{-(-self.per_device_train_batch_size // self.num_generations) * self.num_generations}, or change "
                "num_generations."
            )
        super().__post_init__()
        one_of(self, "guide_placement", GUIDE_PLACEMENTS)
        one_of(self, "mean_over", AVERAGES)
        if self.mean_over == "signal" and self.steps_per_generation % self.gradient_accumulation_steps:
            raise ValueError(
                "mean_over='signal' counts the groups of an optimizer step before it, and "
                f"gradient_accumulation_steps={self.gradient_accumulation_steps} does not divide "
                f"steps_per_generation={self.steps_per_generation}. Set steps_per_generation to a multiple of it."
            )
        self.share_prompts = _auto_or_bool("share_prompts", self.share_prompts)
        defaults = {option.name: option.default for option in fields(self)}
        for name in UNUSED_GRPO_OPTIONS:
            read = name in self.read_grpo_options
            if not read and name in defaults and getattr(self, name) != defaults[name]:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} steers GRPO's loss and means nothing in {type(self).__name__}. "
                    f"Leave it out (its default is {defaults[name]!r})."
                )
        if self.use_vllm and self.generation_kwargs and "seed" in self.generation_kwargs:
            raise ValueError(
                f"generation_kwargs has seed={self.generation_kwargs['seed']!r}: vLLM would draw the same completion "
                "for all candidates of a group that share a query. Leave it out."
            )


def _auto_or_bool(name: str, value: str | bool) -> str | bool:
    """`"auto"`, `True` or `False`, however a command line or a file writes them."""
    if str(value).lower() == "auto":
        return "auto"
    try:
        return string_to_bool(str(value))
    except ArgumentTypeError as error:
        raise ValueError(f"{name}={value!r} is unknown. Use 'auto', True or False.") from error


def one_of(config: GroupConfig, name: str, choices: tuple[str, ...]) -> None:
    """Raise a `ValueError` unless the field holds one of `choices`."""
    if getattr(config, name) not in choices:
        raise ValueError(f"{name}={getattr(config, name)!r} is unknown. Use one of {', '.join(map(repr, choices))}.")


def not_negative(config: GroupConfig, *names: str) -> None:
    """Raise a `ValueError` if one of the fields is negative or not a finite number."""
    for name in names:
        value = getattr(config, name)
        if not 0 <= value < float("inf"):
            raise ValueError(f"{name}={value!r} must be a finite number, 0 or larger.")


def not_all_zero(config: GroupConfig, *names: str) -> None:
    """Raise a `ValueError` if all the fields are 0, since nothing would be trained."""
    if not any(getattr(config, name) for name in names):
        raise ValueError(f"{', '.join(names)} are all 0, so nothing would be trained. Set one of them above 0.")
