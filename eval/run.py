"""Evaluation runs: a model and a benchmark, under one compressor or several, each with an output directory."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from eval import answers
from eval.answers import Answers, Sample
from eval.benchmarks import Benchmark, select_tasks
from eval.harness import build_model, evaluate, harness_log, load_tasks
from eval.models import Protocol, load_engine, protocol_for
from eval.provenance import provenance, versions
from eval.readahead import ReadAhead, ReadNow
from eval.results import PARSERS, Parser, join_samples, print_table, summarise, write_results
from llava.model.builder import resolve_attention, resolve_dtype
from llava.video import FrameSampling
from vidcom2 import compressor


@dataclass(frozen=True)
class RunConfig:
    """Everything one run depends on.

    compressor: a spec ("vidcom2@0.25", "none"). data: local benchmark directory, None for the hub. limit: questions
    per task. sampling: frames ("uniform:16"), None for the protocol's. device: "cpu", "cuda" (one GPU per process) or
    "auto" (one process over all GPUs). parser: whose reading of the raw answers counts. workers: processes that read
    videos ahead, for each that answers; 0 for none. timeout: seconds for one video, which then counts as unreadable;
    without workers there is no limit.
    """

    model: str
    tasks: str
    compressor: str
    output: Path
    data: Path | None = None
    limit: int | None = None
    sampling: str | None = None
    attn: str | None = None
    dtype: str = "float16"
    device: str = "cuda"
    overwrite: bool = False
    parser: Parser = "current"
    workers: int = 0
    timeout: float = 300.0

    def protocol(self) -> Protocol:
        """How the model is evaluated; ValueError, OSError where it is not, or not with this sampling."""
        protocol = protocol_for(self.model)
        return protocol if self.sampling is None else protocol.sampled(FrameSampling.parse(self.sampling))

    def check(self) -> None:
        """Raise ValueError, OSError or ImportError for what cannot work, before anything is loaded.

        Makes the output directory.
        """
        benchmark, tasks = select_tasks(self.tasks)
        compressor(self.compressor)
        resolve_attention(self.attn)
        resolve_dtype(self.dtype)
        protocol = self.protocol()
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"--limit {self.limit} must be at least 1")
        if self.parser not in PARSERS:
            raise ValueError(f"--parser {self.parser!r} is unknown; there are {', '.join(PARSERS)}")
        if self.workers < 0:
            raise ValueError(f"--workers {self.workers} must be at least 0")
        if not self.timeout > 0:
            raise ValueError(f"--timeout {self.timeout} must be a positive number of seconds")
        if self.data is not None:
            for task in tasks:
                benchmark.local(task, self.data)
        if self.finished and not self.overwrite:
            raise FileExistsError(f"{self.output} holds finished results: choose another --output, or --overwrite them")
        self.output.mkdir(parents=True, exist_ok=True)
        try:
            with TemporaryFile(dir=self.output) as probe:
                probe.write(bytes(2**20))  # a full disk is found out now, not after hours
        except OSError as error:
            raise OSError(f"--output {self.output} cannot be written: {error}") from error
        if not self.overwrite:
            answers.require_same(self.output, self.settings(protocol))

    @property
    def finished(self) -> bool:
        return (self.output / "results.json").exists()

    def settings(self, protocol: Protocol) -> dict[str, Any]:
        """What answers depend on, JSON-ready; the same for runs whose answers may stand in one table line.

        protocol: what `protocol()` gives, which may ask the hub.
        """
        chosen = compressor(self.compressor)
        return {
            "model": self.model,
            "compressor": chosen.spec if chosen else "none",
            "compressor_settings": chosen.settings if chosen else {},
            **protocol.describe(),
            "dtype": self.dtype,
            "attention": resolve_attention(self.attn),
            "device": self.device,
            "data": str(self.data) if self.data else "hub",
            "parser": self.parser,
            "versions": versions(),
        }


def run(configs: Sequence[RunConfig], quiet: bool = False) -> int:
    """Evaluate in this process (one of several under torchrun); rank 0 writes the results, and unless `quiet` prints.

    configs: alike but for compressor and output; every video is decoded and encoded once for all of them. What an
    interrupted run left in an output counts as answered.
    Returns the number of questions that failed because their video could not be read.
    """
    config = configs[0]
    if len({replace(one, compressor="", output=Path()) for one in configs}) > 1:
        raise ValueError("runs that share their videos may differ in compressor and output only")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    kwargs = InitProcessGroupKwargs(timeout=timedelta(days=7))  # ranks meet only at the end
    accelerator = Accelerator(cpu=config.device == "cpu", kwargs_handlers=[kwargs])
    benchmark, names = select_tasks(config.tasks)
    protocol = config.protocol()
    log_file = config.output / f"harness.rank{accelerator.process_index}.log"
    # Downloads of a benchmark from the hub keep their progress bars; reading local files needs none.
    log = harness_log(log_file) if config.data is not None else nullcontext()
    with accelerator.main_process_first(), log:
        if accelerator.is_main_process:
            for one in configs:
                answers.begin(one.output, one.settings(protocol), one.overwrite)
        tasks = load_tasks(benchmark, names, config.data, protocol.harness_name)

    device = f"cuda:{accelerator.local_process_index}" if config.device == "cuda" else config.device
    engine = load_engine(config.model, protocol, device, config.dtype, config.attn)
    rank = accelerator.process_index
    books = [Answers(compressor(one.compressor), one.output, rank) for one in configs]
    with ExitStack() as stack:
        for book in books:
            stack.enter_context(book.open())
        advance = stack.enter_context(progress(accelerator))
        stack.enter_context(harness_log(log_file))
        for book in books:
            engine.check(book.compressor)
        reader = ReadAhead(engine.read, config.workers, config.timeout) if config.workers else ReadNow(engine.read)
        stack.callback(reader.close)
        model = build_model(engine, accelerator, books, reader, advance)
        summaries = []
        for one, scored in zip(configs, evaluate(model, tasks, config.limit, books), strict=True):
            if scored is not None:
                summaries.append(conclude(one, protocol, benchmark, tasks, *scored, accelerator.num_processes))
    accelerator.wait_for_everyone()

    failed = 0
    for one, summary in zip(configs, summaries, strict=False):  # only rank 0 has them
        failed += len(summary["failures"])
        if not quiet:
            console = Console()
            print_table(console, summary)
            console.print(f"results in {one.output}", highlight=False)
    if accelerator.num_processes > 1:
        everywhere = [failed]
        torch.distributed.broadcast_object_list(everywhere, src=0)
        torch.distributed.destroy_process_group()
        (failed,) = everywhere
    return failed


def conclude(
    config: RunConfig,
    protocol: Protocol,
    benchmark: Benchmark,
    tasks: dict[str, Any],
    results: dict[str, Any],
    samples: list[Sample],
    processes: int,
) -> dict[str, Any]:
    """Write what is known when all is scored; returns what goes into results.json."""
    lines = join_samples(benchmark, results["samples"], samples, config.parser)
    summary = summarise(benchmark, lines)
    summary["harness_scores"] = {task: results["results"][task].get(f"{benchmark.metric},none") for task in tasks}
    summary["run"] = {
        **config.settings(protocol),
        "generation": {name: task.config.generation_kwargs for name, task in tasks.items()},
        "processes": processes,
        "limit": config.limit,
    }
    summary["provenance"] = provenance()
    write_results(config.output, summary, lines)
    answers.finish(config.output)
    return summary


@contextmanager
def progress(accelerator: Accelerator) -> Iterator[Callable[[int], None]]:
    """A bar on rank 0 over its share of the questions; yields what moves it on by one, given their number."""
    if not accelerator.is_main_process:
        yield lambda total: None
        return
    columns: list[Any] = [
        TextColumn("answering"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=Console(file=sys.stderr)) as bar:
        task = bar.add_task("", total=None, rate="")

        def advance(total: int) -> None:
            bar.update(task, total=total, advance=1)
            if speed := bar.tasks[task].speed:
                bar.update(task, rate=f"{speed * accelerator.num_processes:.2f}/s")

        yield advance
