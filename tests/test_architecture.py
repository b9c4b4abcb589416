"""docs/architecture.md draws the rooms as they are."""

from __future__ import annotations

import re

from tests.test_house import FILES, ROOT, imported_files, room


def test_rooms_are_as_drawn():
    """The table has all rooms of eval, and a room imports only those that stand before it."""
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    drawn = re.findall(r"^\| `(\w+)/` \|", text, re.MULTILINE)
    assert set(drawn) == {path.parent.name for path in (ROOT / "eval").glob("*/__init__.py")}
    for path in FILES:
        for other in imported_files(path):
            here, there = room(path).partition("eval/")[2], room(other).partition("eval/")[2]
            if here and there:
                assert drawn.index(there) <= drawn.index(here), f"{path} imports {other}"
