"""Videos that strangers send: what is accepted, and when their files are deleted."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from threading import Lock

from llava.video import VideoError, open_video

from ..results.errors import UserError

MEGABYTE = 1_000_000
"""Bytes."""
PIXELS = 4096 * 2304
"""The most pixels of a frame: a little more than 4K. Memory for frames grows with it, whatever a file's size."""


class Refused(UserError):
    """A video that is not accepted. The message is one line, and names the user's file and no path of the server."""


@dataclass(frozen=True)
class Limits:
    """How large a video may be.

    Attributes:
        megabytes: The most megabytes of a file.
        minutes: The most minutes of a video.
    """

    megabytes: float
    minutes: float

    @property
    def bytes(self) -> int:
        """The most bytes of a file."""
        return round(self.megabytes * MEGABYTE)


@dataclass(frozen=True)
class Clip:
    """An accepted video.

    Attributes:
        name: What the user calls it.
        seconds: Its length.
        frames: Its number of frames.
        width: Of a frame, in pixels.
        height: Of a frame, in pixels.
    """

    name: str
    seconds: float
    frames: int
    width: int
    height: int

    def __str__(self) -> str:
        frames = f"{self.frames} frame{'s' * (self.frames != 1)}"
        return f"{self.name}: {self.seconds:.1f} s, {frames}, {self.width}×{self.height}"


def accept(path: Path, limits: Limits) -> Clip:
    """Check an uploaded file before a model reads it.

    The size is looked at first, then what the file says of its frames, then its first frame is decoded.

    Raises:
        Refused: It is gone, too large or too long, its frames are too large, or it is no video.
    """
    name = path.name
    try:
        size = path.stat().st_size
    except OSError as error:
        raise Refused(f"{name} is no longer on the server: choose it again") from error
    if size > limits.bytes:
        raise Refused(
            f"{name} has {size / MEGABYTE:.3g} MB, and at most {limits.megabytes:g} MB are accepted here: cut or "
            "compress it"
        )
    try:
        with open_video(path) as video:
            frames, seconds = len(video), len(video) / video.fps
            shape = video.frames([0]).shape if seconds <= 60 * limits.minutes else None
    except VideoError as error:
        raise Refused(f"{name}: {error.cause}") from error
    if shape is None:
        raise Refused(
            f"{name} lasts {seconds / 60:.3g} minutes, and at most {limits.minutes:g} are accepted here: cut it"
        )
    _, height, width, _ = shape
    if height * width > PIXELS:
        raise Refused(
            f"{name} has frames of {width}×{height} pixels, and at most {PIXELS:,} are accepted here: scale it"
        )
    return Clip(name, seconds, frames, width, height)


class Uploads:
    """The files of the sessions. A file is deleted when the last session that holds it lets it go.

    Gradio stores uploads by their content, so that two sessions with the same video share a file.

    Args:
        folder: Where uploads are. Nothing outside it is deleted.
        forget: Called with each file that is deleted.
    """

    def __init__(self, folder: Path, forget: Callable[[Path], None] = lambda path: None):
        self._folder, self._forget = folder.resolve(), forget
        self._holders: defaultdict[Path, set[str]] = defaultdict(set)
        self._written: dict[str, Path] = {}
        self._lock = Lock()

    def hold(self, session: str, path: Path) -> None:
        """Let a session hold this file, and no other."""
        path = path.resolve()
        with self._lock:
            self._holders[path].add(session)
            self._let_go(session, path)

    def place(self, session: str, name: str) -> Path:
        """Return where a session may write a file of this name. The one before it is deleted."""
        file = Path(mkdtemp(dir=self._folder)) / name
        with self._lock:
            if session in self._written:
                self._delete(self._written[session])
            self._written[session] = file
        return file

    def leave(self, session: str) -> None:
        """Let all files of a session go."""
        with self._lock:
            self._let_go(session, None)
            if session in self._written:
                self._delete(self._written.pop(session))

    def _let_go(self, session: str, but: Path | None) -> None:
        for path, sessions in list(self._holders.items()):
            if path != but:
                sessions.discard(session)
                if not sessions:
                    del self._holders[path]
                    self._delete(path)

    def _delete(self, path: Path) -> None:
        if path.is_relative_to(self._folder) and not path.is_dir():
            path.unlink(missing_ok=True)
            if path.parent != self._folder and path.parent.exists() and not any(path.parent.iterdir()):
                shutil.rmtree(path.parent)
            self._forget(path)
