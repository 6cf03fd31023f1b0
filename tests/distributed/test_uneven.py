"""Two processes over gloo of which one has nothing to learn from, or fails."""

import time

from tests.distributed.launching import launch, outcome


OPTIONS = {"num_generations": 4, "top_k": 1}


def test_a_process_without_signal_waits_for_nobody(saved_model, tmp_path):
    runs = {
        f"{method} {kind}": OPTIONS | {"method": method, "rewards": [kind]}
        for method in ("neat", "ple")
        for kind in ("tied", "none")
    }
    done = launch("gloo", tmp_path, saved_model, runs)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in runs:
        _, log = outcome(tmp_path / name)
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
