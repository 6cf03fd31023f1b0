"""The folder of a training run: refused where it holds another run, cleared where the user says so."""

import shutil
from pathlib import Path

from accelerate import PartialState

from ..trainer.checkpoints import find_checkpoint


# what a training run leaves in its folder
LEFT_BY_A_RUN = (
    "checkpoint-*",
    "*.safetensors",
    "*.bin",
    "completions",
    "trainer_state.json",
    "warnings.jsonl",
    "run_config.json",
)


def check_folder(args, overwrite: bool) -> None:
    """
    Check the folder of a run's `TrainingArguments`, and make a boolean of `resume_from_checkpoint` where it stands for
    one.

    Raises:
        ValueError: if the folder holds a run that is neither resumed nor to be overwritten, or one that cannot be
            resumed.
    """
    resume = args.resume_from_checkpoint
    args.resume_from_checkpoint = {"true": True, "false": None}.get(str(resume).lower(), resume)
    left = [path.name for pattern in LEFT_BY_A_RUN for path in sorted(Path(args.output_dir).glob(pattern))]
    if overwrite and args.resume_from_checkpoint:
        raise ValueError("overwrite and resume_from_checkpoint are both set. Keep one.")
    if left and not overwrite and not args.resume_from_checkpoint:
        raise ValueError(
            f"output_dir {args.output_dir!r} holds another run ({left[0]}). Go on with it "
            "(--resume_from_checkpoint), replace it (--overwrite), or choose another folder."
        )
    if args.resume_from_checkpoint:
        find_checkpoint(args.resume_from_checkpoint, args.output_dir)


def prepare_folder(args, overwrite: bool) -> None:
    """Remove an earlier run, once for all processes."""
    state = PartialState()
    if overwrite and state.is_main_process:
        for pattern in LEFT_BY_A_RUN:
            for path in Path(args.output_dir).glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    state.wait_for_everyone()
