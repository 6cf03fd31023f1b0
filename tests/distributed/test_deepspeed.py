"""
Two real CPU processes under DeepSpeed ZeRO-1, 2 and 3, started by `accelerate launch` with this project's own launch
files, against one plain process. Skipped where DeepSpeed is not installed: `make test-distributed` installs it.
"""

from importlib.util import find_spec

import pytest

from tests.distributed.launching import accelerate, furthest, outcome, torchrun


pytestmark = pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
STAGES = {
    "zero1": accelerate("cpu_zero2", "--zero_stage", "1"),
    "zero2": accelerate("cpu_zero2"),
    "zero3": accelerate("cpu_zero3"),
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("neat", {"responses": True, "num_generations": 6}),
        ("ple", {"replay": 1, "lora": True, "num_generations": 4}),
    ],
)
def test_zero_trains_as_one_process(stage, method, options, model_dir, tmp_path):
    size, options = options["num_generations"], options | {"method": method, "max_steps": 3}
    one, _ = outcome(torchrun(1), tmp_path / "one", model_dir, per_device_train_batch_size=4 * size, **options)
    two, _ = outcome(STAGES[stage], tmp_path / stage, model_dir, per_device_train_batch_size=2 * size, **options)
    assert furthest(one, two) < 1e-6
