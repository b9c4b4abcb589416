"""MotionBench (arXiv 2501.02955): fine motions in short clips. Questions without a public answer are left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from .base import Benchmark, Kind, first_existing


class MotionBench(Benchmark):
    """MotionBench, the questions with public answers. One line of its file is a video with all its questions."""

    name = "motionbench"
    tasks: tuple[str, ...] = ("motionbench_full",)
    folder = "motionbench"
    layout: ClassVar[str] = (
        "A local copy has `video_info.meta.jsonl`, in DATA or DATA/data, and `<video_path>` in DATA, DATA/videos, "
        "DATA/public-dataset or DATA/self-collected."
    )
    metric: ClassVar[str] = "motionbench_acc"
    overall: ClassVar[Literal["macro", "micro"]] = "micro"
    fields: ClassVar[dict[str, Kind]] = {"video_path": "video", "question_type": "text"}
    hub: ClassVar[str | None] = "zai-org/MotionBench"

    def local(self, task: str, data: Path) -> dict[str, Any]:
        """Read video_info.meta.jsonl, line by line as lmms-eval does."""
        file = first_existing(data, "video_info.meta.jsonl", "data/video_info.meta.jsonl")
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing: --data must hold MotionBench's questions, there or in data/")
        return {"dataset_path": "text", "dataset_name": None, "dataset_kwargs": {"data_files": {"test": str(file)}}}

    def local_video(self, task: str, data: Path, doc: dict[str, Any]) -> Path:
        """Return `DATA/<video_path>`, or the same in one of the folders."""
        name = doc["video_path"]
        return first_existing(
            data, name, *(f"{folder}/{name}" for folder in ("videos", "public-dataset", "self-collected"))
        )

    def category(self, task: str, sample: dict[str, Any]) -> str:
        """Return the type of question, such as "Repetition Count"."""
        return sample["motionbench_tracking"]["question_type"]

    def score(self, sample: dict[str, Any]) -> float:
        """Return lmms-eval's own score."""
        return float(sample[self.metric]["score"])

    def parsed(self, sample: dict[str, Any]) -> str | None:
        """Ask lmms-eval's parser, because lmms-eval logs the score only."""
        (answer,) = sample["filtered_resps"]
        return self.harness_utils()._extract_choice_letter(answer) or None

    def target(self, sample: dict[str, Any]) -> str:
        """Return the right letter."""
        return sample["doc"]["answer"]


MOTIONBENCH = MotionBench()
