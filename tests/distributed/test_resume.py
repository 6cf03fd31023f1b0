"""Two processes stopped at an optimizer step and resumed are the run that was never stopped; they sample at random."""

import pytest

from tests.distributed.launching import furthest, launch, outcome, skip_without_deepspeed, worlds


SHARED = {
    "num_generations": 4,
    "per_device_train_batch_size": 4,
    "max_steps": 4,
    "save_strategy": "steps",
    "save_steps": 1,
}
RUNS = {
    "neat, two steps a round": {
        "method": "neat",
        "responses": True,
        "gradient_accumulation_steps": 2,
        "steps_per_generation": 4,
    },
    "neat, a round twice, lora": {"method": "neat", "lora": True, "num_iterations": 2},
    "ple, replay": {"method": "ple", "replay": 1, "rewards": ["model"]},
}
STOPS = (1, 2, 3)


@pytest.mark.slow  # over 30 s; tests/distributed runs it all the same
@pytest.mark.parametrize("world", worlds("gloo", "zero2", "zero3", "fsdp2"))
def test_resumed_is_uninterrupted(world, saved_model, saved_reward_model, tmp_path):
    skip_without_deepspeed(world)
    whole = {f"{name}, whole": SHARED | run for name, run in RUNS.items()}
    stopped = {
        f"{name}, stopped at {stop}": SHARED | run | {"stop": stop} for name, run in RUNS.items() for stop in STOPS
    }
    resumed = {name: run | {"stop": None, "resume": True} for name, run in stopped.items()}
    for runs in (whole | stopped, resumed):
        done = launch(world, tmp_path, saved_model, runs, reward_model=saved_reward_model)
        assert done.returncode == 0, done.stderr[-3000:]
    for name in RUNS:
        weights, log = outcome(tmp_path / f"{name}, whole")
        for stop in STOPS:
            resumed_weights, resumed_log = outcome(tmp_path / f"{name}, stopped at {stop}")
            assert furthest(weights, resumed_weights) < 1e-6, (name, stop)
            assert len(log) == len(resumed_log)
            for entry, resumed_entry in zip(log, resumed_log, strict=True):
                assert resumed_entry == pytest.approx(entry, abs=1e-5, nan_ok=True), (name, stop)
