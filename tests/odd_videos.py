"""Videos that are unusual but fine, and files that are broken or not videos."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

FASTSTART = {"movflags": "faststart"}  # the index in front of the data instead of behind it


def noisy_frames(length: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Return uint8 [length, height, width, 3]. Every frame differs from the others, and from itself when turned."""
    rng = np.random.default_rng(length)
    frames = rng.integers(0, 40, (length, height, width, 3), dtype=np.uint8)
    for i, frame in enumerate(frames):
        frame[: height // 2] += np.uint8(200 * i // length)
        frame[:, : width // 4] += np.uint8(15)
    return frames


def encode(
    path: Path,
    frames: np.ndarray,
    pix_fmt: str = "yuv420p",
    ticks: Sequence[int] | None = None,
    container_options: dict[str, str] | None = None,
    keys: int = 250,
    reordered: int = 3,
    codec: str = "libx264",
) -> None:
    """Write a video, by default H.264 at 24 fps.

    Args:
        path: The file to write.
        frames: uint8 [T, H, W, 3].
        pix_fmt: FFmpeg's pixel format.
        ticks: When each frame is shown, in 1/240 s. None for 24 frames per second.
        container_options: The container's options.
        keys: Most frames from one key frame to the next.
        reordered: Most B-frames in a row.
        codec: PyAV's name of the encoder.
    """
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=24)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        stream.options = {"threads": "1", "g": str(keys)}
        if codec == "libx264":
            stream.options |= {"bf": str(reordered)}
        if ticks is not None:
            stream.codec_context.time_base = Fraction(1, 240)
        for i, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if ticks is not None:
                frame.pts, frame.time_base = ticks[i], Fraction(1, 240)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def turned(path: Path, clockwise: int) -> None:
    """Write a video with a display matrix that turns it by 90, 180 or 270 degrees, as phones do."""
    width, height = 128, 64
    encode(path, noisy_frames(12, height, width))
    a, b, c, d, x, y = {
        90: (0, 1, -1, 0, height, 0),
        180: (-1, 0, 0, -1, width, height),
        270: (0, -1, 1, 0, 0, width),
    }[clockwise]
    matrix = struct.pack(">9i", *(v << 16 for v in (a, b, 0, c, d, 0, x, y)), 1 << 30)
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 44  # of the display matrix in the track's header
    data[start : start + 36] = matrix
    path.write_bytes(data)


def variable_rate(path: Path) -> None:
    """Write 24 frames in one second, then 6 frames that stay for half a second each."""
    # PyAV gives a wrong length of such a file where frames are reordered.
    encode(path, noisy_frames(30), ticks=[*range(0, 240, 10), *range(240, 960, 120)], reordered=0)


def sound(path: Path, with_pictures: bool = False) -> None:
    with av.open(str(path), "w") as container:
        audio = container.add_stream("aac", rate=16000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 16000
        if with_pictures:
            video = container.add_stream("libx264", rate=24)
            video.height, video.width, video.pix_fmt = 48, 64, "yuv420p"
            pictures = [av.VideoFrame.from_ndarray(frame, format="rgb24") for frame in noisy_frames(24)]
            container.mux([packet for picture in [*pictures, None] for packet in video.encode(picture)])
        container.mux([*audio.encode(silence), *audio.encode(None)])


def no_frames(path: Path) -> None:
    """Write a video track without a frame."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        container.start_encoding()


def cut(path: Path, options: dict[str, str] | None = None, codec: str = "libx264") -> None:
    """Write half of a file, as an interrupted download leaves it."""
    encode(path, noisy_frames(72), container_options=options, keys=12, codec=codec)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


FINE: dict[str, Callable[[Path], None]] = {
    "one_frame.mp4": lambda path: encode(path, noisy_frames(1)),
    "two_frames.mp4": lambda path: encode(path, noisy_frames(2)),
    "variable_rate.mp4": variable_rate,
    "odd_size.mp4": lambda path: encode(path, noisy_frames(12, 47, 63), "yuv444p"),
    "wide.mp4": lambda path: encode(path, noisy_frames(12, 16, 1024)),
    "turned_90.mp4": lambda path: turned(path, 90),
    "turned_180.mp4": lambda path: turned(path, 180),
    "turned_270.mp4": lambda path: turned(path, 270),
    "ten_bits.mp4": lambda path: encode(path, noisy_frames(12), "yuv420p10le"),
    "grey.mp4": lambda path: encode(path, noisy_frames(12), "gray"),
    "starts_late.mp4": lambda path: encode(path, noisy_frames(12), ticks=range(480, 600, 10)),
    "fragments.mp4": lambda path: encode(
        path, noisy_frames(24), container_options={"movflags": "frag_keyframe+empty_moov"}
    ),
    "many_keys.mkv": lambda path: encode(path, noisy_frames(40), keys=8),
    "with_sound.mp4": lambda path: sound(path, with_pictures=True),
    "odd näme %03d.mp4": lambda path: encode(path, noisy_frames(12)),
    "narrow.mp4": lambda path: encode(path, noisy_frames(12, 64, 2)),
}
"""What writes each file, by file name."""

DECORD_CANNOT = {"narrow.mp4"}
"""Fine videos that raw decord cannot read."""

BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing.mp4": (lambda path: None, "no such file"),
    "directory.mp4": (lambda path: path.mkdir(), "not a file"),
    "empty.mp4": (lambda path: path.write_bytes(b""), "the file is empty"),
    "text.mp4": (lambda path: path.write_text("404 not found\n" * 99), "it is not a video"),
    "cut.mp4": (cut, "or was cut off"),
    "cut.mkv": (cut, "was cut off"),
    "cut.webm": (lambda path: cut(path, codec="libvpx"), "was cut off"),
    "cut.avi": (lambda path: cut(path, codec="mpeg4"), "was cut off"),
    "cut.flv": (lambda path: cut(path, codec="flv1"), "was cut off"),
    "cut_behind_index.mp4": (lambda path: cut(path, FASTSTART), "it was cut off: it has "),
    "cut_fragments.mp4": (lambda path: cut(path, {"movflags": "frag_keyframe+empty_moov"}), "it was cut off: it has "),
    "no_frames.mp4": (no_frames, "it has no pictures"),
    "sound_only.mp4": (sound, "it has no pictures"),
}
"""What writes each file, and what the default reader says about it, by file name."""
