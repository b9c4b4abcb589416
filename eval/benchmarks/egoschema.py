"""EgoSchema (arXiv 2308.09126), the 500 questions with public answers: five options on three minutes of video."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from .base import Benchmark, Kind, existing_video, local_questions


class EgoSchema(Benchmark):
    """EgoSchema, the subset with public answers."""

    name = "egoschema"
    tasks: tuple[str, ...] = ("egoschema_subset",)
    folder = "egoschema"
    layout: ClassVar[str] = (
        "A local copy has `Subset/test-*.parquet` (or test.json) and the unpacked `videos/<video_idx>.mp4`."
    )
    metric: ClassVar[str] = "score"
    overall: ClassVar[Literal["macro", "micro"]] = "micro"
    fields: ClassVar[dict[str, Kind]] = {
        "video_idx": "video",
        "question": "text",
        "option": "options",
        "answer": "text",
    }

    def local(self, task: str, data: Path) -> dict[str, Any]:
        """Read `Subset/test-*.parquet` or test.json."""
        return local_questions(data, "test", self.name, "Subset")

    def local_video(self, task: str, data: Path, doc: dict[str, Any]) -> Path:
        """Return `DATA/videos/<video_idx>.mp4`."""
        return existing_video(data / "videos", doc["video_idx"])

    def category(self, task: str, sample: dict[str, Any]) -> str:
        """Return the one task, because EgoSchema has no categories."""
        return self.short_name(task)

    def score(self, sample: dict[str, Any]) -> float:
        """Compare lmms-eval's prediction with the right answer."""
        # Where lmms-eval finds no letter it guesses one, and a right guess counts.
        return float(str(sample[self.metric]["pred"]) == str(sample[self.metric]["ground_truth"]))

    def parsed(self, sample: dict[str, Any]) -> str | None:
        """Ask lmms-eval's parser, and leave out its guesses."""
        utils = self.harness_utils()
        options, letters = utils.get_multi_choice_info(sample["doc"])
        (answer,) = sample["filtered_resps"]
        letter, found = utils.parse_multi_choice_response(answer, letters, options)
        return letter if found else None

    def target(self, sample: dict[str, Any]) -> str:
        """Return the right answer, which lmms-eval numbers from 0."""
        return "ABCDE"[int(sample[self.metric]["ground_truth"])]


EGOSCHEMA = EgoSchema()
