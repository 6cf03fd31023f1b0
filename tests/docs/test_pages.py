"""The pages: what they must hold, how docstrings become pages, and that nothing is loaded from elsewhere."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from trl_negalign.methods.table import METHODS


ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
READMES = [*ROOT.glob("recipes/README.md"), *ROOT.glob("recipes/*/README.md"), ROOT / "benchmarks/README.md"]
READMES += [ROOT / "comparison/README.md", ROOT / "accelerate_configs/README.md", ROOT / "tests/matrix/README.md"]


def load(path: Path):
    """A module of the documentation's own, which is no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def page_of(method) -> Path:
    own = DOCS / "methods" / f"{method.command}.md"
    return own if own.is_file() else DOCS / "methods" / "presets.md"


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_each_method_has_its_page_its_paper_and_its_row(method):
    page = page_of(method).read_text(encoding="utf-8")
    assert re.search(rf"^##? .*{method.name}", page, re.MULTILINE)
    assert method.arxiv in page and f"`negalign {method.command} " in page and method.config in page
    link = page_of(method).relative_to(ROOT).as_posix()
    assert f"| [{method.name}]({link})" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert link.removeprefix("docs/") in (DOCS / "choose.md").read_text(encoding="utf-8")


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 110


def test_the_readmes_of_all_rooms_are_pages():
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    for path in READMES:
        assert f"\n/{path.relative_to(ROOT).with_suffix('').as_posix()}\n" in index


def test_relative_links_lead_somewhere():
    """In the README, which Sphinx does not read."""
    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", (ROOT / "README.md").read_text(encoding="utf-8")):
        assert (ROOT / target).exists(), target


def test_a_docstring_becomes_restructuredtext():
    convert = load(DOCS / "_ext" / "docstrings.py").convert
    text = """
    Trains with [`~trl.GRPOTrainer`], see [the paper](https://arxiv.org/abs/1), |y| tokens.

    1. First, which goes
       on here.
    2. Second.

    Args:
        > Parameters that control the group

        size (`int`, *optional*, defaults to `4`):
            Of the `group`: all
            candidates.

    Returns:
        The batch: as it is.
    """
    lines = convert([line[4:] for line in text.splitlines()])
    assert "Trains with ``GRPOTrainer``, see `the paper <https://arxiv.org/abs/1>`__, \\|y\\| tokens." in lines
    assert "1. First, which goes on here." in lines and "2. Second." in lines
    assert "**Parameters that control the group**" in lines
    at = lines.index("``size`` (``int``, *optional*, defaults to ``4``)")
    assert lines[at + 1].strip() == "Of the ``group``: all candidates."
    assert lines[-2:] == ["The batch: as it is.", ""] or lines[-1] == "The batch: as it is."


def test_the_comparisons_rows_are_read_from_its_page():
    pytest.importorskip("sphinx", reason="Sphinx is not installed (extra docs)")
    rows_of = load(DOCS / "_ext" / "comparison.py").rows_of
    table = "| method | reward |\n| --- | --- |\n| grpo | 1 |\n| neat | 2 |\n| neat_linear | 3 |"
    section = f"**At the end of the budget**, x:\n\n{table}\n\n| other |"
    page = f"# A\n<!-- sentiment:begin -->\n{section}\n<!-- sentiment:end -->"
    assert rows_of(page, "sentiment", ["neat", "grpo"]) == table.splitlines()[:4]
    assert rows_of(page, "dialogue", ["neat"]) is None
    assert rows_of("# nothing yet", "sentiment", ["neat"]) is None


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("a.html", '<script src="https://cdn.example/x.js"></script>', 1),
        ("a.html", '<link rel="stylesheet" href="//fonts.example/a.css">', 1),
        ("a.html", "<style>@import 'http://a.example/b.css';</style>", 1),
        ("a.css", "@font-face { src: url(https://fonts.example/a.woff) }", 1),
        ("a.html", '<a href="https://arxiv.org/abs/1">a link</a> <img src="../a.png">', 0),
        ("a.css", "a { background: url(data:image/png;base64,xx) }", 0),
    ],
)
def test_what_is_loaded_from_elsewhere_is_seen(name, text, found, tmp_path):
    (tmp_path / name).write_text(text)
    assert len(load(DOCS / "check_pages.py").loaded_from_elsewhere(tmp_path)) == found


def test_they_build_without_a_warning(tmp_path):
    """As `make docs` does."""
    build = pytest.importorskip("sphinx.cmd.build", reason="Sphinx is not installed (extra docs)")
    for package in ("furo", "myst_parser", "sphinx_copybutton"):
        pytest.importorskip(package, reason="not installed (extra docs)")
    before = list(sys.path)
    out = tmp_path / "out"
    try:
        code = build.main(["-q", "-W", "--keep-going", "-c", str(DOCS), "-b", "html", str(ROOT), str(out)])
    finally:
        sys.path[:] = before
    assert code == 0
    assert load(DOCS / "check_pages.py").loaded_from_elsewhere(out) == []
    neat = (out / "docs" / "methods" / "neat.html").read_text()
    assert "<math" in neat and "curves-neat.png" in neat
    assert "ranking_weight" in (out / "docs" / "api" / "trainers.html").read_text()
