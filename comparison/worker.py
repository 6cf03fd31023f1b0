"""
One run, in a process of its own: `run.py` hands it a file with the run's settings. Trains, measures and leaves a
folder that appears whole or not at all:

    run.json              settings, seed, versions, git commit, device, time, numbers at every measured step
    log.json.gz           the trainer's log history
    completions.parquet   every held-out completion with its rewards, KL and log-probabilities
    failed.json           in place of all that, the reason why there are no numbers
"""

import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

from plan import START


def die_with_parent() -> None:
    """A runner that was killed must not leave workers behind that write where the next one writes."""
    parent = os.getppid()

    def watch():
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def progress(job: dict, step: int) -> None:
    """The step that the runner shows; a file, so that a dead worker has no pipe to fill."""
    Path(job["partial"], "step").write_text(str(step))


def git_commit() -> str | None:
    """The commit that the code is at, with a mark where files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    return found.stdout.strip() or None


def perform(job: dict) -> dict:
    """Train and measure; what `run.json` holds."""
    import pandas as pd
    import torch
    from judges import load_judges
    from material import load_material
    from measuring import Measuring, clock, measure
    from start import start_model
    from training import build_trainer
    from transformers import set_seed

    from trl_negalign.evaluation.evaluate import environment

    run, partial = job["run"], Path(job["partial"])
    task = run["task_settings"]
    material = load_material(task["corpus"], job["data"])
    judges = load_judges(task, material, Path(job["cache"]))
    policy, tokenizer = start_model(task["start"], Path(job["cache"]))
    steps, numbers, tables = set(task["evaluation"]["steps"]), [], []

    def measure_at(model, step: int, part: str = "validation"):
        found, table = measure(model, tokenizer, getattr(material, part), judges, run, references=part == "test")
        numbers.append({"step": step, "part": part} | found)
        tables.append(table.assign(step=step, part=part))

    set_seed(run["seed"])
    measuring = Measuring(measure_at, steps, lambda step: progress(job, step))
    history, seconds, last = [], 0.0, 0
    began = clock()
    if run["method"] != START:
        with tempfile.TemporaryDirectory() as folder:
            trainer = build_trainer(
                run, material.train, judges["training"], policy, tokenizer, folder, callbacks=[measuring]
            )
            trainer.train()
        model, history, last = trainer.model, trainer.state.log_history, trainer.state.global_step
        seconds = clock() - began - measuring.seconds
    else:
        from peft import LoraConfig, get_peft_model

        # a new adapter changes nothing, and makes it the same to measure as the others
        model = get_peft_model(policy, LoraConfig(task_type="CAUSAL_LM", **task["lora"]))
        if torch.accelerator.is_available():
            model.to(torch.accelerator.current_accelerator())
        measure_at(model, 0)
    if run["stage"] == "seeds":
        measure_at(model, last, "test")
    pd.concat(tables).to_parquet(partial / "completions.parquet", compression="zstd", index=False)
    (partial / "log.json.gz").write_bytes(gzip.compress(json.dumps(history).encode(), mtime=0))
    counted = [line["num_tokens"] for line in history if "num_tokens" in line]
    cost = {"seconds": round(seconds, 1), "tokens": counted[-1] if counted else None, "steps": last}
    where = {"commit": git_commit(), "threads": torch.get_num_threads(), **environment()}
    return {"run": run, "material": material.fingerprint, "cost": cost, "numbers": numbers, "environment": where}


def write_json(path: Path, value: dict) -> None:
    from trl_negalign.evaluation.evaluate import without_nan

    path.write_text(json.dumps(without_nan(value), indent=1) + "\n", encoding="utf-8")


def main(job_file: str) -> int:
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    partial, folder = Path(job["partial"]), Path(job["folder"])
    try:
        write_json(partial / "run.json", perform(job))
    except Exception as error:
        traceback.print_exc()
        fail(job, f"{type(error).__name__}: {' '.join(str(error).split())}")
        return 1
    for name in ("job.json", "step"):
        (partial / name).unlink(missing_ok=True)
    partial.rename(folder)
    return 0


def fail(job: dict, reason: str) -> None:
    """Leave the reason in the run's folder, and nothing half-made."""
    partial, folder = Path(job["partial"]), Path(job["folder"])
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    failed = {"run": job["run"], "reason": reason[:1000], "commit": git_commit()}
    (partial / "failed.json").write_text(json.dumps(failed, indent=1) + "\n", encoding="utf-8")
    partial.rename(folder)


if __name__ == "__main__":
    die_with_parent()
    sys.exit(main(sys.argv[1]))
