"""A missing optional package is named with the extra that brings it."""

import sys

import pytest

from trl_negalign.cli import main


@pytest.mark.parametrize(
    ("package", "command", "extra"),
    [
        ("matplotlib", ["evaluate", "--out", "out", "--model", "m", "--data", "d"], "evaluation"),
        ("sacrebleu", ["evaluate", "--out", "out", "--model", "m", "--data", "d"], "evaluation"),
        ("requests", ["evaluate", "--out", "out", "--model", "m", "--data", "d"], "evaluation"),
        ("matplotlib", ["likra", "--output_dir", "out", "--bf16", "False"], "report"),
        ("matplotlib", ["report", "out"], "report"),
        ("jinja2", ["report", "out"], "report"),
        ("matplotlib", ["quickstart"], "quickstart"),
        ("vaderSentiment", ["quickstart"], "quickstart"),
        ("gguf", ["quickstart"], "quickstart"),
    ],
)
def test_the_extra_is_named(package, command, extra, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    assert main(command) == 2
    error = capsys.readouterr().err
    assert f"{package} is missing" in error and f"pip install 'trl-negalign[{extra}]'" in error
    assert not list(tmp_path.iterdir())
