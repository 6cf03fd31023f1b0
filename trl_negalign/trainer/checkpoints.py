"""Which checkpoints can be resumed: only whole ones, whenever the run was killed."""

import json
import os
from contextlib import suppress

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, sort_checkpoints


TRAINER_STATE_NAME = "trainer_state.json"


def is_whole(checkpoint: str) -> bool:
    """Whether a checkpoint was written to its end: its trainer state, which is written last, can be read."""
    try:
        with open(os.path.join(checkpoint, TRAINER_STATE_NAME), encoding="utf-8") as file:
            json.load(file)
    except (OSError, ValueError):
        return False
    return True


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
    found = sort_checkpoints(output_dir, PREFIX_CHECKPOINT_DIR) if os.path.isdir(output_dir) else []
    whole = [checkpoint for checkpoint in found if is_whole(checkpoint)]
    if not whole:
        raise ValueError(
            f"resume_from_checkpoint=True found no whole checkpoint in {output_dir!r}"
            + (f", only half-written ones: {', '.join(map(os.path.basename, found))}." if found else ".")
            + " Start the run without it."
        )
    return whole[-1]
