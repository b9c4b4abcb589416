"""Evaluation runs: a model and a benchmark, under one compressor or several, each with an output directory."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub.constants
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..benchmarks import Benchmark, select_tasks
from ..models import canary
from ..models.base import NoNumbers
from ..results.load import read_results
from ..results.provenance import provenance
from ..results.sample import Key, Sample
from ..results.schema import RunSettings, Summary
from ..results.summary import join_samples, print_summary, summarise, write_results
from ..results.terminal import stdout
from . import store
from .config import RunConfig
from .distributed import Place
from .lmms import build_model, evaluate, harness_log, load_tasks
from .pool import FRUITLESS, Alone, Crew, Setup, Unsuitable
from .questions import require_scorable
from .store import Answers
from .worker import Part, jobs_of


def run(configs: Sequence[RunConfig], place: Place, quiet: bool = False) -> int:
    """Evaluate on this place's devices; rank 0 writes the results, and unless `quiet` prints them.

    configs: alike but for compressor and output; every video is decoded and encoded once for all of them. What an
    interrupted run left in an output counts as answered. place: a single CPU is this process, anything else is
    processes of their own.
    Raises OutputInUse where another run writes into an output, CanaryError where the installed libraries do not
    compress right, Unsuitable where model or compressors are, NoQuestions where these cannot be loaded.
    Returns the number of questions that failed, because their video could not be read, or whatever they died of.
    """
    config = configs[0]
    if len({replace(one, compressor="", output=Path()) for one in configs}) > 1:
        raise ValueError("runs that share their videos may differ in compressor and output only")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # Where this is unset, some of lmms-eval's tasks look for videos in a folder called "~".
    os.environ.setdefault("HF_HOME", huggingface_hub.constants.HF_HOME)
    place = place.within(str(config.output))
    benchmark, names = select_tasks(config.tasks)
    protocol = config.protocol()
    log_file = config.output / f"harness.rank{place.rank}.log"
    settings = [one.settings(protocol) for one in configs]  # before the model is loaded: what it is then
    setup = Setup(config, protocol, tuple(one.compressor for one in configs))
    console = Console(file=sys.stderr)
    canary.require_for(config.model, setup.specs)
    with ExitStack() as stack:
        if place.rank == 0:
            for one in configs:
                stack.enter_context(store.reserved(one.output))
        alone = place.teams == (("cpu",),)
        crew = stack.enter_context(
            closing(Alone(setup.answering("cpu"), setup.ahead) if alone else Crew(setup, place.teams, console.print))
        )
        with place.first("begin"):
            # Downloads of a benchmark from the hub keep their progress bars; reading local files needs none.
            with harness_log(log_file) if config.data is not None else nullcontext():
                tasks = load_tasks(benchmark, names, config.data, protocol.harness_name)
            with harness_log(log_file):
                doubts = require_scorable(benchmark, tasks, config.data)
            if place.rank == 0:
                for one, own in zip(configs, settings, strict=True):
                    store.begin(one.output, own, one.overwrite)
                for doubt in doubts:
                    console.print(f"note: {doubt}", style="yellow", markup=False, highlight=False, soft_wrap=True)
        books = [Answers(one.output, place.rank) for one in configs]
        for book in books:
            stack.enter_context(book.open())
        bar = stack.enter_context(progress(console, place))

        def answer(parts: list[Part]) -> None:
            for unused in filter(None, (book.unused() for book in books if place.rank == 0)):
                console.print(unused, style="yellow", markup=False, highlight=False, soft_wrap=True)
            jobs = jobs_of(parts, config.batch_size)
            total = sum(len(question.settings) for job in jobs for question in job.questions)

            proof = Proof(config.model, books, console)

            def note(setting: int, sample: Sample) -> None:
                books[setting].add(sample)
                proof.take(sample)
                bar(place.count(), total)

            crew.answer(place.claimed(jobs), note)
            crew.close()  # the GPU is free while lmms-eval scores
            for theirs in place.gather([book.samples for book in books]):
                for book, samples in zip(books, theirs, strict=True):
                    book.samples.update(samples)

        stack.enter_context(harness_log(log_file))
        summaries = []
        model = build_model(books, answer, tasks, config.data or Path(os.environ["HF_HOME"]))
        scored = evaluate(model, tasks, config.limit, books)
        for one, own, book, results in zip(configs, settings, books, scored, strict=True):
            if place.rank == 0:
                samples = list(book.samples.values())
                generation = {name: task.config.generation_kwargs for name, task in tasks.items()}
                told = RunSettings(own, place.world * len(place.teams), generation, one.limit)
                summaries.append(conclude(one, told, benchmark, tasks, results, samples))
    with place.first("conclude"):
        pass  # a process that ends with failures would have torchrun stop the one that writes

    if not quiet:
        for one, summary in zip(configs, summaries, strict=False):  # only rank 0 has them
            terminal = stdout()
            print_summary(terminal, summary)
            terminal.print(f"results in {one.output}", highlight=False)
    return sum(sample.error is not None for book in books for sample in book.samples.values())


class Proof:
    """Does the model compute numbers at all?

    One without a number says so at its first answer. If that goes on, it is not the questions' fault.
    """

    def __init__(self, model: str, books: Sequence[Answers], console: Console):
        self._model, self._console = model, console
        self._given = any(sample.error is None for book in books for sample in book.samples.values())
        self._without: set[Key] = set()

    def take(self, sample: Sample) -> None:
        """An answer that has come; Unsuitable at the third question without numbers, if there were none before."""
        if sample.error != NoNumbers.SAID:
            self._given = self._given or sample.error is None
        elif not self._given:
            if not self._without:
                where = f"{sample.task} question {sample.doc_id}"
                self._console.print(f"{where}: {sample.error}", style="red", markup=False, highlight=False)
            self._without.add(sample.key)
            if len(self._without) == FRUITLESS:
                raise Unsuitable(f"--model {self._model} answers none of {FRUITLESS} questions: {sample.error}")


def stay(config: RunConfig, place: Place) -> int:
    """What is left to do for finished results of this run, as where a run was killed in its last moment.

    Rank 0 prints them. Returns the number of questions that failed. Raises OutputInUse as `run`.
    """
    summary = read_results(config.output)
    failed = len(summary.failures)
    with place.within(str(config.output)).first("stay"):
        if place.rank == 0:
            with store.reserved(config.output):
                store.finish(config.output, failed=failed > 0)
            print_summary(stdout(), summary)
            again = f"--retry-failed asks the {failed} failed questions again, " if failed else ""
            print(f"{config.output} is finished already; {again}--overwrite begins anew", file=sys.stderr)
    return failed


def conclude(
    config: RunConfig,
    told: RunSettings,
    benchmark: Benchmark,
    tasks: dict[str, Any],
    results: dict[str, Any],
    samples: list[Sample],
) -> Summary:
    """Write what is known when all is scored; returns what goes into results.json."""
    scored = join_samples(benchmark, results["samples"], samples, config.parser)
    harness_scores = {task: results["results"][task].get(f"{benchmark.metric},none") for task in tasks}
    summary = summarise(benchmark, scored, told, harness_scores, provenance())
    write_results(config.output, summary, scored)
    store.finish(config.output, failed=any(sample.error is not None for sample in samples))
    return summary


@contextmanager
def progress(console: Console, place: Place) -> Iterator[Callable[[int | None, int], None]]:
    """A bar on rank 0; yields what moves it, given how many answers all processes have by now (None: one more), and
    how many there will be."""
    if place.rank > 0:
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
