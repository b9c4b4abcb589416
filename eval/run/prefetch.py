"""Reading videos ahead: worker processes decode the next videos while the model works on the current one."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import torch

from llava.video import VideoError

from .. import models
from . import transfer
from .process import Child, ChildDied, fork_server, stop_all

Read = Callable[[str], Any]
"""Reads a video file. Raises VideoError if it cannot."""
BEGIN_SECONDS = 60.0
"""A reader that has nothing else to do must begin with a file after this many seconds. If not, it was stopped."""
START_SECONDS = 600.0
"""A reader must have imported what it needs after this many seconds."""


def idle() -> bool:
    """Have nothing to do while a file is read."""
    return False


class ReadNow:
    """Reads a video when it is wanted, in this process. A decoder that crashes ends the process."""

    def __init__(self, read: Read):
        self._read = read

    def take(self, file: str, meanwhile: Callable[[], bool] = idle) -> Any:
        """Read a file. Nothing is done meanwhile."""
        return self._read(file)

    def plan(self, files: Iterable[str]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


@dataclass(eq=False)
class _Reader:
    """A process that reads.

    Attributes:
        child: The process.
        files: The files that are still to be taken from it, in order.
        sent: How many of these were sent to it.
    """

    child: Child
    files: deque[str] = field(default_factory=deque)
    sent: int = 0


class ReadAhead:
    """Reads the planned files in order, in worker processes.

    A file that takes too long, or that crashes its worker, fails alone: the worker is replaced.

    Args:
        read: Reads a file. Picklable.
        workers: Number of processes.
        timeout: Seconds for one file.
        ahead: At most this many files are being read or wait to be taken.
    """

    def __init__(self, read: Read, workers: int, timeout: float, ahead: int):
        self._read, self._timeout, self._ahead = read, timeout, ahead
        self._context = fork_server(models.__name__, "av")
        self._readers: list[_Reader] = []
        self._planned: deque[str] = deque()
        self._order: deque[_Reader] = deque()  # the reader of each file that is still to be taken
        try:
            for _ in range(workers):
                self._readers.append(_Reader(self._start()))
        except BaseException:
            self.close()
            raise

    def plan(self, files: Iterable[str]) -> None:
        """Announce files that will be taken, in this order, after those planned before."""
        self._planned.extend(files)
        self._dispatch()

    def take(self, file: str, meanwhile: Callable[[], bool] = idle) -> Any:
        """Return what was read of the next planned file, which must be `file`. Raises what reading it raised.

        Args:
            file: The file.
            meanwhile: Called again and again until the file is read, as long as it returns True. Then this waits.
        """
        reader = self._order.popleft()
        if reader.files[0] != file:
            raise ValueError(f"{file} is taken, but {reader.files[0]} was planned")
        succeeded, result = self._receive(reader, meanwhile)
        reader.files.popleft()
        reader.sent -= 1
        self._dispatch()
        if not succeeded:
            raise result
        return result

    def close(self) -> None:
        """Kill the workers."""
        stop_all([reader.child for reader in self._readers], 0.0)

    def _receive(self, reader: _Reader, meanwhile: Callable[[], bool], retry: bool = True) -> tuple[bool, Any]:
        """Return whether the reader's next file was read, and the result or the error.

        Args:
            reader: Replaced if it crashes or takes too long.
            meanwhile: See `take`.
            retry: Whether another reader may try if this one does not begin, which is no fault of the file.
        """
        try:
            begun = reader.child.receive(BEGIN_SECONDS)
        except TimeoutError:
            error = self._replace(reader, f"no process begins to read it within {BEGIN_SECONDS:g} s")
            if not retry:
                return False, error
            with suppress(OSError):  # if it is dead, the next receive finds out
                reader.child.connection.send(reader.files[0])
            return self._receive(reader, meanwhile, retry=False)
        except ChildDied:
            return False, self._replace(reader, "the process that read it died ({})")
        while not reader.child.connection.poll(0) and meanwhile():
            pass
        try:
            return reader.child.receive(max(0.0, begun + self._timeout - time.monotonic()), transfer.receive)
        except TimeoutError:
            return False, self._replace(reader, f"is not read within {self._timeout:g} s")
        except ChildDied:
            return False, self._replace(reader, "the process that read it died ({})")

    def _replace(self, reader: _Reader, cause: str) -> VideoError:
        """Start a new process, which counts the next file as sent. cause: may have "{}" for how the old one ended."""
        error = VideoError(reader.files[0], cause.format(reader.child.kill()))
        reader.child, reader.sent = self._start(), 1
        return error

    def _dispatch(self) -> None:
        """Send the planned files to the readers, as far ahead as allowed."""
        while self._planned and len(self._order) < self._ahead:
            reader = min(self._readers, key=lambda reader: len(reader.files))
            reader.files.append(self._planned.popleft())
            self._order.append(reader)
        for reader in self._readers:
            with suppress(OSError):  # if it is dead, `take` finds out
                while reader.sent < len(reader.files):
                    reader.child.connection.send(reader.files[reader.sent])
                    reader.sent += 1

    def _start(self) -> Child:
        child = Child.start(self._context, _work, self._read, daemon=True)
        try:
            child.receive(START_SECONDS)  # it is ready: imports do not count against the timeout
            return child
        except TimeoutError:
            how = f"is not ready within {START_SECONDS:g} s"
        except ChildDied:
            how = "died before it was ready"
        raise RuntimeError(f"a process that reads videos {how} ({child.kill()})")


def _work(connection: Connection, read: Read) -> None:
    """The reader's process: send "ready", then for each file the time at which reading began, and the result."""
    torch.set_num_threads(1)
    connection.send("ready")
    while True:
        try:
            file = connection.recv()
        except EOFError:  # the run is over
            return
        connection.send(time.monotonic())  # a clock that all processes of a machine share
        try:
            packed = transfer.pack((True, read(file)))
        except Exception as error:
            packed = transfer.pack((False, error))
        transfer.send(connection, packed)
        del packed  # the next file may need its memory
