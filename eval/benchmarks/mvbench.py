"""MVBench (arXiv 2311.17005): 20 tasks of 200 multiple-choice questions on short clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from .base import Benchmark, Kind

MVBENCH_FOLDERS: dict[str, str] = {
    "object_interaction": "star/Charades_segment",
    "action_sequence": "star/Charades_segment",
    "action_prediction": "star/Charades_segment",
    "action_localization": "sta/sta_video_segment",
    "moving_count": "clevrer/video_validation",
    "fine_grained_pose": "nturgbd_convert",
    "character_order": "perception/videos",
    "object_shuffle": "perception/videos",
    "egocentric_navigation": "vlnqa",
    "moving_direction": "clevrer/video_validation",
    "episodic_reasoning": "tvqa/video_fps3_hq_segment",
    "fine_grained_action": "Moments_in_Time_Raw/videos",
    "scene_transition": "scene_qa/video",
    "state_change": "perception/videos",
    "moving_attribute": "clevrer/video_validation",
    "action_antonym": "ssv2_video_mp4",
    "unexpected_action": "FunQA_test/test",
    "counterfactual_inference": "clevrer/video_validation",
    "object_existence": "clevrer/video_validation",
    "action_count": "perception/videos",
}
"""Folder of each task's videos in the unpacked hub dataset, as lmms-eval's task files name it."""


class MVBench(Benchmark):
    """MVBench."""

    name = "mvbench"
    tasks: tuple[str, ...] = tuple(f"mvbench_{task}" for task in sorted(MVBENCH_FOLDERS))
    folder = "mvbench"
    layout: ClassVar[str] = (
        "A local copy has `json/<task>.json` and the unpacked `<folder>/<file>`, all such folders in DATA or "
        "in DATA/video."
    )
    metric: ClassVar[str] = "mvbench_accuracy"
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
            raise FileNotFoundError(
                f"{questions} is missing: --data must hold MVBench's json/ and its videos, in video/ or beside json/"
            )
        return {
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": {"train": str(questions)}},
        }

    def local_video(self, task: str, data: Path, doc: dict[str, Any]) -> Path:
        """Return `DATA/video/<folder>/<file>`, or the same below DATA."""
        root = data / "video" if (data / "video").is_dir() else data
        usual = root / MVBENCH_FOLDERS[self.short_name(task)] / doc["video"]
        # lmms-eval's code looks here too. The folder holds later replacements of some videos.
        other = root / "data0613" / usual.relative_to(root)
        return other if other.exists() and not usual.exists() else usual

    def complaint(self, doc: dict[str, Any]) -> str:
        """Check that the answer is one of the candidates."""
        if doc["answer"] not in doc["candidates"]:
            return f"its answer {doc['answer']!r} is none of its candidates {doc['candidates']}"
        return ""

    def category(self, task: str, sample: dict[str, Any]) -> str:
        """Return the task without "mvbench_"."""
        return self.short_name(task)

    def score(self, sample: dict[str, Any]) -> float:
        """Return lmms-eval's own score."""
        return float(sample[self.metric]["score"])

    def parsed(self, sample: dict[str, Any]) -> str | None:
        """Return the first letter that lmms-eval's parser accepts."""
        # lmms-eval's parser only tells whether an answer means a given letter, so try each letter.
        means = self.harness_utils().mcq_acc
        return next((letter for letter in "ABCDE" if means(letter, sample[self.metric]["pred_answer"])), None)

    def target(self, sample: dict[str, Any]) -> str:
        """Return the right letter as lmms-eval logs it."""
        return sample[self.metric]["gt_answer"]


MVBENCH = MVBench()
