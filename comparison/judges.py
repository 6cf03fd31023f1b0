"""
A task's rewards: the one that trains, and those that only judge. What is trained for them is made once, in a folder
outside the repository; how well it does is kept with the results.

    python comparison/judges.py --task sentiment --data DIR
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from classifiers import FAMILIES, accuracy, around
from material import Judged, Material, load_material
from plan import add_places, read_task
from start import start_model, unpack_start

from trl_negalign.borders import text_of
from trl_negalign.fingerprints import digest
from trl_negalign.rewards.loading import load_reward


RECORD = "rewards.json"
JUDGED = 1000  # texts that an accuracy is of


def identity(task: dict, material: Material) -> dict[str, str]:
    """What a trained reward depends on, by its name: settings, texts and labels, the model whose states it reads."""
    return {
        name: digest(settings, task["start"], material.halves[settings["half"]])
        for name, settings in task["rewards"].items()
        if isinstance(settings, dict)
    }


def prepare(task: dict, material: Material, cache: Path, results: Path) -> None:
    """Train the rewards that `cache` lacks, and note what each is and its accuracy on texts of neither half."""
    cache.mkdir(parents=True, exist_ok=True)
    unpack_start(task["start"], cache)
    record = {}
    for name, key in identity(task, material).items():
        settings, path = task["rewards"][name], cache / f"{name}-{key}.json"
        note = path.with_suffix(".accuracy")
        if not note.exists():
            texts, labels = (part[: settings.get("texts")] for part in material.halves[settings["half"]])
            family = FAMILIES[settings["family"]]
            policy = (partial(start_model, task["start"], cache),) if settings["family"] == "states" else ()
            extra = {key: value for key, value in settings.items() if key in ("layer", "decay", "minimum")}
            if path.exists():  # it was stopped while it was judged
                model = family.load(path, *policy)
            else:
                model = family.fit(*policy, texts, labels, **extra, preferences=material.preferences)
                model.save(path.with_suffix(".unfinished"))
                path.with_suffix(".unfinished").rename(path)
            said = f"{family.family}, of pairs of answers" if material.preferences else family.family
            found = {"family": said, "settings": settings, "identity": key, "texts": len(texts)}
            for part, (judged, truth) in {"own": (texts, labels), "held_out": material.held_out}.items():
                logits = model.logits(judged[:JUDGED])
                found[f"accuracy_{part}"] = round(accuracy(logits, truth[:JUDGED], material.preferences), 4)
                found[f"{part}_texts"] = len(logits)
            note.write_text(json.dumps(found))  # last: it says that the model is whole
        record[name] = json.loads(note.read_text())
    for name, settings in task["rewards"].items():
        if name not in record:
            scores = load_reward(settings)(completions=[around(text)[1] for text in material.held_out[0]])
            found = round(accuracy(scores, material.held_out[1], material.preferences), 4)
            record[name] = {"family": settings, "accuracy_held_out": found, "held_out_texts": len(scores)}
    results.mkdir(parents=True, exist_ok=True)
    (results / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def load_judges(task: dict, material: Material, cache: Path) -> dict[str, Callable]:
    """
    TRL reward functions by name; one that was trained reads an opening with its completion, or a conversation's last
    message and the answer to it.

    Raises:
        ValueError: if one was not prepared.
    """
    found = {}
    for name, key in identity(task, material).items():
        path = cache / f"{name}-{key}.json"
        if not path.with_suffix(".accuracy").exists():
            raise ValueError(f"the reward {name!r} is not in {cache}. Make it with `python comparison/judges.py`.")
        family = FAMILIES[task["rewards"][name]["family"]]
        model = family.load(path, policy=partial(start_model, task["start"], cache))

        def reward(prompts, completions, model=model, **kwargs):
            return model.logits([judged(*both) for both in zip(prompts, completions, strict=True)])

        reward.__name__ = name
        found[name] = reward
    for name, settings in task["rewards"].items():
        if name not in found:
            found[name] = load_reward(settings)
    return found


def judged(prompt, completion) -> Judged:
    """A policy's completion as its judges read it."""
    return prompt + completion if isinstance(prompt, str) else (text_of(prompt), text_of(completion))


def main(options: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True)
    add_places(parser)
    args = parser.parse_args(options)
    task = read_task(args.task)
    prepare(task, load_material(task["corpus"], args.data), args.cache / args.task, args.results / args.task)
    print((args.results / args.task / RECORD).read_text(), end="")


if __name__ == "__main__":
    main()
