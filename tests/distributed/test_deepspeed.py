"""
Two real CPU processes under DeepSpeed ZeRO-1, 2 and 3, started by `accelerate launch` with this project's own launch
files, against one plain process. Skipped where DeepSpeed is not installed (`make test-distributed` installs it).
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.distributed.test_two_processes import outcome


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed"),
]
CONFIGS = Path(__file__).parent.parent.parent / "accelerate_configs"
STAGES = {"zero1": ("cpu_zero2", "--zero_stage", "1"), "zero2": ("cpu_zero2",), "zero3": ("cpu_zero3",)}


def accelerate_launch(out, model_dir, config, *launch_options, timeout=400, **options):
    environment = {key: value for key, value in os.environ.items() if key != "ACCELERATE_USE_CPU"}
    run = subprocess.run(
        [
            *(sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / f"{config}.yaml")),
            *(*launch_options, "--main_process_port", "0", "-m", "tests.distributed.run"),
            json.dumps(options | {"out": str(out), "model": model_dir}),
        ],
        env=environment | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return load_file(out / "weights.safetensors"), json.loads((out / "log.json").read_text())


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("neat", {"responses": True, "num_generations": 6}),
        ("ple", {"replay": 1, "lora": True, "num_generations": 4}),
    ],
)
def test_zero_trains_as_one_process(stage, method, options, model_dir, tmp_path):
    options = options | {"method": method, "max_steps": 3}
    size = options["num_generations"]
    one, _ = outcome(tmp_path / "one", 1, model_dir, per_device_train_batch_size=4 * size, **options)
    config, *launch_options = STAGES[stage]
    two, _ = accelerate_launch(
        tmp_path / stage, model_dir, config, *launch_options, per_device_train_batch_size=2 * size, **options
    )
    assert one.keys() == two.keys()
    assert max((one[name] - two[name]).abs().max().item() for name in one) < 1e-6


def test_cpu_ddp_trains_as_one_process(model_dir, tmp_path):
    options = {"method": "ple", "num_generations": 2, "max_steps": 3}
    one, _ = outcome(tmp_path / "one", 1, model_dir, per_device_train_batch_size=8, **options)
    two, _ = accelerate_launch(tmp_path / "two", model_dir, "cpu_ddp", per_device_train_batch_size=4, **options)
    assert max((one[name] - two[name]).abs().max().item() for name in one) < 1e-6
