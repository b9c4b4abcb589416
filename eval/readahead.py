"""Videos are read by worker processes while the model works on the ones before."""

from __future__ import annotations

import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
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


class ReadAhead:
    """Reads the planned files in order, one per worker ahead of what was taken.

    read: picklable. A worker that takes longer than `timeout` seconds for a file, or dies of it, costs that file only.
    """

    def __init__(self, read: Read, workers: int, timeout: float):
        self._read, self._timeout = read, timeout
        # Forked from a server that has imported torch and the decoder once; a plain fork would copy CUDA's state.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["eval.models", "decord"])
        self._idle = [self._start() for _ in range(workers)]
        self._planned: deque[str] = deque()
        self._running: deque[tuple[str, Child, float]] = deque()  # in the order in which they will be taken

    def plan(self, files: Iterable[str]) -> None:
        """These are going to be taken, in this order, after what was planned before."""
        self._planned.extend(files)
        self._dispatch()

    def take(self, file: str) -> Any:
        """What was read of the next planned file, which must be `file`. Raises what reading it raised."""
        planned, worker, deadline = self._running.popleft()
        if planned != file:
            raise ValueError(f"{file} is taken, but {planned} was planned")
        cause = ""
        try:
            if worker.connection.poll(max(0.0, deadline - time.monotonic())):
                read, result = worker.connection.recv()
            else:
                cause = f"is not read within {self._timeout:g} s"
                worker.end()
        except (EOFError, OSError):
            cause = f"the process that read it died ({worker.end()})"
        self._idle.append(self._start() if cause else worker)
        self._dispatch()
        if cause:
            raise VideoError(file, cause)
        if not read:
            raise result
        return result

    def close(self) -> None:
        for worker in (*self._idle, *(worker for _, worker, _ in self._running)):
            worker.end()

    def _dispatch(self) -> None:
        while self._idle and self._planned:
            worker, file = self._idle.pop(), self._planned.popleft()
            worker.connection.send(file)
            self._running.append((file, worker, time.monotonic() + self._timeout))

    def _start(self) -> Child:
        child = Child.start(self._context, _work, self._read, daemon=True)
        child.connection.recv()  # it is ready: importing does not count against the timeout
        return child


def _work(connection: Connection, read: Read) -> None:
    torch.set_num_threads(1)
    connection.send("ready")
    while True:
        try:
            file = connection.recv()
        except EOFError:  # the run is over
            return
        try:
            answer = True, read(file)
        except Exception as error:
            answer = False, error
        connection.send(answer)
