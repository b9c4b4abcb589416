"""Text files are UTF-8 whatever the locale says. Ruff's PLW1514 sees only those whose type it can tell."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from eval.cli import print_anything

ROOT = Path(__file__).parents[1]
FILES = sorted(file for folder in ("eval", "llava", "vidcom2", "scripts") for file in (ROOT / folder).rglob("*.py"))


def without_encoding(source: str) -> Iterator[int]:
    """Lines of calls that read or write text in the locale's encoding."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        if "encoding" in given:
            continue
        constants = [arg.value for arg in [*node.args, *given.values()] if isinstance(arg, ast.Constant)]
        modes = [one for one in constants if isinstance(one, str) and re.fullmatch(r"[rwxa][bt+]*", one)]
        binary = any("b" in mode for mode in modes)
        if isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == "av":
            continue  # which opens videos
        opens = name in ("open", "fdopen") and (isinstance(node.func, ast.Name) or name == "fdopen" or modes)
        opens = opens or (name in ("NamedTemporaryFile", "TemporaryFile") and bool(modes))
        text = isinstance(value := given.get("text"), ast.Constant) and value.value is True
        if (opens and not binary) or (name == "read_text" and not node.args) or name == "write_text" or text:
            yield node.lineno


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_text_file_says_that_it_is_utf8(file: Path) -> None:
    lines = list(without_encoding(file.read_text(encoding="utf-8")))
    assert not lines, f"{file} lines {lines}: say encoding='utf-8'"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("path.read_text()", True),
        ("path.write_text(text)", True),
        ("path.open('a')", True),
        ("open(path)", True),
        ("open(path, 'w')", True),
        ("subprocess.run(command, text=True)", True),
        ("open(path, 'rb')", False),
        ("path.open('wb')", False),
        ("av.open(file, 'w')", False),
        ("path.read_text(encoding='utf-8')", False),
        ("open(path, encoding='utf-8')", False),
    ],
)
def test_what_is_found(source: str, found: bool) -> None:
    assert bool(list(without_encoding(source))) == found


def test_files_where_the_locale_is_not_utf8(tmp_path: Path) -> None:
    text = "é → 视频 \udce9"  # the last is a byte of a file's name that is no text
    program = "import json, sys; from pathlib import Path; from eval.results.files import write_json\n"
    program += "write_json(Path(sys.argv[1]), json.loads(sys.argv[2]))"
    ascii_only = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    file = tmp_path / "results.json"
    subprocess.run([sys.executable, "-c", program, file, json.dumps(text)], env=ascii_only, check=True)
    assert json.loads(file.read_bytes()) == text
    assert "视频" in file.read_text(encoding="utf-8")


def test_terminals_that_are_not_utf8() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="latin-1")
    print_anything(stream)
    console = Console(file=stream, width=60)
    table = Table(title="视频")
    table.add_column("é →")
    console.print(table)
    print("FAILED 视频.mp4", file=stream)
    stream.flush()
    assert rb"FAILED \u89c6\u9891.mp4" in raw.getvalue()
