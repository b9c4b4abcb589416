"""The console that results are printed on."""

from __future__ import annotations

from rich.console import Console

PROGRAM = "python -m eval" if __name__.startswith("eval.") else "vidcom2"
"""The command that the user calls: a module of a checkout, or what is installed. Messages name it."""

UNBROKEN = 10_000
"""Columns of a file or a pipe. No table is wider."""


def stdout() -> Console:
    """Return a console as wide as the terminal. In files and pipes it has UNBROKEN columns.

    rich would take 80 columns there and cut numbers to fit.
    """
    console = Console()
    return console if console.is_terminal else Console(width=UNBROKEN)
