"""TempCompass (arXiv 2403.00476): multiple choice, yes or no, and matching of captions, on short clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from .base import Benchmark, Kind, existing_video, local_questions, set_names

CONFIGS = {
    "tempcompass_multi_choice": "multi-choice",
    "tempcompass_yes_no": "yes_no",
    "tempcompass_caption_matching": "caption_matching",
}
"""The hub dataset's configuration of each task."""


class TempCompass(Benchmark):
    """TempCompass without its captions, which only a judge can score.

    lmms-eval asks a judge, too, about answers to the other tasks that its rules cannot read. Here such an answer is
    wrong, as it is in lmms-eval where the judge cannot be reached.
    """

    name = "tempcompass"
    tasks: tuple[str, ...] = tuple(CONFIGS)
    folder = "tempcompass"
    layout: ClassVar[str] = (
        "A local copy has `multi-choice/`, `yes_no/` and `caption_matching/`, each with `test-*.parquet` (or "
        "test.json), and the unpacked `videos/<video_id>.mp4`."
    )
    metric: ClassVar[str] = "avg_accuracy"
    overall: ClassVar[Literal["macro", "micro"]] = "micro"
    fields: ClassVar[dict[str, Kind]] = {"video_id": "video", "question": "text", "answer": "text", "dim": "text"}

    def local(self, task: str, data: Path) -> dict[str, Any]:
        """Read the split "test" of the task's configuration."""
        config = CONFIGS[task]
        if not (data / config).is_dir() and not (data / "README.md").is_file():
            raise FileNotFoundError(f"{data / config} is missing: --data must hold the questions of {task} there")
        return local_questions(data, "test", self.name, config)

    def local_video(self, task: str, data: Path, doc: dict[str, Any]) -> Path:
        """Return `DATA/videos/<video_id>.mp4`."""
        return existing_video(data / "videos", doc["video_id"])

    def adjusted(self, name: str, task: Any, data: Path | None) -> Any:
        """Answer in the judge's place: no."""
        set_names(task.config.process_results, get_eval_result=lambda prompt, **kwargs: (None, 0))
        return task

    def category(self, task: str, sample: dict[str, Any]) -> str:
        """Return the task and what the question is about, such as "yes_no, speed"."""
        return f"{self.short_name(task)}, {sample[self.metric]['dim']}"

    def score(self, sample: dict[str, Any]) -> float:
        """Return lmms-eval's own score."""
        return float(sample[self.metric]["rating"])

    def parsed(self, sample: dict[str, Any]) -> str | None:
        """Return the answer itself where lmms-eval's rules can read it. lmms-eval does not log what they read."""
        return sample[self.metric]["video-llm-prediction"] if sample[self.metric]["match_success"] else None

    def target(self, sample: dict[str, Any]) -> str:
        """Return the right letter or word: "A" for "A. red" and for "Sentence A: It is red.", "yes" for "yes"."""
        answer = sample[self.metric]["gt-answer"]
        return answer.split(": ")[0].split()[-1] if ": " in answer else answer.split(".")[0]


TEMPCOMPASS = TempCompass()
