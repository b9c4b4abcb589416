"""MLVU (arXiv 2406.04264): multiple-choice questions on minutes to hours of video, seven types in dev, nine in test."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from .base import Benchmark, Kind, local_questions


class MLVU(Benchmark):
    """MLVU dev."""

    name = "mlvu"
    tasks: tuple[str, ...] = ("mlvu_dev",)
    folder = "mlvu"
    layout: ClassVar[str] = (
        "A local copy has questions in parquet or JSON files, and videos named by `video_name`, in DATA or DATA/video."
    )
    metric: ClassVar[str] = "mlvu_percetion_score"  # [sic]
    overall: ClassVar[Literal["macro", "micro"]] = "macro"
    fields: ClassVar[dict[str, Kind]] = {
        "video_name": "video",
        "question": "text",
        "answer": "text",
        "task_type": "text",
    }

    def local(self, task: str, data: Path) -> dict[str, Any]:
        """Read the split "test", where lmms-eval's MLVU dev is."""
        return local_questions(data, "test", self.name)

    def local_video(self, task: str, data: Path, doc: dict[str, Any]) -> Path:
        """Return `DATA/<video_name>`, or the same below DATA/video."""
        direct = data / doc["video_name"]
        return direct if direct.exists() else data / "video" / doc["video_name"]

    def category(self, task: str, sample: dict[str, Any]) -> str:
        """Return the type of question, such as "plotQA"."""
        return sample[self.metric]["task_type"]

    def score(self, sample: dict[str, Any]) -> float:
        """Compare lmms-eval's prediction with the right answer."""
        return float(sample[self.metric]["pred_answer"] == sample[self.metric]["answer"])

    def parsed(self, sample: dict[str, Any]) -> str | None:
        """Return lmms-eval's prediction, which is empty where it finds none."""
        return sample[self.metric]["pred_answer"] or None

    def legacy(self, answer: str) -> str | None:
        """Return the character before the first ")", or the whole answer where it has none.

        So "(A) red" is A, while "A." and "The answer is A" are no option.
        """
        before, closed, _ = answer.strip().partition(")")
        letter = before[-1:] if closed else before
        return letter if letter in tuple("ABCDEF") else None

    def target(self, sample: dict[str, Any]) -> str:
        """Return the right letter as lmms-eval logs it."""
        return sample[self.metric]["answer"]


class MLVUTest(MLVU):
    """MLVU test. lmms-eval's prompt for it is the bare question, and its parser reads no option after D."""

    name = "mlvu_test"
    tasks: tuple[str, ...] = ("mlvu_test",)


MLVU_DEV = MLVU()
MLVU_TEST = MLVUTest()
