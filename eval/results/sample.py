"""What a run knows of one question: how its video was read, what the model answered, and what it cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # commands that only read results start without torch
    from vidcom2 import Record

STAGES = ("decode", "preprocess", "vision", "compress", "prefill", "generate")
"""decode the video file; resize and normalise frames; tower and projector; pool, compress, arrange and splice; the
LLM's first pass, with its head (gives the first token); all later tokens."""

LABELS = {stage: stage for stage in STAGES} | {"compress": "assemble + compress"}
"""How tables call them: pooling and splicing takes a dense run time too. docs/efficiency.md has the two apart."""

# Stands for the answer to a video that could not be read. No option letter can be parsed from it, and it is not
# empty, because lmms-eval's MVBench drops empty answers from the denominator.
NO_ANSWER = "unreadable_video"

Key = tuple[str, int]
"""A question: lmms-eval's task and doc_id."""


@dataclass(frozen=True)
class Reading:
    """How a video was read. reader, why: see llava.video.OpenVideo. decord_differs, decord: see
    llava.video.against_decord.AgainstDecord."""

    reader: str
    why: str
    decord_differs: int | None
    decord: str


@dataclass(frozen=True)
class Answer:
    """text: the raw answer. prompt: what was asked, video as one slot. frames, duration: what was seen of the video.
    records: what the video cost the LLM. seconds: per stage (STAGES). reading: how the video was read."""

    text: str
    prompt: str
    frames: int
    duration: float
    records: list[Record]
    seconds: dict[str, float]
    reading: Reading


@dataclass(frozen=True)
class Sample:
    """What our side knows of one question; lmms-eval's side is joined by (task, doc_id)."""

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
    positions: str | None = None  # of the kept tokens: "original" or "repack"
    reading: dict[str, Any] | None = None  # Reading's fields; None where the video was not read
    asked: str = ""  # a digest of the question, its video and its right answer; see eval.run.lmms.asked

    @property
    def key(self) -> Key:
        return self.task, self.doc_id

    @classmethod
    def made(cls, key: Key, video: str, answer: Answer) -> Sample:
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
            reading=asdict(answer.reading),
        )

    @classmethod
    def failed(cls, key: Key, video: str, error: Exception) -> Sample:
        return cls(*key, video, None, NO_ANSWER, str(error), 0, 0.0, 0, 0, {})
