"""Sheets of a `Look`, for screens and for papers: uniqueness above the frames, kept tokens, tokens by uniqueness."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from .drawing import LEAST_TOP, OUTLINE, THEMES, Scale, Theme, frame_picture, kept_picture, thickness, token_picture
from .figures import save
from .layout import (
    DPI,
    GAP,
    SMALL,
    Grid,
    blank,
    fitting,
    grid,
    in_font,
    shortened,
    text_height,
    text_width,
    ticks,
    whole,
    wrapped,
)
from .look import Look

MARGIN = 0.08
"""Inches around everything."""
TITLE = 8.0
"""Size of a title, in points."""
LEFT = 0.66
"""Inches left of the bars, for the axes' numbers and names."""
WIDTHS = {"column": 3.3, "page": 7.0}
"""Inches, by the name that --width takes: a column of a paper in two columns, and both."""
NARROWEST, WIDEST = 2.5, 40
"""Inches that a sheet can be wide."""
SWATCH = 0.18
"""Inches that the small picture of a kept token needs."""
ABOVE = "uniqueness above that of the least unique frame"
"""What the scale of colours shows."""


@dataclass(frozen=True)
class Style:
    """How sheets look.

    Attributes:
        theme: Their colours.
        width: Their width in inches.
    """

    theme: Theme = THEMES["light"]
    width: float = WIDTHS["page"]

    @classmethod
    def parse(cls, theme: str, width: str) -> Style:
        """Read what --theme and --width say.

        Raises:
            ValueError: The theme is unknown, or the width is neither a name of WIDTHS nor inches that a sheet can have.
        """
        if theme not in THEMES:
            raise ValueError(f"--theme {theme!r} is unknown; there are {' and '.join(THEMES)}")
        try:
            inches = WIDTHS[width] if width in WIDTHS else float(width)
        except ValueError:
            inches = math.nan
        if not NARROWEST <= inches <= WIDEST:
            raise ValueError(
                f"--width {width!r} is no width of a sheet: write {', '.join(WIDTHS)}, or inches from {NARROWEST} to "
                f"{WIDEST}"
            )
        return cls(THEMES[theme], inches)

    @property
    def inner(self) -> float:
        """Inches between the margins."""
        return self.width - 2 * MARGIN

    @property
    def height(self) -> float:
        """Inches that a sheet should be high at most."""
        return max(1.3 * self.width, 7.0)


def draw_look(look: Look, output: Path, style: Style | None = None) -> list[Path]:
    """Draw all sheets into a directory, and return their files: each as png, pdf and svg."""
    sheets = {"uniqueness": uniqueness_sheet, "kept": kept_sheet, "tokens": token_sheet}
    return [file for name, sheet in sheets.items() for file in save(sheet(look, style or Style()), output / name)]


def kept_sheet(look: Look, style: Style) -> Figure:
    """Draw the frames, dark where tokens were dropped, with a line around what is kept."""
    return frames_sheet(look, style, f"Kept tokens: {look.method}", lambda t, width: kept_picture(look, t, width))


def token_sheet(look: Look, style: Style) -> Figure:
    """Draw the tokens of all frames in the colours of their uniqueness, with a line around what is kept."""
    scale, title = Scale.of(look), f"Uniqueness of tokens, and what {look.method} keeps"
    return frames_sheet(look, style, title, lambda t, width: token_picture(look, t, scale, width), scale)


