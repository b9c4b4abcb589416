"""The page as a process of the tests serves it, with the demo models; and files that a guest may send."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import gradio as gr
import pytest

from eval.demo.minibench import HELD_OUT, questions, save
from eval.web.command import models_of, page_of
from eval.web.server import Place, serving
from eval.web.talk import Talk
from eval.web.uploads import Limits

LIMITS = Limits(megabytes=1, minutes=0.1)
"""An example has 4 s, and no MB."""
WAITING = 2


@dataclass(frozen=True)
class Server:
    """A page that is served. `talk` answers its questions, `uploads` is where its guests' files are."""

    url: str
    talk: Talk
    uploads: Path

    def files(self) -> list[Path]:
        return [path for path in self.uploads.rglob("*") if path.is_file()]


@pytest.fixture(scope="package")
def server() -> Iterator[Server]:
    talk = Talk(models_of(None), max_new_tokens=8)
    folders: list[Path] = []

    def build(uploads: Path, others: Path) -> gr.Blocks:
        folders.append(uploads)
        return page_of(talk, LIMITS, uploads, others)

    with serving(Place("127.0.0.1", None, LIMITS, WAITING), build) as url:
        yield Server(url.rstrip("/"), talk, folders[0])
    assert not folders[0].exists()


@pytest.fixture(scope="package")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 4 s, 32 frames of 144 × 144 pixels."""
    return video(tmp_path_factory.mktemp("clip") / "lamp.mp4", "short")


def video(path: Path, length: str) -> Path:
    _, _, pictures = next(iter(questions("action_count", 1, HELD_OUT + 9)))
    save(path, pictures, length)
    return path


long_video = partial(video, length="medium")
"""Writes a video of 12 s."""
