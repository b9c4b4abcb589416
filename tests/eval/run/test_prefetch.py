from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from eval.run.prefetch import ReadAhead, ReadNow
from llava.video import VideoError


def read(file: str) -> Any:
    """Does what the file's name says."""
    path, what = Path(file), Path(file).name.split("-")[0]
    (path.parent / f"{path.name}.read").write_text(str(os.getpid()))
    if what == "hang":
        time.sleep(3600)
    if what == "slow":
        time.sleep(0.5)
    if what == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "exit":
        os._exit(7)
    if what == "broken":
        raise VideoError(file, "is broken")
    if what == "bug":
        raise KeyError("a mistake in the reader")
    return {"name": path.name, "pixels": torch.full((3, 5), float(len(path.name)))}


@pytest.fixture
def ahead():
    reader = ReadAhead(read, workers=2, timeout=3, ahead=2)
    yield reader
    reader.close()


def test_in_order_and_only_so_far_ahead(ahead, tmp_path):
    files = [str(tmp_path / f"fine-{'x' * i}") for i in range(6)]
    ahead.plan(files)
    for i, file in enumerate(files):
        result = ahead.take(file)
        assert result["name"] == Path(file).name
        assert torch.equal(result["pixels"], torch.full((3, 5), float(len(Path(file).name))))
        started = len(list(tmp_path.glob("*.read")))
        assert i < started <= min(i + 3, 6)  # those taken and two
    readers = {file.read_text() for file in tmp_path.glob("*.read")}
    assert len(readers) == 2
    assert str(os.getpid()) not in readers


def test_reading_goes_on_while_nobody_takes(tmp_path):
    reader = ReadAhead(read, workers=1, timeout=3, ahead=4)
    files = [str(tmp_path / f"fine-{i}") for i in range(6)]
    reader.plan(files[:1])
    reader.plan(files[1:])
    while len(list(tmp_path.glob("*.read"))) < 4:
        time.sleep(0.01)
    time.sleep(0.2)
    assert len(list(tmp_path.glob("*.read"))) == 4
    assert [reader.take(file)["name"] for file in files] == [Path(file).name for file in files]
    reader.close()


def test_each_costs_itself_only(ahead, tmp_path):
    causes = {
        "hang-1": "is not read within 3 s",
        "crash-1": r"the process that read it died \(SIGSEGV\)",
        "exit-1": r"the process that read it died \(exit status 7\)",
        "broken-1": "is broken",
    }
    names = [name for cause in causes for name in (cause, f"fine-after-{cause}")]
    ahead.plan(str(tmp_path / name) for name in names)
    for name in names:
        if name in causes:
            with pytest.raises(VideoError, match=f"{name}: {causes[name]}"):
                ahead.take(str(tmp_path / name))
        else:
            assert ahead.take(str(tmp_path / name))["name"] == name


def test_what_was_read_before_a_crash_is_not_lost(tmp_path):
    reader = ReadAhead(read, workers=1, timeout=3, ahead=4)
    names = ["fine-1", "fine-2", "crash-1", "fine-3"]
    reader.plan(str(tmp_path / name) for name in names)
    while not (tmp_path / "crash-1.read").exists():
        time.sleep(0.01)
    time.sleep(0.3)  # it is dead, and its answers to the first two wait
    for name in names:
        if name == "crash-1":
            with pytest.raises(VideoError, match=r"the process that read it died \(SIGSEGV\)"):
                reader.take(str(tmp_path / name))
        else:
            assert reader.take(str(tmp_path / name))["name"] == name
    reader.close()


def test_a_mistake_is_no_unreadable_video(ahead, tmp_path):
    ahead.plan([str(tmp_path / "bug-1")])
    with pytest.raises(KeyError, match="a mistake in the reader"):
        ahead.take(str(tmp_path / "bug-1"))


def test_only_what_was_planned_is_taken(ahead, tmp_path):
    ahead.plan([str(tmp_path / "fine-1")])
    with pytest.raises(ValueError, match="fine-1 was planned"):
        ahead.take(str(tmp_path / "fine-2"))


def test_nothing_is_left_running(tmp_path):
    reader = ReadAhead(read, workers=2, timeout=60, ahead=2)
    reader.plan([str(tmp_path / "hang-1"), str(tmp_path / "fine-1")])
    while len(pids := [int(file.read_text() or 0) for file in tmp_path.glob("*.read")]) < 2 or 0 in pids:
        time.sleep(0.01)
    reader.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_readers_leave_an_interrupt_to_those_they_read_for(ahead, tmp_path):
    names = ["fine-1", "fine-2", "fine-3", "fine-4"]
    ahead.plan(str(tmp_path / name) for name in names)
    for name in names:
        assert ahead.take(str(tmp_path / name))["name"] == name
        for file in tmp_path.glob("*.read"):
            if pid := file.read_text():
                os.kill(int(pid), signal.SIGINT)


def test_without_workers(tmp_path):
    reader = ReadNow(read)
    reader.plan(["never"])
    assert reader.take(str(tmp_path / "fine-1"))["name"] == "fine-1"


def test_a_process_that_is_stopped_before_it_begins(tmp_path, monkeypatch):
    monkeypatch.setattr("eval.run.prefetch.BEGIN_SECONDS", 2.0)
    reader = ReadAhead(read, workers=1, timeout=60, ahead=1)
    try:
        reader.plan([str(tmp_path / "fine-1"), str(tmp_path / "fine-2")])
        assert reader.take(str(tmp_path / "fine-1"))["name"] == "fine-1"
        stopped = int((tmp_path / "fine-1.read").read_text(encoding="utf-8"))
        reader.take(str(tmp_path / "fine-2"))
        os.kill(stopped, signal.SIGSTOP)
        reader.plan([str(tmp_path / "fine-3")])
        assert reader.take(str(tmp_path / "fine-3"))["name"] == "fine-3"
        with pytest.raises(ProcessLookupError):
            os.kill(stopped, 0)
    finally:
        reader.close()


def stops_at_once(connection: Any, read: Any) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def dies_at_once(connection: Any, read: Any) -> None:
    os._exit(5)


@pytest.mark.parametrize(
    ("start", "why"),
    [(stops_at_once, r"is not ready within 3 s \(killed\)"), (dies_at_once, r"died before it was ready \(exit")],
)
def test_processes_that_do_not_start(start, why, monkeypatch):
    monkeypatch.setattr("eval.run.prefetch.START_SECONDS", 3.0)
    monkeypatch.setattr("eval.run.prefetch._work", start)
    with pytest.raises(RuntimeError, match=f"a process that reads videos {why}"):
        ReadAhead(read, workers=1, timeout=60, ahead=1)


def test_work_goes_on_until_the_file_is_read(tmp_path):
    """As long as there is work. Without any, `take` waits."""
    reader = ReadAhead(read, workers=1, timeout=30, ahead=1)
    files = [str(tmp_path / f"slow-{i}") for i in range(2)]
    reader.plan(files)
    calls: list[float] = []

    def work(left: bool) -> bool:
        calls.append(time.monotonic())
        time.sleep(0.01)
        return left

    try:
        assert reader.take(files[0], lambda: work(True))["name"] == "slow-0"
        assert len(calls) > 10
        calls.clear()
        assert reader.take(files[1], lambda: work(False))["name"] == "slow-1"
        assert len(calls) == 1
    finally:
        reader.close()