def frames_sheet(
    look: Look, style: Style, title: str, picture: Callable[[int, int], np.ndarray], scale: Scale | None = None
) -> Figure:
    """Draw a picture of each frame, in lines, with a title, a key and a caption.

    Args:
        look: The look.
        style: How it looks.
        title: Printed above.
        picture: Draws frame t, a number of pixels wide: uint8 [height, width, 3].
        scale: The scale of the pictures' colours. None for frames in their own colours.
    """
    inner = style.inner
    heading, caption = wrapped(title, inner, TITLE), caption_lines(look, inner)
    top = whole(MARGIN + text_height(TITLE, len(heading)))
    rest = top + 2 * GAP + text_height(lines=3 + len(caption)) + (SCALE if scale else GAP) + MARGIN
    cells = grid(len(look.frames), aspect(look), inner, style.height - rest)
    labels, outlines = labels_of(look, cells), thickness(look, round(cells.width * DPI)) > 0
    if outlines:
        what = "outlined: kept" if scale else "outlined: kept; dark: dropped"
    else:
        what = "tokens too small to outline those that are kept" if scale else "bright: kept; dark: dropped"
    key = wrapped(f"{what}; {labels.meaning}", inner - SWATCH)
    below = top + cells.total + GAP
    end = below + text_height(lines=len(key)) + (SCALE if scale else GAP)
    figure, axes = blank(style.width, end + text_height(lines=len(caption)) + MARGIN, style.theme.paper)
    write(axes, MARGIN, MARGIN, heading, style.theme.ink, TITLE)
    film(axes, look, cells, labels, (MARGIN, top), picture, style)
    if outlines:
        swatch(axes, (MARGIN + 0.02, below + 0.02), OUTLINE if scale is None else "white")
    write(axes, MARGIN + (SWATCH if outlines else 0), below, key, style.theme.ink)
    if scale is not None:
        draw_scale(axes, scale, (MARGIN, below + text_height(lines=len(key))), style)
    write_caption(axes, caption, end, style)
    return figure


# ---- uniqueness

BARS, SHARES, BETWEEN = 1.15, 0.8, 0.12
"""Inches that the bars of uniqueness are high, those of kept tokens, and the space between them."""
NUMBERS = 0.3
"""Inches below the bars, for the frames' numbers and "frame"."""
STRIP = 0.05
"""Inches of the strip of colour below a frame."""
ONE_LINE = 16
"""Frames that stand below their bars, at most. More are wrapped into lines."""


def uniqueness_sheet(look: Look, style: Style) -> Figure:
    """Draw the frames' uniqueness and the share of each that is kept as bars, above the frames."""
    inner, count, scale = style.inner, len(look.frames), Scale.of(look)
    heading = wrapped(f"Uniqueness of frames, and tokens kept by {look.method}", inner, TITLE)
    note, caption = wrapped(extremes(look), inner), caption_lines(look, inner)
    plot, below_bars = inner - LEFT, count <= ONE_LINE * style.width / WIDTHS["page"]
    written = MARGIN + text_height(TITLE, len(heading))
    top = whole(written + text_height(lines=len(note)) + 2 * GAP)
    strip = (MARGIN + (LEFT if below_bars else 0), whole(top + BARS + BETWEEN + SHARES + NUMBERS))
    rest = strip[1] + GAP + SCALE + text_height(lines=2 + len(caption)) + MARGIN
    wide, across = (plot, count) if below_bars else (inner, None)
    cells = grid(count, aspect(look), wide, style.height - rest, across, STRIP)
    labels = labels_of(look, cells)
    key = wrapped(labels.meaning, inner)
    below = strip[1] + cells.total + GAP
    end = below + text_height(lines=len(key)) + SCALE
    figure, axes = blank(style.width, end + text_height(lines=len(caption)) + MARGIN, style.theme.paper)
    write(axes, MARGIN, MARGIN, heading, style.theme.ink, TITLE)
    write(axes, MARGIN, written, note, style.theme.faint)
    draw_bars(
        panel(figure, (MARGIN + LEFT, top, plot, BARS), style),
        panel(figure, (MARGIN + LEFT, top + BARS + BETWEEN, plot, SHARES), style),
        look,
        scale,
        (ticks(count, plot), min(0.8, cells.width / cells.pitch) if below_bars else 0.8),
        style,
    )
    film(axes, look, cells, labels, strip, lambda t, width: frame_picture(look, t, width), style)
    for t, colour in enumerate(scale.colour(look.uniqueness)):
        x, y = (a + b for a, b in zip(strip, cells.corner(t), strict=True))
        place = (x, y + cells.height + 0.01)
        axes.add_patch(Rectangle(place, cells.width, STRIP - 0.02, facecolor=colour / 255, linewidth=0))
    write(axes, MARGIN, below, key, style.theme.ink)
    draw_scale(axes, scale, (MARGIN, below + text_height(lines=len(key))), style)
    write_caption(axes, caption, end, style)
    return figure


