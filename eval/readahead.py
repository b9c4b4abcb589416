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
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch.multiprocessing  # tensors then go from process to process through shared memory

from eval.child import Child
from llava.video import VideoError

Read = Callable[[str], Any]
"""What a reader makes of a video file; VideoError where it cannot."""


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
        self._context.set_forkserver_preload(["eval.models", "av"])
        self._workers = [_Worker(self._start()) for _ in range(workers)]
        self._planned: deque[str] = deque()
        self._order: deque[_Worker] = deque()  # whose turn it is to have a file taken

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
        for worker in self._workers:
            worker.child.end()

    def _hear(self, worker: _Worker) -> tuple[bool, Any]:
        """Of its next file: whether it was read, and what, or what is wrong. One that is at fault is replaced."""
        connection = worker.child.connection
        try:
            begun = connection.recv()
            in_time = connection.poll(max(0.0, begun + self._timeout - time.monotonic()))
            message = connection.recv_bytes() if in_time else None
        except (EOFError, OSError):
            return False, self._failed(worker, "the process that read it died ({})")
        if message is None:
            return False, self._failed(worker, f"is not read within {self._timeout:g} s")
        try:
            return ForkingPickler.loads(message)
        except (EOFError, OSError):  # it has died since, of a later file, and what it had read went with it
            self._failed(worker, "")
            worker.child.connection.send(worker.files[0])  # without the others this time
            return self._hear(worker)

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
        child.connection.recv()  # it is ready: importing does not count against the timeout
        return child


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
            answer = ForkingPickler.dumps((True, read(file)))
        except Exception as error:
            answer = ForkingPickler.dumps((False, error))
        connection.send_bytes(answer)
