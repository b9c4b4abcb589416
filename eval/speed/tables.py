"""Tables of benchmark results, narrow enough for terminals with 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table


def new_table(title: str, first: str, columns: Sequence[str]) -> Table:
    """An empty table.

    Args:
        title: The title above it.
        first: The first column's header. The second column has none: it names what was measured.
        columns: Headers of the columns with numbers.
    """
    table = Table(title=title, box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    for column in (first, ""):
        table.add_column(column, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def print_table(console: Console, table: Table, notes: Sequence[str]) -> None:
    """Print a table, and below it the notes, one per line."""
    console.print(table)
    for note in notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)


def milliseconds(value: float) -> str:
    """Write a time in milliseconds: two decimals, and two digits where the time is shorter."""
    return f"{value:.2f}" if value >= 0.095 else f"{value:.2g}"
