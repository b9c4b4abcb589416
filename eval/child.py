"""A process of ours, and what became of it."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any


@dataclass(frozen=True)
class Child:
    """connection: our end of a pipe to it, which ends when the process does."""

    connection: Connection
    process: Any  # of the context's kind

    @classmethod
    def start(cls, context: Any, target: Callable[..., None], *arguments: Any, daemon: bool) -> Child:
        """Call `target` with its end of the pipe and the arguments, in a process of a multiprocessing context."""
        ours, theirs = context.Pipe()
        process = context.Process(target=target, args=(theirs, *arguments), daemon=daemon)
        process.start()
        theirs.close()  # so that the end of the process ends the pipe
        return cls(ours, process)

    def dismiss(self, seconds: float) -> None:
        """Wait for it to end by itself, as its pipe does, so that it can put its things away; then kill it."""
        self.connection.close()
        self.process.join(seconds)
        self.process.kill()
        self.process.join()

    def end(self) -> str:
        """Kill it; returns how it had ended before, if it had."""
        self.process.join(0.1)
        code = self.process.exitcode
        self.process.kill()
        self.process.join()
        self.connection.close()
        return "killed" if code is None else signal.Signals(-code).name if code < 0 else f"exit status {code}"
