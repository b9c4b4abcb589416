"""Examples for the page: scenes of MiniBench, made on the spot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ..demo.minibench import HELD_OUT, questions, save
from ..demo.prompts import mvbench_prompt

TASKS = ("action_count", "state_change", "scene_transition")
"""Each shows something else: rare frames, a change of one object, and a change of all frames."""


@dataclass(frozen=True)
class Example:
    """A video with a question.

    Attributes:
        title: What the page calls it.
        video: The file.
        question: As the demo models were trained to be asked.
        answer: The right option.
    """

    title: str
    video: Path
    question: str
    answer: str


def make_examples(folder: Path, tasks: Sequence[str] = TASKS) -> dict[str, Example]:
    """Write a video for each task into a folder. Return the examples by title."""
    made = {}
    for task in tasks:
        ((_, question, pictures),) = islice(questions(task, 1, HELD_OUT), 1)
        video = folder / f"{task}.mp4"
        save(video, pictures, "short")
        made[question.text] = Example(question.text, video, mvbench_prompt(question).strip(), question.answer)
    return made