def extremes(look: Look) -> str:
    """Say where the axis of uniqueness begins, and which frame is the most unique."""
    least, most = int(look.uniqueness.argmin()), int(look.uniqueness.argmax())
    if len(look.frames) == 1:
        return f"The only frame has u = {number(look.uniqueness[0])}: there is none to compare it with."
    if look.uniqueness[least] == look.uniqueness[most]:
        return f"All frames are equally unique: u = {number(look.uniqueness[least])}, where the axis begins."
    return (
        f"Least unique: frame {least + 1} with u = {number(look.uniqueness[least])}, where the axis begins; "
        f"most unique: frame {most + 1} with u = {number(look.uniqueness[most])}."
    )


def number(value: float) -> str:
    """Write a number with four decimals and a real minus."""
    return f"{value:.4f}".replace("-", "−")


def panel(figure: Figure, box: tuple[float, float, float, float], style: Style) -> Axes:
    """Add axes for bars. box: left and upper edge, width and height, in inches."""
    left, top, width, height = box
    wide, tall = figure.get_size_inches()
    axes = figure.add_axes((left / wide, 1 - (top + height) / tall, width / wide, height / tall))
    axes.set_facecolor(style.theme.paper)
    axes.spines[["top", "right"]].set_visible(False)
    for spine in axes.spines.values():
        spine.set_color(style.theme.faint)
        spine.set_linewidth(0.6)
    axes.tick_params(labelsize=SMALL, colors=style.theme.ink, width=0.5, length=2, pad=1.5)
    axes.xaxis.label.set_color(style.theme.ink)
    axes.yaxis.label.set_color(style.theme.ink)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=to_rgba(style.theme.faint, 0.3), linewidth=0.4)
    return axes


def draw_bars(upper: Axes, lower: Axes, look: Look, scale: Scale, bars: tuple[list[int], float], style: Style) -> None:
    """Draw the frames' uniqueness above its minimum, and the percentage of tokens that each keeps.

    Args:
        upper: Axes of the uniqueness.
        lower: Axes of the percentages.
        look: The look.
        scale: The scale of its uniqueness.
        bars: The frames whose number is written below, from 1 on, and how wide a bar is, 1 being its distance to the
            next one.
        style: How it looks.
    """
    places, above, (numbers, width) = range(len(look.frames)), look.uniqueness - scale.zero, bars
    upper.bar(places, above, color=scale.colour(look.uniqueness) / 255, width=width)
    upper.set_ylim(0, max(1.08 * float(above.max()), LEAST_TOP))
    upper.set_ylabel("uniqueness\nabove least", fontsize=SMALL)
    upper.tick_params(bottom=False, labelbottom=False)
    percent = 100 * look.shares
    lower.bar(places, percent, color=style.theme.budget, width=width)
    mean = float(percent.mean())
    lower.axhline(mean, color=style.theme.ink, linestyle="--", linewidth=0.7)
    lower.set_ylim(0, min(100, 1.3 * float(percent.max())) if percent.max() < 100 else 108)
    lower.set_ylabel(f"tokens kept, %\n(mean {mean:.1f})", fontsize=SMALL)
    for axes in (upper, lower):
        axes.set_xlim(-0.5, len(look.frames) - 0.5)
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_label_coords(-(LEFT - 0.02) / axes.bbox.width * DPI, 0.5)
        axes.yaxis.label.set_verticalalignment("top")
    lower.set_xticks([n - 1 for n in numbers], [str(n) for n in numbers])
    lower.set_xlabel("frame", fontsize=SMALL, labelpad=1)


# ---- pieces

SCALE = 0.42
"""Inches that the scale of colours is high, with its numbers."""


@dataclass(frozen=True)
class Labels:
    """What is written above the frames.

    Attributes:
        texts: One for each frame.
        points: Their size.
        meaning: What they say, in words.
    """

    texts: list[str]
    points: float
    meaning: str


