"""
Checkpoints: which of them can be resumed (whole ones of the same run, whenever it was killed), and what of a
generation round is saved in them.
"""

import os
from contextlib import suppress

import torch
from accelerate.logging import get_logger

from ...folders import TRAINER_STATE_NAME, checkpoint_folders, is_whole


logger = get_logger(__name__)

STATE_NAME = "group_state.pt"


def unmark(checkpoint: str) -> None:
    """Make a folder that is about to be written count as half-written, whatever it held."""
    with suppress(FileNotFoundError):
        os.remove(os.path.join(checkpoint, TRAINER_STATE_NAME))


def find_checkpoint(resume_from_checkpoint: str | bool, output_dir: str) -> str:
    """
    The checkpoint to resume.

    Args:
        resume_from_checkpoint (`str` or `bool`): a checkpoint's folder, or `True` for the newest whole one.
        output_dir (`str`): the run's folder.

    Raises:
        ValueError: if the folder is no whole checkpoint, or the run has none.
    """
    if isinstance(resume_from_checkpoint, str):
        if not is_whole(resume_from_checkpoint):
            raise ValueError(
                f"resume_from_checkpoint={resume_from_checkpoint!r} is no whole checkpoint: its {TRAINER_STATE_NAME} "
                "is missing or cut off. Take an earlier one, or resume_from_checkpoint=True for the newest whole one."
            )
        return resume_from_checkpoint
    found = checkpoint_folders(output_dir)
    whole = [checkpoint for checkpoint in found if is_whole(checkpoint)]
    if not whole:
        raise ValueError(
            f"resume_from_checkpoint=True found no whole checkpoint in {output_dir!r}"
            + (f", only half-written ones: {', '.join(map(os.path.basename, found))}." if found else ".")
            + " Start the run without it."
        )
    return whole[-1]


def check_resumable(checkpoint: str, identity: dict, processes: int) -> None:
    """
    Check that a checkpoint was left by a run like this one.

    Args:
        checkpoint (`str`): the checkpoint's folder. One without a round's state is only warned about.
        identity (`dict`): what must be the same in both runs, by name.
        processes (`int`): how many processes this run has.

    Raises:
        ValueError: if the identities differ, or the checkpoint stands inside a generation cycle of another number of
            processes.
    """
    state = _load(checkpoint, STATE_NAME)
    if state is None:
        logger.warning(f"{checkpoint} has no {STATE_NAME}: the generation rounds are counted from 0 again.")
        return
    for name, value in identity.items():
        if state["identity"][name] != value:
            raise ValueError(
                f"{checkpoint} cannot be resumed: its {name} was {state['identity'][name]!r}, and this run's is "
                f"{value!r}. Resume with the options it was written with, or start a new run from its weights."
            )
    if state["inside_cycle"] and state["processes"] != processes:
        raise ValueError(
            f"{checkpoint} stands inside a generation cycle of {state['processes']} process(es), and this run has "
            f"{processes}. Resume with as many, or from a checkpoint at the end of a cycle (every "
            "steps_per_generation * num_iterations / gradient_accumulation_steps steps)."
        )


def not_finite(queries: list[str], step: int, output_dir: str) -> FloatingPointError:
    """The error of a run that stops behind `step` on the queries whose loss is not finite, its checkpoint written."""
    shown = "\n".join(f"- {query!r}" for query in dict.fromkeys(queries))
    return FloatingPointError(
        f"The loss is not finite at step {step + 1}, for the queries:\n{shown}\nThe weights before this step are in "
        f"{output_dir}/checkpoint-{step}. Lower the learning rate, or bound what is pushed down."
    )


def save_buffer(micro_batches: list[dict[str, torch.Tensor]], checkpoint: str, process: int) -> None:
    """Keep the groups that a process is still to train on."""
    torch.save(micro_batches, os.path.join(checkpoint, _buffer_name(process)))


def save_state(state: dict, checkpoint: str) -> None:
    """Keep the rounds' state, which all processes share."""
    torch.save(state, os.path.join(checkpoint, STATE_NAME))


def load_round(checkpoint: str | None, process: int) -> tuple[dict | None, list[dict[str, torch.Tensor]] | None]:
    """
    What [`save_state`] and [`save_buffer`] kept, on the CPU.

    Returns:
        `tuple`: the state, `None` if the checkpoint has none; this process's groups, `None` at the end of a cycle.
    """
    state = None if checkpoint is None else _load(checkpoint, STATE_NAME)
    if state is None or not state["inside_cycle"]:
        return state, None
    return state, _load(checkpoint, _buffer_name(process))


def _buffer_name(process: int) -> str:
    return f"group_buffer_{process}.pt"


def _load(checkpoint: str, name: str):
    path = os.path.join(checkpoint, name)
    # torch cannot load onto "cpu:0", where a CPU process among several is
    return torch.load(path, map_location="cpu", weights_only=True) if os.path.isfile(path) else None
