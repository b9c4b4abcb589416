"""What `analyse` measured of videos: its averages, tables, figure and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np

from vidcom2 import Compressor
from vidcom2.measures import FAR, Measures

from ..models.packaged import model_title
from ..results.provenance import provenance
from ..results.stats import mean_intervals
from ..results.tables import Rows
from .figures import Files, measure_panels

NUMBERS = tuple(field.name for field in fields(Measures) if field.name != "budgets")
"""The measures that are averaged over videos."""


@dataclass(frozen=True)
class Column:
    """How a measure is shown.

    Attributes:
        title: Heading in tables and figures.
        factor: What it is multiplied by, 100 for percent.
        digits: Digits behind the point.
    """

    title: str
    factor: float = 1
    digits: int = 1

    def cell(self, mean: float, low: float | None = None, high: float | None = None) -> str:
        """Write a mean with its interval, nothing where there is no mean, and the mean alone without an interval."""
        if isnan(mean):
            return ""
        text = f"{self.factor * mean:.{self.digits}f}"
        if low is None or high is None:
            return text
        return f"{text} [{self.factor * low:.{self.digits}f}, {self.factor * high:.{self.digits}f}]"


COLUMNS = {
    "retention": Column("kept, %", 100),
    "dimension": Column("effective dimension"),
    "rank": Column("effective rank"),
    "dimension_raw": Column("dimension about zero"),
    "overlap": Column("overlap of neighbours, %", 100),
    "overlap_random": Column("neighbours at random, %", 100),
    "overlap_far": Column(f"overlap, 1 to {FAR} apart, %", 100),
    "overlap_far_random": Column(f"1 to {FAR} apart at random, %", 100),
    "seen": Column("places seen, %", 100),
    "seen_random": Column("seen at random, %", 100),
    "share_min": Column("least of a frame, %", 100),
    "share_max": Column("most of a frame, %", 100),
    "gini": Column("Gini of budgets", 1, 2),
    "nqe": Column("L2-NQE", 1, 3),
    "coverage": Column("coverage, %", 100),
}
"""The measures of tables, in order."""
PANELS = ("dimension", "rank", "overlap", "overlap_far", "seen", "gini", "nqe", "coverage")
"""The measures of the figure."""


@dataclass(frozen=True)
class Setting:
    """A method at a retention.

    Attributes:
        method: The method as the user writes it, without retention.
        compressor: The compressor.
    """

    method: str
    compressor: Compressor

    @property
    def name(self) -> str:
        """What tables call it."""
        return self.method if not self.compressor.drops else f"{self.method}@{self.compressor.retention:g}"


@dataclass(frozen=True)
class Analysed:
    """A video, measured.

    Attributes:
        video: Its file.
        shape: Frames T, tokens per frame M, hidden size D.
        measures: By spec of the compressor.
    """

    video: str
    shape: tuple[int, int, int]
    measures: dict[str, Measures]


@dataclass(frozen=True)
class Failure:
    """What could not be measured.

    Attributes:
        video: The file.
        error: Why.
        compressor: The spec of the one compressor that failed. None if the video did.
    """

    video: str
    error: str
    compressor: str | None = None

    def __str__(self) -> str:
        return f"{self.video}{f', {self.compressor}' if self.compressor else ''}: {self.error}"


@dataclass
class Analysis:
    """All that was measured, as far as it got.

    Attributes:
        settings: The settings, dense first.
        videos: The measured videos.
        failures: What could not be measured.
    """

    settings: Sequence[Setting]
    videos: list[Analysed] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def summary(self, setting: Setting) -> tuple[int, dict[str, tuple[float, float, float]]]:
        """Return of how many videos a setting was measured, and by measure the mean with its 95 % bootstrap interval.

        A measure that a video does not have makes them NaN.
        """
        mine = [video.measures[spec] for video in self.videos if (spec := setting.compressor.spec) in video.measures]
        if not mine:
            return 0, {}
        values = np.array([[getattr(one, name) for name in NUMBERS] for one in mine], dtype=np.float64)  # None is NaN
        return len(mine), dict(zip(NUMBERS, map(tuple, mean_intervals(values).T.tolist()), strict=True))


# ---- what is said of it


def title(model: str, videos: int, still: bool) -> str:
    """Return the figure's title."""
    what = f"{videos} video{'s' * (videos != 1)}{', each held still' if still else ''}"
    return f"What methods keep of {what} ({model_title(model)})"


