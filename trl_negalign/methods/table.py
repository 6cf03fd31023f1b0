"""
The table of methods: commands, reports, the watching callback, model cards and tests read it. A method joins the
package by its line here and its names in `trl_negalign/__init__.py`. Importing it imports no trainer.
"""

import textwrap
from dataclasses import replace
from importlib import import_module

from ..trainer.method import Method


NEAT = Method(
    name="NEAT",
    trainer="NEATTrainer",
    config="NEATConfig",
    prefix="neat",
    says="train with NEAT",
    title="Negative-Prompt-driven Alignment for Generative Language Model",
    arxiv="2410.12194",
    citation=textwrap.dedent("""\
        @article{qiao2024negative,
            title   = {{Negative-Prompt-driven Alignment for Generative Language Model}},
            author  = {Shiqi Qiao and Ning Xv and Biao Liu and Xin Geng},
            year    = 2024,
            journal = {arXiv preprint arXiv:2410.12194},
        }"""),
)

PLE = Method(
    name="PLE",
    trainer="PLETrainer",
    config="PLEConfig",
    prefix="ple",
    says="train with PLE",
    title="Progressively Label Enhancement for Large Language Model Alignment",
    arxiv="2408.02599",
    citation=textwrap.dedent("""\
        @inproceedings{liu2025progressively,
            title     = {{Progressively Label Enhancement for Large Language Model Alignment}},
            author    = {Biao Liu and Ning Xu and Xin Geng},
            year      = 2025,
            booktitle = {Proceedings of the 42nd International Conference on Machine Learning},
            pages     = {39915--39928},
        }"""),
)

RAFT = Method(
    name="RAFT",
    trainer="NEATTrainer",
    config="RAFTConfig",
    prefix="neat",
    says="train with RAFT, best-of-n imitation, as a setting of NEAT",
    title="RAFT: Reward rAnked FineTuning for Generative Foundation Model Alignment",
    arxiv="2304.06767",
    citation=textwrap.dedent("""\
        @article{dong2023raft,
            title   = {{RAFT: Reward rAnked FineTuning for Generative Foundation Model Alignment}},
            year    = 2023,
            journal = {arXiv preprint arXiv:2304.06767},
        }"""),
)

RRHF = Method(
    name="RRHF",
    trainer="NEATTrainer",
    config="RRHFConfig",
    prefix="neat",
    says="train with RRHF, ranking and imitation, as a setting of NEAT",
    title="RRHF: Rank Responses to Align Language Models with Human Feedback without tears",
    arxiv="2304.05302",
    citation=textwrap.dedent("""\
        @article{yuan2023rrhf,
            title   = {{RRHF: Rank Responses to Align Language Models with Human Feedback without tears}},
            year    = 2023,
            journal = {arXiv preprint arXiv:2304.05302},
        }"""),
)

REINFORCE = Method(
    name="REINFORCE",
    trainer="WeightedReinforceTrainer",
    config="WeightedReinforceConfig",
    prefix="reinforce",
    says="train with REINFORCE whose right and wrong answers have weights of their own",
    title="The Surprising Effectiveness of Negative Reinforcement in LLM Reasoning",
    arxiv="2506.01347",
    citation=textwrap.dedent("""\
        @article{zhu2025surprising,
            title   = {{The Surprising Effectiveness of Negative Reinforcement in LLM Reasoning}},
            author  = {Xinyu Zhu and Mengzhou Xia and Zhepei Wei and Wei-Lin Chen and Danqi Chen and Yu Meng},
            year    = 2025,
            journal = {arXiv preprint arXiv:2506.01347},
        }"""),
)

NSR = replace(
    REINFORCE,
    name="NSR",
    config="NSRConfig",
    says="train with NSR, on wrong answers alone, as a setting of weighted REINFORCE",
)

TOPR = replace(
    REINFORCE,
    name="TOPR",
    config="TOPRConfig",
    says="train with TOPR, stale wrong answers tapered, as a setting of weighted REINFORCE",
    title="Tapered Off-Policy REINFORCE: Stable and efficient reinforcement learning for LLMs",
    arxiv="2503.14286",
    citation=textwrap.dedent("""\
        @article{leroux2025tapered,
            title   = {{Tapered Off-Policy REINFORCE: Stable and efficient reinforcement learning for LLMs}},
            year    = 2025,
            journal = {arXiv preprint arXiv:2503.14286},
        }"""),
)

NFT = replace(
    REINFORCE,
    name="NFT",
    config="NFTConfig",
    says="train with NFT, likelihood of right and of wrong answers, as a setting of weighted REINFORCE",
    title="Bridging Supervised Learning and Reinforcement Learning in Math Reasoning",
    arxiv="2505.18116",
    citation=textwrap.dedent("""\
        @article{chen2025bridging,
            title   = {{Bridging Supervised Learning and Reinforcement Learning in Math Reasoning}},
            year    = 2025,
            journal = {arXiv preprint arXiv:2505.18116},
        }"""),
)

LIKRA = Method(
    name="Likra",
    trainer="LikraTrainer",
    config="LikraConfig",
    prefix="likra",
    says="train and score likelihood-ratio heads of right and wrong answers",
    title="How much do LLMs learn from negative examples?",
    arxiv="2503.14391",
    citation=textwrap.dedent("""\
        @article{hamdan2025negative,
            title   = {{How much do LLMs learn from negative examples?}},
            author  = {Shadi Hamdan and Deniz Yuret},
            year    = 2025,
            journal = {arXiv preprint arXiv:2503.14391},
        }"""),
)

# the methods that learn from groups of candidates, with one script for all (`scripts/training.py`); the heads
GROUP_METHODS = (NEAT, PLE, RAFT, RRHF, REINFORCE, NSR, TOPR, NFT)
METHODS = (*GROUP_METHODS, LIKRA)

# what the metrics of some group method begin with
PREFIXES = tuple(dict.fromkeys(method.prefix for method in GROUP_METHODS))


def find(name: str) -> Method | None:
    """The method of a name, in either case, or of a trainer's or a configuration's class; `None` if there is none."""
    for method in METHODS:
        if name in (method.name, method.command, method.config, method.trainer):
            return method
    return None


def classes(method: Method) -> tuple[type, type]:
    """A method's trainer and its configuration."""
    package = import_module(__name__.partition(".")[0])
    return getattr(package, method.trainer), getattr(package, method.config)


def metric_pattern(names: str) -> str:
    """A regular expression of the group methods' metrics whose names behind the prefix fit another one."""
    return rf"({'|'.join(PREFIXES)})/({names})"


def metric_name(key: str) -> str | None:
    """A group method's metric without its prefix; `None` for another metric."""
    prefix, _, name = key.partition("/")
    return name if prefix in PREFIXES and name else None
