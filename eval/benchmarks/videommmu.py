"""VideoMMMU (arXiv 2501.13826), its multiple-choice questions: 300 lectures, and what was learnt from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from .base import Benchmark, Kind, local_questions

VIDEOMMMU_CONFIGS = {
    "video_mmmu_perception": "Perception",
    "video_mmmu_comprehension": "Comprehension",
    "video_mmmu_adaptation": "Adaptation",
}
"""The hub dataset's configuration of each task."""


class VideoMMMU(Benchmark):
    """VideoMMMU without its open questions. The picture of a question is the last frame of its video."""

    name = "video_mmmu"
    tasks: tuple[str, ...] = tuple(VIDEOMMMU_CONFIGS)
    folder = "videommmu"
    layout: ClassVar[str] = (
        "A local copy has `Perception/`, `Comprehension/` and `Adaptation/`, each with `test-*.parquet` (or "
        "test.json), and the unpacked `<discipline>/<id>.mp4`."
    )
    metric: ClassVar[str] = "mmmu_acc"
    overall: ClassVar[Literal["macro", "micro"]] = "micro"
    fields: ClassVar[dict[str, Kind]] = {"id": "video", "question": "text", "answer": "text", "question_type": "text"}

    def local(self, task: str, data: Path) -> dict[str, Any]:
        """Read the split "test" of the task's configuration."""
        config = VIDEOMMMU_CONFIGS[task]
        if not (data / config).is_dir() and not (data / "README.md").is_file():
            raise FileNotFoundError(f"{data / config} is missing: --data must hold the questions of {task} there")
        return local_questions(data, "test", self.name, config)

    def local_video(self, task: str, data: Path, doc: dict[str, Any]) -> Path:
        """Return `DATA/<discipline>/<id>.mp4`. The folder of the discipline is looked for."""
        name = f"{doc['id']}.mp4"
        return next(data.glob(f"*/{name}"), data / "videos" / name)

    def adjusted(self, name: str, task: Any, data: Path | None) -> Any:
        """Leave out the open questions.

        Raises:
            ValueError: No question is left.
        """
        split = task.config.test_split
        for docs in (task.dataset, task.dataset_no_image):
            docs[split] = docs[split].filter(lambda doc: doc["question_type"] == "multiple-choice")
        if not len(task.dataset[split]):
            raise ValueError(f"{name} has no question of the question_type multiple-choice")
        return task

    def category(self, task: str, sample: dict[str, Any]) -> str:
        """Return the task without "video_mmmu_"."""
        return self.short_name(task)

    def score(self, sample: dict[str, Any]) -> float:
        """Compare lmms-eval's prediction with the right answer."""
        return float(sample[self.metric]["parsed_pred"] == sample[self.metric]["answer"])

    def parsed(self, sample: dict[str, Any]) -> str | None:
        """Return lmms-eval's prediction, which is a sentence where it finds none."""
        letter = sample[self.metric]["parsed_pred"]
        return letter if len(letter) == 1 else None

    def target(self, sample: dict[str, Any]) -> str:
        """Return the right letter as lmms-eval logs it."""
        return sample[self.metric]["answer"]


VIDEO_MMMU = VideoMMMU()
