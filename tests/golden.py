"""Recorded behaviour of upstream: a part is in tests/recorded, all of it in ../shared if that is beside the checkout.

Committed files come first. Tests that need more skip if it is absent. tests/recorded/README.md gives the origin.
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
"""Where the whole recording is, by folder of COMMITTED. "inllm" has the methods inside the LLM, "" all else."""

requires_pillow_13 = pytest.mark.skipif(
    int(PIL.__version__.partition(".")[0]) < 13,
    reason="recorded with Pillow 13; older releases always resize the width first, which rounds differently",
)


def path(name: str, place: str = "") -> Path:
    """Return where a recorded file or folder is, or would be."""
    committed = COMMITTED / place / name
    return committed if committed.exists() else PLACES[place] / name


def requires(name: str) -> pytest.MarkDecorator:
    """Skip a test if a file is neither committed nor beside the checkout."""
    return pytest.mark.skipif(not path(name).exists(), reason=f"{name} is in ../shared only, which is not here")


def load_json(name: str) -> Any:
    return json.loads(path(name).read_text())


def load(name: str, place: str = "") -> dict[str, Tensor]:
    return load_file(path(name, place))


@functools.cache
def listed(key: str, place: str = "") -> list[dict[str, Any]]:
    """Return what the manifests list under `key`: what is committed, then what else is beside the checkout."""
    found: dict[str, dict[str, Any]] = {}
    for folder in (COMMITTED / place, PLACES[place]):
        if (manifest := folder / "manifest.json").is_file():
            for entry in json.loads(manifest.read_text())[key]:
                found.setdefault(entry["file"], entry)
    return list(found.values())


def entries(kind: str) -> list[dict[str, Any]]:
    """Return the manifest's entries of one kind (operators, paper, model, mm_utils, baselines)."""
    return [entry for entry in listed("entries") if entry["kind"] == kind]
