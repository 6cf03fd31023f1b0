"""Imports point one way: scripts → reports, evaluation, monitoring → methods → trainer → objectives, groups, …"""

import ast
import tomllib
from pathlib import Path

import pytest


PACKAGE = Path(__file__).parent.parent / "trl_negalign"
# a room may import the rooms of lower floors, and its own
FLOORS = {
    "scripts": 5,
    "cli": 5,
    "reports": 4,
    "evaluation": 3,
    "monitoring": 3,
    "rewards": 2.5,  # heads are a reward too
    "likra": 2,
    "methods": 2,
    "trainer": 1,
    "data": 1,
}
GROUND = {"borders", "extras", "fingerprints", "folders", "groups", "guides", "hub", "masking", "objectives", "phase"}
GROUND |= {"numbers", "version"}
FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def room(parts) -> str:
    return parts[0].removesuffix(".py")


def imported(path: Path) -> set[tuple[str, ...]]:
    """The package's modules that a file imports, as parts behind `trl_negalign`."""
    found = set()
    package = path.parts[:-1]
    for node in ast.walk(ast.parse((PACKAGE / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            module = tuple((node.module or "").split(".")) if node.module else ()
            if node.level:
                module = package[: len(package) - node.level + 1] + module
            elif module[:1] == ("trl_negalign",):
                module = module[1:]
            else:
                continue
            found |= {(*module, alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {tuple(a.name.split(".")[1:]) for a in node.names if a.name.startswith("trl_negalign.")}
    return found


@pytest.mark.parametrize("path", [path for path in FILES if path.parts != ("__init__.py",)], ids=str)
def test_a_room_imports_lower_rooms_alone(path):
    own = room(path.parts)
    for parts in imported(path):
        if room(parts) == own or room(parts) in GROUND:
            continue
        if room(parts) not in FLOORS:  # a public name of the package's own, which scripts take from the top
            assert own == "scripts", f"{path} imports {'.'.join(parts)} from the package's top"
            continue
        assert own in FLOORS, f"{path} stands on the ground and imports {'.'.join(parts)}"
        assert FLOORS[room(parts)] < FLOORS[own], f"{path} imports {'.'.join(parts)}, which does not stand below it"


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.parts[0] == "methods" and len(path.parts) == 3], ids=str
)
def test_a_method_never_imports_another(path):
    for parts in imported(path):
        assert parts[0] != "methods" or parts[1] in (path.parts[1], "table"), f"{path} imports {'.'.join(parts)}"


def test_one_file_touches_trls_underscore_methods():
    """What overrides or calls them stands in the group trainer; the seams name them as text."""
    underscored = {"_generate", "_prepare_inputs", "_compute_loss", "_calculate_rewards", "_buffered_inputs", "_step"}
    for path in FILES:
        tree = ast.parse((PACKAGE / path).read_text(encoding="utf-8"))
        names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        names |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert not names & underscored or path.parts == ("trainer", "group_trainer.py"), path


def test_sizes():
    for path in FILES:
        lines = (PACKAGE / path).read_text(encoding="utf-8").count("\n")
        limit = 150 if path.parts[0] == "methods" and path.name == "trainer.py" else 500
        assert lines <= limit, f"{path} has {lines} lines"


def test_every_room_is_packaged():
    packages = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    rooms = {".".join(path.parent.parts) for path in FILES if path.name == "__init__.py"}
    assert {f"trl_negalign.{room}" if room else "trl_negalign" for room in rooms} <= set(packages)
