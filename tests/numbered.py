"""Small videos with the frame number drawn into each frame, in the forms that readers get wrong."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

HEIGHT, WIDTH, LENGTH = 96, 160, 72
BITS = 8


def picture(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Draw uint8 [height, width, 3]: a block for each bit of `number`, and a dark corner that shows the orientation."""
    frame = np.full((height, width, 3), 90, np.uint8)
    block = width // BITS
    for bit in range(BITS):
        if number >> bit & 1:
            frame[height // 2 : height // 2 + 24, bit * block + 2 : (bit + 1) * block - 2] = 230
    frame[: height // 4, : width // 4] = (20, 20, 60)
    frame[-height // 8 :, : 8 + number] = 160
    return frame


def number(frame: np.ndarray) -> int:
    """Read the number from a frame [H, W, 3]. Returns -1 if its corner shows that it is not upright."""
    height, width = frame.shape[:2]
    corners = [frame[:8, :8], frame[:8, -8:], frame[-8 - height // 8 : -height // 8, :8]]
    dark, *others = (corner.mean() for corner in corners)
    if dark > 60 or min(others) < 60:
        return -1
    block = width // BITS
    means = [frame[height // 2 + 6 : height // 2 + 18, b * block + 5 : (b + 1) * block - 5].mean() for b in range(BITS)]
    return sum(1 << bit for bit, mean in enumerate(means) if mean > 150)


@dataclass(frozen=True)
class Case:
    """One video.

    Attributes:
        make: Writes the file.
        shown: Numbers of the frames that a player shows, in order.
        size: (height, width) of upright frames.
        special: What readers get wrong about it.
    """

    make: Callable[[Path], None]
    shown: Sequence[int] = range(LENGTH)
    size: tuple[int, int] = (HEIGHT, WIDTH)
    special: str = "nothing"


@dataclass(frozen=True)
class Encoding:
    """Writes a video of `length` numbered frames.

    Attributes:
        codec: PyAV's name of the encoder.
        options: The encoder's options.
        pix_fmt: FFmpeg's pixel format.
        keys: Most frames from one key frame to the next.
        b_frames: Most B-frames in a row.
        length: Number of frames.
        size: (height, width).
        ticks: When each frame is shown, in 1/240 s. None for 24 frames per second.
        container: The container's options.
        format: FFmpeg's format. None for the one that the file name says.
        sound: Whether there is an audio stream.
        interlaced: Whether fields are coded.
    """

    codec: str = "libx264"
    options: dict[str, str] = field(default_factory=dict)
    pix_fmt: str = "yuv420p"
    keys: int = 20
    b_frames: int = 2
    length: int = LENGTH
    size: tuple[int, int] = (HEIGHT, WIDTH)
    ticks: Sequence[int] | None = None
    container: dict[str, str] = field(default_factory=dict)
    format: str | None = None
    sound: bool = False
    interlaced: bool = False

    def __call__(self, path: Path) -> None:
        with av.open(str(path), "w", format=self.format, container_options=self.container) as target:
            stream = target.add_stream(self.codec, rate=24)
            stream.height, stream.width = self.size
            stream.pix_fmt = self.pix_fmt
            stream.codec_context.gop_size, stream.codec_context.max_b_frames = self.keys, self.b_frames
            stream.codec_context.thread_count = 1
            stream.options = self.options
            if self.interlaced:
                stream.codec_context.flags |= 1 << 18 | 1 << 29  # ildct, ilme
            if self.ticks is not None:
                stream.codec_context.time_base = Fraction(1, 240)
            audio = target.add_stream("aac", rate=16000) if self.sound else None
            for i in range(self.length):
                frame = av.VideoFrame.from_ndarray(picture(i, *self.size), format="rgb24")
                frame.pts, frame.time_base = (i * 10 if self.ticks is None else self.ticks[i]), Fraction(1, 240)
                target.mux(stream.encode(frame))
            target.mux(stream.encode(None))
            if audio is not None:
                silence = av.AudioFrame.from_ndarray(np.zeros((1, 48000), np.float32), format="fltp", layout="mono")
                silence.sample_rate = 16000
                target.mux([*audio.encode(silence), *audio.encode(None)])


def box_at(data: bytes, kind: bytes) -> int:
    """Return where the contents of a box begin."""
    return data.index(kind) + 4


def turned(a: int, b: int, c: int, d: int) -> Callable[[Path], None]:
    """Store frames so that the display matrix a, b, c, d, patched into the track header, turns them upright."""

    def make(path: Path) -> None:
        stored = (HEIGHT, WIDTH) if b == 0 else (WIDTH, HEIGHT)
        with av.open(str(path), "w") as target:
            stream = target.add_stream("libx264", rate=24)
            (stream.height, stream.width), stream.pix_fmt = stored, "yuv420p"
            for i in [*range(LENGTH), None]:
                frame = None
                if i is not None:
                    lying = picture(i)
                    # The inverse of what the matrix does: a point x, y is shown at ax + cy, bx + dy.
                    lying = lying[:: 1 if (b or d) > 0 else -1, :: 1 if (a or c) > 0 else -1]
                    if b:
                        lying = lying.transpose(1, 0, 2)
                    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(lying), format="rgb24")
                target.mux(stream.encode(frame))
        data = bytearray(path.read_bytes())
        x, y = (WIDTH if -1 in (a, c) else 0), (HEIGHT if -1 in (b, d) else 0)
        start = box_at(bytes(data), b"tkhd") + 40
        data[start : start + 36] = struct.pack(">9i", *(v << 16 for v in (a, b, 0, c, d, 0, x, y)), 1 << 30)
        path.write_bytes(data)

    return make


def edited(parts: Sequence[tuple[int, int]], encoding: Encoding | None = None) -> Callable[[Path], None]:
    """Write an edit list of these parts: (first frame, or -1 for a pause; number of frames)."""

    def make(path: Path) -> None:
        (encoding or Encoding())(path)
        data = bytearray(path.read_bytes())
        (movie_ticks,) = struct.unpack_from(">I", data, box_at(bytes(data), b"mvhd") + 12)
        (ticks,) = struct.unpack_from(">I", data, box_at(bytes(data), b"mdhd") + 12)
        start = box_at(bytes(data), b"elst")
        (offset,) = struct.unpack_from(">i", data, start + 12)  # time stamp of the first picture
        entries = [
            (round(count * movie_ticks / 24), -1 if first < 0 else offset + first * ticks // 24)
            for first, count in parts
        ]
        body = struct.pack(">II", 0, len(entries)) + b"".join(struct.pack(">Iii", *e, 1 << 16) for e in entries)
        grow = len(body) - (struct.unpack_from(">I", data, start - 8)[0] - 8)
        data[start : start + len(body) - grow] = body
        for kind in (b"elst", b"edts", b"trak", b"moov"):  # the header follows the frames, so the frames stay in place
            size = box_at(bytes(data), kind) - 8
            struct.pack_into(">I", data, size, struct.unpack_from(">I", data, size)[0] + grow)
        path.write_bytes(data)

    return make


HIDDEN = (7, 30, 31, 55)


def hidden(path: Path) -> None:
    """Write VP8 with some frames that are never shown: their show_frame is 0 (RFC 6386, 9.1)."""
    Encoding("libvpx", b_frames=0, options={"deadline": "realtime"})(path)
    data, position = bytearray(path.read_bytes()), 0
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    for i, packet in enumerate(packets):
        position = data.index(packet, position)
        if i in HIDDEN:
            data[position] &= ~0x10
        position += len(packet)
    path.write_bytes(data)


X264_OPEN = {"x264-params": "open-gop=1:bframes=3:b-adapt=0:scenecut=0"}
X264_REFRESH = {"x264-params": "intra-refresh=1:bframes=0:scenecut=0"}
VARIABLE = [*range(0, 360, 10), *range(400, 400 + 36 * 40, 40)]
GAP = [*range(0, 360, 10), *range(1200, 1560, 10)]

H264 = Encoding()
CASES: dict[str, Case] = {
    **{
        f"h264.{suffix}": Case(H264, special=f"B-frames in {suffix}")
        for suffix in ("mp4", "mov", "mkv", "avi", "ts", "mpg", "m2ts", "flv", "3gp")
    },
    **{
        f"h264_no_b.{suffix}": Case(Encoding(b_frames=0), special=f"no B-frames, {suffix}")
        for suffix in ("mp4", "mkv", "avi", "ts", "flv")
    },
    **{
        f"open.{suffix}": Case(Encoding(options=X264_OPEN, keys=12), special="open groups")
        for suffix in ("mp4", "mkv", "ts", "mov", "flv")
    },
    **{
        f"refresh.{suffix}": Case(Encoding(options=X264_REFRESH, keys=15), special="no key frame after the first one")
        for suffix in ("mp4", "mkv", "ts")
    },
    **{
        f"mpeg4.{suffix}": Case(Encoding("mpeg4"), special=f"MPEG-4 part 2 with B-frames in {suffix}")
        for suffix in ("avi", "mp4", "mov", "mkv", "ts")
    },
    "mpeg4_no_b.avi": Case(Encoding("mpeg4", b_frames=0), special="MPEG-4 part 2 in AVI"),
    "mpeg4_unpacked.mkv": Case(Encoding("mpeg4", keys=9), special="short groups"),
    "mpeg2.mpg": Case(Encoding("mpeg2video"), special="MPEG-PS"),
    "mpeg2.ts": Case(Encoding("mpeg2video"), special="MPEG-TS"),
    "mpeg2.mkv": Case(Encoding("mpeg2video"), special="MPEG-2"),
    "mpeg2.mp4": Case(Encoding("mpeg2video"), special="MPEG-2"),
    "mpeg1.mpg": Case(Encoding("mpeg1video"), special="MPEG-1"),
    "wmv2.wmv": Case(Encoding("wmv2", b_frames=0), special="ASF"),
    "flv1.flv": Case(Encoding("flv", b_frames=0), special="Sorenson"),
    "vp8.webm": Case(Encoding("libvpx", b_frames=0, options={"deadline": "realtime"}), special="VP8"),
    "vp8_hidden.webm": Case(hidden, [i for i in range(LENGTH) if i not in HIDDEN], special="packets that show nothing"),
    "vp9.webm": Case(Encoding("libvpx-vp9", {"cpu-used": "8", "deadline": "realtime"}, b_frames=0), special="VP9"),
    "vp9_hidden.mkv": Case(
        Encoding("libvpx-vp9", {"auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "5"}, b_frames=0),
        special="pictures that are not shown",
    ),
    "vp9_odd.webm": Case(
        Encoding("libvpx-vp9", {"cpu-used": "8", "deadline": "realtime"}, b_frames=0, size=(97, 161)),
        size=(97, 161),
        special="odd size",
    ),
    "hevc.mp4": Case(Encoding("libx265", {"x265-params": "log-level=none:open-gop=0"}), special="HEVC"),
    "hevc_open.mp4": Case(
        Encoding("libx265", {"x265-params": "log-level=none:open-gop=1:scenecut=0"}, keys=12), special="open groups"
    ),
    "hevc_open.mkv": Case(
        Encoding("libx265", {"x265-params": "log-level=none:open-gop=1:scenecut=0"}, keys=12), special="open groups"
    ),
    "late.flv": Case(Encoding(ticks=range(2400, 2400 + 720, 10)), special="starts at 10 s"),
    "mjpeg.avi": Case(Encoding("mjpeg", pix_fmt="yuvj420p", b_frames=0), special="key frames only"),
    "mjpeg.mov": Case(Encoding("mjpeg", pix_fmt="yuvj420p", b_frames=0), special="key frames only"),
    "prores.mov": Case(Encoding("prores_ks", pix_fmt="yuv422p10le", b_frames=0), special="key frames only, 10 bit"),
    "every_key.mp4": Case(Encoding(keys=1, b_frames=0), special="key frames only"),
    "short_groups.mp4": Case(Encoding(keys=3, options={"bf": "2", "b_strategy": "0"}), special="short groups"),
    "one.mp4": Case(Encoding(length=1), range(1), special="one frame"),
    "two.mkv": Case(Encoding(length=2), range(2), special="two frames"),
    "raw.h264": Case(Encoding(format="h264"), special="no container"),
    "odd.mp4": Case(Encoding(pix_fmt="yuv444p", size=(97, 161)), size=(97, 161), special="odd size"),
    "ten.mp4": Case(Encoding(pix_fmt="yuv420p10le"), special="10 bit"),
    "full.mp4": Case(Encoding(pix_fmt="yuvj420p"), special="full range"),
    "sound.mp4": Case(Encoding(sound=True), special="with sound"),
    "sound.mkv": Case(Encoding(sound=True), special="with sound"),
    "variable.mp4": Case(Encoding(ticks=VARIABLE), special="variable rate"),
    "variable.mkv": Case(Encoding(ticks=VARIABLE), special="variable rate"),
    "gap.avi": Case(Encoding("mpeg4", b_frames=0, ticks=GAP), special="empty chunks between pictures"),
    "late.mkv": Case(Encoding(ticks=range(2400, 2400 + 720, 10)), special="starts at 10 s"),
    "late.ts": Case(Encoding(ticks=range(2400, 2400 + 720, 10)), special="starts at 10 s"),
    "av1.mp4": Case(Encoding("libsvtav1", {"preset": "10"}, b_frames=0), special="AV1"),
    "animated.gif": Case(Encoding("gif", pix_fmt="rgb8", b_frames=0), special="a palette"),
    "gap.mp4": Case(Encoding(ticks=GAP), special="frames missing for 3.5 s"),
    "late.mp4": Case(
        Encoding(ticks=range(2400, 2400 + 720, 10)), special="edit list with a pause of 10 s before the start"
    ),
    "fragments.mp4": Case(Encoding(container={"movflags": "frag_keyframe+empty_moov"}), special="fragments"),
    "fragments_cmaf.mp4": Case(
        Encoding(container={"movflags": "frag_keyframe+empty_moov+default_base_moof+delay_moov"}), special="fragments"
    ),
    "faststart.mp4": Case(Encoding(container={"movflags": "faststart"}), special="the header comes first"),
    "interlaced.mp4": Case(Encoding(interlaced=True, options={"x264-params": "tff=1"}), special="interlaced"),
    "interlaced.ts": Case(Encoding(interlaced=True, options={"x264-params": "tff=1"}), special="interlaced"),
    "interlaced.mpg": Case(Encoding("mpeg2video", interlaced=True), special="interlaced"),
    "cut_head.mp4": Case(edited([(31, 41)]), range(31, 72), special="edit list, start in a group"),
    "cut_head_open.mp4": Case(
        edited([(31, 41)], Encoding(options=X264_OPEN, keys=12)), range(31, 72), special="edit list, open groups"
    ),
    "cut_tail.mp4": Case(edited([(0, 50)]), range(50), special="edit list, end"),
    "cut_both.mov": Case(edited([(13, 30)]), range(13, 43), special="edit list, both ends"),
    "cut_both_no_b.mp4": Case(
        edited([(13, 30)], Encoding(b_frames=0)), range(13, 43), special="edit list, both ends, no B-frames"
    ),
    "two_parts.mp4": Case(
        edited([(5, 20), (45, 20)]), [*range(5, 25), *range(45, 65)], special="edit list of two parts"
    ),
    "swapped.mp4": Case(
        edited([(45, 20), (5, 20)]), [*range(45, 65), *range(5, 25)], special="edit list of two parts, swapped"
    ),
    "twice.mp4": Case(
        edited([(10, 20), (10, 20)]), [*range(10, 30), *range(10, 30)], special="edit list that shows a part twice"
    ),
    "delayed.mp4": Case(edited([(-1, 24), (0, 72)]), special="edit list with a pause of 1 s"),
    "turned_90.mp4": Case(turned(0, 1, -1, 0), special="turned"),
    "turned_180.mp4": Case(turned(-1, 0, 0, -1), special="turned"),
    "turned_270.mp4": Case(turned(0, -1, 1, 0), special="turned"),
    "mirrored.mp4": Case(turned(-1, 0, 0, 1), special="mirrored"),
    "mirrored_turned.mp4": Case(turned(0, 1, 1, 0), special="mirrored and turned"),
}
