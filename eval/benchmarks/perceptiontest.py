"""Perception Test, validation set, multiple choice (arXiv 2305.13786): three options on half a minute of video."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from .base import Benchmark, Kind, existing_video, local_questions


class PerceptionTest(Benchmark):
    """Perception Test, multiple choice, the validation set."""

    name = "perceptiontest"
    tasks: tuple[str, ...] = ("perceptiontest_val_mc",)
    folder = "perceptiontest/val"
    layout: ClassVar[str] = (
        "A local copy has `mc_question_val/validation-*.parquet` (or validation.json) and the unpacked "
        "`videos/<video_name>.mp4`."
    )
    metric: ClassVar[str] = "accuracy"
    overall: ClassVar[Literal["macro", "micro"]] = "micro"
    fields: ClassVar[dict[str, Kind]] = {
        "video_name": "video",
        "question": "text",
        "options": "options",
        "answer_id": "text",
        "area": "text",
    }

    def local(self, task: str, data: Path) -> dict[str, Any]:
        """Read `mc_question_val/validation-*.parquet` or validation.json."""
        return local_questions(data, "validation", self.name, "mc_question_val")

    def local_video(self, task: str, data: Path, doc: dict[str, Any]) -> Path:
        """Return `DATA/videos/<video_name>.mp4`."""
        return existing_video(data / "videos", doc["video_name"])

    def category(self, task: str, sample: dict[str, Any]) -> str:
        """Return the area of skill, such as "memory"."""
        return sample["doc"]["area"]

    def score(self, sample: dict[str, Any]) -> float:
        """Return lmms-eval's own score."""
        return float(sample[self.metric]["correct"])

    def parsed(self, sample: dict[str, Any]) -> str | None:
        """Return the letter of lmms-eval's prediction, which is -1 where it finds none."""
        index = sample[self.metric]["pred_id"]
        return None if index < 0 else "ABCD"[index]

    def target(self, sample: dict[str, Any]) -> str:
        """Return the right answer, which lmms-eval numbers from 0."""
        return "ABC"[int(sample[self.metric]["answer_id"])]


PERCEPTIONTEST = PerceptionTest()
