"""What the tests of public reports share: an engine of each family, loaded once for all of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from eval.models import load_engine, protocol_for
from eval.models.base import Engine
from llava.video import FrameSampling
from tests.eval.qwen_tiny import make_qwen
from tests.fixtures.checkpoint import make_checkpoint

LLAVA = ("onevision", "video")
QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
FRAMES = 6


@pytest.fixture(scope="session")
def checkpoint_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the checkpoint of a kind, one of LLAVA and QWEN."""

    @cache
    def make(kind: str) -> Path:
        root = tmp_path_factory.mktemp(kind)
        return make_checkpoint(root, kind) if kind in LLAVA else make_qwen(root, kind)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def engine_of(checkpoint_of: Callable[[str], Path]) -> Callable[[str], Engine]:
    """Return the engine of a kind. It takes six frames of a video, where its sampling is uniform."""

    @cache
    def make(kind: str) -> Engine:
        path = str(checkpoint_of(kind))
        protocol = protocol_for(path)
        if kind not in ("video", "qwen2_vl"):
            protocol = protocol.sampled(FrameSampling("uniform", max_frames=FRAMES))
        return load_engine(path, protocol, "cpu", "float32")

    return make
