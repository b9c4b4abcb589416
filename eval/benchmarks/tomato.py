"""TOMATO (arXiv 2410.23266): 1484 questions on motion in short clips."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any, ClassVar, Literal

from .base import Benchmark, Kind, first_existing, local_questions


class TOMATO(Benchmark):
    """TOMATO. Its authors give 16 frames (`--sampling uniform:16`)."""

    name = "tomato"
    tasks: tuple[str, ...] = ("tomato",)
    folder = "tomato"
    layout: ClassVar[str] = (
        "A local copy has `test-*.parquet` (or test.json), in DATA or DATA/data, and `<video_path>` in DATA or "
        "DATA/videos."
    )
    metric: ClassVar[str] = "tomato_score"
    overall: ClassVar[Literal["macro", "micro"]] = "micro"
    fields: ClassVar[dict[str, Kind]] = {
        "video_path": "video",
        "question": "text",
        "options": "options",
        "answer": "number",
        "reason_type": "text",
        "demonstration_type": "text",
    }

    def local(self, task: str, data: Path) -> dict[str, Any]:
        """Read the split "test"."""
        return local_questions(data, "test", self.name)

    def local_video(self, task: str, data: Path, doc: dict[str, Any]) -> Path:
        """Return `DATA/<video_path>`, or the same below DATA/videos."""
        return first_existing(data, doc["video_path"], f"videos/{doc['video_path']}")

    def complaint(self, doc: dict[str, Any]) -> str:
        """Check that the answer is the number of an option."""
        if not 0 <= doc["answer"] < len(doc["options"]):
            return f"its answer {doc['answer']} is the number of none of its {len(doc['options'])} options"
        return ""

    def category(self, task: str, sample: dict[str, Any]) -> str:
        """Return the type of reasoning, such as "rotation"."""
        return sample[self.metric]["reason_type"]

    def score(self, sample: dict[str, Any]) -> float:
        """Return lmms-eval's own score."""
        # Where lmms-eval finds no option it takes A, and counts it where A is right.
        return float(sample[self.metric]["score"])

    def parsed(self, sample: dict[str, Any]) -> str | None:
        """Ask lmms-eval's parser, and leave out the A that stands for no option."""
        (answer,) = sample["filtered_resps"]
        utils, options = self.harness_utils(), sample["doc"]["options"]
        _, letters, texts = utils.construct_prompt(sample["doc"]["question"], options)
        letter = utils.parse_multi_choice_response(answer, letters, texts)
        found = "A" in answer or texts["A"].lower() in answer.lower()
        return letter if letter != "A" or found else None

    def target(self, sample: dict[str, Any]) -> str:
        """Return the letter of the right option, which the benchmark numbers from 0."""
        return string.ascii_uppercase[sample["doc"]["answer"]]


TOMATO_BENCH = TOMATO()
