"""Two real CPU processes over gloo against one process: the same queries must end in the same weights and metrics."""

import pytest

from tests.distributed.launching import accelerate, furthest, outcome, start, torchrun


# timings, and sums that count one process's work, differ by design
NOT_COMPARED = ("runtime", "per_second", "step_time", "total_flos", "epoch", "train_loss")


@pytest.mark.parametrize(
    ("method", "options", "launcher"),
    [
        ("neat", {"responses": True, "num_generations": 6}, torchrun(2)),
        ("ple", {"replay": "all", "lora": True, "num_generations": 4}, torchrun(2)),
        ("ple", {"replay": 1, "num_generations": 2}, accelerate("cpu_ddp")),
    ],
)
def test_two_processes_train_as_one(method, options, launcher, model_dir, tmp_path):
    size, options = options["num_generations"], options | {"method": method, "max_steps": 3}
    one, one_log = outcome(torchrun(1), tmp_path / "one", model_dir, per_device_train_batch_size=4 * size, **options)
    two, two_log = outcome(launcher, tmp_path / "two", model_dir, per_device_train_batch_size=2 * size, **options)
    assert furthest(one, two) < 1e-6
    for single, double in zip(one_log, two_log, strict=True):
        assert single.keys() == double.keys()
        for key in single:
            if not any(part in key for part in NOT_COMPARED):
                assert double[key] == pytest.approx(single[key], abs=1e-5), key


@pytest.mark.parametrize("reward", ["tied on process 1", "none on process 1"])
def test_a_process_without_signal_waits_for_nobody(reward, model_dir, tmp_path):
    _, log = outcome(torchrun(2), tmp_path, model_dir, method="neat", reward=reward, num_generations=4)
    assert [entry["frac_groups_no_signal"] for entry in log if "frac_groups_no_signal" in entry] == [0.5, 0.5]


def test_a_reward_that_raises_on_one_process_stops_all(model_dir, tmp_path):
    options = {"method": "ple", "reward": "raises on process 1", "num_generations": 4}
    run = start(torchrun(2), tmp_path, model_dir, 90, options)
    assert run.returncode != 0
    assert "ZeroDivisionError: a broken reward" in run.stderr
    assert "Process 1 stopped with ZeroDivisionError('a broken reward')" in run.stderr
