"""
Compare models on the same queries: perplexity of the references, reward, BLEU, win rate, KL, diversity, length.

Writes DIR/results.json (everything that is needed to repeat it), table.md, win_rates.png, completions.parquet and
judgements.parquet. A stopped evaluation goes on where it was with the same command. `--compare` joins earlier results.
"""

import json
from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path

from ..evaluation import METRICS


SMALL_MODEL = "smollm2"
DTYPES = ["float32", "bfloat16", "float16", "auto"]


@dataclass
class EvaluateArguments:
    """Options of `negalign evaluate`."""

    out: str = field(metadata={"help": "Folder for the results."})
    data: str | None = field(default=None, metadata={"help": "Folder, hub id or file with a column `prompt`."})
    data_config: str | None = field(default=None, metadata={"help": "Configuration of the dataset, e.g. preference."})
    split: str | None = field(default=None, metadata={"help": "Left out, test, or the only one."})
    reference_column: str | None = field(default=None, metadata={"help": "Left out, `completion` or `chosen`."})
    num_queries: int = field(default=2048, metadata={"help": "Queries, a random sample of the split."})
    max_query_tokens: int | None = field(default=None, metadata={"help": "Leave out longer queries, for all models."})
    max_new_tokens: int = field(default=256, metadata={"help": "Longest completion in tokens."})
    temperature: float = field(default=1.0, metadata={"help": "Of the sampling; 0 takes the most probable token."})
    top_p: float = field(default=1.0, metadata={"help": "Share of the probability that is sampled from."})
    top_k: int = field(default=0, metadata={"help": "Most probable tokens that are sampled from; 0 for all."})
    query_seed: int = field(default=0, metadata={"help": "Of the random sample of queries."})
    sampling_seed: int = field(default=0, metadata={"help": "Of the completions, one of each query."})
    chat_template_kwargs: str = field(default="{}", metadata={"help": "For chat templates, as JSON."})
    batch_size: int = field(default=16, metadata={"help": "Sequences at a time; changes results by rounding only."})
    dtype: str = field(default="float32", metadata={"help": "Of the weights.", "choices": DTYPES})
    judge: str | None = field(default=None, metadata={"help": "For win_rate: a reward, or an OpenAI-like address."})
    judge_model: str = field(default="", metadata={"help": "The endpoint's name of the judging model."})
    judge_criteria: str | None = field(default=None, metadata={"help": "What makes a response better, in sentences."})
    judge_options: str = field(default="{}", metadata={"help": "Fields of the request as JSON; null leaves one out."})
    judge_key_variable: str = field(
        default="OPENAI_API_KEY", metadata={"help": "Environment variable that holds the key; never the key itself."}
    )
    judge_rate: float | None = field(default=None, metadata={"help": "Requests per minute, at most."})
    judge_concurrency: int = field(default=8, metadata={"help": "Requests at a time."})
    judge_timeout: float = field(default=60.0, metadata={"help": "Seconds for one request."})
    judge_retries: int = field(default=6, metadata={"help": "Further tries of a request that failed."})
    kl_reference: str | None = field(default=None, metadata={"help": "For kl: MODEL[+ADAPTER] that it is from."})
    against_reference: bool = field(default=False, metadata={"help": "Judge every model against the references too."})
    overwrite: bool = field(default=False, metadata={"help": "Replace the results of another evaluation in --out."})


def make_parser(prog: str | None = None):
    from transformers import HfArgumentParser

    parser = HfArgumentParser(EvaluateArguments, prog=prog, description=__doc__)
    lists = {
        "model": f"[LABEL=]MODEL[+ADAPTER] with a path, hub id or {SMALL_MODEL}; several, or the option repeated.",
        "metrics": f"Out of {', '.join(METRICS)}. Left out, all that have what they need.",
        "reward": "Packaged names (vader_reward), import paths, ids or paths of reward models or of heads (likra).",
        "compare": "Earlier results.json files, or their folders, to join.",
    }
    for name, text in lists.items():
        choices = METRICS if name == "metrics" else None
        parser.add_argument(f"--{name}", nargs="+", action="extend", default=[], choices=choices, help=text)
    return parser


