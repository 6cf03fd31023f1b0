"""The notebook runs from its first cell to its last, with a tiny model and two steps, and is kept without outputs."""

import os
from pathlib import Path

import pytest


nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed (extra test)")
pytest.importorskip("ipykernel", reason="ipykernel is not installed (extra test)")
import nbformat  # noqa: E402


NOTEBOOK = Path(__file__).parent.parent.parent / "examples" / "quickstart.ipynb"


def printed(notebook) -> str:
    return "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []) if "text" in output
    )


def test_it_runs_and_says_what_changed(saved_model, tmp_path, monkeypatch):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    small = {"STEPS": "2", "NEW_TOKENS": "4", "HELD_OUT": "4", "MODEL": saved_model, "OUT": str(tmp_path / "out")}
    # the kernel is a process of its own, and finds the package where this one does
    root = str(NOTEBOOK.parent.parent)
    for name, value in (small | {"PYTHONPATH": f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    done = nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3", cwd=str(tmp_path)).execute()
    assert "Held-out reward of the plain query, 4 queries x 2 samples" in printed(done)
    assert any("image/png" in output.get("data", {}) for output in done.cells[-2].outputs)
    assert (tmp_path / "out" / "curves.png").is_file()


def test_it_is_kept_without_outputs():
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells)
