"""decord, torchcodec and PyAV as other harnesses use them, for comparison: nothing they get wrong is mended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np


class Counted:
    """What readers that know from the start how many frames there are have in common; fps: average frame rate."""

    name: str
    why = "asked for"
    fps: float

    def __len__(self) -> int:
        raise NotImplementedError

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        raise NotImplementedError

    def sample(self, choose: Callable[[int, float], list[int]]) -> tuple[list[int], np.ndarray]:
        indices = choose(len(self), self.fps)
        return indices, self.frames(indices)

    def times(self, indices: Sequence[int]) -> list[float]:
        return [index / self.fps for index in indices]


class DecordVideo(Counted):
    """What upstream and lmms-eval's wrappers read videos with."""

    name = "raw decord"

    def __init__(self, file: str):
        from decord import VideoReader, cpu

        self._reader: Any = VideoReader(file, ctx=cpu(0), num_threads=1)
        self.fps = float(self._reader.get_avg_fps())

    def __len__(self) -> int:
        return len(self._reader)

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        return self._reader.get_batch(indices).asnumpy()


class TorchcodecVideo(Counted):
    """Needs FFmpeg's shared libraries on the machine."""

    name = "raw torchcodec"

    def __init__(self, file: str):
        from torchcodec.decoders import VideoDecoder

        self._decoder = VideoDecoder(file, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
        metadata = self._decoder.metadata
        count, seconds = metadata.num_frames_from_header, metadata.duration_seconds_from_header
        # The container's average, as the other readers have it; what torchcodec calls so, differs at variable rates.
        self.fps = count / seconds if count and seconds else float(metadata.average_fps_from_header or 0)

    def __len__(self) -> int:
        return len(self._decoder)

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        return self._decoder.get_frames_at(indices=list(indices)).data.numpy()


class PyavVideo(Counted):
    """As transformers and lmms-eval read with PyAV: decoded from the start and counted; as many as the header says, or,
    where it does not, as can be decoded; colours as `to_ndarray` makes them; lying as they were taken."""

    name = "raw pyav"

    def __init__(self, file: str):
        import av

        self._file = file
        with av.open(file) as container:
            if not container.streams.video:
                raise ValueError("it has no pictures")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise ValueError("its codec is unknown to FFmpeg")
            self.fps = float(stream.average_rate or 0)
            self._count = stream.frames or sum(1 for _ in container.decode(stream))
        if not self._count:
            raise ValueError("it has no frames")

    def __len__(self) -> int:
        return self._count

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        import av

        wanted, found = set(indices), {}
        with av.open(self._file) as container:
            for number, frame in enumerate(container.decode(video=0)):
                if number in wanted:
                    found[number] = frame.to_ndarray(format="rgb24")
                if number >= max(wanted):
                    break
        if missing := wanted - set(found):
            raise IndexError(f"frame {min(missing)} is asked for, which does not come; the header says {self._count}")
        return np.stack([found[index] for index in indices])


def require_raw(decoder: str) -> None:
    """ImportError for a decoder's library that is not installed, or does not start."""
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
