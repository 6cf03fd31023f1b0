"""Two real CPU processes over gloo against one process: the same queries must end in the same weights and metrics."""

import json
import os
import subprocess
import sys

import pytest
from safetensors.torch import load_file


# timings and what counts rows of one process differ by design
NOT_COMPARED = ("runtime", "per_second", "step_time", "total_flos", "epoch", "train_loss")


def launch(out, processes: int, model_dir: str, timeout: int = 240, **options) -> subprocess.CompletedProcess:
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    options |= {"out": str(out), "model": model_dir}
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [*launcher, "-m", "tests.distributed.run", json.dumps(options)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def outcome(out, processes, model_dir, **options):
    run = launch(out, processes, model_dir, **options)
    assert run.returncode == 0, run.stderr[-3000:]
    return load_file(out / "weights.safetensors"), json.loads((out / "log.json").read_text())


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("neat", {"responses": True, "num_generations": 6}),
        ("ple", {"replay": "all", "lora": True}),
        ("ple", {"replay": 1, "num_generations": 2}),
    ],
)
def test_two_processes_train_as_one(method, options, model_dir, tmp_path):
    size = options.setdefault("num_generations", 4)
    options |= {"method": method, "max_steps": 3}
    one, one_log = outcome(tmp_path / "one", 1, model_dir, per_device_train_batch_size=4 * size, **options)
    two, two_log = outcome(tmp_path / "two", 2, model_dir, per_device_train_batch_size=2 * size, **options)
    assert max((one[name] - two[name]).abs().max().item() for name in one) < 1e-6
    for single, double in zip(one_log, two_log, strict=True):
        assert single.keys() == double.keys()
        for key in single:
            if not any(part in key for part in NOT_COMPARED):
                assert double[key] == pytest.approx(single[key], abs=1e-5), key


@pytest.mark.parametrize("reward", ["tied on process 1", "none on process 1"])
def test_a_process_without_signal_waits_for_nobody(reward, model_dir, tmp_path):
    _, log = outcome(tmp_path, 2, model_dir, method="neat", reward=reward, num_generations=4)
    assert [entry["frac_groups_no_signal"] for entry in log if "frac_groups_no_signal" in entry] == [0.5, 0.5]


def test_a_reward_that_raises_on_one_process_stops_all(model_dir, tmp_path):
    run = launch(tmp_path, 2, model_dir, timeout=90, method="ple", reward="raises on process 1", num_generations=4)
    assert run.returncode != 0
    assert "ZeroDivisionError: a broken reward" in run.stderr
    assert "Process 1 stopped with ZeroDivisionError('a broken reward')" in run.stderr
