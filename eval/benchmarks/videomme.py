"""Video-MME (arXiv 2405.21075), with or without subtitles: three questions on each of 900 short to long videos."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar, Literal

from .base import Benchmark, Kind, existing_video, local_questions, with_subtitles

LEGACY_PHRASES = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option is",
    "The correct option is",
    "Best answer:",
    "Best option:",
)
"""Phrases that `VideoMME.legacy` removes from an answer, in this order, as lmms-eval 0.5.0 does."""


class VideoMME(Benchmark):
    """Video-MME without subtitles."""

    name = "videomme"
    tasks: tuple[str, ...] = ("videomme",)
    folder = "videomme"
    layout: ClassVar[str] = (
        "A local copy has `videomme/test-*.parquet` (or test.json) and the unpacked `data/<videoID>.mp4`."
    )
    metric: ClassVar[str] = "videomme_perception_score"
    overall: ClassVar[Literal["macro", "micro"]] = "micro"
    fields: ClassVar[dict[str, Kind]] = {
        "videoID": "video",
        "question": "text",
        "options": "options",
        "answer": "text",
        "duration": "text",
        "domain": "text",
        "sub_category": "text",
        "task_type": "text",
    }

    def local(self, task: str, data: Path) -> dict[str, Any]:
        """Read `videomme/test-*.parquet` or test.json."""
        return local_questions(data, "test", self.name, "videomme")

    def local_video(self, task: str, data: Path, doc: dict[str, Any]) -> Path:
        """Return `DATA/data/<videoID>.mp4`, or the same file with another suffix."""
        return existing_video(data / "data", doc["videoID"], (".mp4", ".MP4", ".mkv"))

    def complaint(self, doc: dict[str, Any]) -> str:
        """Check that lmms-eval knows the question's categories. Its scoring fails on others."""
        utils = self.harness_utils()
        for field, known in (
            ("duration", utils.VIDEO_TYPE),
            ("domain", utils.CATEGORIES),
            ("sub_category", utils.SUB_CATEGORIES),
            ("task_type", utils.TASK_CATEGORIES),
        ):
            if doc[field] not in known:
                return f"its {field} {doc[field]!r} is none that lmms-eval scores: {', '.join(known)}"
        return ""

    def category(self, task: str, sample: dict[str, Any]) -> str:
        """Return the length of the video: "short", "medium" or "long"."""
        return sample[self.metric]["duration"]

    def score(self, sample: dict[str, Any]) -> float:
        """Return lmms-eval's own score."""
        return float(sample[self.metric]["score"])

    def parsed(self, sample: dict[str, Any]) -> str | None:
        """Return lmms-eval's prediction, which is empty where it finds none."""
        return sample[self.metric]["pred_answer"] or None

    def legacy(self, answer: str) -> str | None:
        """Return the first capital A, B, C or D once LEGACY_PHRASES are removed. So "Answer: D" is read as A."""
        for phrase in LEGACY_PHRASES:
            answer = answer.replace(phrase, "")
        letter = re.search("[ABCD]", answer)
        return letter[0] if letter else None

    def target(self, sample: dict[str, Any]) -> str:
        """Return the right letter as lmms-eval logs it."""
        return sample[self.metric]["answer"]


class VideoMMESubtitles(VideoMME):
    """Video-MME with the subtitles that fall on the frames that the task file counts on: 32, for LLaVA-Video 768."""

    name = "videomme_w_subtitle"
    tasks: tuple[str, ...] = ("videomme_w_subtitle",)
    layout: ClassVar[str] = f"{VideoMME.layout[:-1]} and `subtitle/<videoID>.srt`, where a video has subtitles."

    def adjusted(self, name: str, task: Any, data: Path | None) -> Any:
        """Let the prompt look for subtitles in the local copy."""
        return with_subtitles(task, data)


VIDEOMME = VideoMME()
VIDEOMME_SUBTITLES = VideoMMESubtitles()
