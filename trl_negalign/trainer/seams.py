"""Does the installed TRL still have the seams that `GroupTrainer` holds on to? Asked whenever a trainer is built."""

import inspect

import trl


KNOWN_TO_WORK = "1.7 to 1.14 and 1.16"

# What TRL calls and GroupTrainer overrides, with the arguments TRL passes.
OVERRIDDEN = {
    "_generate": ("prompts",),
    "_generate_and_score_completions": ("inputs",),
    "_prepare_inputs": ("generation_batch",),
    "_calculate_rewards": ("inputs", "prompts", "completions", "completion_ids_list"),
    "_compute_loss": ("model", "inputs"),
    "_save_checkpoint": ("model", "trial"),
    "_load_optimizer_and_scheduler": ("checkpoint",),
}
# What GroupTrainer calls, with the arguments it passes: positional ones, then keywords.
CALLED = {
    "_tokenize_prompts": (("prompts",), ()),
    "_log_completion_extra": (("column", "values"), ()),
    "_get_per_token_logps_and_entropies": (
        ("model", "input_ids", "attention_mask", "logits_to_keep"),
        ("compute_entropy", "compute_aux_loss"),
    ),
}


class SeamError(RuntimeError):
    """The installed TRL changed something that this package overrides or calls."""

    def __init__(self, seam: str, problem: str):
        super().__init__(
            f"TRL {trl.__version__} changed {seam}: {problem}. This trl-negalign is known to work with TRL "
            f"{KNOWN_TO_WORK}: install one of those, or a newer trl-negalign."
        )


def check_seams(trainer_class: type) -> None:
    """
    Compare TRL's online trainer with what [`GroupTrainer`] expects of it, by signature.

    Args:
        trainer_class (`type`): the class that is subclassed, [`~trl.GRPOTrainer`].

    Raises:
        SeamError: naming the first seam that differs, the installed version and the versions known to work.
    """
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


def _signature(trainer_class: type, name: str) -> inspect.Signature:
    method = getattr(trainer_class, name, None)
    if method is None:
        raise SeamError(f"{trainer_class.__name__}.{name}", "it is gone")
    return inspect.signature(method)
