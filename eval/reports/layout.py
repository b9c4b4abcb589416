"""Where things are on a sheet, in inches: how frames wrap into lines, and how wide a text is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font

DPI = 200
"""Pixels per inch, of PNG files and of the pictures in the others."""
GAP = 0.04
"""Inches between two frames, at least."""
SMALL = 6.0
"""Size of most texts, in points."""
LEAST = 0.26
"""Inches that a frame is wide, at least, where many frames share a sheet."""
TALLEST = 2.4
"""Inches that a frame is high, at most, where few frames share a sheet."""
LINE = 1.45
"""Distance of two lines of text, in sizes of the text."""


@lru_cache(maxsize=4096)
def text_width(text: str, points: float = SMALL) -> float:
    """Return how wide a text is in a PNG file, in inches, in matplotlib's usual font. In PDF it is hardly narrower."""
    width, _, _ = RendererAgg(1, 1, DPI).get_text_width_height_descent(text, FontProperties(size=points), ismath=False)
    return float(width) / DPI


def in_font(text: str) -> str:
    """Return text with a box in the place of each character that matplotlib's usual font lacks, such as Chinese."""
    font = get_font(findfont(FontProperties()))
    return "".join(char if font.get_char_index(ord(char)) else "\N{WHITE SQUARE}" for char in text)


def text_height(points: float = SMALL, lines: int = 1) -> float:
    """Return how high lines of text are, in inches."""
    return lines * LINE * points / 72


def wrapped(text: str, width: float, points: float = SMALL) -> list[str]:
    """Break text at spaces into lines of at most `width` inches. A longer word breaks where it has to."""
    lines: list[str] = []
    for word in text.split():
        if lines and text_width(f"{lines[-1]} {word}", points) <= width:
            lines[-1] += f" {word}"
            continue
        while text_width(word, points) > width and len(word) > 1:
            fits = next(n for n in range(len(word) - 1, 0, -1) if n == 1 or text_width(word[:n], points) <= width)
            lines.append(word[:fits])
            word = word[fits:]
        lines.append(word)
    return lines


def shortened(text: str, width: float, points: float = SMALL) -> str:
    """Return text that is at most `width` inches wide: where it is longer, without a part of its middle."""
    if text_width(text, points) <= width:
        return text
    shorter = (f"{text[:half]}…{text[-half:]}" for half in range(len(text) // 2, 0, -1))
    return next((one for one in shorter if text_width(one, points) <= width), text[:1])


@dataclass(frozen=True)
class Grid:
    """Frames in lines. All sizes are whole numbers of pixels of 1/DPI inch, so that pictures stay as they are.

    Attributes:
        count: Number of frames T.
        columns: Frames in a line.
        pitch: Inches from one frame to the next.
        width: Inches that a frame is wide.
        height: Inches that a frame is high.
        label: Inches above each frame, for its label.
        strip: Inches below each frame.
    """

    count: int
    columns: int
    pitch: float
    width: float
    height: float
    label: float
    strip: float = 0

    @property
    def lines(self) -> int:
        """Number of lines."""
        return math.ceil(self.count / self.columns)

    @property
    def line(self) -> float:
        """Inches from one line to the next."""
        return self.label + self.height + self.strip + GAP

    @property
    def total(self) -> float:
        """Height of all lines, in inches."""
        return self.lines * self.line

    def corner(self, t: int) -> tuple[float, float]:
        """Return the upper left corner (x, y) of frame t, in inches from that of the grid."""
        line, column = divmod(t, self.columns)
        return whole(column * self.pitch + (self.pitch - self.width) / 2), whole(line * self.line + self.label)


def whole(inches: float) -> float:
    """Return the nearest length that is a whole number of pixels."""
    return round(inches * DPI) / DPI


def grid(count: int, aspect: float, width: float, most: float, columns: int | None = None, strip: float = 0) -> Grid:
    """Wrap frames into lines, so that they are as large as the room allows.

    Args:
        count: Number of frames.
        aspect: Height of a frame, its width being 1.
        width: Inches that a line is wide.
        most: Inches that all lines should be high at most. Frames do not become narrower than LEAST for it.
        columns: Frames in a line. None finds a number.
        strip: Inches to leave below each frame.
    """
    label = text_height() + 0.03
    usual = max(2, round(1.15 * width * math.sqrt(aspect)))
    for across in [columns] if columns else range(min(count, usual), count + 1):
        pitch = width / across
        wide = min(max(pitch - GAP, 1 / DPI), TALLEST / aspect, TALLEST * 1.5)
        pixels = max(1, math.floor(wide * DPI + 1e-6))
        tall = max(1, round(pixels * aspect)) / DPI
        found = Grid(count, across, pitch, pixels / DPI, tall, whole(label), whole(strip))
        if found.total <= most or width / (across + 1) - GAP < LEAST:
            break
    return found


def fitting(choices: Sequence[Sequence[str]], width: float, points: float = SMALL) -> tuple[int, float]:
    """Choose labels that are all at most `width` inches wide.

    Args:
        choices: Labels of all frames, the longest first.
        width: Inches.
        points: The usual size.

    Returns:
        The index of the first choice that fits, and the size to write it in. If none fits, the last one, as small as it
        has to be.
    """
    for index, choice in enumerate(choices):
        if max(text_width(label, points) for label in choice) <= width:
            return index, points
    widest = max(text_width(label, points) for label in choices[-1])
    return len(choices) - 1, points * width / widest


def ticks(count: int, width: float, points: float = SMALL) -> list[int]:
    """Return the numbers of frames, from 1 on, that have room below an axis of `width` inches."""
    room = text_width(str(count), points) + 0.08
    steps = (base * 10**power for power in range(9) for base in (1, 2, 5))
    step = next(step for step in steps if step * width / count >= room or step >= count)
    return [1] if count == 1 else list(range(step, count + 1, step))


def blank(width: float, height: float, paper: str) -> tuple[Figure, Axes]:
    """Return a figure of a size in inches, and axes over all of it, in inches from its upper left corner."""
    figure = Figure(figsize=(whole(width), whole(height)), dpi=DPI, facecolor=paper)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, whole(width)), ylim=(whole(height), 0))
    axes.axis("off")
    return figure, axes
