"""decord, torchcodec and PyAV behind one face: how many frames a video file has, and the pixels of some of them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Protocol

import numpy as np


class OpenVideo(Protocol):
    """fps: average frame rate. Frames are numbered in the order in which they are shown."""

    fps: float

    def __len__(self) -> int: ...

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """uint8 RGB [T, H, W, 3] of these frames, ascending; the right way up where the file says how it was held."""


class DecordVideo:
    """The reference: what upstream and lmms-eval read videos with."""

    def __init__(self, file: str):
        from decord import VideoReader, cpu

        self._reader: Any = VideoReader(file, ctx=cpu(0), num_threads=1)
        self.fps = float(self._reader.get_avg_fps())

    def __len__(self) -> int:
        return len(self._reader)

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        return self._reader.get_batch(indices).asnumpy()


class TorchcodecVideo:
    """Needs FFmpeg's shared libraries on the machine."""

    def __init__(self, file: str):
        from torchcodec.decoders import VideoDecoder

        self._decoder = VideoDecoder(file, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
        metadata = self._decoder.metadata
        count, seconds = metadata.num_frames_from_header, metadata.duration_seconds_from_header
        # The container's average, as the other decoders have it; what torchcodec calls so, differs at variable rates.
        self.fps = count / seconds if count and seconds else float(metadata.average_fps_from_header or 0)

    def __len__(self) -> int:
        return len(self._decoder)

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        return self._decoder.get_frames_at(indices=list(indices)).data.numpy()


class PyavVideo:
    """Finds frames by their time stamps, from the nearest key frame before them."""

    def __init__(self, file: str):
        import av

        self._shown: list[int] = []  # time stamps of all frames
        self._keys: list[int] = []  # of those that need no other
        # Opened once for these and again for pictures: after the end of some files PyAV cannot seek back.
        with av.open(file) as container:
            stream = _picture(container)
            for packet in container.demux(stream):
                if packet.size and not packet.is_discard:
                    if packet.pts is None:
                        raise ValueError("it has frames without time stamps")
                    self._shown.append(packet.pts)
                    if packet.is_keyframe:
                        self._keys.append(packet.pts)
            self.fps = float(stream.average_rate or 0)
        self._shown.sort()
        self._keys.sort()
        self._file = file

    def __len__(self) -> int:
        return len(self._shown)

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        wanted = [self._shown[index] for index in indices]
        try:
            pictures = self._pictures(wanted, seeking=True)
        except LookupError:  # some containers (.ts) seek to after what was asked for
            pictures = self._pictures(wanted, seeking=False)
        if len({picture.shape for picture in pictures.values()}) > 1:
            raise ValueError(f"its frames differ in size: {sorted({p.shape[:2] for p in pictures.values()})}")
        return np.stack([pictures[pts] for pts in wanted])

    def _pictures(self, wanted: Sequence[int], seeking: bool) -> dict[int, np.ndarray]:
        """By time stamp, which ascend; LookupError where decoding jumps over one."""
        import av

        pictures: dict[int, np.ndarray] = {}
        with av.open(self._file) as container:
            stream = _picture(container)
            stream.codec_context.thread_count = 1
            decoded = container.decode(stream)
            last = self._shown[0] - 1  # time stamp of the latest decoded frame
            for pts in dict.fromkeys(wanted):
                key = self._keys[bisect_right(self._keys, pts) - 1] if self._keys else self._shown[0]
                if seeking and key > max(last, self._shown[0]):
                    container.seek(key, stream=stream)
                    decoded = container.decode(stream)
                for frame in decoded:
                    last = frame.pts
                    if last >= pts:
                        break
                if last != pts:
                    raise LookupError(f"frame {self._shown.index(pts)} cannot be decoded")
                pictures[pts] = _upright(frame)
        return pictures


def _picture(container: Any) -> Any:
    stream = container.streams.best("video")
    if stream is None:
        raise ValueError("it has no pictures")
    return stream


def _upright(frame: Any) -> np.ndarray:
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90)))


DECODERS: dict[str, Callable[[str], OpenVideo]] = {
    "decord": DecordVideo,
    "torchcodec": TorchcodecVideo,
    "pyav": PyavVideo,
}


def require(decoder: str) -> None:
    """ValueError for an unknown decoder, ImportError for one that is not installed; both say what to do."""
    if decoder not in DECODERS:
        raise ValueError(f"decoder {decoder!r} is unknown; there are {', '.join(DECODERS)}")
    package = "av" if decoder == "pyav" else decoder
    try:
        import_module(package)
    except ImportError as cause:
        raise ImportError(f"reading videos with {decoder} needs {package}: pip install {package}") from cause
    except (RuntimeError, OSError) as cause:
        raise ImportError(_NO_FFMPEG) from cause
    if decoder == "torchcodec":
        from torchcodec.decoders import VideoDecoder

        try:
            VideoDecoder(b"")
        except Exception as cause:
            # Its libraries are loaded late, before it looks at what there is to decode: here, nothing.
            if "libtorchcodec" in str(cause):
                raise ImportError(_NO_FFMPEG) from cause


_NO_FFMPEG = (
    "torchcodec is installed but does not start: it needs FFmpeg's shared libraries (such as apt-get install ffmpeg) "
    "and to fit this torch"
)
