"""Videos are read by worker processes while the model works on the ones before."""

from __future__ import annotations

import multiprocessing
import signal
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
from .process import SPEAKING, Child, dismiss_all

Read = Callable[[str], Any]
"""What a reader makes of a video file; VideoError where it cannot."""
BEGINNING = 60.0
"""Seconds in which a process that has nothing else to do has to begin with a file; else it was stopped."""
STARTING = 600.0
"""Seconds in which a process that reads has to have imported what it needs."""


class ReadNow:
    """No workers: a video is read when it is wanted. A decoder that crashes ends the process."""

    def __init__(self, read: Read):
        self.take = read

    def plan(self, files: Iterable[str]) -> None:
        pass

    def close(self) -> None:
        pass


@dataclass(eq=False)
class _Worker:
    """files: to be taken from it. sent: how many of these it knows of."""

    child: Child
    files: deque[str] = field(default_factory=deque)
    sent: int = 0


class ReadAhead:
    """Reads the planned files in order; at most `ahead` of them, those being read included, wait to be taken.

    read: picklable. A worker that takes longer than `timeout` seconds for a file, or dies of it, costs that file only.
    """

    def __init__(self, read: Read, workers: int, timeout: float, ahead: int):
        self._read, self._timeout, self._ahead = read, timeout, ahead
        # Forked from a server that has imported torch and the decoder once; a plain fork would copy CUDA's state.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([models.__name__, "av"])
        self._workers: list[_Worker] = []
        self._planned: deque[str] = deque()
        self._order: deque[_Worker] = deque()  # whose turn it is to have a file taken
        try:
            for _ in range(workers):
                self._workers.append(_Worker(self._start()))
        except BaseException:
            self.close()
            raise

    def plan(self, files: Iterable[str]) -> None:
        """These are going to be taken, in this order, after what was planned before."""
        self._planned.extend(files)
        self._dispatch()

    def take(self, file: str) -> Any:
        """What was read of the next planned file, which must be `file`. Raises what reading it raised."""
        worker = self._order.popleft()
        if worker.files[0] != file:
            raise ValueError(f"{file} is taken, but {worker.files[0]} was planned")
        read, answer = self._hear(worker)
        worker.files.popleft()
        worker.sent -= 1
        self._dispatch()
        if not read:
            raise answer
        return answer

    def close(self) -> None:
        dismiss_all([worker.child for worker in self._workers], 0.0)

    def _hear(self, worker: _Worker, again: bool = True) -> tuple[bool, Any]:
        """Of its next file: whether it was read, and what, or what is wrong. One that is at fault is replaced.

        again: let another one try where this one does not begin, which is no fault of the file.
        """
        child = worker.child
        try:
            if not child.connection.poll(BEGINNING):
                error = self._failed(worker, f"no process begins to read it within {BEGINNING:g} s")
                if not again:
                    return False, error
                worker.child.connection.send(worker.files[0])
                return self._hear(worker, again=False)
            begun = child.hear()
            if not child.connection.poll(max(0.0, begun + self._timeout - time.monotonic())):
                return False, self._failed(worker, f"is not read within {self._timeout:g} s")
            with child.hurried(SPEAKING):
                return transfer.receive(child.connection)
        except (EOFError, OSError):
            return False, self._failed(worker, "the process that read it died ({})")

    def _failed(self, worker: _Worker, cause: str) -> VideoError:
        """Replace it; the new one has only heard of the next file. cause: may have a place for what it had died of."""
        error = VideoError(worker.files[0], cause.format(worker.child.end()))
        worker.child, worker.sent = self._start(), 1
        return error

    def _dispatch(self) -> None:
        while self._planned and len(self._order) < self._ahead:
            worker = min(self._workers, key=lambda worker: len(worker.files))
            worker.files.append(self._planned.popleft())
            self._order.append(worker)
        for worker in self._workers:
            with suppress(OSError):  # if it is dead, `take` will find out
                while worker.sent < len(worker.files):
                    worker.child.connection.send(worker.files[worker.sent])
                    worker.sent += 1

    def _start(self) -> Child:
        child = Child.start(self._context, _work, self._read, daemon=True)
        how = f"is not ready within {STARTING:g} s"
        try:
            if child.connection.poll(STARTING):
                child.hear()  # it is ready: importing does not count against the timeout
                return child
        except (EOFError, OSError):
            how = "died before it was ready"
        raise RuntimeError(f"a process that reads videos {how} ({child.end()})")


def _work(connection: Connection, read: Read) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that takes the videos ends it
    torch.set_num_threads(1)
    connection.send("ready")
    while True:
        try:
            file = connection.recv()
        except EOFError:  # the run is over
            return
        connection.send(time.monotonic())  # which all processes of a machine share
        try:
            packed = transfer.pack((True, read(file)))
        except Exception as error:
            packed = transfer.pack((False, error))
        transfer.send(connection, packed)
        del packed  # its memory may be needed for the next one
