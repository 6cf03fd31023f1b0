"""A reward by its name: packaged, a dotted import path, a reward model, or likelihood-ratio heads."""

import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module

from ..hub import why_not
from .sentiment import vader_reward


PACKAGED = {"vader_reward": vader_reward}
HEADS_INFO = "likra.json"


def load_reward(name: str) -> str | Callable:
    """
    What TRL's trainers take as a reward.

    Args:
        name (`str`): `"vader_reward"`; `"module.function"`, importable from the working directory too; the id or path
            of a sequence-classification model with one label; or that of likelihood-ratio heads, which are loaded
            with their base and become a [`~trl_negalign.likra.reward.LikraReward`]. The working directory is on
            `sys.path` during the import and while the function runs, and not otherwise: the function may import what
            lies beside it whenever it likes, and no other import is led astray.

    Returns:
        `Callable`, or the model's name as it is.

    Raises:
        ValueError: if there is no such thing, it is not callable, the model has another number of labels, or the
            heads were trained on another base than they now find.
    """
    if holds_heads(name):
        from ..likra.reward import LikraReward

        return LikraReward(name)
    return check_reward(name)


def check_reward(name: str) -> str | Callable:
    """As [`load_reward`], but likelihood-ratio heads are only looked for, since their base may be large."""
    if holds_heads(name):
        return name
    if name in PACKAGED:
        PACKAGED[name](completions=["fine"])  # a missing dependency is named now
        return PACKAGED[name]
    if os.path.isdir(name) or "/" in name:
        check_reward_model(name)
        return name
    if "." not in name:
        raise ValueError(
            f"The reward {name!r} is no packaged one ({', '.join(PACKAGED)}), no import path (module.function) and no "
            "reward model's id or path."
        )
    module_name, function_name = name.rsplit(".", 1)
    folder = os.getcwd()
    try:
        with importable(folder):
            module = import_module(module_name)
    except Exception as error:
        raise ValueError(f"The reward {name!r} cannot be imported: {type(error).__name__}: {error}") from error
    if not hasattr(module, function_name):
        raise ValueError(f"The reward {name!r} cannot be imported: {module_name} has no {function_name!r}.")
    function = getattr(module, function_name)
    if not callable(function):
        raise ValueError(f"The reward {name!r} is a {type(function).__name__}, and must be a function.")
    return with_folder(function, folder) if inspect.isfunction(function) else function


@contextmanager
def importable(folder: str) -> Iterator[None]:
    """Have a folder on `sys.path`, and afterwards what was there before."""
    if {folder, ""} & set(sys.path):
        yield
        return
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


def with_folder(function: Callable, folder: str) -> Callable:
    """The function, with a folder on `sys.path` while it runs."""
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def run(*args, **kwargs):
            with importable(folder):
                return await function(*args, **kwargs)
    else:

        @functools.wraps(function)
        def run(*args, **kwargs):
            with importable(folder):
                return function(*args, **kwargs)

    return run


def holds_heads(name: str) -> bool:
    """Whether a folder or a hub repository holds likelihood-ratio heads."""
    if os.path.isdir(name):
        return os.path.isfile(os.path.join(name, HEADS_INFO))
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        return False
    from huggingface_hub import hf_hub_download

    try:
        hf_hub_download(name, HEADS_INFO)
    except (OSError, ValueError):  # the hub's errors; a model that cannot be reached is reported as such below
        return False
    return True


def check_reward_model(name: str) -> None:
    """
    Look at a reward model's configuration before its weights.

    Raises:
        ValueError: if it cannot be found or does not have exactly one label.
    """
    from transformers import AutoConfig

    if os.path.isdir(name) and os.path.isfile(os.path.join(name, "adapter_config.json")):
        raise ValueError(
            f"The reward model {name!r} is an adapter. Merge it into its base first (PeftModel.merge_and_unload), and "
            "pass that folder."
        )
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(f"The reward model {name!r} cannot be loaded: {why_not(name, error)}") from error
    if config.num_labels != 1:
        raise ValueError(
            f"The reward model {name!r} has {config.num_labels} labels, and a reward is one number. Train one with "
            "`trl reward`, or write a function that turns the labels into a number."
        )
