"""A process of ours, and what became of it. Nothing here waits without a limit."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

LONGEST = 1e6
"""Seconds: the longest limit that can be asked for, some of the system's clocks hold no more."""
SPEAKING = 60.0
"""Seconds in which a message that has begun must be there."""
DYING = 10.0
"""Seconds that a killed process has to be gone. One that waits for a dead mount may never be."""
left_behind: list[int] = []
"""Ids of the processes that could not be ended."""


def require_seconds(flag: str, seconds: float) -> None:
    """ValueError for what is no limit in seconds. flag: what said it, "--timeout"."""
    if not 0 < seconds <= LONGEST:
        raise ValueError(f"{flag} {seconds:g} must be a number of seconds above 0, at most {LONGEST:.0f}")


@dataclass(frozen=True)
class Child:
    """connection: our end of a pipe to it, which ends when the process does."""

    connection: Connection
    process: Any  # of the context's kind

    @classmethod
    def start(cls, context: Any, target: Callable[..., None], *arguments: Any, daemon: bool) -> Child:
        """Call `target` with its end of the pipe and the arguments, in a process of a multiprocessing context."""
        ours, theirs = context.Pipe()
        process = context.Process(target=_run, args=(target, theirs, *arguments), daemon=daemon)
        process.start()
        theirs.close()  # so that the end of the process ends the pipe
        return cls(ours, process)

    @contextmanager
    def hurried(self, seconds: float) -> Iterator[None]:
        """Within, sending and receiving end: it is killed after so many seconds, which ends its pipe."""
        clock = threading.Timer(seconds, self.process.kill)
        clock.daemon = True
        clock.start()
        try:
            yield
        finally:
            clock.cancel()

    def hear(self) -> Any:
        """What it says next, which has begun to come; EOFError, ConnectionError where it dies or stops before the
        end of it."""
        with self.hurried(SPEAKING):
            return self.connection.recv()

    def dismiss(self, seconds: float) -> None:
        """See `dismiss_all`."""
        dismiss_all([self], seconds)

    def end(self) -> str:
        """Kill it; returns how it had ended before, if it had."""
        self.process.join(0.1)
        code = self.process.exitcode
        self.process.kill()
        self.see_dead()
        self.connection.close()
        return "killed" if code is None else signal.Signals(-code).name if code < 0 else f"exit status {code}"

    def see_dead(self) -> None:
        """It has been killed."""
        if self.process.pid in left_behind:
            return
        self.process.join(DYING)
        if self.process.exitcode is None:
            left_behind.append(self.process.pid)
            print(
                f"process {self.process.pid} cannot be ended, as happens where a file system does not answer (a dead "
                "mount); it is left behind",
                file=sys.stderr,
            )


def dismiss_all(children: Iterable[Child], seconds: float) -> None:
    """Wait for them to end by themselves, as their pipes do, so that they can put their things away; then kill them,
    also where the waiting is interrupted."""
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
            child.see_dead()


def _run(target: Callable[..., None], *arguments: Any) -> None:
    """In the new process. Its progress bars share their lock with nobody: of tqdm's usual one, which is for several
    processes, Python's resource_tracker would say, as the last line of a run, that whoever was killed has leaked it."""
    from tqdm import tqdm

    tqdm.set_lock(threading.RLock())
    target(*arguments)
