"""Sheets of a `Look`, for screens and for papers: uniqueness above the frames, kept tokens, tokens by uniqueness."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .drawing import LEAST_TOP, OUTLINE, THEMES, Scale, Theme, frame_picture, kept_picture, token_picture
from .figures import save
from .layout import (
    DPI,
    GAP,
    SMALL,
    Grid,
    blank,
    grid,
    labels,
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
LEFT = 0.52
"""Inches left of the bars, for the axes' numbers and names."""
WIDTHS = {"column": 3.3, "page": 7.0}
"""Inches, by the name that --width takes: a column of a paper in two columns, and both."""
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

    @property
    def inner(self) -> float:
        """Inches between the margins."""
        return self.width - 2 * MARGIN

    @property
    def most(self) -> float:
        """Inches that the frames of a sheet should be high at most."""
        return max(1.2 * self.width, 6.0)


def draw_look(look: Look, output: Path, style: Style | None = None) -> list[Path]:
    """Draw all sheets into a directory, and return their files: each as png, pdf and svg."""
    style = style or Style()
    sheets = {"uniqueness": uniqueness_sheet, "kept": kept_sheet, "tokens": token_sheet}
    return [file for name, sheet in sheets.items() for file in save(sheet(look, style), output / name)]


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
    cells = grid(len(look.frames), look.frames.shape[1] / look.frames.shape[2], inner, style.most)
    top = whole(MARGIN + text_height(TITLE, len(heading)))
    below = top + cells.total + GAP
    end = below + text_height() + (SCALE if scale else GAP)
    figure, axes = blank(style.width, end + text_height(lines=len(caption)) + MARGIN, style.theme.paper)
    write(axes, MARGIN, MARGIN, heading, style.theme.ink, TITLE)
    film(axes, look, cells, (MARGIN, top), picture, style)
    outline = OUTLINE if scale is None else "white"
    axes.add_patch(
        Rectangle((MARGIN + 0.02, below + 0.02), 0.11, 0.08, facecolor="black", edgecolor=outline, linewidth=1)
    )
    others = "; dark: dropped" if scale is None else ""
    write(axes, MARGIN + 0.18, below, [f"outlined: kept{others}"], style.theme.ink)
    if scale is not None:
        draw_scale(axes, scale, (MARGIN, below + text_height()), style)
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
    aspect = look.frames.shape[1] / look.frames.shape[2]
    cells = grid(count, aspect, plot if below_bars else inner, style.most, count if below_bars else None, STRIP)
    written = MARGIN + text_height(TITLE, len(heading))
    top = whole(written + text_height(lines=len(note)) + 2 * GAP)
    strip = (MARGIN + (LEFT if below_bars else 0), whole(top + BARS + BETWEEN + SHARES + NUMBERS))
    below = strip[1] + cells.total + 2 * GAP
    end = below + SCALE
    figure, axes = blank(style.width, end + text_height(lines=len(caption)) + MARGIN, style.theme.paper)
    write(axes, MARGIN, MARGIN, heading, style.theme.ink, TITLE)
    write(axes, MARGIN, written, note, style.theme.faint)
    draw_bars(
        panel(figure, (MARGIN + LEFT, top, plot, BARS), style),
        panel(figure, (MARGIN + LEFT, top + BARS + BETWEEN, plot, SHARES), style),
        look,
        scale,
        ticks(count, plot),
        style,
    )
    film(axes, look, cells, strip, lambda t, width: frame_picture(look, t, width), style)
    for t, colour in enumerate(scale.colour(look.uniqueness)):
        x, y = (a + b for a, b in zip(strip, cells.corner(t), strict=True))
        place = (x, y + cells.height + 0.01)
        axes.add_patch(Rectangle(place, cells.width, STRIP - 0.02, facecolor=colour / 255, linewidth=0))
    draw_scale(axes, scale, (MARGIN, below), style)
    write_caption(axes, caption, end, style)
    return figure


def extremes(look: Look) -> str:
    """Say where the axis of uniqueness begins, and which frame is the most unique."""
    least, most = int(look.uniqueness.argmin()), int(look.uniqueness.argmax())
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


