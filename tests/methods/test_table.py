"""The table of methods against what it names, and everything that is to read it."""

import re
from pathlib import Path

import pytest

import trl_negalign
from trl_negalign import cli
from trl_negalign.methods.table import GROUP_METHODS, METHODS, PREFIXES, classes, find, metric_name, metric_pattern


ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_its_names_are_public_and_its_command_is_there(method):
    assert [found.__name__ for found in classes(method)] == [method.trainer, method.config]
    assert {method.trainer, method.config} <= set(trl_negalign.__all__)
    assert cli.COMMANDS[method.command] == method.says
    assert re.fullmatch(r"\d{4}\.\d{5}", method.arxiv) and method.title in method.citation


@pytest.mark.parametrize("method", GROUP_METHODS, ids=lambda method: method.name)
def test_its_configuration_says_whose_it_is(method):
    trainer_class, config_class = classes(method)
    assert config_class.method is method
    assert issubclass(config_class, trainer_class.config_class)


def test_what_is_found():
    assert {find(name).name for name in ("RAFT", "raft", "RAFTConfig")} == {"RAFT"}
    assert find("PLETrainer").name == "PLE"
    assert find("GRPO") is None
    assert metric_name("ple/loss_wsft") == "loss_wsft"
    assert metric_name("reward/plain") is None and metric_name("loss") is None
    for prefix in PREFIXES:
        assert re.fullmatch(metric_pattern(r"loss_\w+"), f"{prefix}/loss_ranking")


def test_no_other_list_of_methods():
    """No module of the package spells the methods' prefixes out side by side."""
    beside = re.compile(r"""["'(|](neat|ple)["']?\s*[,|]\s*["']?(neat|ple)\b""")
    for path in (ROOT / "trl_negalign").rglob("*.py"):
        assert not beside.search(path.read_text(encoding="utf-8")), path
