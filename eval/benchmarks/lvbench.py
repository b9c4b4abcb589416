"""LVBench (arXiv 2406.08035): 1549 questions with four options on 103 videos, most of them over an hour long."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from .base import Benchmark, Kind, first_existing, local_questions


class LVBench(Benchmark):
    """LVBench."""

    name = "lvbench"
    tasks: tuple[str, ...] = ("lvbench",)
    folder = "lvbench"
    layout: ClassVar[str] = (
        "A local copy has `train-*.parquet` (or train.json), and `<video_path>` in DATA, DATA/videos or "
        "DATA/all_videos."
    )
    metric: ClassVar[str] = "lvbench_score"
    overall: ClassVar[Literal["macro", "micro"]] = "micro"
    fields: ClassVar[dict[str, Kind]] = {"video_path": "video", "question": "text", "answer": "text"}

    def local(self, task: str, data: Path) -> dict[str, Any]:
        """Read the split "train", where lmms-eval's LVBench is."""
        return local_questions(data, "train", self.name)

    def local_video(self, task: str, data: Path, doc: dict[str, Any]) -> Path:
        """Return `DATA/<video_path>`, or the same below DATA/videos or DATA/all_videos."""
        name = doc["video_path"]
        return first_existing(data, name, f"videos/{name}", f"all_videos/{name}")

    def category(self, task: str, sample: dict[str, Any]) -> str:
        """Return the type of the video, such as "cartoon". "all" where the questions do not say it."""
        kind = sample["doc"].get("type")
        return kind if isinstance(kind, str) and kind else "all"

    def score(self, sample: dict[str, Any]) -> float:
        """Return lmms-eval's own score."""
        return float(sample[self.metric])

    def parsed(self, sample: dict[str, Any]) -> str | None:
        """Ask lmms-eval's parser, because lmms-eval logs the score only."""
        (answer,) = sample["filtered_resps"]
        return self.harness_utils().extract_characters_regex(answer) or None

    def target(self, sample: dict[str, Any]) -> str:
        """Return the right letter."""
        return sample["doc"]["answer"]


LVBENCH = LVBench()
