"""Video-MME-v2: four questions on each of 800 videos, eight options, and a score for the four together."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from .base import Benchmark, Kind, first_existing, local_questions, with_subtitles


class VideoMMEv2(Benchmark):
    """Video-MME-v2.

    The accuracy here is over questions, and its categories are the kinds of groups. The benchmark's own number is a
    score per group of four: `videomme_v2_overall_score` of lmms-eval, which results.json has with the scores of each
    kind and level.
    """

    name = "videomme_v2"
    tasks: tuple[str, ...] = ("videomme_v2",)
    folder = "videomme_v2"
    layout: ClassVar[str] = (
        "A local copy has `test-*.parquet` (or test.json), and `<video_id>.mp4` in DATA or DATA/videos."
    )
    metric: ClassVar[str] = "videomme_v2_overall_score"
    overall: ClassVar[Literal["macro", "micro"]] = "micro"
    fields: ClassVar[dict[str, Kind]] = {
        "video_id": "video",
        "question": "text",
        "options": "text",
        "answer": "text",
        "question_id": "text",
        "group_type": "text",
    }
    together: ClassVar[int] = 4

    def local(self, task: str, data: Path) -> dict[str, Any]:
        """Read the split "test"."""
        return local_questions(data, "test", self.name)

    def local_video(self, task: str, data: Path, doc: dict[str, Any]) -> Path:
        """Return `DATA/<video_id>.mp4`, or the same below DATA/videos."""
        return first_existing(data, f"{doc['video_id']}.mp4", f"videos/{doc['video_id']}.mp4")

    def category(self, task: str, sample: dict[str, Any]) -> str:
        """Return the kind of the group: "relevance" or "logic"."""
        return sample[self.metric]["group_type"]

    def score(self, sample: dict[str, Any]) -> float:
        """Return lmms-eval's score of the single question."""
        return float(sample[self.metric]["score"])

    def parsed(self, sample: dict[str, Any]) -> str | None:
        """Return lmms-eval's prediction, which is Z where it finds none."""
        letter = sample[self.metric]["pred_answer"]
        return None if letter == "Z" else letter

    def target(self, sample: dict[str, Any]) -> str:
        """Return the right letter as lmms-eval logs it."""
        return sample[self.metric]["answer"]


class VideoMMEv2Subtitles(VideoMMEv2):
    """Video-MME-v2 with all subtitles in the prompt."""

    name = "videomme_v2_w_subtitle"
    tasks: tuple[str, ...] = ("videomme_v2_w_subtitle",)
    layout: ClassVar[str] = f"{VideoMMEv2.layout[:-1]}, and `subtitle/<video_id>.jsonl`, where a video has subtitles."

    def adjusted(self, name: str, task: Any, data: Path | None) -> Any:
        """Let the prompt look for subtitles in the local copy."""
        return with_subtitles(task, data)


VIDEOMME_V2 = VideoMMEv2()
VIDEOMME_V2_SUBTITLES = VideoMMEv2Subtitles()
