"""Two processes over gloo of which one has nothing to learn from, or fails."""

import time

import pytest
from safetensors.torch import load_file

from tests.distributed.launching import furthest, launch, outcome, skip_without_deepspeed, worlds


OPTIONS = {"num_generations": 4, "top_k": 1}
SGD = {"optim": "sgd", "learning_rate": 0.01, "max_grad_norm": 0.0, "lr_scheduler_type": "constant"}


@pytest.mark.parametrize("world", worlds("gloo", "zero3", "fsdp2"))
def test_a_process_without_signal_waits_for_nobody(world, saved_model, tmp_path):
    """Of its candidates one goes through the model, and what the other process learns is learnt."""
    skip_without_deepspeed(world)
    runs = {
        f"{method} {kind} {share}": OPTIONS | SGD | {"method": method, "rewards": [kind], "share_prompts": share}
        for method in ("neat", "ple")
        for kind in ("tied", "none")
        for share in (False, True)
    }
    done = launch(world, tmp_path, saved_model, runs)
    assert done.returncode == 0, done.stderr[-3000:]
    untrained = load_file(f"{saved_model}/model.safetensors")
    for name in runs:
        weights, log = outcome(tmp_path / name)
        assert furthest({key: weights[key] for key in untrained}, untrained) > 1e-3
        assert [entry["frac_groups_no_signal"] for entry in log if "frac_groups_no_signal" in entry] == [0.5, 0.5]


def test_a_reward_that_raises_on_one_process_stops_all(saved_model, tmp_path):
    start = time.monotonic()
    done = launch(
        "gloo", tmp_path, saved_model, {"run": OPTIONS | {"method": "ple", "rewards": ["raises"]}}, timeout=90
    )
    assert done.returncode != 0
    assert time.monotonic() - start < 60
    assert "ZeroDivisionError: a broken reward" in done.stderr
    assert "Process 1 stopped with ZeroDivisionError('a broken reward')" in done.stderr
