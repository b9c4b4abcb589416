"""TVBench (arXiv 2410.07752): ten tasks that neither one frame nor the text alone can solve."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any, ClassVar, Literal

from .base import Benchmark, Kind, first_existing

TVBENCH_TASKS = (
    *("action_antonym", "action_count", "action_localization", "action_sequence", "egocentric_sequence"),
    *("moving_direction", "object_count", "object_shuffle", "scene_transition", "unexpected_action"),
)


class TVBench(Benchmark):
    """TVBench.

    lmms-eval 0.7.3 takes an answer of digits for the number of an option, from 0 on, even where the options are numbers
    themselves: of the options 2, 3 and 4, the answer "2" is read as the third. Here the right option is the one whose
    text is the answer. Where that differs, so does the score, and a run says so before its first answer.
    """

    name = "tvbench"
    tasks: tuple[str, ...] = tuple(f"tvbench_{task}" for task in TVBENCH_TASKS)
    folder = "tvbench"
    layout: ClassVar[str] = (
        "A local copy has `json/<task>.json`, and `<video>` in DATA/video/<task>, DATA/video or DATA."
    )
    metric: ClassVar[str] = "tvbench_acc"
    overall: ClassVar[Literal["macro", "micro"]] = "macro"
    fields: ClassVar[dict[str, Kind]] = {
        "video": "video",
        "question": "text",
        "candidates": "options",
        "answer": "text",
    }

    def local(self, task: str, data: Path) -> dict[str, Any]:
        """Read `json/<task>.json`."""
        questions = data / "json" / f"{self.short_name(task)}.json"
        if not questions.is_file():
            raise FileNotFoundError(f"{questions} is missing: --data must hold TVBench's json/ and its videos")
        return {
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": {"train": str(questions)}},
        }

    def local_video(self, task: str, data: Path, doc: dict[str, Any]) -> Path:
        """Return `DATA/video/<task>/<video>`, or the same in DATA/video or DATA."""
        name, folder = doc["video"], self.short_name(task)
        return first_existing(data, f"video/{folder}/{name}", f"video/{name}", f"{folder}/{name}", name)

    def complaint(self, doc: dict[str, Any]) -> str:
        """Check that the answer is one of the candidates."""
        if doc["answer"] not in doc["candidates"]:
            return f"its answer {doc['answer']!r} is none of its candidates {doc['candidates']}"
        return ""

    def doubt(self, sample: dict[str, Any]) -> str:
        """Tell where lmms-eval takes another option for the right one."""
        if sample[self.metric] == self.score(sample):
            return ""
        answer = sample["doc"]["answer"]
        return (
            f"lmms-eval takes its answer {answer!r} for another option, so its own score differs from the accuracy here"
        )

    def category(self, task: str, sample: dict[str, Any]) -> str:
        """Return the task without "tvbench_"."""
        return self.short_name(task)

    def score(self, sample: dict[str, Any]) -> float:
        """Compare the option that lmms-eval reads with the right one."""
        return float(self.parsed(sample) == self.target(sample))

    def parsed(self, sample: dict[str, Any]) -> str | None:
        """Ask lmms-eval's parser, because lmms-eval logs the score only."""
        (answer,) = sample["filtered_resps"]
        return self.harness_utils()._extract_choice_letter(answer, sample["doc"]["candidates"]) or None

    def target(self, sample: dict[str, Any]) -> str:
        """Return the letter of the candidate that is the answer."""
        return string.ascii_uppercase[sample["doc"]["candidates"].index(sample["doc"]["answer"])]


TVBENCH = TVBench()
