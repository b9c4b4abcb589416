"""The lessons of the training, their order and their learning rates."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .model import BASE_LAYERS, LAYERS


@dataclass(frozen=True)
class Lesson:
    """A stretch of the training with one mix of questions.

    Attributes:
        name: Its name in reports.
        steps: Number of steps.
        shares: Probability of each kind of batch, as `BatchSampler.batch` takes it.
        longest: Most frames of a clip.
        videos: Clips per step. A batch of long clips has half as many.
        layers: Layers of the LLM. New ones come on top, and change nothing before they have learned.
        rate: Highest learning rate of a new optimiser; None continues with the previous one.
        decay: Over how many steps that learning rate falls.
    """

    name: str
    steps: int
    shares: dict[str, float]
    longest: int = 32
    videos: int = 8
    layers: int = BASE_LAYERS
    rate: float | None = None
    decay: int = 0


@dataclass(frozen=True)
class Plan:
    """The whole training.

    Attributes:
        vision: Steps of the first lesson, which trains the vision tower.
        lessons: The lessons after it.
        save_every: Steps between saved states.
        examined: Batches of each kind that the model is examined on when it is saved.
    """

    vision: int = 500
    lessons: tuple[Lesson, ...] = (
        Lesson("names", 150, {"names": 1.0}, longest=8, rate=3e-3, decay=4000),
        Lesson("words", 500, {"word": 1.0}, longest=8),
        Lesson("longer", 700, {"word": 1.0}, longest=16),
        Lesson(
            "letters", 350, {"text": 0.75, "word": 0.25}, longest=8, videos=12, layers=LAYERS, rate=3e-3, decay=5350
        ),
        Lesson("options", 5000, {"choice": 0.75, "word": 0.15, "text": 0.1}, layers=LAYERS),
    )
    save_every: int = 300
    examined: int = 4

    @property
    def steps(self) -> int:
        """Number of steps after the vision lesson."""
        return sum(lesson.steps for lesson in self.lessons)

    def lesson(self, step: int) -> Lesson:
        """The lesson that a step belongs to."""
        ends = np.cumsum([lesson.steps for lesson in self.lessons])
        return self.lessons[int(np.searchsorted(ends, step, side="right"))]

    def optimiser_start(self, step: int) -> int:
        """The step at which the optimiser of this step was new."""
        begin, since = 0, 0
        for lesson in self.lessons:
            if lesson.rate is not None and begin <= step:
                since = begin
            begin += lesson.steps
        return since

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        since = self.optimiser_start(step)
        first = self.lesson(since)
        assert first.rate is not None, "the first lesson has a rate"
        return first.rate * schedule(step - since, first.decay)


def schedule(step: int, steps: int, warmup: int = 50) -> float:
    """The learning rate as a share of the highest: a linear warm-up, then a cosine down to 3 %."""
    return min((step + 1) / warmup, 0.03 + 0.97 * (1 + math.cos(math.pi * min(step / steps, 1))) / 2)
