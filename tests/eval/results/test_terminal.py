"""Tables in terminals, files and pipes."""

from __future__ import annotations

import re
from pathlib import Path

from rich.table import Table

import eval
from eval.results.terminal import stdout


def wide_table() -> tuple[Table, list[str]]:
    numbers = [f"{1000 * i + 0.5:.3f}" for i in range(60)]
    table = Table()
    for number in numbers:
        table.add_column(f"column {number}")
    table.add_row(*numbers)
    return table, numbers


def test_a_log_has_every_number(capsys):
    """rich takes 80 columns where there is no terminal, and ends cells that do not fit with an ellipsis."""
    table, numbers = wide_table()
    stdout().print(table)
    printed = capsys.readouterr().out
    assert "…" not in printed
    assert all(number in printed.split() for number in numbers)


def test_a_terminal_keeps_its_width(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "50")
    assert stdout().width == 50


def test_results_are_printed_in_one_way():
    for file in Path(eval.__file__).parent.rglob("*.py"):
        if file.name != "terminal.py":
            assert not re.search(r"\bConsole\(\)", file.read_text(encoding="utf-8")), file
