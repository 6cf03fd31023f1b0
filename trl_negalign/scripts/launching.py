"""`negalign <method>` on more than one device: accelerate's launcher, with this package's launch files by name."""

import os
import subprocess
import sys
from importlib.resources import as_file, files
from pathlib import Path

import torch
from accelerate.commands.config.config_args import default_config_file
from accelerate.commands.launch import launch_command_parser


def launcher_options() -> set[str]:
    """Names of the options that `accelerate launch` takes, and `accelerate_config`."""
    return set(vars(launch_command_parser().parse_args(["script"]))) | {"accelerate_config"}


def launch_files() -> dict[str, Path]:
    """Paths of the packaged launch files, by name."""
    with as_file(files("trl_negalign.accelerate_configs")) as folder:
        return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def launcher_arguments(strings: list[str]) -> list[str]:
    """
    Arguments for `accelerate launch`, with `--accelerate_config NAME` as `--config_file PATH`.

    Raises:
        ValueError: if NAME is neither a file nor a packaged launch file.
    """
    if "--accelerate_config" not in strings:
        return strings
    place = strings.index("--accelerate_config")
    if place + 1 == len(strings):
        raise ValueError("--accelerate_config needs a name or a file.")
    name = strings[place + 1]
    packaged = launch_files()
    if not Path(name).is_file() and name not in packaged:
        raise ValueError(f"--accelerate_config {name} is no file. Pass one, or one of {', '.join(packaged)}.")
    file = name if Path(name).is_file() else str(packaged[name])
    return ["--config_file", file, *strings[:place], *strings[place + 2 :]]


def needs_launcher(arguments: list[str]) -> bool:
    """Whether a run is to be started by accelerate: asked for, configured by `accelerate config`, or many devices."""
    devices = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    return bool(arguments) or os.path.isfile(default_config_file) or devices > 1


def launch(module: str, arguments: list[str], options: list[str]) -> int:
    """Run a module under `accelerate launch`; its exit code."""
    # --quiet: a run that fails has shown why, and accelerate would print its command with all that is in it
    return subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "--quiet", *arguments, "-m", module, *options]
    ).returncode
