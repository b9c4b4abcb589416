"""Recorded behaviour of upstream: a part in tests/recorded, all of it in ../shared where that is beside the checkout.

What is committed is preferred; tests that need more skip where it is absent. tests/recorded/README.md tells the origin.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import PIL
import pytest
from safetensors.torch import load_file
from torch import Tensor

COMMITTED = Path(__file__).resolve().parent / "recorded"
SHARED = Path(__file__).resolve().parents[2] / "shared"
PLACES = {"": SHARED / "golden", "inllm": SHARED / "golden_inllm"}
"""Folders of COMMITTED, and where the whole recording is. "inllm" are methods inside the LLM, "" is all else."""

requires_pillow_13 = pytest.mark.skipif(
    int(PIL.__version__.partition(".")[0]) < 13,
    reason="recorded with Pillow 13; older ones always resize along the width first, which rounds otherwise",
)


def path(name: str, place: str = "") -> Path:
    """Where a recorded file or folder is, or would be."""
    committed = COMMITTED / place / name
    return committed if committed.exists() else PLACES[place] / name


def requires(name: str) -> pytest.MarkDecorator:
    """Skips a test that needs a file which is neither committed nor beside the checkout."""
    return pytest.mark.skipif(not path(name).exists(), reason=f"{name} is in ../shared only, which is not here")


def load_json(name: str) -> Any:
    return json.loads(path(name).read_text())


def load(name: str, place: str = "") -> dict[str, Tensor]:
    return load_file(path(name, place))


@functools.cache
def listed(key: str, place: str = "") -> list[dict[str, Any]]:
    """What the manifests list under `key`: all that is committed, then what else is beside the checkout."""
    found: dict[str, dict[str, Any]] = {}
    for folder in (COMMITTED / place, PLACES[place]):
        if (manifest := folder / "manifest.json").is_file():
            for entry in json.loads(manifest.read_text())[key]:
                found.setdefault(entry["file"], entry)
    return list(found.values())


def entries(kind: str) -> list[dict[str, Any]]:
    """The manifest's entries of one kind (operators, paper, model, mm_utils, baselines)."""
    return [entry for entry in listed("entries") if entry["kind"] == kind]
