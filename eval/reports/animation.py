"""A `Look` as a moving picture: its frames at the video's speed, dropped tokens dark, and below a bar of the budget."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont

from ..results.files import writing
from .drawing import THEMES, Theme, height_of, kept_picture
from .flags import ANIMATIONS
from .layout import DPI, in_font, wrapped
from .look import Look

LONGEST = dict(zip(ANIMATIONS, (640, 400), strict=True))
"""Pixels of a picture's longer side, by the file's ending."""
TEXT = 13
"""Height of the text in pixels."""
BAR = 10
"""Height of the bar in pixels."""
EDGE = 8
"""Pixels between things."""
CODECS = ("libx264", "mpeg4")
"""Codecs of mp4 files, the first that PyAV was built with is taken."""
SHORTEST = 20
"""Milliseconds of a picture in a GIF, at least: browsers show shorter ones for longer."""


def animate(look: Look, path: Path, theme: Theme = THEMES["light"], codec: str | None = None) -> Path:
    """Write the frames as a video or a GIF that plays at the speed of the video.

    Each frame stays until the second at which the next one is shown in the video; the last one as long as the others
    do on average, or a second if it is the only one.

    Args:
        look: The look.
        path: The file. Its ending is one of ANIMATIONS.
        theme: Colours of the part below the picture.
        codec: Of an mp4 file. None for the first of CODECS that there is.

    Returns:
        `path`.

    Raises:
        Unwritable: The file cannot be written.
        ValueError: The ending is another one.
    """
    kind = path.suffix.removeprefix(".")
    if kind not in LONGEST:
        raise ValueError(f"{path} ends neither in .{' nor in .'.join(LONGEST)}")
    longest = LONGEST[kind]
    height, width = look.frames.shape[1:3]
    wide = even(longest if width >= height else longest * width / height)
    pictures = [composed(look, t, wide, theme) for t in range(len(look.frames))]
    with writing(path):
        if kind == "gif":
            write_gif(path, pictures, [int(ms) for ms in np.maximum(durations(look.seconds), SHORTEST)])
        else:
            chosen = codec or next(name for name in CODECS if name in av.codecs_available)
            write_mp4(path, pictures, durations(look.seconds), chosen)
    return path


def even(size: float) -> int:
    """Return the nearest even number of pixels, at least 2: 4:2:0 chroma needs it."""
    return max(2, 2 * round(size / 2))


def durations(seconds: np.ndarray) -> np.ndarray:
    """Return how long each frame stays, int64 [T] in milliseconds of at least 1, from the seconds it is shown at, [T].

    Rounded so that errors do not add up.
    """
    if len(seconds) == 1:
        return np.array([1000])
    at = np.round(1000 * (seconds - seconds[0])).astype(np.int64)
    steps = np.maximum(np.diff(at), 1)
    return np.append(steps, max(1, round(float(steps.mean()))))


def composed(look: Look, t: int, width: int, theme: Theme) -> np.ndarray:
    """Draw frame t with its kept tokens, and below what it keeps and whose eyes it shows: uint8 [height, width, 3].

    Width and height are even.
    """
    picture = kept_picture(look, t, width)
    top = height_of(look, width)
    caption = _lines(in_font(" · ".join(look.facts)), width)
    warning = _lines(look.eyes.warning or "", width)
    m, kept = look.kept[t].size, int(look.kept[t].sum())
    heading = _lines(f"frame {t + 1} of {len(look.frames)} · {look.seconds[t]:.2f} s · keeps {kept} of {m}", width)
    # The heading of every frame gets the room of the longest one, so that nothing below moves.
    longest = f"frame {len(look.frames)} of {len(look.frames)} · {look.seconds[-1]:.2f} s · keeps {m} of {m}"
    rows = max(len(heading), len(_lines(longest, width)))
    line = TEXT + 4
    bar = top + EDGE + rows * line
    words = bar + BAR + EDGE
    canvas = Image.new("RGB", (width, even(words + (len(caption) + len(warning)) * line + EDGE)), theme.paper)
    canvas.paste(Image.fromarray(picture), (0, 0))
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.truetype(findfont("DejaVu Sans"), TEXT)
    for number, text in enumerate(heading):
        draw.text((EDGE, top + EDGE + number * line), text, theme.ink, font)
    room = width - 2 * EDGE
    draw.rectangle((EDGE, bar, EDGE + room - 1, bar + BAR - 1), outline=theme.faint)
    if filled := round(room * kept / m):
        draw.rectangle((EDGE, bar, EDGE + filled - 1, bar + BAR - 1), fill=theme.budget)
    for number, text in enumerate([*caption, *warning]):
        colour = theme.faint if number < len(caption) else theme.warning
        draw.text((EDGE, words + number * line), text, colour, font)
    return np.array(canvas)


def _lines(text: str, width: int) -> list[str]:
    return wrapped(text, (width - 2 * EDGE) / DPI, TEXT * 72 / DPI)


def write_mp4(path: Path, pictures: list[np.ndarray], milliseconds: np.ndarray, codec: str) -> None:
    """Write pictures, uint8 [H, W, 3] with even H and W, as a video in which each has its own duration."""
    base = Fraction(1, 1000)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=round(1000 / float(milliseconds.mean())) or 1)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base, stream.codec_context.max_b_frames = base, 0  # the last packet says the length
        if codec == "mpeg4":
            stream.codec_context.qmax = 4
        start = 0
        for picture, duration in zip(pictures, milliseconds.tolist(), strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.duration, frame.time_base = start, duration, base
            container.mux(stream.encode(frame))
            start += duration
        container.mux(stream.encode(None))


def write_gif(path: Path, pictures: list[np.ndarray], milliseconds: list[int]) -> None:
    """Write pictures, uint8 [H, W, 3], as a GIF without end. It counts hundredths of a second."""
    ends = np.round(np.cumsum(milliseconds) / 10).astype(int)
    hundredths = np.diff(ends, prepend=0)
    images = [Image.fromarray(picture).quantize(256, dither=Image.Dither.NONE) for picture in pictures]
    images[0].save(
        path, save_all=True, append_images=images[1:], duration=(10 * hundredths).tolist(), loop=0, disposal=1
    )
