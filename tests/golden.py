"""Recorded behaviour of upstream, kept beside the repository in shared/; tests skip where it is absent."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import PIL
import pytest
from safetensors.torch import load_file
from torch import Tensor

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden"

requires_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="recorded golden data (../shared/golden) is not here")
requires_pillow_13 = pytest.mark.skipif(
    int(PIL.__version__.partition(".")[0]) < 13,
    reason="recorded with Pillow 13; older ones always resize along the width first, which rounds otherwise",
)


def load_json(file: str) -> Any:
    return json.loads((GOLDEN / file).read_text())


@functools.cache
def manifest() -> dict[str, Any]:
    return load_json("manifest.json")


def entries(kind: str) -> list[dict[str, Any]]:
    """The manifest's entries of one kind (operators, paper, model, mm_utils, baselines); none without the data."""
    if not GOLDEN.is_dir():
        return []
    return [entry for entry in manifest()["entries"] if entry["kind"] == kind]


def load(file: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / file)
