"""What the terminal shows while questions are answered, and when to stop because no answer can be right."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..models.base import NoNumbers
from ..results.sample import Key, Sample
from .pool import MAX_CRASHES_IN_A_ROW
from .setup import Unsuitable

MAX_WITHOUT_NUMBERS = MAX_CRASHES_IN_A_ROW
"""The run ends after this many questions for which the model computes NaN, if none before had an answer."""


def warn(console: Console, text: str) -> None:
    """Print a warning. Paths in it stay on one line, whatever the width of the terminal."""
    console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)


class FiniteAnswers:
    """Watches whether the model computes numbers at all.

    A model whose weights are NaN fails at its first question. If it goes on failing, the questions are not the cause.

    Args:
        model: The checkpoint, for the message.
        answers: The answers of each run. Those of an interrupted run prove that the model works.
        console: Where the first failure is printed.
    """

    def __init__(self, model: str, answers: Sequence[dict[Key, Sample]], console: Console):
        self._model, self._console = model, console
        self._answered = any(sample.error is None for samples in answers for sample in samples.values())
        self._without: set[Key] = set()

    def check(self, sample: Sample) -> None:
        """Look at a new answer.

        Raises:
            Unsuitable: `MAX_WITHOUT_NUMBERS` questions had no numbers, and no question has an answer.
        """
        if sample.error != NoNumbers.SAID:
            self._answered = self._answered or sample.error is None
        elif not self._answered:
            if not self._without:
                where = f"{sample.task} question {sample.doc_id}"
                self._console.print(f"{where}: {sample.error}", style="red", markup=False, highlight=False)
            self._without.add(sample.key)
            if len(self._without) == MAX_WITHOUT_NUMBERS:
                raise Unsuitable(
                    f"--model {self._model} answers none of {MAX_WITHOUT_NUMBERS} questions: {sample.error}"
                )


@contextmanager
def progress(console: Console, rank: int) -> Iterator[Callable[[int | None, int], None]]:
    """Show a progress bar in rank 0.

    Yields:
        A function to call after each answer. Its arguments are the number of answers that all ranks have by now (None
        for one more than before), and the number that there will be.
    """
    if rank > 0:
        yield lambda done, total: None
        return
    columns: list[Any] = [
        TextColumn("answering"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=None, rate="")

        def move(done: int | None, total: int) -> None:
            bar.update(task, total=total, completed=done, advance=1 if done is None else None)
            if speed := bar.tasks[task].speed:
                bar.update(task, rate=f"{speed:.2f}/s")

        yield move
