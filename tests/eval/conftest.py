"""Real mp4 files and real-layout tiny checkpoints, made once per test session."""

from __future__ import annotations

from pathlib import Path

import pytest

from eval.demo.encode import write_video
from tests.fixtures.checkpoint import make_checkpoint
from tests.fixtures.mvbench import make_mvbench
from tests.llava.test_video import noisy_frames

TASKS = ("action_count", "moving_direction", "scene_transition")


@pytest.fixture(scope="session")
def onevision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("onevision"), "onevision")


@pytest.fixture(scope="session")
def llava_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("video"), "video")


@pytest.fixture(scope="session")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of noise."""
    file = tmp_path_factory.mktemp("video") / "noise.mp4"
    write_video(file, noisy_frames(48), 24)
    return file


@pytest.fixture(scope="session")
def mvbench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tasks of three questions."""
    return make_mvbench(tmp_path_factory.mktemp("mvbench"), tasks=TASKS, per_task=3)


@pytest.fixture(scope="session")
def tasks() -> str:
    """What --tasks takes for those three."""
    return ",".join(f"mvbench_{task}" for task in TASKS)
