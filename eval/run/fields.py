"""Check the fields of a single question before lmms-eval's code gets it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

from ..benchmarks import Benchmark
from ..benchmarks.base import Kind

MAX_NAME_BYTES = 250
"""Bytes that the name of a video may have. File systems allow 255. Some benchmarks add a suffix such as .mp4."""
MAX_PATH_CHARACTERS = 900
"""Characters that the path of a video below the folder of videos may have. The path of the folder comes on top."""
MAX_OPTIONS = 26
"""Options that a question may have, one for each letter of the alphabet."""


def malformed(benchmark: Benchmark, doc: Any) -> str:
    """Return what is wrong with the fields that the benchmark needs.

    Args:
        benchmark: The benchmark.
        doc: The question as its file has it.

    Returns:
        A clause such as "it has no answer", or "".
    """
    if not isinstance(doc, dict):
        return f"{short(doc)} is no JSON object"
    for field, kind in benchmark.fields.items():
        if doc.get(field) is None:
            return f"it has no {field}"
        if wrong := KINDS[kind](doc[field]):
            return f"its {field} {short(doc[field])} {wrong}"
    return ""


def short(value: Any) -> str:
    """Return a value's repr, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _text(value: Any) -> str:
    if not isinstance(value, str):
        return "is not text"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "has half a character (a surrogate), which is no text"
    return "" if value.strip() else "is empty"


def _video(value: Any) -> str:
    if wrong := _text(value):
        return wrong
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        return "is no path below the folder of videos"
    if "\0" in value:
        return "has a zero byte"
    too_long = len(value) > MAX_PATH_CHARACTERS or max(len(os.fsencode(part)) for part in path.parts) > MAX_NAME_BYTES
    return "is too long for a file's name" if too_long else ""


def _options(value: Any) -> str:
    if not isinstance(value, list) or not all(isinstance(option, str) for option in value):
        return "is no list of texts"
    return (
        ""
        if 1 <= len(value) <= MAX_OPTIONS
        else f"is a list of {len(value)}; 1 to {MAX_OPTIONS} options can have letters"
    )


def _number(value: Any) -> str:
    return "" if isinstance(value, int) and not isinstance(value, bool) else "is no whole number"


KINDS: dict[Kind, Callable[[Any], str]] = {"text": _text, "video": _video, "options": _options, "number": _number}
"""By kind of field, a function that returns what is wrong with a value, or ""."""
