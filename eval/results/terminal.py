"""Where results are printed."""

from __future__ import annotations

from rich.console import Console

PROGRAM = "python -m eval" if __name__.startswith("eval.") else "vidcom2"
"""The command that the user calls: a module of a checkout, or what is installed. Messages name it."""

UNBROKEN = 10_000
"""Columns: more than any table has."""


def stdout() -> Console:
    """What prints results: as wide as the terminal, and without a limit into files and pipes, where rich would take 80
    columns and cut numbers to fit."""
    console = Console()
    return console if console.is_terminal else Console(width=UNBROKEN)
