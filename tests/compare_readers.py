"""python -m tests.compare_readers [READER ...] prints the table of docs/video.md: what each reader gets wrong.

It reads 16 evenly spaced frames of each video of tests.numbered. Every reader runs in its own process, because some
hang or crash. To measure another release of a library, put it in front on PYTHONPATH.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Timer

import numpy as np

from tests.numbered import CASES, number

ASKED = 16
SECONDS = 60


class Reader:
    """A process that reads one file after the other with one reader."""

    def __init__(self, name: str):
        self._command = [sys.executable, "-m", "tests.compare_readers", "--judge", name]
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._ask("")  # wait for its imports

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def verdict(self, file: Path) -> str:
        """Say how many frames are wrong, or why there are none."""
        clock = Timer(SECONDS, self._process.kill)
        clock.start()
        answer = self._ask(str(file))
        clock.cancel()
        if not answer:
            answer = f"hangs or dies ({self._process.wait()})"
            self._start()
        return answer


def judge(file: Path, reader: str) -> str:
    """Read a file, and say how many of its frames are wrong."""
    from llava.video import FrameSampling, VideoError, read_video

    case = CASES[file.name]
    try:
        video = read_video(file, FrameSampling("uniform", max_frames=ASKED), reader)
    except VideoError:
        return "fails"
    shown = np.linspace(0, len(case.shown) - 1, ASKED, dtype=int)
    wrong = sum(case.shown[index] != number(frame) for index, frame in zip(shown, video.frames, strict=True))
    count = "" if video.total_frames == len(case.shown) else f", counts {video.total_frames} of {len(case.shown)}"
    return (f"{wrong} wrong" if wrong else "right") + count


def main(names: list[str]) -> None:
    readers = [Reader(name) for name in names]
    print("| file | special | " + " | ".join(names) + " |\n|---|---|" + "---|" * len(names))
    with TemporaryDirectory() as folder:
        for name, case in CASES.items():
            file = Path(folder) / name
            case.make(file)
            verdicts = " | ".join(reader.verdict(file) for reader in readers)
            print(f"| {name} | {case.special} | {verdicts} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--judge"]:
        import llava.video  # noqa: F401

        for line in sys.stdin:
            print(judge(Path(line.strip()), sys.argv[2]) if line.strip() else "ready", flush=True)
    else:
        main(sys.argv[1:] or ["exact", "decord", "pyav"])
