"""TRL's own installed GRPO script, with the two class names changed, trains NEAT and PLE."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import trl.scripts.grpo

from tests.helpers import COMPARING, GUIDES, METHODS, dataset


def swapped(method: str) -> str:
    """The script's text with GRPOTrainer and GRPOConfig replaced, and both imported from here."""
    trainer, config = (cls.__name__ for cls in METHODS[method])
    script = Path(trl.scripts.grpo.__file__).read_text()
    for old, new in (("GRPOTrainer", trainer), ("GRPOConfig", config)):
        line = re.compile(rf"^( *)from trl import (.*)\b{old}, (.*)$", re.MULTILINE)
        script, count = line.subn(rf"\1from trl_negalign import {new}\n\1from trl import \2\3", script)
        assert count == 1
        script = script.replace(old, new)
    return script


@pytest.mark.parametrize("method", METHODS)
def test_trls_script_trains_with_two_names_changed(method, saved_model, tmp_path):
    (tmp_path / "script.py").write_text(swapped(method))
    (tmp_path / "my_rewards.py").write_text(
        "def length(completions, **kwargs):\n    return [float(len(set(c[-1]['content']))) for c in completions]\n"
    )
    (tmp_path / "data").mkdir()
    dataset("conversation", responses=True).to_parquet(tmp_path / "data" / "train.parquet")
    options = GUIDES[METHODS[method][1]] | COMPARING.get(method, {})
    options = [part for name, text in options.items() for part in (f"--{name}", text)]
    run = subprocess.run(
        [
            *(sys.executable, "script.py", "--model_name_or_path", saved_model, "--dataset_name", "data"),
            *("--reward_funcs", "my_rewards.length", "--output_dir", "out", "--use_cpu", "--bf16", "False"),
            *("--max_steps", "2", "--max_completion_length", "6", "--logging_steps", "1", "--report_to", "none"),
            *("--num_generations", "4", "--use_peft", "--lora_target_modules", "all-linear", *options),
        ],
        cwd=tmp_path,
        env=os.environ | {"HF_DATASETS_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    state = json.loads((tmp_path / "out" / "checkpoint-2" / "trainer_state.json").read_text())
    assert any(key.startswith(f"{method}/") for key in state["log_history"][0])
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
