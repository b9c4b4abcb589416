"""What a run knows of one question before it is scored: how its video was read, what was answered, and what it cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # commands that only read results start without torch
    from vidcom2 import Record

STAGES = ("decode", "preprocess", "vision", "compress", "prefill", "generate")
"""The stages of one answer, in order:

decode: the video file to frames.
preprocess: frames to the tower's input, resized and normalised.
vision: tower and projector.
compress: pool, compress, arrange and splice into the text.
prefill: the LLM's first pass with its head, which gives the first token.
generate: all later tokens.
"""

LABELS = {stage: stage for stage in STAGES} | {"compress": "assemble + compress"}
"""The stages' names in tables. A dense run pools and splices, too. docs/efficiency.md tells the two apart."""

NO_ANSWER = "unreadable_video"
"""Stands for the answer to a video that could not be read.

Only MotionBench's parser reads an option letter from it, and the question is wrong all the same. It is not empty,
because lmms-eval's MVBench does not count empty answers.
"""

Key = tuple[str, int]
"""A question: lmms-eval's task and doc_id."""


@dataclass(frozen=True)
class Reading:
    """How a video was read.

    Attributes:
        reader: The reader, see `llava.video.OpenVideo`.
        why: Why this reader.
        decord_differs: Number of frames that raw decord would have given differently. None where that is unknown. See
            `llava.video.against_decord.AgainstDecord`.
        decord: How that is known, or why it is not.
    """

    reader: str
    why: str
    decord_differs: int | None
    decord: str


@dataclass(frozen=True)
class Answer:
    """A model's answer.

    Attributes:
        text: The raw answer.
        prompt: The text that the model got, with the video as one slot.
        frames: Number of frames T that the model saw.
        duration: Length of the video in seconds.
        records: What the video cost the LLM.
        seconds: Seconds by stage (STAGES).
        reading: How the video was read.
    """

    text: str
    prompt: str
    frames: int
    duration: float
    records: list[Record]
    seconds: dict[str, float]
    reading: Reading


@dataclass(frozen=True)
class Sample:
    """What our side knows of one question. lmms-eval's side is joined by (task, doc_id), see `schema.ScoredSample`.

    Attributes:
        task: lmms-eval's task.
        doc_id: The question's number in its task.
        video: Path of the video.
        prompt: As in `Answer`. None where the question failed.
        answer: The raw answer, or NO_ANSWER.
        error: Why the question failed. None where it was answered.
        frames: Number of frames T that the model saw.
        duration_s: Length of the video in seconds.
        tokens_before: Visual tokens without compression.
        tokens_after: Visual tokens that the LLM saw. Inside the LLM, the mean over its layers.
        seconds: Seconds by stage (STAGES).
        positions: Positions of the kept tokens, "original" or "repack".
        reading: How the video was read. None where it was not read.
        by_hand: Tokens of each frame that the caller kept by hand, by the frame's number from 0, as a text.
        asked: Digest of the question, its video and its right answer, see `run.lmms.asked`.
    """

    task: str
    doc_id: int
    video: str
    prompt: str | None
    answer: str
    error: str | None
    frames: int
    duration_s: float
    tokens_before: int
    tokens_after: float
    seconds: dict[str, float]
    positions: str | None = None
    reading: Reading | None = None
    by_hand: dict[str, int] = field(default_factory=dict)
    asked: str = ""

    @property
    def key(self) -> Key:
        """The task and the number of the question."""
        return self.task, self.doc_id

    @classmethod
    def made(cls, key: Key, video: str, answer: Answer) -> Sample:
        """Make the sample of an answered question."""
        return cls(
            *key,
            video=video,
            prompt=answer.prompt,
            answer=answer.text,
            error=None,
            frames=answer.frames,
            duration_s=answer.duration,
            tokens_before=sum(record.tokens_before for record in answer.records),
            tokens_after=sum(record.tokens_after for record in answer.records),
            seconds=answer.seconds,
            positions=next((record.positions for record in answer.records), None),
            reading=answer.reading,
            by_hand={str(t): k for one in answer.records for t, k in enumerate(one.by_hand) if k is not None},
        )

    @classmethod
    def failed(cls, key: Key, video: str, error: Exception) -> Sample:
        """Make the sample of a question that failed with `error`."""
        return cls(*key, video, None, NO_ANSWER, str(error), 0, 0.0, 0, 0, {})
