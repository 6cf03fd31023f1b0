"""Starting `tests.distributed.run` in one process, under torchrun or `accelerate launch`, and reading its outcome."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from safetensors.torch import load_file


CONFIGS = Path(__file__).parent.parent.parent / "accelerate_configs"
# timings, and sums that count one process's work, differ by design
NOT_COMPARED = ("runtime", "per_second", "step_time", "total_flos", "epoch", "train_loss")


def torchrun(processes: int) -> list[str]:
    return ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []


def accelerate(config: str, *launch_options: str) -> list[str]:
    file = str(CONFIGS / f"{config}.yaml")
    return ["-m", "accelerate.commands.launch", "--config_file", file, "--main_process_port", "0", *launch_options]


# fsdp2.yaml as it is shipped, but for the number and the kind of devices
FSDP2 = accelerate("fsdp2", "--num_processes", "2", "--mixed_precision", "no")
LAUNCHERS = {
    "gloo": torchrun(2),
    "ddp": accelerate("cpu_ddp"),
    "zero1": accelerate("cpu_zero2", "--zero_stage", "1"),
    "zero2": accelerate("cpu_zero2"),
    "zero3": accelerate("cpu_zero3"),
    "fsdp2": FSDP2,
}


def worlds(*names: str) -> list:
    """Parameters of a test: the first world is in `make test`, the others in `make test-distributed`."""
    return [names[0], *(pytest.param(name, marks=pytest.mark.slow) for name in names[1:])]


def skip_without_deepspeed(world: str) -> None:
    if "zero" in world and find_spec("deepspeed") is None:
        pytest.skip("DeepSpeed is not installed")


def command(world: str, out: Path, model: str, runs: dict[str, dict], **options) -> tuple[list[str], dict]:
    """The command that trains `runs` in a world (`"one"` for a single process), and its environment."""
    options |= {"out": str(out), "model": model, "runs": runs, "fsdp_on_cpu": world == "fsdp2"}
    launcher = [] if world == "one" else LAUNCHERS[world]
    # ACCELERATE_USE_CPU breaks ZeRO-3 under accelerate; the launch files say use_cpu instead
    environment = {key: value for key, value in os.environ.items() if key != "ACCELERATE_USE_CPU"}
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    return [sys.executable, *launcher, "-m", "tests.distributed.run", json.dumps(options)], environment


def launch(world: str, out: Path, model: str, runs: dict[str, dict], timeout: int = 500, **options):
    """Train `runs` in a world; the finished process, whatever came of it."""
    arguments, environment = command(world, out, model, runs, **options)
    return subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=timeout)


def outcome(folder: Path) -> tuple[dict, list[dict]]:
    """Final weights and log history of a run, without what differs between worlds by design."""
    log = json.loads((folder / "log.json").read_text())
    log = [{key: entry[key] for key in entry if not any(part in key for part in NOT_COMPARED)} for entry in log]
    return load_file(folder / "weights.safetensors"), log


def furthest(one: dict, two: dict) -> float:
    """The largest difference between two runs' weights."""
    assert one.keys() == two.keys()
    return max((one[name] - two[name]).abs().max().item() for name in one)
