"""The house rules that a reader relies on: sizes, arrows, no circle, no private name of a neighbour."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("vidcom2", "llava", "eval")
FILES = sorted(path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
LINES_OF_A_FILE = 400
LINES_OF_A_FUNCTION = 55  # without its docstring
LAZY = {"eval/cli.py"}
"""Files whose functions import rooms of ours: a subcommand is imported when it is asked for."""


def tree(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[tuple[ast.ImportFrom, str, list[str]]]:
    """(the statement, the module in full, the names) of every import from our packages in a file."""
    package = path.parts[:-1]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            module = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            if module.split(".")[0] in PACKAGES:
                yield node, module, [alias.name for alias in node.names]


def imported_files(path: Path) -> set[Path]:
    """Our files that a file imports, wherever in it."""
    found = set()
    for _, module, names in imports(path):
        whole = Path(*module.split("."))
        for candidate in (whole.with_suffix(".py"), *(whole / f"{name}.py" for name in names), whole / "__init__.py"):
            if (ROOT / candidate).is_file() and candidate != path:
                found.add(candidate)
    return found


def room(path: Path) -> str:
    """eval's rooms are its folders, and each file beside them; the other packages are one room each."""
    return "/".join(path.parts[:2]) if path.parts[0] == "eval" else path.parts[0]


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_file_is_short(path):
    assert len((ROOT / path).read_text(encoding="utf-8").splitlines()) <= LINES_OF_A_FILE


@pytest.mark.parametrize("path", FILES, ids=str)
def test_functions_are_short(path):
    for node in ast.walk(tree(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
            assert node.end_lineno - first.lineno < LINES_OF_A_FUNCTION, node.name


@pytest.mark.parametrize("path", FILES, ids=str)
def test_no_private_name_of_a_neighbour(path):
    for _, module, names in imports(path):
        assert not [name for name in names if name.startswith("_") and not name.startswith("__")], module
        assert not any(part.startswith("_") for part in module.split(".")), module


@pytest.mark.parametrize("path", [path for path in FILES if str(path) not in LAZY], ids=str)
def test_no_import_hides_in_a_function(path):
    """What is imported there would be missing from the picture of the rooms."""
    for outer in ast.walk(tree(path)):
        if isinstance(outer, (ast.FunctionDef, ast.AsyncFunctionDef)):
            inner = [node for node in ast.walk(outer) if isinstance(node, ast.ImportFrom)]
            ours = [node.module for node in inner if node.level or (node.module or "").split(".")[0] in PACKAGES]
            assert not ours, outer.name


def test_arrows_point_one_way():
    """eval → llava → vidcom2, never back."""
    for path in FILES:
        allowed = PACKAGES[: PACKAGES.index(path.parts[0]) + 1]
        for _, module, _ in imports(path):
            assert module.split(".")[0] in allowed, f"{path} imports {module}"


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """One circle of the arrows, or []."""
    done: set[str] = set()

    def walk(here: str, way: list[str]) -> list[str]:
        if here in way:
            return [*way[way.index(here) :], here]
        if here not in done:
            for there in sorted(arrows.get(here, ())):
                if found := walk(there, [*way, here]):
                    return found
            done.add(here)
        return []

    return next((found for start in sorted(arrows) if (found := walk(start, []))), [])


def test_no_circle_of_rooms():
    arrows: dict[str, set[str]] = defaultdict(set)
    for path in FILES:
        arrows[room(path)] |= {room(other) for other in imported_files(path)} - {room(path)}
    assert not circle(arrows)


def test_no_circle_of_files():
    arrows = {str(path): {str(other) for other in imported_files(path)} for path in FILES if path.name != "__init__.py"}
    assert not circle(arrows)
