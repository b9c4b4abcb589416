"""bench serving: what it refuses before a server starts; tests/vllm/test_bench.py runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest

from eval.cli import parse
from eval.run.setup import Unsuitable
from eval.speed.serving import Server, measure, prepare_serving


def prepare(*arguments: str):
    return prepare_serving(parse(["bench", "serving", "--device", "cpu", *arguments]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--videos", "0"), "--videos 0 must be at least 1"),
        (("--concurrent", "8,x"), "--concurrent '8,x' must be different positive numbers"),
        (("--compressor", "none"), "--compressor none compresses nothing"),
        (("--compressor", "fastv@0.25"), "drops tokens between the layers of the LLM"),
        (("--random-weights", "llava-8b"), "--random-weights 'llava-8b' is neither"),
        (("--dtype", "int8"), "int8"),
        (("--sampling", "fps:1.0:max8"), "a server takes a number of frames, not fps:1,max=8"),
    ],
)
def test_bad_arguments(arguments, message, monkeypatch):
    monkeypatch.setattr("eval.speed.serving.require_vllm", lambda: None)
    with pytest.raises((ValueError, OSError), match=message):
        prepare(*arguments)


def test_without_vllm(monkeypatch):
    monkeypatch.setattr("eval.models.served.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="needs vLLM"):
        prepare()


class Slow(Server):
    """A server that takes its time: as many seconds as its model's name says."""

    calls: ClassVar[list[str]] = []

    def forget(self) -> None:
        self.calls.append(f"{self.model} forgets")

    def ask(self, video: str, question: str, new_tokens: int) -> float:
        self.calls.append(f"{self.model} {video}")
        return float(self.model)


def slow(seconds: str, log: Path = Path()) -> Slow:
    """One that has ended as a process."""
    return Slow("", seconds, subprocess.Popen([sys.executable, "-c", "raise SystemExit(9)"]), log)


def test_rounds_take_turns():
    Slow.calls.clear()
    servers: dict[str, Server] = {name: slow(seconds) for name, seconds in (("dense", "2.0"), ("half", "0.5"))}
    found = measure(servers, [("a", "?"), ("b", "?")], concurrent=1, rounds=2, new_tokens=5)
    assert Slow.calls == 3 * ["2.0 forgets", "2.0 a", "2.0 b", "0.5 forgets", "0.5 a", "0.5 b"]
    assert [line["time_to_first_token"] for line in found.values()] == [2.0, 0.5]
    for line in found.values():
        assert len(line["seconds"]) == 2
        assert line["tokens_per_second"] == pytest.approx(5 * line["videos_per_second"])


def test_a_server_that_ends_is_named(tmp_path):
    log = tmp_path / "log"
    log.write_text("out of memory\n")
    with pytest.raises(Unsuitable, match=r"server of dense ended .*\(exit status 9\)[^\n]*\nout of memory"):
        measure({"dense": slow("no seconds", log)}, [("a", "?")], concurrent=1, rounds=1, new_tokens=5)
