"""The answers of one setting, written as they come, so that a run killed at any moment goes on where it was."""

from __future__ import annotations

import errno
import fcntl
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..results.errors import UserError
from ..results.files import write_json, write_whole, writing
from ..results.sample import Key, Sample
from ..results.schema import record
from .identity import differences


class Answers:
    """One setting's samples by question, in memory and, line by line, in this process's file in `directory`.

    What an interrupted run left there is the answer to whatever question is asked in the same way now, whatever its
    number. Questions that failed are asked again.
    """

    def __init__(self, directory: Path, rank: int):
        self.samples: dict[Key, Sample] = {}
        self._directory, self._path = directory, directory / f"answers.rank{rank}.jsonl"
        self._kept = {sample.asked: sample for sample in _read(directory / "answers.jsonl")}
        self._asked: dict[Key, str] = {}

    @contextmanager
    def open(self) -> Iterator[None]:
        """While open, samples can be added."""
        with writing(self._path):
            self._file = self._path.open("a", encoding="utf-8")
        try:
            yield
        finally:
            with writing(self._path):
                self._file.close()

    def ask(self, key: Key, asked: str, video: str) -> bool:
        """Take note of a question of this run; is there an answer to it already? asked: see `Sample`."""
        self._asked[key] = asked
        if asked in self._kept:
            self.samples[key] = replace(self._kept[asked], task=key[0], doc_id=key[1], video=video)
        return key in self.samples

    def unused(self) -> str:
        """When all questions are noted: which answers an interrupted run left that are to none of them, or ""."""
        asked = set(self._asked.values())
        left: dict[str, list[int]] = {}
        for sample in self._kept.values():
            if sample.asked not in asked:
                left.setdefault(sample.task, []).append(sample.doc_id)
        listed = "; ".join(f"{task} {', '.join(map(str, sorted(numbers)))}" for task, numbers in left.items())
        return listed and (
            f"{self._directory} holds answers to questions that are no longer asked, or have another text, video or "
            f"right answer now; these answers are not used: {listed}"
        )

    def add(self, sample: Sample) -> None:
        """Of a question that `ask` noted."""
        sample = replace(sample, asked=self._asked[sample.key])
        self.samples[sample.key] = sample
        with writing(self._path):
            self._file.write(json.dumps(asdict(sample)) + "\n")
            self._file.flush()


class OutputInUse(UserError):
    """Another run writes into the output directory."""


@contextmanager
def reserved(directory: Path) -> Iterator[None]:
    """Keep other runs out of the directory; OutputInUse where one is in it. The system lets go when a process ends,
    however it does. Where the file system knows no locks, nobody is kept out.
    """
    with (directory / ".lock").open("a", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputInUse(
                f"another run writes into {directory}: wait until it is done, or choose another --output"
            ) from error
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
        yield


def require_same(directory: Path, settings: dict[str, Any], finished: bool = False) -> list[str]:
    """Raise ValueError where the directory holds answers or results of settings that can make other answers.

    finished: these are results, made with questions that nobody compares any more. Returns how else the settings
    differ.
    """
    noted = directory / "settings.json"
    answered = any(piece.stat().st_size for piece in directory.glob("answers*.jsonl"))
    if not noted.exists() or not (answered or (directory / "results.json").exists()):
        return []
    try:
        before, now = json.loads(noted.read_text(encoding="utf-8")), json.loads(json.dumps(settings))
        if not isinstance(before, dict):
            raise ValueError("it is no JSON object")
    except ValueError as error:
        raise ValueError(f"{noted} is damaged ({error}): choose another --output, or --overwrite it") from error
    telling, others = differences(before, now, finished)
    if telling:
        raise ValueError(
            f"{directory} holds a run of other settings ({'; '.join(telling)}): choose another --output, or "
            "--overwrite it"
        )
    return others


def note(directory: Path, others: list[str]) -> None:
    """Say on standard error how a run that goes on, or stays, differs without another answer."""
    for difference in others:
        print(f"note: {directory} goes with this run, although {difference}", file=sys.stderr)


def begin(directory: Path, settings: dict[str, Any], overwrite: bool) -> None:
    """Prepare a setting's directory, in one process, before any `Answers`: gather what an interrupted run left.

    settings: what the run is; kept in settings.json. Raises as `require_same`, and says how else they differ.
    """
    pieces = sorted(directory.glob("answers*.jsonl"))
    if overwrite:
        for file in (directory / "results.json", *pieces):
            file.unlink(missing_ok=True)
    else:
        note(directory, require_same(directory, settings))
        samples = {sample.asked: sample for piece in pieces for sample in _read(piece)}
        kept = "".join(json.dumps(asdict(sample)) + "\n" for sample in samples.values() if sample.error is None)
        write_whole(directory / "answers.jsonl", kept)
        for piece in pieces:
            if piece.name != "answers.jsonl":
                piece.unlink()
    write_json(directory / "settings.json", settings)


def finish(directory: Path, failed: bool) -> None:
    """The samples are in the results now; they stay here for a later run to go on from, if some failed."""
    if not failed:
        for piece in directory.glob("answers*.jsonl"):
            piece.unlink()


def _read(path: Path) -> Iterator[Sample]:
    """The file's samples, less those on damaged lines, which are asked again. The last line may have been cut off when
    the run was killed; of others, standard error tells."""
    if path.exists():
        for number, line in enumerate(
            path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True), start=1
        ):
            if line.endswith("\n"):
                try:
                    yield record(Sample, json.loads(line))
                except (ValueError, TypeError):
                    print(f"{path}: line {number} is damaged; that question is asked again", file=sys.stderr)
