"""Encode frames as small H.264 files."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def write_video(
    path: Path,
    frames: np.ndarray,
    fps: int | Fraction,
    container_options: Mapping[str, str] | None = None,
    reproducible: bool = True,
) -> None:
    """Encode frames as H.264 with 4:2:0 chroma.

    Args:
        path: The file to write. Its suffix names the container, such as .mp4.
        frames: RGB frames, uint8 [T, H, W, 3]; H and W must be even.
        fps: Frames per second.
        container_options: Options of FFmpeg's muxer, such as {"movflags": "faststart"}.
        reproducible: Whether the same frames always give the same bytes. This costs time: one thread encodes. Without
            it, x264 has its defaults.
    """
    with av.open(str(path), "w", options=dict(container_options or {})) as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        if reproducible:
            # With x264's macroblock tree, the first video of a process differs from later ones of the same frames.
            stream.options = {"threads": "1", "x264-params": "mbtree=0"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
