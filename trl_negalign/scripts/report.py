"""
One page about a training: `negalign report RUN_DIR` draws its curves and shows samples, settings and warnings, from a
finished or a still running run; several folders are drawn over each other. The page is one HTML file that loads
nothing from anywhere.
"""

from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class ReportArguments:
    """Options of `negalign report`."""

    out: str | None = field(
        default=None, metadata={"help": "The page, FILE.html. Left out, report.html in the first run's folder."}
    )
    steps: int = field(default=20, metadata={"help": "Logged steps whose samples are on the page, spread evenly."})
    groups: int = field(default=5, metadata={"help": "Most groups of each of these steps."})
    characters: int = field(default=4000, metadata={"help": "Longest query or response on the page, in characters."})


def make_parser(prog: str | None = None):
    from transformers import HfArgumentParser

    parser = HfArgumentParser(ReportArguments, prog=prog, description=__doc__)
    parser.add_argument("run_dirs", nargs="+", metavar="RUN_DIR", help="output_dir of a training run")
    return parser


def main(args: ReportArguments, positional: Namespace) -> None:
    from trl_negalign.extras import need
    from trl_negalign.phase import begin_work

    need("report", "jinja2", "matplotlib")
    from trl_negalign.reports.page import check_page, write_report
    from trl_negalign.reports.run_folder import read_run

    for name in ("steps", "groups", "characters"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} {getattr(args, name)} must be 1 or more.")
    out = Path(args.out) if args.out else Path(positional.run_dirs[0]) / "report.html"
    if out.suffix not in (".html", ".htm"):
        raise ValueError(f"--out {args.out} must be a file name that ends in .html.")
    if not out.parent.is_dir() and args.out:
        raise ValueError(f"--out {args.out}: the folder {str(out.parent)!r} does not exist. Make it first.")
    check_page(out)

    runs = [read_run(folder, steps=args.steps, groups=args.groups) for folder in positional.run_dirs]
    begin_work()
    page, *pictures = write_report(runs, out, characters=args.characters)
    for run in runs:
        sample = run.sample
        print(f"{run.name}: {run.method or 'method unknown'}, {run.state}, {len(run.warnings)} warning(s),")
        print(f"  {len(sample.groups)} groups of {sample.shown_steps} of {sample.steps} logged steps")
        for note in run.notes:
            print(f"  {note}")
    print(f"In {page.parent}: {page.name}" + (f", {pictures[0].parent.name}/*.png" if pictures else ""))


def run(options: list[str]) -> None:
    main(*make_parser("negalign report").parse_args_into_dataclasses(options))
