"""Colours by the file's own tags, against the standards' formulas. No library converts the YUV of these files."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from llava.video import FrameSampling, VideoError, read_video

BARS = np.array([(200, 60, 60), (60, 200, 60), (60, 60, 200), (200, 200, 60), (20, 20, 20), (235, 235, 235)], float)
WEIGHTS = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593), 2: (0.299, 0.114)}
"""Weights of red and blue in luma, by ITU-T H.273 matrix coefficients. 2 (unspecified) means BT.601, as for decord."""


def yuv(rgb: np.ndarray, matrix: int, full: bool, depth: int) -> np.ndarray:
    """Return rounded Y, U, V of colours [N, 3] by ITU-R BT.601, BT.709 or BT.2020 (non-constant luminance)."""
    red, blue = WEIGHTS[matrix]
    luma = rgb @ np.array([red, 1 - red - blue, blue])
    chroma = [(rgb[:, 2] - luma) / (2 - 2 * blue), (rgb[:, 0] - luma) / (2 - 2 * red)]
    levels, scale = 2**depth - 1, 2 ** (depth - 8)
    if full:
        planes = [luma / 255 * levels, *(c / 255 * levels + 128 * scale for c in chroma)]
    else:
        planes = [scale * (16 + luma / 255 * 219), *(scale * (128 + c / 255 * 224) for c in chroma)]
    return np.stack(planes, axis=1).round()


def write(
    path: Path, matrix: int, full: bool, pix_fmt: str, height: int, width: int, tagged_range: bool = True
) -> None:
    """Write upright bars of equal width in H.264, almost without loss."""
    depth = 10 if "10" in pix_fmt else 8
    bars = yuv(BARS, matrix, full, depth)
    with av.open(str(path), "w") as target:
        stream = target.add_stream("libx264", rate=24)
        stream.height, stream.width, stream.pix_fmt = height, width, pix_fmt
        stream.options = {"qp": "1", "preset": "ultrafast"}
        if matrix != 2:
            stream.codec_context.colorspace = matrix
        if tagged_range:
            stream.codec_context.color_range = 2 if full else 1
        for _ in range(3):
            frame = av.VideoFrame(width, height, pix_fmt)
            for plane, levels in zip(frame.planes, bars.T, strict=True):
                line = np.repeat(levels, -(-plane.width // len(BARS)))[: plane.width]
                kind = np.uint16 if depth > 8 else np.uint8
                picture = np.zeros((plane.height, plane.line_size // np.dtype(kind).itemsize), kind)
                picture[:, : plane.width] = line
                plane.update(picture)
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))


@pytest.mark.parametrize(("height", "width"), [(48, 96), (720, 1296)])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p", "yuv420p10le"])
@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", WEIGHTS)
def test_colours_are_those_that_the_tags_say(
    matrix: int, full: bool, pix_fmt: str, height: int, width: int, tmp_path: Path
) -> None:
    write(tmp_path / "bars.mp4", matrix, full, pix_fmt, height, width)
    frames = read_video(tmp_path / "bars.mp4", FrameSampling("uniform", max_frames=2)).frames
    bar = width // len(BARS)
    for number, colour in enumerate(BARS):
        inside = frames[:, :, number * bar + 4 : (number + 1) * bar - 4].astype(float)
        # A wrong matrix or range is off by 8 or more somewhere; rounding to 8 bits by at most 4.
        assert np.abs(inside - colour).max() <= 4, (number, inside.mean(axis=(0, 1, 2)))


@pytest.mark.parametrize("matrix", WEIGHTS)
@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
def test_eight_bit_colours_are_decords(matrix: int, full: bool, tmp_path: Path) -> None:
    pytest.importorskip("decord")
    write(tmp_path / "bars.mp4", matrix, full, "yuv420p", 64, 96)
    ours, theirs = (
        read_video(tmp_path / "bars.mp4", FrameSampling("uniform", max_frames=2), by) for by in ("exact", "decord")
    )
    np.testing.assert_array_equal(ours.frames, theirs.frames)


def test_a_range_that_is_not_tagged_is_limited(tmp_path: Path) -> None:
    write(tmp_path / "bars.mp4", 1, False, "yuv420p", 48, 96, tagged_range=False)
    frames = read_video(tmp_path / "bars.mp4", FrameSampling("uniform", max_frames=1)).frames
    assert np.abs(frames[0, 24, 8::16].astype(float) - BARS).max() <= 4


def test_colours_that_cannot_be_converted_are_an_error(tmp_path: Path) -> None:
    """YCgCo, which FFmpeg would read as BT.601, with every colour wrong."""
    write(tmp_path / "bars.mp4", 2, False, "yuv444p", 48, 96)
    data = tmp_path / "tagged.mp4"
    with av.open(str(tmp_path / "bars.mp4")) as source, av.open(str(data), "w") as target:
        stream = target.add_stream("libx264", rate=24)
        stream.height, stream.width, stream.pix_fmt = 48, 96, "yuv444p"
        stream.codec_context.colorspace = 8
        for frame in source.decode(video=0):
            target.mux(stream.encode(frame.reformat(format="yuv444p")))
        target.mux(stream.encode(None))
    with pytest.raises(VideoError, match=r"its colours are tagged with matrix 8 of ITU-T H\.273"):
        read_video(data, FrameSampling("uniform", max_frames=1))
