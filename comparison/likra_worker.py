"""
One run of Likra's heads, in a process of its own: `run_likra.py` hands it a file with the run's settings. It is a
`negalign likra`, whose folder lies in the cache, and leaves

    run.json          settings, seed, versions, git commit, seconds (of the last sitting)
    logps.json.gz     every option's log-probability under the base and the heads at every number of examples
    failed.json       in place of all that, the reason why there are no numbers
"""

import gzip
import json
import sys
import time
import traceback
from pathlib import Path

import yaml
from plan import HERE
from worker import die_with_parent, fail, git_commit, write_json


def command_of(run: dict, data: str | None, cache: Path) -> dict:
    """The options of `negalign likra`, those of the recipe included."""
    task, root = run["task_settings"], HERE.parent
    options = yaml.safe_load((root / task["recipe"]).read_text(encoding="utf-8"))
    if isinstance(task["files"], dict):
        names = [str(cache / "data" / part) for part in task["files"]]
    else:
        names = [str(Path(data) / task["files"]) if data else task["hub"]]
    return options | task["options"] | run["method_settings"] | {
        "dataset_name": names,
        "negatives": run["stage"],
        "num_examples": run["setting"]["examples"],
        "seed": run["seed"],
        "output_dir": str(cache / run["method"] / f"{run['stage']}-seed{run['seed']}"),
        "disable_tqdm": True,
    }  # fmt: skip


def perform(job: dict) -> dict:
    """Train and score; what `run.json` holds."""
    import torch

    from trl_negalign.evaluation.evaluate import environment
    from trl_negalign.scripts import likra

    run = job["run"]
    options = command_of(run, job["data"], Path(job["cache"]))
    config = Path(job["partial"], "likra.yaml")
    config.write_text(yaml.safe_dump(options), encoding="utf-8")
    began = time.perf_counter()
    likra.run(["--config", str(config)])
    seconds = round(time.perf_counter() - began, 1)
    numbers, material = collect(options)
    text = json.dumps(numbers, separators=(",", ":"))
    Path(job["partial"], "logps.json.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    where = {"commit": git_commit(), "threads": torch.get_num_threads(), **environment()}
    asked = {"questions": len(numbers["answers"]), "material": material}
    return {"run": run, **asked, "seconds": seconds, "environment": where}


def collect(options: dict) -> tuple[dict, str]:
    """
    What is kept of a run's folder, and a fingerprint of the test questions.

    Returns:
        `answers` (index of each test question's right option), `characters` (of each option), and `logps`: by `base`
        and `HEAD-EXAMPLES` the log-probabilities of each question's options, in nats.
    """
    import pandas as pd

    from trl_negalign.evaluation.kept import digest, read_part
    from trl_negalign.likra.config import LikraConfig
    from trl_negalign.likra.encoding import encode
    from trl_negalign.likra.questions import load_questions
    from trl_negalign.likra.trainer import saved_points
    from trl_negalign.scripts.local_model import load_policy

    asked = {"dataset_config": None, "dataset_train_split": "train", "dataset_test_split": "test"}
    asked |= {"test_share": None, "num_test": None} | options
    names = ("dataset_config", "dataset_train_split", "dataset_test_split", "test_share", "num_test", "seed")
    _, test = load_questions(options["dataset_name"], *(asked[name] for name in names))
    # the command's scores are kept by the tokens of a question with its options
    _, tokenizer = load_policy(options.get("model_name_or_path"))
    template = options.get("prompt_template", LikraConfig.prompt_template)
    keys = [digest(*encode(tokenizer, question.query, question.options, template)) for question in test]
    out = Path(options["output_dir"])
    points = [f"{head}-{examples}" for examples in saved_points(out, options["heads"]) for head in options["heads"]]
    logps = {}
    for name in ["base", *points]:
        parts = [read_part(path) for path in sorted((out / "logps" / name).glob("*.parquet"))]
        table = pd.concat(parts).drop_duplicates("key").set_index("key").loc[keys]
        logps[name] = [[round(float(value), 3) for value in values] for values in table["logps"]]
    characters = [[len(option) for option in question.options] for question in test]
    answers = [question.answer for question in test]
    texts = [[question.query, *question.options] for question in test]
    return {"answers": answers, "characters": characters, "logps": logps}, digest(texts, answers)


def main(job_file: str) -> int:
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    partial, folder = Path(job["partial"]), Path(job["folder"])
    try:
        write_json(partial / "run.json", perform(job))
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        fail(job, f"{type(error).__name__}: {' '.join(str(error).split())}")
        return 1
    for name in ("job.json", "likra.yaml"):
        (partial / name).unlink(missing_ok=True)
    partial.rename(folder)
    return 0


if __name__ == "__main__":
    die_with_parent()
    sys.exit(main(sys.argv[1]))
