"""One evaluation run: a model, a compressor, a benchmark, an output directory."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from eval.benchmarks import select_tasks
from eval.engine import Engine
from eval.harness import build_model, evaluate, harness_log, load_tasks
from eval.models import Protocol, load_engine, protocol_for
from eval.provenance import provenance
from eval.results import join_samples, print_table, summarise, write_results
from llava.model.builder import resolve_attention, resolve_dtype
from llava.video import FrameSampling
from vidcom2 import compressor


@dataclass(frozen=True)
class RunConfig:
    """Everything one run depends on.

    compressor: a spec ("vidcom2@0.25", "none"). data: local benchmark directory, None for the hub. limit: questions
    per task. sampling: frames ("uniform:16"), None for the protocol's. device: "cpu", "cuda" (one GPU per process) or
    "auto" (one process over all GPUs).
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

    def protocol(self) -> Protocol:
        """How the model is evaluated; ValueError, OSError where it is not, or not with this sampling."""
        protocol = protocol_for(self.model)
        return protocol if self.sampling is None else protocol.sampled(FrameSampling.parse(self.sampling))

    def check(self) -> None:
        """Raise ValueError, OSError or ImportError for what cannot work, before anything is loaded."""
        benchmark, tasks = select_tasks(self.tasks)
        compressor(self.compressor)
        resolve_attention(self.attn)
        resolve_dtype(self.dtype)
        self.protocol()
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"--limit {self.limit} must be at least 1")
        if self.data is not None:
            for task in tasks:
                benchmark.local(task, self.data)
        if (self.output / "results.json").exists() and not self.overwrite:
            raise FileExistsError(f"{self.output} holds finished results: choose another --output, or --overwrite them")
        self.output.mkdir(parents=True, exist_ok=True)


def run(config: RunConfig, quiet: bool = False) -> int:
    """Evaluate in this process (one of several under torchrun); rank 0 writes the results, and unless `quiet` prints.

    Returns the number of questions that failed because their video could not be read.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    kwargs = InitProcessGroupKwargs(timeout=timedelta(days=7))  # ranks meet only at the end
    accelerator = Accelerator(cpu=config.device == "cpu", kwargs_handlers=[kwargs])
    benchmark, names = select_tasks(config.tasks)
    protocol = config.protocol()
    harness_file = config.output / f"harness.rank{accelerator.process_index}.log"
    # Downloads of a benchmark from the hub keep their progress bars; reading local files needs none.
    log = harness_log(harness_file) if config.data is not None else nullcontext()
    with accelerator.main_process_first(), log:
        tasks = load_tasks(benchmark, names, config.data, protocol.harness_name)

    device = f"cuda:{accelerator.local_process_index}" if config.device == "cuda" else config.device
    engine = load_engine(config.model, protocol, compressor(config.compressor), device, config.dtype, config.attn)
    answers_file = config.output / f"answers.rank{accelerator.process_index}.jsonl"
    with answers_file.open("w") as answers, progress(accelerator) as advance, harness_log(harness_file):
        model = build_model(engine, accelerator, answers, advance)
        done = evaluate(model, tasks, config.limit)
    accelerator.wait_for_everyone()

    failed = [0]
    if done is not None:
        results, samples = done
        lines = join_samples(benchmark, results["samples"], samples)
        summary = summarise(benchmark, lines)
        summary["harness_scores"] = {task: results["results"][task].get(f"{benchmark.metric},none") for task in tasks}
        summary["run"] = settings(config, protocol, engine, tasks, accelerator.num_processes)
        summary["provenance"] = provenance()
        write_results(config.output, summary, lines)
        for leftover in config.output.glob("answers.rank*.jsonl"):
            leftover.unlink()
        if not quiet:
            console = Console()
            print_table(console, summary)
            console.print(f"results in {config.output}", highlight=False)
        failed = [len(summary["failures"])]
    if accelerator.num_processes > 1:
        torch.distributed.broadcast_object_list(failed, src=0)
        torch.distributed.destroy_process_group()
    return failed[0]


def settings(
    config: RunConfig, protocol: Protocol, engine: Engine, tasks: dict[str, Any], processes: int
) -> dict[str, Any]:
    """What was run, for results.json."""
    return {
        "model": config.model,
        "compressor": engine.compressor.spec if engine.compressor else "none",
        "compressor_settings": engine.compressor.settings if engine.compressor else {},
        **protocol.describe(),
        "generation": {name: task.config.generation_kwargs for name, task in tasks.items()},
        "dtype": config.dtype,
        "attention": engine.attention,
        "device": str(engine.device),
        "processes": processes,
        "data": str(config.data) if config.data else "hub",
        "limit": config.limit,
    }


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
