"""Processes that are stopped, or that nothing can end, hold nobody for ever."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from tqdm import tqdm

from eval.run import process as children
from eval.run.process import Child, require_seconds, stop_all


class Immortal:
    """Stands for a process that waits for a dead mount: killing it changes nothing, waiting for it has no end."""

    pid = 4711
    exitcode = None

    def __init__(self) -> None:
        self.killed = 0

    def kill(self) -> None:
        self.killed += 1

    def join(self, seconds: float | None = None) -> None:
        assert seconds is not None, "this would never return"


@pytest.fixture
def left_behind(monkeypatch):
    left: list[int] = []
    monkeypatch.setattr(children, "left_behind", left)
    return left


@pytest.mark.parametrize("how", [lambda child: child.kill(), lambda child: child.stop(0.1)])
def test_what_cannot_be_ended_is_left_behind(how, left_behind, capsys):
    ours, _ = multiprocessing.Pipe()
    child = Child(ours, Immortal())
    how(child)
    how(child)  # a second time is no second wait
    assert ours.closed
    assert child.process.killed
    assert left_behind == [4711]
    assert capsys.readouterr().err.count("process 4711 cannot be ended") == 1


def waits(connection: Connection) -> None:
    connection.send(os.getpid())
    time.sleep(600)


def test_an_interrupt_while_they_are_waited_for():
    context = multiprocessing.get_context("fork")
    both = [Child.start(context, waits, daemon=True) for _ in range(2)]
    pids = [child.receive() for child in both]
    signal.signal(signal.SIGALRM, signal.default_int_handler)  # Ctrl-C
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    with pytest.raises(KeyboardInterrupt):
        stop_all(both, 60.0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def half_a_message(connection: Connection) -> None:
    os.write(connection.fileno(), (1000).to_bytes(4, "big") + b"only the beginning")
    os.kill(os.getpid(), signal.SIGSTOP)


def test_a_message_without_an_end(monkeypatch):
    monkeypatch.setattr(children, "MESSAGE_SECONDS", 1.0)
    # A fork, because the server that forks is one for all tests, and the first to need it says what it imports.
    child = Child.start(multiprocessing.get_context("fork"), half_a_message, daemon=True)
    assert child.connection.poll(60)
    with pytest.raises((EOFError, OSError)):
        child.receive()
    assert child.kill() == "SIGKILL"


def never_ends(connection: Connection) -> None:
    connection.send("here")
    time.sleep(600)


FROM_HERE = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
PROGRAM = """
import sys, multiprocessing, runpy, types
import eval.run.process
from tests.eval.run.test_process import never_ends

def main():
    child = eval.run.process.Child.start(multiprocessing.get_context("forkserver"), never_ends, daemon=False)
    print(child.process.pid, child.connection.recv(), flush=True)
    type(child.process).kill = lambda self: None  # it is one that nothing can end
    child.kill()
    return 3

eval.run.process.KILL_SECONDS = 0.1
sys.modules["eval.cli"] = types.ModuleType("eval.cli")
sys.modules["eval.cli"].main = main
if __name__ == "__main__":
    runpy.run_module("eval", run_name="__main__")
"""


def test_the_command_ends_without_those_that_it_cannot_end(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    said, complained = tmp_path / "said", tmp_path / "complained"
    with said.open("wb") as out, complained.open("wb") as err:  # no pipes: who is left behind would keep them open
        done = subprocess.run([sys.executable, program], stdout=out, stderr=err, timeout=100, env=FROM_HERE)
    pid, here = said.read_text(encoding="utf-8").split()
    os.kill(int(pid), signal.SIGKILL)  # it was there to the end
    assert here == "here"
    assert done.returncode == 3
    assert f"process {pid} cannot be ended" in complained.read_text(encoding="utf-8")


def shows_progress(connection: Connection) -> None:
    for _ in tqdm(range(3), file=sys.stdout):
        pass
    connection.send("here")
    time.sleep(600)


KILLED = """
import multiprocessing
from eval.run.process import Child
from tests.eval.run.test_process import shows_progress

if __name__ == "__main__":
    child = Child.start(multiprocessing.get_context("forkserver"), shows_progress, daemon=False)
    child.connection.recv()
    print(child.kill())
"""


def test_nothing_is_said_of_what_a_killed_process_had(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(KILLED, encoding="utf-8")
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=100, env=FROM_HERE)
    assert done.stdout.endswith("killed\n")
    assert done.stderr == ""


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("inf"), float("nan"), 1e9])
def test_no_limit_is_no_limit(seconds: Any):
    with pytest.raises(ValueError, match=r"--timeout \S+ must be a number of seconds above 0, at most 1000000"):
        require_seconds("--timeout", seconds)
