"""The configuration of one evaluation run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from llava.model.builder import resolve_attention, resolve_dtype
from llava.video import FrameSampling
from vidcom2 import Compressor, Keep

from ..benchmarks import Benchmark, select_tasks
from ..benchmarks.edition import edition
from ..models import Protocol, protocol_for, served
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
    """Everything that one evaluation run depends on. The flags of the same names fill it (`run/command.py`)."""

    model: str
    """Checkpoint directory or hub name."""
    tasks: str
    """A benchmark, or some of its lmms-eval tasks, separated by commas."""
    compressor: Compressor
    """How the video's tokens are compressed; `Dense` for not at all."""
    output: Path
    """Directory of the results."""
    data: Path | None = None
    """Local copy of the benchmark. None: from the hub."""
    limit: int | None = None
    """Questions per task. None: all."""
    sampling: str | None = None
    """Which frames are used, such as "uniform:16". None: as the model's protocol says."""
    keep: str | None = None
    """Seconds of every video of which more is kept, such as "12s-15s:full"; see `vidcom2.Keep`. None: none."""
    attn: str | None = None
    """Attention implementation of the LLM. None: the best that is installed."""
    dtype: str = "float16"
    """"float16", "bfloat16" or "float32"."""
    device: str = "cuda"
    """"cpu", "cuda" (one GPU per process) or "auto" (one process with one model over all GPUs)."""
    overwrite: bool = False
    """Whether earlier results in `output` are replaced."""
    parser: Parser = "current"
    """How raw answers are read when they are scored."""
    workers: int = 0
    """Processes that read videos ahead, per process that answers. 0: a video is read when it is needed."""
    timeout: float = 300.0
    """Seconds for reading one video, which then counts as unreadable. There is no limit without `workers`."""
    stuck_after: float = 3600.0
    """Seconds after which a process that answers and says nothing is replaced. Time for reading is added."""
    decoder: str | None = None
    """What reads videos. None: the protocol's own."""
    preprocess: str | None = None
    """How frames are resized, "exact" or "fast". None: the protocol's own."""
    zero3: Path | None = None
    """A DeepSpeed configuration, if one model is sharded over all devices; see `models/zero3.py`."""
    tensor_parallel: int | None = None
    """GPUs of each copy of the model in vLLM, if vLLM answers; see `models/served.py`."""
    batch_size: int = 1
    """Questions that are answered together. It may change the last bits of the logits."""
    retry_failed: bool = False
    """Whether finished results with failed questions count as unfinished."""

    def protocol(self) -> Protocol:
        """Return how the model is evaluated.

        Raises:
            ValueError, OSError: The model has no protocol, or its protocol cannot have this sampling.
        """
        protocol = protocol_for(self.model).read_by(self.decoder, self.preprocess)
        if self.keep is not None:
            protocol = replace(protocol, keep=Keep.parse(self.keep))
        return protocol if self.sampling is None else protocol.sampled(FrameSampling.parse(self.sampling))

    def check(self) -> None:
        """Check everything that can be checked before the model is loaded, and make the output directory.

        Raises:
            ValueError, OSError, ImportError: The run cannot work as asked, or `output` holds results of another run.
        """
        if find_spec("lmms_eval") is None:  # imported only when the model is loaded, after minutes
            raise ImportError("answering a benchmark needs lmms-eval: pip install -c requirements.txt -e .[eval]")
        benchmark, tasks = select_tasks(self.tasks)
        resolve_attention(self.attn)
        resolve_dtype(self.dtype)
        if self.sampling is not None:
            FrameSampling.parse(self.sampling)
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"--limit {self.limit} must be at least 1")
        self._check_by_hand()
        if self.limit is not None and self.limit % benchmark.together:
            raise ValueError(
                f"--limit {self.limit} must be a multiple of {benchmark.together}, because {benchmark.name} scores so "
                "many questions as one"
            )
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
        if self.tensor_parallel is not None:
            self._check_served()
        protocol = self.protocol()  # last, as it may have to ask the hub
        if self.done:
            self._check_finished(protocol, tasks)
            return
        prepare_directory("--output", self.output)
        if not self.overwrite:
            store.require_same(self.output, self.settings(protocol))

    @property
    def done(self) -> bool:
        """Whether `output` holds finished results that are kept."""
        if self.overwrite or not (self.output / "results.json").exists():
            return False
        return not (self.retry_failed and read_results(self.output).failures)

    def _check_finished(self, protocol: Protocol, tasks: Sequence[str]) -> None:
        """Check that finished results are those of this run.

        Raises:
            FileExistsError: Their settings are unknown.
            ValueError: They are damaged, or have other settings or questions.
        """
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

    @property
    def engine(self) -> str:
        """What answers: "torch", "deepspeed" or "vllm"."""
        return "deepspeed" if self.zero3 is not None else "torch" if self.tensor_parallel is None else "vllm"

    def _check_by_hand(self) -> None:
        """Check what the caller keeps by hand.

        Raises:
            ValueError: It is written wrongly, or the engine, the batches or the method cannot have it.
        """
        if self.engine == "deepspeed" and (said := "--keep" if self.keep else getattr(self.compressor, "said", "")):
            raise ValueError(
                f"{said} can be impossible for a single video, and the processes of --engine deepspeed have to do the "
                "same calls: leave it out, or use --engine torch"
            )
        if self.keep is None:
            return
        keep = Keep.parse(self.keep)
        if self.engine == "vllm":
            raise ValueError(f"--keep {keep} is not for --engine vllm, whose totals may not depend on the video")
        if self.batch_size > 1:
            raise ValueError(
                f"--batch-size {self.batch_size} has no effect with --keep, which gives each video budgets of its own: "
                "leave it out"
            )
        if self.compressor.drops:
            try:
                self.compressor.with_budgets(keep.at([keep.spans[0].start]))
            except ValueError as error:
                raise ValueError(f"--keep {keep}: {error}") from error

    def _check_served(self) -> None:
        """Check what only vLLM needs, and what it cannot have.

        Raises:
            ImportError: vLLM is not installed.
            ValueError: A setting has no effect in vLLM, or vLLM cannot run the compressor.
        """
        served.require_vllm()
        for flag, value in (("--attn", self.attn), ("--preprocess", self.preprocess)):
            if value is not None:
                raise ValueError(f"{flag} {value} has no effect on --engine vllm: leave it out")
        if self.device == "auto":
            raise ValueError("--device auto is not for --engine vllm: use --tensor-parallel-size")
        if self.tensor_parallel is not None and self.tensor_parallel < 1:
            raise ValueError(f"--tensor-parallel-size {self.tensor_parallel} must be at least 1")
        if self.device == "cpu" and self.tensor_parallel != 1:
            raise ValueError(f"--tensor-parallel-size {self.tensor_parallel} is for GPUs")
        exact = served.served(self.compressor, self.protocol())
        if exact != self.compressor:
            raise ValueError(f"--engine vllm runs {exact.spec} for {self.compressor.spec}: ask for that")

    @staticmethod
    def _check_data(benchmark: Benchmark, tasks: Sequence[str], data: Path) -> None:
        if not data.is_dir():
            raise FileNotFoundError(f"--data {data} is not a directory")
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
        """Return what identifies the run, JSON-ready: the content of settings.json.

        `run/identity.py` says which of these can change answers.

        Args:
            protocol: The result of `protocol()`, which may have to ask the hub.
        """
        return {
            "model": self.model,
            "weights": identity.weights(self.model),
            "compressor": self.compressor.spec,
            "compressor_settings": self.compressor.settings if self.compressor.drops else {},
            **protocol.describe(),
            **({"keep": str(Keep.parse(self.keep))} if self.keep and self.compressor.drops else {}),
            "dtype": self.dtype,
            "attention": "vllm" if self.engine == "vllm" else resolve_attention(self.attn),
            "device": self.device,
            "engine": self.engine,
            **({"tensor_parallel": self.tensor_parallel} if self.engine == "vllm" else {}),
            "data": str(self.data) if self.data else "hub",
            **({"edition": title} if (title := edition(self.data)) else {}),
            "questions": identity.questions(*select_tasks(self.tasks), self.data),
            "batch_size": self.batch_size,
            "parser": self.parser,
            "code": identity.code(),
            "versions": versions(),
        }
