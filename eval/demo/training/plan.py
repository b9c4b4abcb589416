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
        layers: Layers of the LLM. If there are more than BASE_LAYERS, only those on top learn.
        counted: As `BatchSampler.batch` takes it.
        rate: Highest learning rate of a new optimiser; None continues with the previous one.
        decay: Over how many steps that learning rate falls.
    """

    name: str
    steps: int
    shares: dict[str, float]
    layers: int = BASE_LAYERS
    counted: bool = True
    rate: float | None = None
    decay: int = 0


@dataclass(frozen=True)
class Plan:
    """The whole training.

    Attributes:
        vision: Steps of the first lesson, which trains the vision tower.
        lessons: The lessons after it.
        videos: Videos per step in these lessons.
        save_every: Steps between saved states.
    """

    vision: int = 1500
    lessons: tuple[Lesson, ...] = (
        Lesson("letters", 500, {"text": 1.0}, counted=False, rate=1.5e-3, decay=4600),
        Lesson("names", 300, {"names": 0.8, "text": 0.2}, counted=False),
        Lesson("words", 2000, {"word": 0.9, "text": 0.1}, counted=False),
        Lesson("options", 1800, {"choice": 0.8, "word": 0.15, "text": 0.05}, counted=False),
        Lesson("counts", 450, {"word": 0.6, "choice": 0.35, "text": 0.05}, rate=1.2e-3, decay=450),
        Lesson("choice", 800, {"choice": 0.9, "text": 0.1}, layers=LAYERS, rate=2e-3, decay=800),
    )
    videos: int = 16
    save_every: int = 200

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


def schedule(step: int, steps: int, warmup: int = 100) -> float:
    """The learning rate as a share of the highest: a linear warm-up, then a cosine down to 3 %."""
    return min((step + 1) / warmup, 0.03 + 0.97 * (1 + math.cos(math.pi * step / steps)) / 2)