def labels_of(look: Look, cells: Grid) -> Labels:
    """Return the labels that say the most and have room above the frames."""
    numbered, m = list(enumerate(look.kept.sum(axis=(1, 2)), start=1)), look.kept[0].size
    digits = 1 if len(look.seconds) < 2 or np.diff(look.seconds).min() >= 0.1 else 2
    timed = zip(numbered, look.seconds, strict=True)
    choices = {
        "number, second, and kept tokens": [f"{n} · {s:.{digits}f} s · {k} of {m}" for (n, k), s in timed],
        "number, and how many tokens are kept": [f"{n}: {k} of {m}" for n, k in numbered],
        "number and kept tokens": [f"{n}: {k}" for n, k in numbered],
        "number": [str(n) for n, _ in numbered],
    }
    chosen, points = fitting(list(choices.values()), cells.pitch - GAP)
    what, texts = list(choices.items())[chosen]
    return Labels(texts, points, f"above each frame: its {what}")


def film(
    axes: Axes,
    look: Look,
    cells: Grid,
    labels: Labels,
    corner: tuple[float, float],
    picture: Callable[[int, int], np.ndarray],
    style: Style,
) -> None:
    """Draw a picture of each frame, with its label above it, from the upper left `corner` on, in inches."""
    for t, text in enumerate(labels.texts):
        x, y = (a + b for a, b in zip(corner, cells.corner(t), strict=True))
        shown, place = picture(t, round(cells.width * DPI)), (x + cells.width / 2, y - 0.02)
        axes.imshow(shown, extent=(x, x + cells.width, y + cells.height, y), interpolation="none", aspect="auto")
        axes.text(*place, text, fontsize=labels.points, ha="center", va="bottom", color=style.theme.ink)


def swatch(axes: Axes, corner: tuple[float, float], colour: str) -> None:
    """Draw a small picture of a kept token. corner: upper left, in inches."""
    axes.add_patch(Rectangle(corner, 0.11, 0.08, facecolor="#777777", edgecolor="black", linewidth=1.6))
    axes.add_patch(Rectangle(corner, 0.11, 0.08, facecolor="none", edgecolor=colour, linewidth=0.8))


def draw_scale(axes: Axes, scale: Scale, corner: tuple[float, float], style: Style) -> None:
    """Draw the colours of uniqueness with their numbers. corner: upper left, in inches."""
    (x, y), width = corner, min(2.6, style.inner)
    write(axes, x, y, [ABOVE], style.theme.ink)
    upper = y + text_height() + 0.01
    axes.imshow(scale.colours(np.linspace(0, 1, 256))[None], extent=(x, x + width, upper + 0.08, upper), aspect="auto")
    for value in scale.ticks((text_width("+0.005") + 0.06) / width):
        place = float(scale.place(value)) * width
        axes.plot([x + place] * 2, [upper + 0.08, upper + 0.1], color=style.theme.ink, linewidth=0.5)
        text = f"{value:+g}".replace("-", "\N{MINUS SIGN}") if value else "0"
        middle = max(place, text_width(text) / 2)
        axes.text(x + middle, upper + 0.11, text, fontsize=SMALL, va="top", ha="center", color=style.theme.ink)


def aspect(look: Look) -> float:
    """Return the height of a frame, its width being 1."""
    return look.frames.shape[1] / look.frames.shape[2]


def caption_lines(look: Look, width: float) -> list[tuple[str, bool]]:
    """Return the caption in lines of at most `width` inches, each with whether it is a warning."""
    video, *others = map(in_font, look.facts)
    lines = wrapped(" · ".join([shortened(video, width / 2), *others]), width)
    return [*((line, False) for line in lines), *((line, True) for line in wrapped(look.eyes.warning or "", width))]


def write_caption(axes: Axes, lines: list[tuple[str, bool]], y: float, style: Style) -> None:
    """Write the caption from y inches on."""
    for number, (line, warns) in enumerate(lines):
        colour = style.theme.warning if warns else style.theme.faint
        write(axes, MARGIN, y + text_height(lines=number), [line], colour)


def write(axes: Axes, x: float, y: float, lines: list[str], colour: str, points: float = SMALL) -> None:
    """Write lines of text, each below the one before, from the upper left corner (x, y) on, in inches."""
    for number, line in enumerate(lines):
        place = (x, y + text_height(points, number))
        axes.text(*place, line, fontsize=points, va="top", ha="left", color=colour, parse_math=False)
