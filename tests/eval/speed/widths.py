"""How wide a printed table is."""

from __future__ import annotations

from itertools import takewhile

TERMINAL = 80


def table_width(printed: str, first_note: str) -> int:
    """The longest line above the notes."""
    lines = takewhile(lambda line: not line.startswith((first_note, "LOADED MACHINE")), printed.splitlines())
    return max(map(len, lines))
