"""LongVideoBench, validation set without subtitles (arXiv 2407.15754): 1337 questions on videos up to an hour long."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from .base import Benchmark, Kind, local_questions


class LongVideoBench(Benchmark):
    """LongVideoBench, the validation set without subtitles."""

    name = "longvideobench"
    tasks: tuple[str, ...] = ("longvideobench_val_v",)
    folder = "longvideobench"
    layout: ClassVar[str] = (
        "A local copy has `validation-*.parquet` (or validation.json) and the unpacked `videos/<video_path>`."
    )
    metric: ClassVar[str] = "lvb_acc"
    overall: ClassVar[Literal["macro", "micro"]] = "micro"
    fields: ClassVar[dict[str, Kind]] = {"video_path": "video", "question": "text", "correct_choice": "number"}

    def local(self, task: str, data: Path) -> dict[str, Any]:
        """Read `validation-*.parquet` or validation.json."""
        return local_questions(data, "validation", self.name)

    def local_video(self, task: str, data: Path, doc: dict[str, Any]) -> Path:
        """Return `DATA/videos/<video_path>`."""
        return data / "videos" / doc["video_path"]

    def category(self, task: str, sample: dict[str, Any]) -> str:
        """Return the group of durations, named by its limit in seconds, such as "600 s"."""
        return f"{sample[self.metric]['duration_group']} s"

    def score(self, sample: dict[str, Any]) -> float:
        """Compare lmms-eval's prediction with the right answer."""
        # Where lmms-eval finds no letter it guesses one, as the benchmark's authors do, and a right guess counts.
        return float(sample[self.metric]["parsed_pred"] == sample[self.metric]["answer"])

    def parsed(self, sample: dict[str, Any]) -> str | None:
        """Ask lmms-eval's parser, and leave out its guesses."""
        (answer,) = sample["filtered_resps"]
        # The parser guesses one of the letters that it is given. Here it is given only None, so its guess is None.
        return self.harness_utils().parse_multi_choice_response(answer, [None], {})

    def target(self, sample: dict[str, Any]) -> str:
        """Return the right letter as lmms-eval logs it."""
        return sample[self.metric]["answer"]


LONGVIDEOBENCH = LongVideoBench()
