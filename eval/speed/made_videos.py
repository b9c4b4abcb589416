"""Long videos for the benchmark of decoders: a few segments are encoded once and joined many times."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import numpy as np
from PIL import Image

from llava.video import open_video

from ..demo.encode import write_video

FPS = 25
SEGMENT = 10
"""Seconds per segment."""
GRAIN = 2.0
"""Usual grain of the hills, in levels of 255: x264 writes them at 0.7 Mbit/s in 640x360, and real clips at similar
rates. With 4 levels it takes 1.0 Mbit/s."""


def parse_sizes(flag: str, text: str) -> list[tuple[int, int]]:
    """Parse sizes of pictures, such as "640x360,1920x1080".

    Args:
        flag: The argument that holds them, for the message.
        text: Its value.

    Returns:
        Width and height of each, in pixels.

    Raises:
        ValueError: Anything else.
    """
    sizes = []
    for part in text.split(","):
        found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", part.strip())
        if found is None:
            raise ValueError(f"{flag}: {part!r} is not width x height, such as 640x360")
        sizes.append((int(found[1]), int(found[2])))
    return sizes


def pictures(size: tuple[int, int], count: int, seed: int, grain: float) -> np.ndarray:
    """Draw a landscape of random hills that moves and grows brighter, under grain that is new in every picture.

    Args:
        size: Width and height in pixels.
        count: Number of pictures T.
        seed: Seed of hills and grain.
        grain: Standard deviation of the grain, in levels of 255.

    Returns:
        RGB pictures, uint8 [T, H, W, 3].
    """
    width, height = size
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = rng.uniform(-0.1, 0.1, (6, 2)), rng.uniform(0, 7, (6, 3)), rng.uniform(-0.5, 0.5, 6)
    frames = np.empty((count, height, width, 3), dtype=np.uint8)
    for t, frame in enumerate(frames):
        hills = np.zeros((height, width, 3), dtype=np.float32)
        for (a, b), phase, pace in zip(*waves, strict=True):
            hills += np.sin((a * x + b * y + pace * t)[..., None] + phase)
        noise = rng.normal(0, grain, (height, width, 1)).astype(np.float32)
        frame[:] = np.clip(110 + 20 * hills + noise + 20 * t / count, 0, 255)
    return frames


def source_pictures(source: Path, size: tuple[int, int]) -> Callable[[int], np.ndarray]:
    """Take the pictures of segments from a video's first SEGMENT seconds, resized.

    A shorter video is played to its end and back until the segment is full.

    Args:
        source: The video file.
        size: Width and height in pixels.

    Returns:
        A function from a segment's number to its pictures, uint8 [T, H, W, 3] with T = SEGMENT * FPS. Segments differ
        in being mirrored or upside down.
    """
    with open_video(source) as video:
        _, frames = video.sample(lambda count, fps: list(range(min(count, SEGMENT * FPS))))
    resized = np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)) for frame in frames])
    there_and_back = [*range(len(resized)), *range(len(resized) - 2, 0, -1)]
    order = np.resize(there_and_back, SEGMENT * FPS)
    flips = (slice(None), (slice(None), slice(None), slice(None, None, -1)), (slice(None), slice(None, None, -1)))
    return lambda number: np.ascontiguousarray(resized[order][flips[number % len(flips)]])


def write_segment(path: Path, frames: np.ndarray) -> Path:
    """Encode a segment's pictures, uint8 [T, H, W, 3], with x264's defaults. It starts with a key frame."""
    write_video(path, frames, FPS, reproducible=False)
    return path


def join(path: Path, segments: Sequence[Path], seconds: int) -> Path:
    """Join segments in turn, without encoding them again.

    Args:
        path: The file to write.
        segments: Files that `write_segment` wrote.
        seconds: Length of the result, a multiple of SEGMENT.

    Returns:
        `path`.
    """
    sources = [av.open(str(segment)) for segment in segments]
    try:
        with av.open(str(path), "w") as target:
            stream = target.add_stream_from_template(sources[0].streams.video[0])
            for number in range(seconds // SEGMENT):
                source = sources[number % len(sources)]
                source.seek(0)
                for packet in source.demux(video=0):
                    if packet.pts is None or packet.dts is None:  # the packet that flushes the decoder
                        continue
                    shift = int(number * SEGMENT / packet.time_base)
                    packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                    target.mux(packet)
    finally:
        for source in sources:
            source.close()
    return path
