"""Evaluate a model on a benchmark, under one compressor or several that share all reading and encoding of videos."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from vidcom2 import Dense

from ..benchmarks import Benchmark, select_tasks
from ..models import canary, environment
from ..models.doubts import of_run
from ..results.load import read_results
from ..results.provenance import provenance
from ..results.sample import Sample
from ..results.schema import RunSettings, Summary
from ..results.summary import join_samples, print_summary, summarise, write_results
from ..results.terminal import near, stdout
from . import store
from .config import RunConfig
from .distributed import World
from .lmms import harness_log, load_tasks, score, stand_in
from .pool import WorkerPool
from .progress import FiniteAnswers, progress, warn
from .questions import require_scorable
from .setup import InProcess, WorkerSetup
from .store import Answers
from .worker import VideoQuestions, work_items


def evaluate_runs(configs: Sequence[RunConfig], world: World, quiet: bool = False) -> int:
    """Answer and score a benchmark's questions under each configuration.

    What an interrupted run left in an output directory counts as answered. Rank 0 writes the results.

    Args:
        configs: They may differ in compressor and output only. Every video is decoded and encoded once for all.
        world: The devices. A single CPU is used in this process; anything else by worker processes.
        quiet: Do not print the results.

    Returns:
        The number of failed questions: an unreadable video, a crash, or a model without an answer.

    Raises:
        OutputInUse: Another run writes into an output directory.
        CanaryError: The installed libraries do not compress as they should.
        Unsuitable: The model cannot be loaded, or a compressor cannot serve it.
        NoQuestions: The questions cannot be loaded, asked or scored.
    """
    config = configs[0]
    if len({replace(one, compressor=Dense(), output=Path()) for one in configs}) > 1:
        raise ValueError("runs that share their videos may differ in compressor and output only")
    if config.engine == "vllm" and len(configs) > 1:  # an engine of vLLM has one compressor
        return sum(evaluate_runs([one], world, quiet) for one in configs)
    evaluation = _Evaluation.prepare(configs, world)
    canary.require_for(config.model, [one.compressor for one in configs])
    with ExitStack() as stack:
        if world.rank == 0:
            for one in configs:
                stack.enter_context(store.reserved(one.output))
        workers = stack.enter_context(closing(evaluation.start_workers()))
        with evaluation.world.rank_0_first("begin"):
            tasks = evaluation.load_tasks()
        answers = [Answers(one.output, world.rank) for one in configs]
        for own in answers:
            stack.enter_context(own.open())
        move_bar = stack.enter_context(progress(evaluation.console, world.rank))

        def answer(videos: list[VideoQuestions]) -> None:
            evaluation.answer(videos, workers, answers, move_bar)

        stack.enter_context(harness_log(evaluation.log_file))
        model = stand_in(answers, answer, tasks, config.data or evaluation.hub)
        scores = score(model, tasks, config.limit, answers)
        summaries = [
            evaluation.write(i, tasks, scored, list(answers[i].samples.values()))
            for i, scored in enumerate(scores)
            if world.rank == 0
        ]
    with evaluation.world.rank_0_first("conclude"):
        pass  # torchrun stops all processes when one ends with a failure, so rank 0 has to be done writing
    if not quiet:
        for one, summary in zip(configs, summaries, strict=False):  # only rank 0 has them
            print_summary(stdout(), summary)
            stdout().print(f"results in {near(one.output)}", markup=False, highlight=False, soft_wrap=True)
    return sum(sample.error is not None for own in answers for sample in own.samples.values())


@dataclass(frozen=True)
class _Evaluation:
    """What `evaluate_runs` knows before it loads a model.

    Attributes:
        configs: The runs.
        settings: The content of each run's settings.json, taken before the model is loaded.
        setup: What workers are made of.
        world: The devices and the other ranks; keys in the shared store belong to this evaluation.
        benchmark: The benchmark.
        names: lmms-eval's names of the tasks.
        hub: Directory of downloads from the hub.
        console: Standard error.
    """

    configs: Sequence[RunConfig]
    settings: Sequence[dict[str, Any]]
    setup: WorkerSetup
    world: World
    benchmark: Benchmark
    names: tuple[str, ...]
    hub: Path
    console: Console

    @classmethod
    def prepare(cls, configs: Sequence[RunConfig], world: World) -> _Evaluation:
        config = configs[0]
        hub = environment.prepare_hub()
        benchmark, names = select_tasks(config.tasks)
        protocol = config.protocol()
        return cls(
            configs,
            [one.settings(protocol) for one in configs],
            WorkerSetup(config, protocol, tuple(one.compressor for one in configs)),
            world.scoped(str(config.output)),
            benchmark,
            names,
            hub,
            Console(file=sys.stderr),
        )

    @property
    def config(self) -> RunConfig:
        """What the runs have in common."""
        return self.configs[0]

    @property
    def log_file(self) -> Path:
        """Where lmms-eval's own output goes."""
        return self.config.output / f"harness.rank{self.world.rank}.log"

    def start_workers(self) -> InProcess | WorkerPool:
        """Load the model: in this process for a single CPU, else in worker processes."""
        if self.world.device_groups == (("cpu",),):
            return InProcess(self.setup.load_worker("cpu"), self.setup.ahead)
        return WorkerPool(self.setup, self.world.device_groups, self.console.print)

    def load_tasks(self) -> dict[str, Any]:
        """Load lmms-eval's tasks and check their questions. Rank 0 prepares the output directories."""
        # Progress bars of a download from the hub are shown. Local files need none.
        with harness_log(self.log_file) if self.config.data is not None else nullcontext():
            tasks = load_tasks(self.benchmark, self.names, self.config.data, self.setup.protocol.harness_name)
        with harness_log(self.log_file):
            doubts = require_scorable(self.benchmark, tasks, self.config.data)
        if self.world.rank == 0:
            for one, own in zip(self.configs, self.settings, strict=True):
                store.begin(one.output, own, one.overwrite)
            for doubt in [*of_run(self.settings[0]), *doubts]:
                warn(self.console, f"note: {doubt}")
        return tasks

    def answer(
        self,
        videos: list[VideoQuestions],
        workers: InProcess | WorkerPool,
        answers: Sequence[Answers],
        move_bar: Callable[[int | None, int], None],
    ) -> None:
        """Answer the questions, stop the workers, and gather the answers of all ranks."""
        if self.world.rank == 0:
            for unused in filter(None, (one.unused() for one in answers)):
                warn(self.console, unused)
        items = work_items(videos, self.config.batch_size)
        total = sum(len(question.settings) for item in items for question in item.questions)
        finite = FiniteAnswers(self.config.model, [one.samples for one in answers], self.console)

        def on_answer(setting: int, sample: Sample) -> None:
            answers[setting].add(sample)
            finite.check(sample)
            move_bar(self.world.count_answer(), total)

        workers.answer(self.world.claim(items), on_answer)
        workers.close()  # the GPU is free while lmms-eval scores
        for of_rank in self.world.gather([one.samples for one in answers]):
            for one, samples in zip(answers, of_rank, strict=True):
                one.samples.update(samples)

    def write(self, setting: int, tasks: dict[str, Any], scored: dict[str, Any], samples: list[Sample]) -> Summary:
        """Write a run's results from lmms-eval's scores and our samples. Returns the content of results.json."""
        config = self.configs[setting]
        processes = self.world.size * len(self.world.device_groups)
        generation = {name: task.config.generation_kwargs for name, task in tasks.items()}
        settings = RunSettings(self.settings[setting], processes, generation, config.limit)
        joined = join_samples(self.benchmark, scored["samples"], samples, config.parser)
        harness = {name: _numbers(scored["results"][name]) for name in tasks}
        main = {name: harness[name].get(self.benchmark.metric_of(task)) for name, task in tasks.items()}
        summary = summarise(self.benchmark, joined, settings, main, provenance(), harness)
        write_results(config.output, summary, joined)
        store.finish(config.output, failed=any(sample.error is not None for sample in samples))
        return summary


def _numbers(scored: dict[str, Any]) -> dict[str, float]:
    """Return lmms-eval's scores of a task by metric, without their standard errors and what is no number."""
    named = ((key.partition(",")[0], value) for key, value in scored.items() if "," in key)
    return {
        name: float(value)
        for name, value in named
        if isinstance(value, (int, float)) and not isinstance(value, bool) and "_stderr" not in name
    }


def report_finished(config: RunConfig, world: World) -> int:
    """Print the finished results of a run, and remove what a run that was killed at its very end left behind.

    Returns:
        The number of failed questions.

    Raises:
        OutputInUse: Another run writes into the output directory.
    """
    summary = read_results(config.output)
    failed = len(summary.failures)
    with world.scoped(str(config.output)).rank_0_first("stay"):
        if world.rank == 0:
            with store.reserved(config.output):
                store.finish(config.output, failed=failed > 0)
            print_summary(stdout(), summary)
            again = f"--retry-failed asks the {failed} failed questions again, " if failed else ""
            print(f"{config.output} is finished already; {again}--overwrite begins anew", file=sys.stderr)
    return failed
