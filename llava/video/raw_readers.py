"""decord, torchcodec and PyAV as other harnesses use them, for comparison. Their mistakes are not corrected.

`TorchcodecVideo` needs FFmpeg's shared libraries on the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np


class CountedReader:
    """Base of readers that know the number of frames once the file is open; an `OpenVideo`.

    Attributes:
        name: The reader.
        why: The reason for this reader.
        fps: Average frame rate.
    """

    name: str
    why = "asked for"
    fps: float

    def __len__(self) -> int:
        raise NotImplementedError

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """Decode frames, uint8 RGB [T, H, W, 3]. Raises what the library raises."""
        raise NotImplementedError

    def sample(self, choose: Callable[[int, float], list[int]]) -> tuple[list[int], np.ndarray]:
        """Choose frames by frame count and average frame rate, and decode them (see `OpenVideo.sample`)."""
        indices = choose(len(self), self.fps)
        return indices, self.frames(indices)

    def times(self, indices: Sequence[int]) -> list[float]:
        """Return the second of each frame at a constant rate."""
        return [index / self.fps for index in indices]


class DecordVideo(CountedReader):
    """decord's `VideoReader`, with which upstream and lmms-eval's LLaVA wrappers read videos.

    Args:
        file: The video file.
    """

    name = "raw decord"

    def __init__(self, file: str):
        from decord import VideoReader, cpu

        self._reader: Any = VideoReader(file, ctx=cpu(0), num_threads=1)
        self.fps = float(self._reader.get_avg_fps())

    def __len__(self) -> int:
        return len(self._reader)

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """Decode frames, uint8 RGB [T, H, W, 3]. Raises what decord raises."""
        return self._reader.get_batch(indices).asnumpy()


class TorchcodecVideo(CountedReader):
    """torchcodec's `VideoDecoder` in its exact seek mode.

    Args:
        file: The video file.
    """

    name = "raw torchcodec"

    def __init__(self, file: str):
        from torchcodec.decoders import VideoDecoder

        self._decoder = VideoDecoder(file, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
        metadata = self._decoder.metadata
        count, seconds = metadata.num_frames_from_header, metadata.duration_seconds_from_header
        # The container's average rate, as for the other readers; torchcodec's average_fps differs at variable rates.
        self.fps = count / seconds if count and seconds else float(metadata.average_fps_from_header or 0)

    def __len__(self) -> int:
        return len(self._decoder)

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """Decode frames, uint8 RGB [T, H, W, 3]. Raises what torchcodec raises."""
        return self._decoder.get_frames_at(indices=list(indices)).data.numpy()


class PyavVideo(CountedReader):
    """PyAV as transformers and lmms-eval use it: decode from the start, count, convert with `to_ndarray`.

    The number of frames is the header's, or the number that decodes if the header has none. The display matrix is not
    applied.

    Args:
        file: The video file.

    Raises:
        ValueError: If the file has no video, no frames, or a codec that FFmpeg does not know.
        av.FFmpegError: If FFmpeg cannot read the file.
    """

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
        """Decode frames, uint8 RGB [T, H, W, 3]. Raises IndexError for a frame that does not decode."""
        import av

        wanted, found = set(indices), {}
        with av.open(self._file) as container:
            for number, frame in enumerate(container.decode(video=0)):
                if number in wanted:
                    found[number] = frame.to_ndarray(format="rgb24")
                if number >= max(wanted):
                    break
        if missing := wanted - set(found):
            raise IndexError(f"frame {min(missing)} does not come, though the header says {self._count} frames")
        return np.stack([found[index] for index in indices])


def require_raw(decoder: str) -> None:
    """Check that the library of a raw reader works.

    Args:
        decoder: "decord", "torchcodec" or "pyav".

    Raises:
        ImportError: If the library is not installed or does not start.
    """
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
            # torchcodec loads FFmpeg at the first use, before it looks at the data, which here are empty.
            if "libtorchcodec" in str(cause):
                raise ImportError(_NO_FFMPEG) from cause


_NO_FFMPEG = (
    "torchcodec is installed but does not start: it needs FFmpeg's shared libraries (such as apt-get install ffmpeg) "
    "and a release that fits this torch"
)
