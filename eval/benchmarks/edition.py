"""What a local copy of a benchmark says about itself.

A copy that only has the schema of a benchmark, such as MiniBench's, says so in a file beside the questions. Then its
results carry its own name, and nobody takes them for the benchmark's.
"""

from __future__ import annotations

import json
from pathlib import Path

FILE = "edition.json"
"""The file, at the top of the copy. It holds a JSON object; its "title" is shown instead of the benchmark's name."""


def edition(data: Path | None) -> str | None:
    """Return the title that a local copy gives itself. None if it gives none, or without a copy.

    Raises:
        ValueError: The file is no JSON object with a text under "title".
    """
    path = None if data is None else data / FILE
    if path is None or not path.is_file():
        return None
    try:
        title = json.loads(path.read_text(encoding="utf-8"))["title"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f'{path} must be a JSON object with a "title": write it anew, or remove it') from error
    if not isinstance(title, str) or not title.strip():
        raise ValueError(f"{path}: the title {title!r} is no text: write it anew, or remove it")
    return title
