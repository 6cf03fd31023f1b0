"""The folder of a training run: refused where it holds another run, cleared where the user says so."""

import itertools
from pathlib import Path

from accelerate import PartialState
from transformers import TrainerCallback

from .. import folders
from ..trainer.rounds.checkpoints import find_checkpoint


def check_folder(args, overwrite: bool, inputs: dict[str, list[str | None]]) -> None:
    """
    Check the folder of a run's `TrainingArguments`, and make a boolean of `resume_from_checkpoint` where it stands for
    one.

    Raises:
        ValueError: if the folder holds a run that is neither resumed nor to be overwritten, one that cannot be
            resumed, what the run reads, or files of anything else that the run would remove or write over.
    """
    folder, resume = args.output_dir, args.resume_from_checkpoint
    args.resume_from_checkpoint = {"true": True, "false": None}.get(str(resume).lower(), resume)
    if overwrite and args.resume_from_checkpoint:
        raise ValueError("overwrite and resume_from_checkpoint are both set. Keep one.")
    folders.check_inputs("output_dir", folder, inputs, overwrite)
    if overwrite:
        folders.check_overwrite("output_dir", folder, "training")
    elif args.resume_from_checkpoint:
        find_checkpoint(args.resume_from_checkpoint, folder)
    else:
        left = next((Path(checkpoint).name for checkpoint in folders.checkpoint_folders(folder)), None)
        if left is None and folders.kind_of(folder) == "training":
            left = folders.first_left(folder, "training")
        if left is not None:
            raise ValueError(
                f"output_dir {folder!r} holds another run ({left}). Go on with it (--resume_from_checkpoint), replace "
                "it (--overwrite), or choose another folder."
            )
        folders.check_not_written_over("output_dir", folder, "training")


def prepare_folder(args, overwrite: bool) -> None:
    """Remove an earlier run, once for all processes, and note what this one will write."""
    state = PartialState()
    state.wait_for_everyone()  # all processes look before one removes
    if state.is_main_process:
        folders.start(args.output_dir, "training", anew=overwrite)
    state.wait_for_everyone()


class RecordFiles(TrainerCallback):
    """Keeps a run's manifest: files of a checkpoint that no pattern names, such as a model's own code."""

    def on_save(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            folders.record(args.output_dir, folders.files_of(Path(args.output_dir, f"checkpoint-{state.global_step}")))


def save_model(trainer) -> None:
    """Save the trained model, and record its files."""
    folder = Path(trainer.args.output_dir)
    before = set(folder.iterdir())
    trainer.save_model(trainer.args.output_dir)
    if trainer.is_world_process_zero():
        folders.record(folder, set(folder.iterdir()) - before)


def choose_folder(out: str | None, default: str, model: str | None, overwrite: bool) -> Path:
    """
    The quickstart's folder: `out`, or the first free one of `default`, `default`-2, `default`-3, …

    Raises:
        ValueError: if it holds an earlier run that is not to be overwritten, or anything else that would be lost.
    """
    folder = Path(out or default)
    if out is None and not overwrite:
        names = itertools.chain([folder], (folder.with_name(f"{folder.name}-{n}") for n in itertools.count(2)))
        return next(folder for folder in names if not any(folders.files_of(folder)))
    if not overwrite and folders.kind_of(folder) == "quickstart":
        raise ValueError(f"--out {out} holds an earlier run. Choose another folder, or replace it with --overwrite.")
    folders.check_target("--out", folder, "quickstart", {"model": [model]}, overwrite)
    return folder
