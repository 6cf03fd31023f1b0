"""kill -9 at random moments: what is left always resumes, and ends as the run that was never killed."""

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from tests.helpers import build, dataset
from trl_negalign.trainer.rounds.checkpoints import is_whole


KILLS = 20
OPTIONS = {
    "num_generations": 4,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "steps_per_generation": 4,  # every odd step is inside a generation cycle
    "max_steps": 120,
    "save_strategy": "steps",
    "save_steps": 1,
    "save_total_limit": 2,
}


class SaysWhere(TrainerCallback):
    """Tells the parent when training begins, and at which step."""

    def __init__(self, connection):
        self.connection = connection

    def on_train_begin(self, args, state, control, **kwargs):
        self.connection.send(state.global_step)


def train(method: str, folder: Path, model: str, connection=None, resume: bool = False) -> None:
    torch.set_num_threads(1)
    trainer = build(
        method,
        model,
        AutoTokenizer.from_pretrained(model),
        folder,
        dataset(),
        callbacks=[SaysWhere(connection)] if connection else None,
        **OPTIONS | ({"replay": 1} if method == "ple" else {"num_plain": 1}),
    )
    trainer.train(resume_from_checkpoint=resume)


def outcome(folder: Path) -> tuple[dict, list[float]]:
    last = folder / "out" / f"checkpoint-{OPTIONS['max_steps']}"
    history = json.loads((last / "trainer_state.json").read_text())["log_history"]
    return load_file(last / "model.safetensors"), [entry["loss"] for entry in history]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["neat", "ple"])
def test_killed_at_random_moments(method, saved_model, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(method, whole, saved_model)
    processes = multiprocessing.get_context("forkserver")  # a clean process that has imported all this is forked
    processes.set_forkserver_preload([__name__, "trl.trainer.grpo_trainer"])
    moments = random.Random(method)
    starts, half_written = [], 0
    for _ in range(KILLS):
        parent, child = processes.Pipe()
        found = [is_whole(str(checkpoint)) for checkpoint in killed.glob(f"out/{PREFIX_CHECKPOINT_DIR}-*")]
        process = processes.Process(target=train, args=(method, killed, saved_model, child, any(found)))
        process.start()
        child.close()
        assert parent.poll(60)
        starts.append(parent.recv())  # an EOFError if it could not resume
        time.sleep(moments.uniform(0.0, 0.5))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        half_written += not all(is_whole(str(path)) for path in killed.glob(f"out/{PREFIX_CHECKPOINT_DIR}-*"))
    print(f"{method}: resumed at the steps {starts}, {half_written} times beside a half-written checkpoint")
    assert starts == sorted(starts) and starts[-1] > 0
    assert half_written > 0  # or the moments tested nothing
    train(method, killed, saved_model, resume=True)
    (weights, losses), (killed_weights, killed_losses) = outcome(whole), outcome(killed)
    assert killed_losses == pytest.approx(losses, abs=1e-5)
    assert max((weights[name] - killed_weights[name]).abs().max().item() for name in weights) < 1e-6
