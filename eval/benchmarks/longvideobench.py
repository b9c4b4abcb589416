"""LongVideoBench, validation set without subtitles (arXiv 2407.15754): 1337 questions on videos up to an hour long."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from .base import Benchmark, Kind, local_questions


class LongVideoBench(Benchmark):
    """Local data as on the hub: `validation-*.parquet` (or validation.json) and, unpacked, `videos/<video_path>`."""

    name: ClassVar[str] = "longvideobench"
    tasks: ClassVar[tuple[str, ...]] = ("longvideobench_val_v",)
    folder: ClassVar[str] = "longvideobench"
    metric: ClassVar[str] = "lvb_acc"
    overall: ClassVar[Literal["macro", "micro"]] = "micro"
    fields: ClassVar[dict[str, Kind]] = {"video_path": "video", "question": "text", "correct_choice": "number"}

    def local(self, task: str, data: Path) -> dict[str, Any]:
        return local_questions(data, "validation", self.name)

    def local_video(self, task: str, data: Path, doc: dict[str, Any]) -> Path:
        return data / "videos" / doc["video_path"]

    def category(self, task: str, sample: dict[str, Any]) -> str:
        return f"{sample[self.metric]['duration_group']} s"  # the longest video of the group

    def score(self, sample: dict[str, Any]) -> float:
        # If lmms-eval finds no letter it guesses one, as the benchmark's authors do, and the guess may be right.
        return float(sample[self.metric]["parsed_pred"] == sample[self.metric]["answer"])

    def parsed(self, sample: dict[str, Any]) -> str | None:
        (answer,) = sample["filtered_resps"]
        # It guesses among these letters, so its guess is None.
        return self.harness_utils().parse_multi_choice_response(answer, [None], {})

    def target(self, sample: dict[str, Any]) -> str:
        return sample[self.metric]["answer"]


LONGVIDEOBENCH = LongVideoBench()
