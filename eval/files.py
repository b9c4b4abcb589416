"""Files that are there whole or not at all, and Markdown."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def write_whole(path: Path, text: str) -> None:
    """The file appears whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    # Names of files may hold bytes that are no text; JSON writes those as Python does.
    partial.write_text(text, encoding="utf-8", errors="backslashreplace")
    os.replace(partial, path)


def write_json(path: Path, content: Any) -> None:
    write_whole(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def prepare_json(path: Path | None) -> None:
    """Make room for the file that --json names, if any; IsADirectoryError where it is a directory."""
    if path is not None:
        if path.is_dir():
            raise IsADirectoryError(f"--json {path} is a directory: name a file")
        path.parent.mkdir(parents=True, exist_ok=True)


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """rows: the header first."""
    lines = [rows[0], ("---",) * len(rows[0]), *rows[1:]]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
