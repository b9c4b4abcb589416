"""The store of one setting's answers. Each answer is written as it comes, so a killed run can resume."""

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
from ..results.records import record
from ..results.sample import Key, Sample
from .identity import differences


class Answers:
    """The samples of one setting, in memory and, one line each, in this rank's file in the output directory.

    The answers that an interrupted run left are used again for questions with the same digest (`Sample.asked`), even
    if a question's number has changed. `begin` drops the failed ones, so these questions are asked again.

    Args:
        directory: The setting's output directory, prepared by `begin`.
        rank: Rank of this process. Its answers go into `answers.rank{rank}.jsonl`.

    Attributes:
        samples: Samples of this run's questions, by (task, doc_id).
    """

    def __init__(self, directory: Path, rank: int):
        self.samples: dict[Key, Sample] = {}
        self._directory, self._path = directory, directory / f"answers.rank{rank}.jsonl"
        self._kept = {sample.asked: sample for sample in _read(directory / "answers.jsonl")}
        self._asked: dict[Key, str] = {}

    @contextmanager
    def open(self) -> Iterator[None]:
        """Open this rank's file. `add` works only inside this context."""
        with writing(self._path):
            self._file = self._path.open("a", encoding="utf-8")
        try:
            yield
        finally:
            with writing(self._path):
                self._file.close()

    def ask(self, key: Key, asked: str, video: str) -> bool:
        """Register a question of this run, and look for an answer that an interrupted run left.

        Args:
            key: The question's task and number.
            asked: Digest of the question, see `Sample.asked`.
            video: Path of the video now.

        Returns:
            True if the question has a sample in `samples`.
        """
        self._asked[key] = asked
        if asked in self._kept:
            self.samples[key] = replace(self._kept[asked], task=key[0], doc_id=key[1], video=video)
        return key in self.samples

    def unused(self) -> str:
        """List the answers of an interrupted run that belong to no question of this run.

        Call it after `ask` has been called for all questions.

        Returns:
            A sentence for the user, or "" where all answers are used.
        """
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
        """Keep a sample and append it to this rank's file.

        Args:
            sample: Sample of a question that `ask` registered. Its `asked` is filled in here.

        Raises:
            OSError: If it cannot be written, with the path in the message.
        """
        sample = replace(sample, asked=self._asked[sample.key])
        self.samples[sample.key] = sample
        with writing(self._path):
            self._file.write(json.dumps(asdict(sample)) + "\n")
            self._file.flush()


class OutputInUse(UserError):
    """Another run writes into the output directory."""


@contextmanager
def reserved(directory: Path) -> Iterator[None]:
    """Lock an output directory against other runs.

    The operating system releases the lock when the process ends, even if it crashes. A file system without locks
    keeps nobody out.

    Args:
        directory: The output directory, which exists.

    Raises:
        OutputInUse: If another run holds the lock.
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
    """Check that the answers or results in a directory come from settings that give the same answers.

    Args:
        directory: The output directory.
        settings: Settings of this run.
        finished: The directory holds results. Their questions are no longer compared one by one, so the digest of
            the questions must be the same.

    Returns:
        The differences that change no answer, a line each.

    Raises:
        ValueError: If settings differ that can change answers, or settings.json is damaged.
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
    changing, others = differences(before, now, finished)
    if changing:
        raise ValueError(
            f"{directory} holds a run of other settings ({'; '.join(changing)}): choose another --output, or "
            "--overwrite it"
        )
    return others


def note(directory: Path, others: list[str]) -> None:
    """Print the differences that change no answer to standard error.

    Args:
        directory: The output directory.
        others: What `require_same` returned.
    """
    for difference in others:
        print(f"note: {directory} goes with this run, although {difference}", file=sys.stderr)


def begin(directory: Path, settings: dict[str, Any], overwrite: bool) -> None:
    """Prepare a setting's output directory: gather the answers of all ranks of an interrupted run in answers.jsonl.

    Call it in one process, before any rank makes its `Answers`.

    Args:
        directory: The output directory.
        settings: Settings of this run, which are written to settings.json.
        overwrite: Delete earlier answers and results instead.

    Raises:
        ValueError: As `require_same`. Differences that change no answer are printed.
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
    """Delete the stored answers after the results have been written.

    Args:
        directory: The output directory.
        failed: Some questions failed. The answers then stay, so that a later run asks only the failed ones again.
    """
    if not failed:
        for piece in directory.glob("answers*.jsonl"):
            piece.unlink()


def _read(path: Path) -> Iterator[Sample]:
    """Yield the samples of a file, without those on damaged lines. Their questions are asked again.

    A last line without its end was cut off when the run was killed, and is skipped silently. Other damaged lines are
    reported on standard error.
    """
    if path.exists():
        for number, line in enumerate(
            path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True), start=1
        ):
            if line.endswith("\n"):
                try:
                    yield record(Sample, json.loads(line))
                except (ValueError, TypeError):
                    print(f"{path}: line {number} is damaged; that question is asked again", file=sys.stderr)