def draw_bars(upper: Axes, lower: Axes, look: Look, scale: Scale, numbers: list[int], style: Style) -> None:
    """Draw the frames' uniqueness above its minimum, and the percentage of tokens that each keeps.

    Args:
        upper: Axes of the uniqueness.
        lower: Axes of the percentages.
        look: The look.
        scale: The scale of its uniqueness.
        numbers: Frames whose number is written below, from 1 on.
        style: How it looks.
    """
    places, above = range(len(look.frames)), look.uniqueness - scale.zero
    upper.bar(places, above, color=scale.colour(look.uniqueness) / 255, width=0.8)
    upper.set_ylim(0, max(1.08 * float(above.max()), LEAST_TOP))
    upper.set_ylabel("uniqueness\nabove least", fontsize=SMALL, labelpad=2)
    upper.tick_params(bottom=False, labelbottom=False)
    percent = 100 * look.shares
    lower.bar(places, percent, color=style.theme.budget, width=0.8)
    mean = float(percent.mean())
    lower.axhline(mean, color=style.theme.ink, linestyle="--", linewidth=0.7)
    lower.set_ylim(0, min(100, 1.3 * float(percent.max())) if percent.max() < 100 else 108)
    lower.set_ylabel(f"tokens kept, %\n(mean {mean:.1f})", fontsize=SMALL, labelpad=2)
    for axes in (upper, lower):
        axes.set_xlim(-0.5, len(look.frames) - 0.5)
        axes.locator_params(axis="y", nbins=4)
    lower.set_xticks([n - 1 for n in numbers], [str(n) for n in numbers])
    lower.set_xlabel("frame", fontsize=SMALL, labelpad=1)


# ---- pieces

SCALE = 0.42
"""Inches that the scale of colours is high, with its numbers."""


def film(
    axes: Axes,
    look: Look,
    cells: Grid,
    corner: tuple[float, float],
    picture: Callable[[int, int], np.ndarray],
    style: Style,
) -> None:
    """Draw a picture of each frame, with a label above it. corner: upper left, in inches."""
    kept, m = look.kept.sum(axis=(1, 2)), look.kept[0].size
    digits = 1 if len(look.seconds) < 2 or np.diff(look.seconds).min() >= 0.1 else 2
    full = [f"{t + 1} · {s:.{digits}f} s · {k} of {m}" for t, (s, k) in enumerate(zip(look.seconds, kept, strict=True))]
    short = [f"{t + 1}: {k} of {m}" for t, k in enumerate(kept)]
    chosen, points = labels(
        [full, short, [f"{t + 1}: {k}" for t, k in enumerate(kept)], [str(t + 1) for t in range(len(kept))]],
        cells.pitch - GAP,
    )
    for t, label in enumerate(chosen):
        x, y = (a + b for a, b in zip(corner, cells.corner(t), strict=True))
        shown = picture(t, round(cells.width * DPI))
        axes.imshow(shown, extent=(x, x + cells.width, y + cells.height, y), interpolation="none", aspect="auto")
        axes.text(
            x + cells.width / 2, y - 0.02, label, fontsize=points, ha="center", va="bottom", color=style.theme.ink
        )


def draw_scale(axes: Axes, scale: Scale, corner: tuple[float, float], style: Style) -> None:
    """Draw the colours of uniqueness with their numbers. corner: upper left, in inches."""
    (x, y), width = corner, min(2.6, style.inner)
    write(axes, x, y, [ABOVE], style.theme.ink)
    upper = y + text_height() + 0.01
    axes.imshow(scale.colours(np.linspace(0, 1, 256))[None], extent=(x, x + width, upper + 0.08, upper), aspect="auto")
    for value, place in scale.ticks(text_width("0.005") + 0.06, width):
        axes.plot([x + place] * 2, [upper + 0.08, upper + 0.1], color=style.theme.ink, linewidth=0.5)
        align = "left" if place == 0 else "center"
        axes.text(x + place, upper + 0.11, f"{value:g}", fontsize=SMALL, va="top", ha=align, color=style.theme.ink)


def caption_lines(look: Look, width: float) -> list[tuple[str, bool]]:
    """Return the caption in lines of at most `width` inches, each with whether it is a warning."""
    video, *others = look.facts
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
        axes.text(x, y + text_height(points, number), line, fontsize=points, va="top", ha="left", color=colour)
