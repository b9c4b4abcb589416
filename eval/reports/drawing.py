"""Pictures of a `Look` in pixels: frames with their kept tokens, tokens in the colours of their uniqueness."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Colormap, to_rgb
from PIL import Image

from .look import Look

DIMMED = 0.2
"""Brightness of dropped tokens, 1 being that of the frame."""
OUTLINE = "#E69F00"
"""Colour of the line around kept tokens (Okabe and Ito's orange)."""
MAP = "viridis"
"""matplotlib's name of the colours of uniqueness: even to the eye, and for the colour-blind, too."""
LEAST_TOP = 1e-3
"""The smallest difference in uniqueness that fills the scale. Smaller ones are as good as none: tau is 0.01."""

SMALLEST = 5
"""Pixels of a token that gets a line around it, at least."""


@dataclass(frozen=True)
class Theme:
    """Colours of a figure, as matplotlib takes them.

    Attributes:
        paper: Its background.
        ink: Text and axes.
        faint: Text that matters less, and grids.
        budget: Bars of kept tokens.
        warning: Text that must not be missed.
    """

    paper: str
    ink: str
    faint: str
    budget: str
    warning: str


THEMES = {
    "light": Theme("#ffffff", "#1a1a1a", "#5f6368", "#D55E00", "#a8321a"),
    "dark": Theme("#15171c", "#ececec", "#a3a8b0", "#E69F00", "#ff9d80"),
}
"""By the name that --theme takes."""


@dataclass(frozen=True)
class Scale:
    """From uniqueness to colour: one scale for the frames and the tokens of a video.

    Its zero is the least unique frame; single tokens may be below. Colours go with the square root of the distance from
    zero, so that frames, which differ little, can be told apart beside tokens, which differ much.

    Attributes:
        zero: Uniqueness of the least unique frame.
        low: The least unique token or frame, above `zero`: 0 or negative.
        top: The most unique token or frame, above `zero`.
    """

    zero: float
    low: float
    top: float

    @classmethod
    def of(cls, look: Look) -> Scale:
        """Return the scale of a video."""
        zero = float(look.uniqueness.min())
        above = np.concatenate([look.uniqueness, look.token_uniqueness.ravel()]) - zero
        return cls(zero, min(0.0, float(above.min())), max(float(above.max()), LEAST_TOP))

    @property
    def colours(self) -> Colormap:
        """The colours, for matplotlib."""
        return colormaps[MAP]

    def place(self, above: float | np.ndarray) -> np.ndarray:
        """Return where uniqueness above `zero` is on the scale, 0 being `low` and 1 `top`."""
        low, top, value = (np.sign(x) * np.sqrt(np.abs(x)) for x in (self.low, self.top, np.asarray(above, float)))
        return np.clip((value - low) / (top - low), 0, 1)

    def ticks(self, room: float) -> list[float]:
        """Return round values above `zero`, ascending, to write beside the scale.

        Args:
            room: What a number needs, as a share of the scale.
        """
        sizes = [base * 10.0**power for power in range(1, -6, -1) for base in (5, 2, 1)]
        found = [0.0]
        for value in (x for size in sizes for x in (size, -size)):
            near = min(abs(float(self.place(value) - self.place(other))) for other in found)
            if self.low <= value <= self.top and near >= room and float(self.place(value)) <= 1 - room / 2:
                found.append(value)
        return sorted(found)

    def colour(self, uniqueness: float | np.ndarray) -> np.ndarray:
        """Return the colour of a uniqueness, or of each in an array [...]: uint8 [..., 3]."""
        above = np.asarray(uniqueness, dtype=float) - self.zero
        return np.array(self.colours(self.place(above), bytes=True), dtype=np.uint8)[..., :3]


def pixels(colour: str) -> np.ndarray:
    """Return a colour that matplotlib knows as uint8 [3]."""
    return np.round(255 * np.array(to_rgb(colour))).astype(np.uint8)


def height_of(look: Look, width: int) -> int:
    """Return the height in pixels of a frame that is drawn `width` pixels wide."""
    return max(1, round(width * look.frames.shape[1] / look.frames.shape[2]))


def frame_picture(look: Look, t: int, width: int) -> np.ndarray:
    """Return frame t as it is, `width` pixels wide: uint8 [height, width, 3]."""
    image = Image.fromarray(look.frames[t])
    return np.array(image.resize((width, height_of(look, width)), Image.Resampling.LANCZOS))


def kept_picture(look: Look, t: int, width: int = 320) -> np.ndarray:
    """Draw frame t, dark where tokens were dropped, with a line around what is kept.

    Args:
        look: The look.
        t: Index of the frame.
        width: Width of the picture in pixels. The frame keeps its proportions.

    Returns:
        uint8 RGB [height, width, 3].
    """
    lit = lit_pixels(look, t, width)
    picture = frame_picture(look, t, width)
    picture = np.where(lit[..., None], picture, (DIMMED * picture).astype(np.uint8))
    return outlined(picture, lit, pixels(OUTLINE), thickness(look, width))


def token_picture(look: Look, t: int, scale: Scale, width: int = 320) -> np.ndarray:
    """Draw the tokens of frame t in the colours of their uniqueness, with a line around what is kept.

    Args:
        look: The look.
        t: Index of the frame.
        scale: The scale of the video, `Scale.of(look)`.
        width: Width of the picture in pixels.

    Returns:
        uint8 RGB [height, width, 3]. What no token covers is black.
    """
    row, column = cells(look, width)
    coloured = np.pad(scale.colour(look.token_uniqueness[t]), ((0, 1), (0, 1), (0, 0)))
    picture = coloured[row][:, column]
    lit, line = lit_pixels(look, t, width), thickness(look, width)
    # White alone would be lost on yellow, so it has a black line beside it.
    picture = outlined(picture, lit, np.zeros(3, dtype=np.uint8), 2 * line)
    return outlined(picture, lit, pixels("white"), line)


def cells(look: Look, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the row of tokens of each line of pixels, int [height], and the column of each column, int [width].

    Pixels that no token covers have the number of rows, or of columns.
    """
    row, column = (
        np.minimum((np.arange(size) + 0.5) / size / look.covered * count, count).astype(int)
        for size, count in zip((height_of(look, width), width), look.kept.shape[1:], strict=True)
    )
    return row, column


def lit_pixels(look: Look, t: int, width: int) -> np.ndarray:
    """Return where a kept token covers frame t, bool [height, width]."""
    row, column = cells(look, width)
    return np.pad(look.kept[t], ((0, 1), (0, 1)))[row][:, column]


def thickness(look: Look, width: int) -> int:
    """Return how thick the line around kept tokens is, in pixels; 0 where it would hide them, as they are so small."""
    token = min(width / look.kept.shape[2], height_of(look, width) / look.kept.shape[1]) * look.covered
    return 0 if token < SMALLEST else min(4, max(1, round(token / 16)))


def outlined(picture: np.ndarray, inside: np.ndarray, colour: np.ndarray, line: int) -> np.ndarray:
    """Return the picture with a line along the inner edge of an area.

    Args:
        picture: uint8 [height, width, 3].
        inside: The area, bool [height, width].
        colour: uint8 [3].
        line: Thickness of the line in pixels.
    """
    padded = np.pad(inside, line)
    height, width = inside.shape
    core = inside.copy()
    for step in range(1, line + 1):
        for y, x in ((step, 0), (-step, 0), (0, step), (0, -step)):
            core &= padded[line + y : line + y + height, line + x : line + x + width]
    return np.where((inside & ~core)[..., None], colour, picture)