def rows(analysis: Analysis) -> Rows:
    """Return the table: a line for each setting, with means over videos and their intervals."""
    table: Rows = [("", *(column.title for column in COLUMNS.values()))]
    for setting in analysis.settings:
        videos, means = analysis.summary(setting)
        if means:
            table.append((setting.name, *(cell(name, means, videos) for name in COLUMNS)))
    return table


def cell(name: str, means: Mapping[str, tuple[float, float, float]], videos: int) -> str:
    """Write a measure, with its interval if there are several videos."""
    mean, low, high = means[name]
    return COLUMNS[name].cell(mean, low, high) if videos > 1 and low < high else COLUMNS[name].cell(mean)


def notes(analysis: Analysis, still: bool) -> list[str]:
    """Say below the table what it is of."""
    videos = len(analysis.videos)
    shapes = sorted({video.shape[:2] for video in analysis.videos})
    sizes = ", ".join(f"{frames} x {m}" for frames, m in shapes[:3]) + (" and others" if len(shapes) > 3 else "")
    said = [f"{videos} video{'s' * (videos != 1)} of {sizes} tokens (frames x tokens per frame)."]
    if still:
        said.append("Every frame is the video's first one (--still).")
    if videos > 1:
        said.append("Means over videos, with 95 % bootstrap intervals; without one, all videos are equal.")
    for setting in analysis.settings:
        measured, _ = analysis.summary(setting)
        if measured < videos:
            said.append(f"Measured on {measured} of them only: {setting.name}.")
    return [*said, "docs/analysing.md says what each measure means."]


def draw(analysis: Analysis, path: Path, heading: str) -> Files:
    """Draw the measures over retention. Return the files, png, pdf and svg."""
    means = {setting: one for setting in analysis.settings if (one := analysis.summary(setting)[1])}
    panels: dict[str, dict[str, list[tuple[float, float, float, float]]]] = {}
    dense: dict[str, float] = {}
    for name in PANELS:
        column = COLUMNS[name]
        lines = panels.setdefault(column.title, {})
        for setting, measures in means.items():
            mean, low, high = (column.factor * value for value in measures[name])
            if isnan(mean):
                continue
            if setting.compressor.drops:
                lines.setdefault(setting.method, []).append((100 * measures["retention"][0], mean, low, high))
            else:
                dense[column.title] = mean
    return measure_panels({name: lines for name, lines in panels.items() if lines}, dense, path, heading)


def as_json(analysis: Analysis, model: str, frames: int, still: bool, each: bool = True) -> dict[str, Any]:
    """Return everything, ready for JSON.

    Args:
        analysis: What was measured.
        model: The model.
        frames: The most frames of a video.
        still: Whether every frame was the first one.
        each: Whether every single video is in it.
    """
    settings = []
    for setting in analysis.settings:
        videos, means = analysis.summary(setting)
        of = {name: None if isnan(mean) else [mean, low, high] for name, (mean, low, high) in means.items()}
        one = {"compressor": setting.compressor.spec, "retention": setting.compressor.retention, "videos": videos}
        settings.append({"method": setting.method, **one, "measures": of})
    return {
        **asdict(provenance()),
        "model": model_title(model),
        "frames": frames,
        "still": still,
        "videos": len(analysis.videos),
        "of_measures": "mean over videos, lower and upper end of its 95 % bootstrap interval",
        "settings": settings,
        "failures": [asdict(failure) for failure in analysis.failures],
        **({"measured": [asdict(video) for video in analysis.videos]} if each else {}),
    }
