"""Child processes: start them, talk to them, and kill them. Nothing here waits without a time limit.

Three kinds of children are built on this: the workers that answer (pool.py), the workers that read videos ahead
(prefetch.py), and the doctor's checks of videos.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol, TypeVar

MAX_SECONDS = 1e6
"""The longest time limit that can be set. Some of the system's clocks hold no more."""
MESSAGE_SECONDS = 60.0
"""A message that has begun must be complete after this many seconds."""
KILL_SECONDS = 10.0
"""A killed process must be gone after this many seconds. One that waits for a dead mount never is."""
left_behind: list[int] = []
"""Ids of the processes that survived being killed."""


class ChildDied(EOFError):
    """The process ended, or broke off in the middle of a message."""


def require_seconds(flag: str, seconds: float) -> None:
    """Check a time limit.

    Args:
        flag: What set it, such as "--timeout".
        seconds: The limit.

    Raises:
        ValueError: The limit is not above 0 and at most `MAX_SECONDS`.
    """
    if not 0 < seconds <= MAX_SECONDS:
        raise ValueError(f"{flag} {seconds:g} must be a number of seconds above 0, at most {MAX_SECONDS:.0f}")


def fork_server(*modules: str) -> Any:
    """Return the multiprocessing context that forks processes from a server.

    The server imports `modules` once, so that starting a process takes no time. A plain fork would copy CUDA's state.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*modules])
    return context


@dataclass(frozen=True)
class Child:
    """A process that we started.

    Attributes:
        connection: Our end of a duplex pipe to the process. The pipe ends when the process does.
        process: The multiprocessing process.
    """

    connection: Connection
    process: Any  # the context's own class

    @classmethod
    def start(cls, context: Any, target: Callable[..., None], *arguments: Any, daemon: bool) -> Child:
        """Call `target(connection, *arguments)` in a new process of a multiprocessing context."""
        ours, theirs = context.Pipe()
        process = context.Process(target=_run, args=(target, theirs, *arguments), daemon=daemon)
        process.start()
        theirs.close()  # so that the end of the process ends the pipe
        return cls(ours, process)

    @contextmanager
    def kill_after(self, seconds: float) -> Iterator[None]:
        """Kill the process if the block takes longer. That ends the pipe, and with it a blocked send or receive."""
        clock = threading.Timer(seconds, self.process.kill)
        clock.daemon = True
        clock.start()
        try:
            yield
        finally:
            clock.cancel()

    def receive(self, seconds: float | None = None, read: Callable[[Connection], Any] = Connection.recv) -> Any:
        """Return the next message.

        Args:
            seconds: The message must begin within this time. None if it has begun.
            read: What reads a message from the pipe.

        Raises:
            TimeoutError: No message began in time.
            ChildDied: The process ended, or did not complete the message within `MESSAGE_SECONDS`.
        """
        try:
            begun = seconds is None or self.connection.poll(seconds)
            if begun:
                with self.kill_after(MESSAGE_SECONDS):
                    return read(self.connection)
        except (EOFError, OSError) as error:
            raise ChildDied(str(error)) from error
        raise TimeoutError(f"process {self.process.pid} said nothing for {seconds:g} s")

    def stop(self, seconds: float) -> None:
        """See `stop_all`."""
        stop_all([self], seconds)

    def kill(self) -> str:
        """Kill the process. Returns how it had ended before: "SIGSEGV", "exit status 1", or "killed" if it had not."""
        self.process.join(0.1)
        code = self.process.exitcode
        self.process.kill()
        self.await_death()
        self.connection.close()
        return "killed" if code is None else signal.Signals(-code).name if code < 0 else f"exit status {code}"

    def await_death(self) -> None:
        """Wait for a killed process. One that does not die is reported and added to `left_behind`."""
        if self.process.pid in left_behind:
            return
        self.process.join(KILL_SECONDS)
        if self.process.exitcode is None:
            left_behind.append(self.process.pid)
            print(
                f"process {self.process.pid} cannot be ended, as happens where a file system does not answer (a dead "
                "mount); it is left behind",
                file=sys.stderr,
            )


def stop_all(children: Iterable[Child], seconds: float) -> None:
    """Close the pipes, give the processes `seconds` to clean up and end, then kill them.

    They are killed as well if the waiting is interrupted.
    """
    children = [child for child in children if child.process.pid not in left_behind]
    for child in children:
        child.connection.close()
    deadline = time.monotonic() + seconds
    try:
        for child in children:
            child.process.join(max(0.0, deadline - time.monotonic()))
    finally:
        for child in children:
            child.process.kill()
        for child in children:
            child.await_death()


class Watched(Protocol):
    """Processes that work on one thing, and the time (on `time.monotonic`'s clock) by which they must say something."""

    @property
    def children(self) -> Sequence[Child]:
        """The processes."""

    @property
    def deadline(self) -> float:
        """When they are overdue."""


W = TypeVar("W", bound=Watched)


def wait_any(watched: Sequence[W]) -> list[tuple[W, bool]]:
    """Wait until one of them sends a message, dies, or passes its deadline.

    Returns:
        Those that did, each with whether it is overdue (True), or has something to receive or died (False).
    """
    signs = [[s for child in one.children for s in (child.connection, child.process.sentinel)] for one in watched]
    first = min(one.deadline for one in watched) - time.monotonic()
    ready = set(wait([sign for own in signs for sign in own], max(0.0, first)))
    now = time.monotonic()
    silent = [ready.isdisjoint(own) for own in signs]
    return [(one, quiet) for one, quiet in zip(watched, silent, strict=True) if not quiet or now > one.deadline]


def _run(target: Callable[..., None], *arguments: Any) -> None:
    """The first function of a new process."""
    from tqdm import tqdm

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the one that started this one ends it
    # tqdm's usual lock is shared between processes. Python's resource_tracker would report it as leaked, in the last
    # line of a run, whenever a process is killed.
    tqdm.set_lock(threading.RLock())
    target(*arguments)