def main(args: EvaluateArguments, lists: Namespace) -> None:
    from trl_negalign import extras, folders, phase

    extras.need("evaluation", "matplotlib", "requests", "sacrebleu")
    from trl_negalign.evaluation.files import read_results, whole_file, write_whole
    from trl_negalign.evaluation.joining import check_folders, join
    from trl_negalign.reports.comparison import comparison_table, plot_win_rates

    out = Path(args.out)
    if not (lists.model or lists.compare):
        raise ValueError("--model is missing. Name one or more models, or earlier results with --compare.")
    check_folders([*([out] if lists.model else []), *(read_results(path)[1] for path in lists.compare)])
    named = [*lists.model, args.kl_reference or ""]
    models = [part for text in named for part in (text, *text.split("=", 1)[-1].split("+"))]
    inputs = {"model": models, "reward": [*lists.reward, args.judge], "dataset": [args.data]}
    folders.check_target("--out", out, "evaluation", inputs, args.overwrite)
    if lists.model:
        run_evaluation(args, lists, out)
    joined = join([*([out] if lists.model else []), *lists.compare])
    phase.begin_work()
    folders.start(out, "evaluation")
    table = comparison_table(joined)
    write_whole(out / "table.md", table)
    if lists.compare:
        write_whole(out / "comparison.json", json.dumps(joined, indent=2, ensure_ascii=False) + "\n")
    if joined["win_rates"]:
        with whole_file(out / "win_rates.png") as path:
            plot_win_rates(joined["win_rates"], path)
    print(f"\n{table}\nIn {out}: {', '.join(sorted(path.name for path in out.iterdir() if path.is_file()))}")


def run_evaluation(args: EvaluateArguments, lists: Namespace, out: Path) -> None:
    from trl_negalign.evaluation.evaluate import evaluate
    from trl_negalign.evaluation.generation import Sampling
    from trl_negalign.evaluation.policies import parse_policy
    from trl_negalign.evaluation.queries import load_queries
    from trl_negalign.scripts.arguments import json_object
    from trl_negalign.scripts.local_model import load_policy

    if args.data is None:
        raise ValueError("--data is missing. Name a dataset with a column `prompt`.")
    small = {SMALL_MODEL: lambda: load_policy(None)}
    models = [parse_policy(text, small) for text in lists.model]
    judge = make_judge(args, out / "judge.sqlite")
    rendered = json_object("--chat_template_kwargs", args.chat_template_kwargs)
    chosen = (args.split, args.reference_column, args.num_queries, args.query_seed, rendered)
    queries = load_queries(args.data, args.data_config, *chosen)
    has = dict.fromkeys(("ppl", "bleu"), queries.references)
    has |= {"reward": lists.reward, "win_rate": judge, "kl": args.kl_reference}
    evaluate(
        models,
        queries,
        out,
        metrics=tuple(lists.metrics) or tuple(name for name in METRICS if has.get(name, True)),
        rewards=tuple(lists.reward),
        judge=judge,
        kl_reference=args.kl_reference and parse_policy(args.kl_reference, small),
        against_reference=args.against_reference,
        sampling=Sampling(args.max_new_tokens, args.temperature, args.top_p, args.top_k, args.sampling_seed),
        max_query_tokens=args.max_query_tokens,
        batch_size=args.batch_size,
        dtype=args.dtype,
        overwrite=args.overwrite,
    )


def make_judge(args: EvaluateArguments, cache: Path):
    """A chat judge for an address; a reward's name stays one."""
    from trl_negalign.evaluation.judges import CRITERIA, ChatJudge
    from trl_negalign.scripts.arguments import json_object

    if args.judge is None or not args.judge.startswith(("http://", "https://")):
        return args.judge
    return ChatJudge(
        args.judge,
        args.judge_model,
        cache,
        criteria=args.judge_criteria or CRITERIA,
        options=json_object("--judge_options", args.judge_options),
        key_variable=args.judge_key_variable,
        requests_per_minute=args.judge_rate,
        concurrency=args.judge_concurrency,
        timeout=args.judge_timeout,
        retries=args.judge_retries,
    )


def run(options: list[str]) -> None:
    main(*make_parser("negalign evaluate").parse_args_into_dataclasses(options))
