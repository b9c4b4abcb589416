"""The answers of a run on disk, written as they come, so that a run that is killed at any moment can be resumed."""

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
    """The samples of one run, in memory and in a file of this rank: one line of JSON per sample.

    An answer that an interrupted run left belongs to any question that has the same digest, whatever its number
    (doc_id). Failed questions are asked again.

    Args:
        directory: The run's output directory, prepared by `begin`.
        rank: Index of this process.

    Attributes:
        samples: The samples by question.
    """

    def __init__(self, directory: Path, rank: int):
        self.samples: dict[Key, Sample] = {}
        self._directory, self._path = directory, directory / f"answers.rank{rank}.jsonl"
        self._kept = {sample.asked: sample for sample in _read(directory / "answers.jsonl")}
        self._asked: dict[Key, str] = {}

    @contextmanager
    def open(self) -> Iterator[None]:
        """Open the file: samples can be added inside the block."""
        with writing(self._path):
            self._file = self._path.open("a", encoding="utf-8")
        try:
            yield
        finally:
            with writing(self._path):
                self._file.close()

    def ask(self, key: Key, asked: str, video: str) -> bool:
        """Note a question of this run. Returns whether it has an answer already.

        Args:
            key: lmms-eval's task and doc_id.
            asked: Digest of the question, see `lmms.question_digest`.
            video: Path of its video.
        """
        self._asked[key] = asked
        if asked in self._kept:
            self.samples[key] = replace(self._kept[asked], task=key[0], doc_id=key[1], video=video)
        return key in self.samples

    def unused(self) -> str:
        """Describe the answers of an interrupted run that belong to no question of this run.

        Returns:
            A line for the user, or "" if all are used. It is right once all questions are noted.
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
        """Add the sample of a question that `ask` has noted, and write it to the file."""
        sample = replace(sample, asked=self._asked[sample.key])
        self.samples[sample.key] = sample
        with writing(self._path):
            self._file.write(json.dumps(asdict(sample)) + "\n")
            self._file.flush()


class OutputInUse(UserError):
    """Another run writes into the output directory."""


@contextmanager
def reserved(directory: Path) -> Iterator[None]:
    """Lock an output directory while the block runs.

    The system removes the lock when the process ends, however it ends. On a file system without locks, nothing keeps
    other runs out.

    Raises:
        OutputInUse: Another run has locked it.
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
    """Check that a directory's answers or results were made with settings that give the same answers.

    Args:
        directory: The output directory. Its settings.json has the earlier settings.
        settings: The settings now, see `RunConfig.settings`.
        finished: The directory holds results, whose questions cannot be compared one by one any more.

    Returns:
        The differences that change no answer, one line each.

    Raises:
        ValueError: A setting that can change answers differs, or settings.json is damaged.
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
    """Print on standard error how a resumed or kept run differs in ways that change no answer."""
    for difference in others:
        print(f"note: {directory} goes with this run, although {difference}", file=sys.stderr)


def begin(directory: Path, settings: dict[str, Any], overwrite: bool) -> None:
    """Prepare a run's output directory. One process calls this before any makes its `Answers`.

    The answers of all ranks of an interrupted run are gathered into one file, and settings.json is written.

    Args:
        directory: The output directory.
        settings: See `RunConfig.settings`.
        overwrite: Remove earlier results and answers.

    Raises:
        ValueError: As `require_same`.
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
    """Remove the files of answers, since the results hold them now.

    Args:
        directory: The output directory.
        failed: Some questions failed. Then the files are kept, so that --retry-failed needs to ask only these.
    """
    if not failed:
        for piece in directory.glob("answers*.jsonl"):
            piece.unlink()


def _read(path: Path) -> Iterator[Sample]:
    """Yield a file's samples. The questions of damaged lines are asked again.

    A last line without an end was cut off when the run was killed. Other damaged lines are reported on standard error.
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
