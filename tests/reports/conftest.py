"""Run folders for the reports: real small runs, and made ones."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import save, tiny_model
from tests.helpers import build, dataset, letter_reward, text_of


NASTY = [
    "</script><script>window.harm = 1</script><img src=x onerror='window.harm = 2'>",
    "nul \x00 escape \x1b[31m c1 \x85 direction \u202egnihton",
    "\"double\" 'single' & &amp; <!-- ]]> {{ 7 * 7 }}",
    "日本語 🙂 עברית é\u2028next line",
]


def even_reward(completions, **kwargs) -> list[float | None]:
    """A second reward that many responses have none of: those of an odd length."""
    return [len(text_of(completion)) / 10 if len(text_of(completion)) % 2 == 0 else None for completion in completions]


@pytest.fixture(scope="session")
def neat_run(tokenizer, tmp_path_factory) -> Path:
    """Still running, as it were: checkpoints only. Plain, positive, negative and dataset responses, two rewards."""
    path = tmp_path_factory.mktemp("neat")
    trainer = build(
        "neat",
        save(tiny_model(tokenizer), tokenizer, path / "model"),
        tokenizer,
        path,
        train_dataset=dataset(responses=True),
        reward_funcs=[letter_reward, even_reward],
        reward_weights=[1.0, 0.5],
        num_generations=6,
        num_plain=1,
        per_device_train_batch_size=12,
        max_steps=4,
        save_strategy="steps",
        save_steps=2,
        beta=0.05,
        log_completions=True,
        num_completions_to_print=0,
    )
    trainer.train()
    return path / "out"


@pytest.fixture(scope="session")
def ple_run(tokenizer, tmp_path_factory) -> Path:
    """Finished: conversations, an evaluation at steps 3 and 6."""
    path = tmp_path_factory.mktemp("ple")
    trainer = build(
        "ple",
        tiny_model(tokenizer),
        tokenizer,
        path,
        train_dataset=dataset("conversation"),
        eval_dataset=dataset("conversation", rows=4),
        eval_strategy="steps",
        eval_steps=3,
        max_steps=6,
        log_completions=True,
        num_completions_to_print=0,
    )
    trainer.train()
    trainer.save_state()
    return path / "out"


@pytest.fixture
def copy_of(tmp_path) -> Callable[[Path], Path]:
    """Copy a run's folder, to damage or to complete it."""
    return lambda run, name="run": Path(shutil.copytree(run, tmp_path / name))


def write_table(folder: Path, step: int, kinds: list[str], rewards: list[float | None], **columns) -> None:
    """A table as TRL writes it: one query unless `prompt` is given, one reward `score`, advantages in its order."""
    rows = len(kinds)
    table = {
        "step": [step] * rows,
        "prompt": ["query"] * rows,
        "completion": [f"text {step}.{i}" for i in range(rows)],
    }
    table |= {"score": rewards, "kind": kinds, "advantage": [reward or 0.0 for reward in rewards]}
    (folder / "completions").mkdir(parents=True, exist_ok=True)
    pd.DataFrame(table | columns).to_parquet(folder / "completions" / f"completions_{step:05d}.parquet")


def write_state(folder: Path, logs: list[dict], max_steps: int = 100) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    state = {"global_step": logs[-1]["step"], "max_steps": max_steps, "log_history": logs}
    (folder / "trainer_state.json").write_text(json.dumps(state))


def write_config(folder: Path, **args) -> None:
    (folder / "run_config.json").write_text(json.dumps({"method": "NEAT", "args": args}))
