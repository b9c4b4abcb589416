"""The console that results are printed on, and how text and paths are written there."""

from __future__ import annotations

import textwrap
from pathlib import Path

from rich.console import Console

PROGRAM = "python -m eval" if __name__.startswith("eval.") else "vidcom2"
"""The command that the user calls: a module of a checkout, or what is installed. Messages name it."""

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""
UNBROKEN = 10_000
"""Columns of a file or a pipe. No table is wider."""
LINE = 80
"""The most characters of a line of text."""


def stdout() -> Console:
    """Return a console as wide as the terminal. In files and pipes it has UNBROKEN columns.

    rich would take 80 columns there and cut numbers to fit.
    """
    console = Console()
    return console if console.is_terminal else Console(width=UNBROKEN)


def say(console: Console, text: str) -> None:
    """Print sentences in lines of at most LINE characters."""
    lines = textwrap.fill(text, min(console.width, LINE), break_long_words=False, break_on_hyphens=False)
    console.print(lines, markup=False, highlight=False, soft_wrap=True)


def table_width(console: Console) -> int:
    """Return how wide a table may be: as the terminal, and LINE in a file or a pipe, which is read in terminals too."""
    return console.width if console.is_terminal else LINE


def near(path: Path) -> str:
    """Write a path below the current directory relative to it, and any other as it is."""
    return str(path.relative_to(Path.cwd())) if path.is_absolute() and path.is_relative_to(Path.cwd()) else str(path)
