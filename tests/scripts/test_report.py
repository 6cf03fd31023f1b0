"""`negalign report`: a page from real runs; bad input is one line."""

import pytest

from tests.reports.conftest import copy_of, neat_run, ple_run  # noqa: F401  (fixtures)
from trl_negalign.cli import run_command
from trl_negalign.scripts.report import run


def report(*options) -> int:
    return run_command(lambda: run([str(option) for option in options]), "negalign report")


def test_one_run_has_its_page_in_its_folder(neat_run, copy_of, capsys):  # noqa: F811
    folder = copy_of(neat_run)
    assert report(folder) == 0
    printed = capsys.readouterr().out
    assert "run: NEAT, step 4 of 4, finished, 0 warning(s)," in printed
    assert "8 groups of 4 of 4 logged steps" in printed and "There is no run_config.json" in printed
    assert f"In {folder}: report.html, report-figures/*.png" in printed
    assert (folder / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert len(list((folder / "report-figures").glob("*.png"))) == 10
    assert report(folder) == 0  # again, over the earlier one


def test_several_runs_over_each_other(neat_run, ple_run, tmp_path, capsys):  # noqa: F811
    options = ["--out", tmp_path / "both.html", "--steps", "2", "--groups", "1", "--characters", "3"]
    assert report(neat_run, ple_run, *options) == 0
    assert capsys.readouterr().out.count("2 groups of 2 of") == 2
    page = (tmp_path / "both.html").read_text()
    assert page.count("<article>") == 1 and "NEAT" in page and "PLE" in page
    assert (tmp_path / "both-figures" / "gap.png").exists()


@pytest.mark.parametrize("there", ["page.html", "page-figures/reward.png", "page.html/file"])
def test_what_is_no_report_is_not_written_over(there, neat_run, tmp_path, capsys):  # noqa: F811
    path = tmp_path / there
    path.parent.mkdir(exist_ok=True)
    path.write_text("<!DOCTYPE html><title>negalign report: my thesis</title>")
    assert report(neat_run, "--out", tmp_path / "page.html") == 2
    error = capsys.readouterr().err
    named = path.parent if there.endswith("file") else path
    assert f"negalign report: {str(named)!r} is there, is no report of negalign's" in error
    assert "Name another page with --out, or move it away." in error and error.count("\n") == 1
    assert path.read_text().endswith("my thesis</title>") and not list(tmp_path.rglob("gap.png"))


def test_a_report_is_replaced_wherever_it_was_written(neat_run, ple_run, tmp_path):  # noqa: F811
    assert report(neat_run, "--out", tmp_path / "page.html") == 0
    first = (tmp_path / "page.html").read_text()
    assert report(ple_run, "--out", tmp_path / "page.html") == 0
    assert "PLE" in (tmp_path / "page.html").read_text() != first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["nowhere"], "RUN_DIR 'nowhere' is no folder"),
        (["."], "RUN_DIR '.' holds no run"),
        ([".", "--steps", "0"], "--steps 0 must be 1 or more"),
        ([".", "--groups", "-1"], "--groups -1 must be 1 or more"),
        ([".", "--characters", "0"], "--characters 0 must be 1 or more"),
        ([".", "--out", "trainer_state.json"], "--out trainer_state.json must be a file name that ends in .html"),
        ([".", "--out", "no/such/report.html"], "the folder 'no/such' does not exist"),
    ],
)
def test_bad_input_is_one_line_and_code_2(options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert report(*options) == 2
    error = capsys.readouterr().err
    assert error.startswith("negalign report: ") and message in error and error.count("\n") == 1


def test_missing_packages_are_named_with_the_remedy(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    assert report(tmp_path) == 2
    assert "pip install 'trl-negalign[report]'" in capsys.readouterr().err


def test_help(capsys):
    with pytest.raises(SystemExit):
        report("--help")
    shown = capsys.readouterr().out
    assert "RUN_DIR" in shown and "--out" in shown


def test_an_error_in_the_drawing_keeps_its_traceback(neat_run, copy_of, monkeypatch, capsys):  # noqa: F811
    def fail(*args, **kwargs):
        raise ValueError("deep in a library")

    monkeypatch.setattr("trl_negalign.reports.page.draw_panel", fail)
    assert report(copy_of(neat_run)) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err
