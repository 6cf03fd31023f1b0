"""
Measure guides before training: what each does to the reward, how far it leads from the plain policy, and which
placement and group to train on.

Samples the same queries plain and under each guide in each place. Writes DIR/guides.json, samples.parquet and
guides.html (samples side by side), and prints the lines for a training's YAML file. A stopped run goes on where it was
with the same command.
"""

from argparse import Namespace
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

from ..guides import GUIDE_PLACEMENTS
from .evaluate import DTYPES, SMALL_MODEL


@dataclass
class GuidesArguments:
    """Options of `negalign guides`."""

    model: str = field(metadata={"help": f"MODEL[+ADAPTER] that is to be trained: a path, hub id or {SMALL_MODEL}."})
    data: str = field(metadata={"help": "Folder, hub id or file with a column `prompt`."})
    out: str = field(default="runs/guides", metadata={"help": "Folder for the numbers and the page."})
    data_config: str | None = field(default=None, metadata={"help": "Configuration of the dataset, e.g. preference."})
    split: str | None = field(default=None, metadata={"help": "Left out, test, or the only one."})
    num_queries: int = field(default=64, metadata={"help": "Queries, a random sample of the split."})
    samples: int | None = field(
        default=None, metadata={"help": "Completions of each query plain and under each guide. Left out, group_size."}
    )
    group_size: int = field(default=4, metadata={"help": "Sampled candidates of a group, for the recommendation."})
    max_query_tokens: int | None = field(default=None, metadata={"help": "Leave out longer plain queries."})
    max_new_tokens: int = field(default=256, metadata={"help": "Longest completion in tokens, as in training."})
    temperature: float = field(default=1.0, metadata={"help": "Of the sampling, as in training."})
    top_p: float = field(default=1.0, metadata={"help": "Share of the probability that is sampled from."})
    top_k: int = field(default=0, metadata={"help": "Most probable tokens that are sampled from; 0 for all."})
    query_seed: int = field(default=0, metadata={"help": "Of the random sample of queries."})
    sampling_seed: int = field(default=0, metadata={"help": "Of the completions."})
    chat_template_kwargs: str = field(default="{}", metadata={"help": "For the chat template, as JSON."})
    batch_size: int = field(default=16, metadata={"help": "Sequences at a time; changes results by rounding only."})
    dtype: str = field(default="float32", metadata={"help": "Of the weights.", "choices": DTYPES})
    page_queries: int = field(default=20, metadata={"help": "Queries whose samples are on the page."})
    overwrite: bool = field(default=False, metadata={"help": "Replace the numbers of another run in --out."})


def make_parser(prog: str | None = None):
    from transformers import HfArgumentParser

    parser = HfArgumentParser(GuidesArguments, prog=prog, description=__doc__)
    guides = "KIND=@name, KIND=FILE or KIND=TEXT; a kind is positive, negative or principle, each once."
    rewards = "Packaged names (vader_reward), import paths, ids or paths of reward models or of heads (likra)."
    places = "Where a conversation takes a guide; a text takes it as a prefix. Left out, all three."
    parser.add_argument("--guide", nargs="+", action="extend", default=[], metavar="KIND=GUIDE", help=guides)
    parser.add_argument("--reward", nargs="+", action="extend", default=[], help=rewards)
    parser.add_argument("--reward_weights", nargs="+", type=float, help="One a reward. Left out, all 1.")
    parser.add_argument("--placement", nargs="+", default=[*GUIDE_PLACEMENTS], choices=GUIDE_PLACEMENTS, help=places)
    return parser


def main(args: GuidesArguments, lists: Namespace) -> None:
    from trl_negalign import extras, folders

    extras.need("evaluation", "jinja2", "requests", "rich", "sacrebleu")
    import pandas as pd

    from trl_negalign.evaluation.generation import Sampling
    from trl_negalign.evaluation.guided import is_file_name, parse_guides
    from trl_negalign.evaluation.guides import SAMPLES, measure_guides
    from trl_negalign.evaluation.policies import parse_policy
    from trl_negalign.evaluation.queries import load_queries
    from trl_negalign.reports.guides import print_guides, write_guides_page
    from trl_negalign.scripts.arguments import json_object
    from trl_negalign.scripts.local_model import load_policy

    guides = parse_guides(lists.guide)
    if args.page_queries < 1:
        raise ValueError(f"--page_queries {args.page_queries} must be 1 or more.")
    options = json_object("--chat_template_kwargs", args.chat_template_kwargs)
    out = Path(args.out)
    texts = [value for _, _, value in (text.partition("=") for text in lists.guide) if is_file_name(value)]
    inputs = {"model": args.model.split("+"), "reward": lists.reward, "dataset": [args.data], "guide": texts}
    folders.check_target("--out", out, "guides", inputs, args.overwrite)
    results = measure_guides(
        parse_policy(args.model, {SMALL_MODEL: cache(partial(load_policy, None))}),
        load_queries(args.data, args.data_config, args.split, None, args.num_queries, args.query_seed, options),
        guides,
        lists.reward,
        out,
        weights=lists.reward_weights,
        placements=lists.placement,
        group_size=args.group_size,
        samples=args.samples,
        sampling=Sampling(args.max_new_tokens, args.temperature, args.top_p, args.top_k, args.sampling_seed),
        max_query_tokens=args.max_query_tokens,
        batch_size=args.batch_size,
        dtype=args.dtype,
        overwrite=args.overwrite,
    )
    page = write_guides_page(results, pd.read_parquet(out / SAMPLES), out / "guides.html", queries=args.page_queries)
    print_guides(results)
    print(f"\nIn {out}: {page.name} (samples side by side), guides.json, {SAMPLES}")


def run(options: list[str]) -> None:
    main(*make_parser("negalign guides").parse_args_into_dataclasses(options))
