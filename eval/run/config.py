"""What an evaluation run is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from llava.model.builder import resolve_attention, resolve_dtype
from llava.video import FrameSampling
from vidcom2 import compressor

from ..benchmarks import Benchmark, select_tasks
from ..models import Protocol, protocol_for
from ..models.zero3 import require_zero3
from ..results.files import prepare_directory
from ..results.load import load_run, read_results
from ..results.provenance import versions
from ..results.summary import PARSERS, Parser
from ..results.terminal import PROGRAM
from . import identity, store
from .process import require_seconds


@dataclass(frozen=True)
class RunConfig:
    """Everything one run depends on.

    compressor: a spec ("vidcom2@0.25", "none"). data: local benchmark directory, None for the hub. limit: questions per
    task. sampling: frames ("uniform:16"), None for the protocol's. device: "cpu", "cuda" (one GPU per process) or
    "auto" (one process over all GPUs). parser: whose reading of the raw answers counts. workers: processes that read
    videos ahead, for each that answers; 0 for none. timeout: seconds for one video, which then counts as unreadable;
    without workers there is no limit. stuck_after: seconds that a process that answers may say nothing, besides the
    time for reading, until another one takes its place. decoder, preprocess: how videos are read, None for the
    protocol's own. zero3: a DeepSpeed configuration, to spread one model over all devices (models.zero3). batch_size:
    questions that are answered together, which may change the last bits of what the model computes. retry_failed:
    finished results in which questions failed count as unfinished.
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
    stuck_after: float = 3600.0
    decoder: str | None = None
    preprocess: str | None = None
    zero3: Path | None = None
    batch_size: int = 1
    retry_failed: bool = False

    def protocol(self) -> Protocol:
        """How the model is evaluated; ValueError, OSError where it is not, or not with this sampling."""
        protocol = protocol_for(self.model).read_by(self.decoder, self.preprocess)
        return protocol if self.sampling is None else protocol.sampled(FrameSampling.parse(self.sampling))

    def check(self) -> None:
        """Raise ValueError, OSError or ImportError for what cannot work, before anything is loaded.

        Makes the output directory. Where there are finished results to stay, they must be of this run.
        """
        if find_spec("lmms_eval") is None:  # imported only when the model is loaded, after minutes
            raise ImportError("answering a benchmark needs lmms-eval: pip install -c requirements.txt -e .[eval]")
        benchmark, tasks = select_tasks(self.tasks)
        compressor(self.compressor)
        resolve_attention(self.attn)
        resolve_dtype(self.dtype)
        protocol = self.protocol()
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"--limit {self.limit} must be at least 1")
        if self.parser not in PARSERS:
            raise ValueError(f"--parser {self.parser!r} is unknown; there are {', '.join(PARSERS)}")
        if self.batch_size < 1:
            raise ValueError(f"--batch-size {self.batch_size} must be at least 1")
        if self.workers < 0:
            raise ValueError(f"--workers {self.workers} must be at least 0")
        require_seconds("--timeout", self.timeout)
        require_seconds("--stuck-after", self.stuck_after)
        if self.zero3 is not None:
            require_zero3(self.zero3, self.dtype, self.device)
        if self.data is not None:
            self._check_data(benchmark, tasks, self.data)
        if self.done:
            self._check_finished(protocol, tasks)
            return
        prepare_directory("--output", self.output)
        if not self.overwrite:
            store.require_same(self.output, self.settings(protocol))

    @property
    def done(self) -> bool:
        """Are there finished results, to stay as they are?"""
        if self.overwrite or not (self.output / "results.json").exists():
            return False
        return not (self.retry_failed and read_results(self.output).failures)

    def _check_finished(self, protocol: Protocol, tasks: Sequence[str]) -> None:
        """FileExistsError for finished results of which nobody knows the settings; ValueError for damaged ones, and for
        those of other settings or other questions."""
        if not (self.output / "settings.json").exists():
            raise FileExistsError(
                f"{self.output} holds finished results without their settings.json: choose another --output, or "
                "--overwrite them"
            )
        before = load_run(self.output).summary.run
        for flag, was, now in (
            ("--tasks", ",".join(sorted(before.generation)), ",".join(sorted(tasks))),
            ("--limit", before.limit, self.limit),
        ):
            if was != now:
                made, asked = (f"{flag} {value}" if value else f"no {flag}" for value in (was, now))
                raise ValueError(
                    f"{self.output} was made with {made}, and now there is {asked}: remove it, choose another "
                    "--output, or --overwrite it"
                )
        store.note(self.output, store.require_same(self.output, self.settings(protocol), finished=True))

    @staticmethod
    def _check_data(benchmark: Benchmark, tasks: Sequence[str], data: Path) -> None:
        errors = []
        for task in tasks:
            try:
                benchmark.local(task, data)
            except FileNotFoundError as error:
                errors.append(error)
        if errors:
            many = f" (so it is for {len(errors)} of {len(tasks)} tasks)" if len(tasks) > 1 else ""
            doctor = f"{PROGRAM} doctor --tasks {benchmark.name} --data {data}"
            raise FileNotFoundError(f"{errors[0]}{many}; {doctor} tells all that is missing")

    def settings(self, protocol: Protocol) -> dict[str, Any]:
        """What a run is, JSON-ready; see eval.run.identity for which of these can change answers.

        protocol: what `protocol()` gives, which may ask the hub.
        """
        chosen = compressor(self.compressor)
        return {
            "model": self.model,
            "weights": identity.weights(self.model),
            "compressor": chosen.spec,
            "compressor_settings": chosen.settings if chosen.drops else {},
            **protocol.describe(),
            "dtype": self.dtype,
            "attention": resolve_attention(self.attn),
            "device": self.device,
            "engine": "torch" if self.zero3 is None else "deepspeed",
            "data": str(self.data) if self.data else "hub",
            "questions": identity.questions(*select_tasks(self.tasks), self.data),
            "batch_size": self.batch_size,
            "parser": self.parser,
            "code": identity.code(),
            "versions": versions(),
        }
