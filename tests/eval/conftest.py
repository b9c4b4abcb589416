"""Real mp4 files and real-layout tiny checkpoints, made once per test session."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures.checkpoint import make_checkpoint
from tests.fixtures.mvbench import make_mvbench

TASKS = ("action_count", "moving_direction", "scene_transition")


@pytest.fixture(scope="session")
def onevision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("onevision"), "onevision")


@pytest.fixture(scope="session")
def llava_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("video"), "video")


@pytest.fixture(scope="session")
def mvbench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tasks of three questions."""
    return make_mvbench(tmp_path_factory.mktemp("mvbench"), tasks=TASKS, per_task=3)


@pytest.fixture(scope="session")
def tasks() -> str:
    """What --tasks takes for those three."""
    return ",".join(f"mvbench_{task}" for task in TASKS)
