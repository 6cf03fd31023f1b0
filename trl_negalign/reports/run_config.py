"""What a run was started with, as a file that a report can read."""

import json
from importlib.metadata import version
from pathlib import Path

from ..masking import masked
from ..version import __version__


RUN_CONFIG_NAME = "run_config.json"
PACKAGES = ("torch", "transformers", "trl", "accelerate", "datasets", "peft")


def write_run_config(trainer) -> None:
    """
    Write a [`GroupTrainer`]'s method, candidates, rewards, arguments and versions to its folder, on the main process.
    Secrets are masked by the names they stand under, see [`~trl_negalign.masking.masked`].
    """
    if not trainer.is_world_process_zero():
        return
    config = {
        "method": trainer.args.method.name,
        "candidates": [vars(candidate) for candidate in trainer.candidates],
        "rewards": trainer.reward_func_names,
        "versions": {"trl-negalign": __version__} | {name: version(name) for name in PACKAGES},
        "args": trainer.args.to_dict(),
    }
    folder = Path(trainer.args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(masked(json.loads(json.dumps(config, default=str))), indent=2, ensure_ascii=False)
    (folder / RUN_CONFIG_NAME).write_text(text + "\n", encoding="utf-8")
