"""LongVideoBench, validation set (arXiv 2407.15754), with or without subtitles: 1337 questions, up to an hour."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from .base import Benchmark, Kind, local_questions


class LongVideoBench(Benchmark):
    """LongVideoBench, the validation set without subtitles."""

    name = "longvideobench"
    tasks: tuple[str, ...] = ("longvideobench_val_v",)
    folder = "longvideobench"
    layout: ClassVar[str] = (
        "A local copy has `validation-*.parquet` (or validation.json) and the unpacked `videos/<video_path>`."
    )
    metric: ClassVar[str] = "lvb_acc"
    overall: ClassVar[Literal["macro", "micro"]] = "micro"
    fields: ClassVar[dict[str, Kind]] = {"video_path": "video", "question": "text", "correct_choice": "number"}

    def local(self, task: str, data: Path) -> dict[str, Any]:
        """Read `validation-*.parquet` or validation.json."""
        return local_questions(data, "validation", self.name)

    def local_video(self, task: str, data: Path, doc: dict[str, Any]) -> Path:
        """Return `DATA/videos/<video_path>`."""
        return data / "videos" / doc["video_path"]

    def category(self, task: str, sample: dict[str, Any]) -> str:
        """Return the group of durations, named by its limit in seconds, such as "600 s"."""
        return f"{sample[self.metric]['duration_group']} s"

    def score(self, sample: dict[str, Any]) -> float:
        """Compare lmms-eval's prediction with the right answer."""
        # Where lmms-eval finds no letter it guesses one, as the benchmark's authors do, and a right guess counts.
        return float(sample[self.metric]["parsed_pred"] == sample[self.metric]["answer"])

    def parsed(self, sample: dict[str, Any]) -> str | None:
        """Ask lmms-eval's parser, and leave out its guesses."""
        (answer,) = sample["filtered_resps"]
        # The parser guesses one of the letters that it is given. Here it is given only None, so its guess is None.
        return self.harness_utils().parse_multi_choice_response(answer, [None], {})

    def target(self, sample: dict[str, Any]) -> str:
        """Return the right letter as lmms-eval logs it."""
        return sample[self.metric]["answer"]


class LongVideoBenchSubtitles(LongVideoBench):
    """LongVideoBench with subtitles.

    In lmms-eval, 16 pictures stand among the subtitles that are spoken while one of them is shown. Here the video comes
    first, with the frames of `--sampling`, and then the same subtitles without pictures: a compressor needs a video.
    """

    name = "longvideobench_val_i"
    tasks: tuple[str, ...] = ("longvideobench_val_i",)
    layout: ClassVar[str] = f"{LongVideoBench.layout[:-1]} and `subtitles/<subtitle_path>`."
    fields: ClassVar[dict[str, Kind]] = {**LongVideoBench.fields, "subtitle_path": "text"}

    def local(self, task: str, data: Path) -> dict[str, Any]:
        """Read `validation-*.parquet` or validation.json, and subtitles from the local copy."""

        def doc_to_text(doc: dict[str, Any], lmms_eval_specific_kwargs: dict[str, Any]) -> str:
            path = (data / "subtitles" / doc["subtitle_path"]).absolute()
            return self.harness_utils().longvideobench_doc_to_text(
                {**doc, "subtitle_path": str(path)}, lmms_eval_specific_kwargs
            )

        return {**super().local(task, data), "doc_to_text": doc_to_text}

    def adjusted(self, name: str, task: Any, data: Path | None) -> Any:
        """Take the pictures out of the prompt, and on the hub's data the video for them."""
        theirs = task.config.doc_to_text

        def doc_to_text(doc: dict[str, Any], lmms_eval_specific_kwargs: dict[str, Any]) -> str:
            lines = theirs(doc, lmms_eval_specific_kwargs).split("\n")
            return "\n".join(line for line in lines if line != "<image>")

        task.config.doc_to_text = doc_to_text
        if data is None:
            task.config.doc_to_visual = self.harness_utils().longvideobench_doc_to_visual_v
        return task


LONGVIDEOBENCH = LongVideoBench()
LONGVIDEOBENCH_SUBTITLES = LongVideoBenchSubtitles()
