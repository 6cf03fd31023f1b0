"""Starting `tests.distributed.run` in one process, under torchrun or `accelerate launch`, and reading its outcome."""

import json
import os
import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file


CONFIGS = Path(__file__).parent.parent.parent / "accelerate_configs"


def start(launcher: list[str], out: Path, model_dir: str, timeout: int, options: dict) -> subprocess.CompletedProcess:
    # ACCELERATE_USE_CPU breaks ZeRO-3 under accelerate; the launch files say use_cpu instead
    environment = {key: value for key, value in os.environ.items() if key != "ACCELERATE_USE_CPU"}
    return subprocess.run(
        [
            sys.executable,
            *launcher,
            "-m",
            "tests.distributed.run",
            json.dumps(options | {"out": str(out), "model": model_dir}),
        ],
        env=environment | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def torchrun(processes: int) -> list[str]:
    return ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []


def accelerate(config: str, *launch_options: str) -> list[str]:
    file = str(CONFIGS / f"{config}.yaml")
    return ["-m", "accelerate.commands.launch", "--config_file", file, "--main_process_port", "0", *launch_options]


def outcome(launcher: list[str], out: Path, model_dir: str, **options) -> tuple[dict, list[dict]]:
    """Final weights and log history of a run that must succeed."""
    run = start(launcher, out, model_dir, 400, options)
    assert run.returncode == 0, run.stderr[-3000:]
    return load_file(out / "weights.safetensors"), json.loads((out / "log.json").read_text())


def furthest(one: dict, two: dict) -> float:
    """The largest difference between two runs' weights."""
    assert one.keys() == two.keys()
    return max((one[name] - two[name]).abs().max().item() for name in one)
