"""A demo: one of the package's models on one of MiniBench's editions, and the directory of its data and results."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path

from vidcom2 import Compressor, Dense, compressor

from ..benchmarks import Benchmark
from ..models.packaged import DEMO_MODEL, DEMO_MODELS, demo_model
from ..results.files import prepare_directory, write_json
from ..results.terminal import near
from ..run.config import RunConfig
from ..run.distributed import World
from ..run.store import require_same, reserved
from ..run.sweep import Sweep, folder
from .minibench import WRITERS
from .world import TASKS, UNITS

SETTINGS = tuple(compressor(spec) for spec in ("none", "vidcom2@0.25", "vidcom2@0.15", "random@0.25"))
"""The compressors that `run --demo` compares."""
PER_TASK = 40
"""Questions per task, unless --limit says otherwise."""
BENCHMARK = "mvbench"
"""The benchmark whose edition a demo takes, unless --tasks says otherwise."""
MARKER = ".demo"
"""The file that marks a directory as a demo's. It holds a `State`."""
OUTPUT = Path("outputs/demo")
"""Where demos are, unless --output says otherwise."""
SOURCES = ("world.py", "minibench.py", "encode.py")
"""The files that determine the data."""


def config(benchmark: Benchmark, data: Path, output: Path, model: Path = DEMO_MODEL) -> RunConfig:
    """The configuration of a run of a demo model on the CPU.

    Args:
        benchmark: The benchmark.
        data: The directory with its MiniBench edition.
        output: The directory for results.
        model: Its checkpoint directory.
    """
    return RunConfig(
        model=str(model),
        tasks=",".join(f"mvbench_{task}" for task in TASKS) if benchmark.name == "mvbench" else benchmark.name,
        compressor=Dense(),
        output=output,
        data=data,
        sampling=f"uniform:{UNITS}",
        dtype="float32",
        device="cpu",
    )


@dataclass(frozen=True)
class State:
    """What a demo's directory holds.

    Attributes:
        data: What identifies the data, see `Demo.data_id`. None while it is incomplete.
        per_task: Questions per task.
        parts: The names in the directory that demos made, and may delete. Runs that were measured in one pass have the
            same text here.
    """

    data: str | None = None
    per_task: int = PER_TASK
    parts: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, directory: Path) -> State:
        """Read the directory's MARKER. Without a readable one, no demo is known to have made anything."""
        try:
            content = json.loads((directory / MARKER).read_text(encoding="utf-8"))
            return cls(content["data"], int(content["per_task"]), dict(content["parts"]))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return cls()

    def write(self, directory: Path) -> State:
        """Write the directory's MARKER."""
        write_json(directory / MARKER, asdict(self))
        return self


@dataclass(frozen=True)
class Demo:
    """A demo model on an edition of MiniBench.

    Attributes:
        benchmark: The benchmark whose schema the edition has.
        model: Name of the model, key of DEMO_MODELS.
        output: The directory for data and results.
        per_task: Questions per task.
        overwrite: Finished results are measured again.
    """

    benchmark: Benchmark
    model: str
    output: Path
    per_task: int = PER_TASK
    overwrite: bool = False

    @staticmethod
    def default_output(benchmark: Benchmark, model: str) -> Path:
        """Return the directory without --output."""
        return OUTPUT / benchmark.name if DEMO_MODELS[model] == DEMO_MODEL else OUTPUT / model / benchmark.name

    @property
    def flags(self) -> str:
        """The flags that name this demo on a command line."""
        own: list[object] = ["--demo"]
        if self.benchmark.name != BENCHMARK:
            own += ["--tasks", self.benchmark.name]
        if self.model != next(iter(DEMO_MODELS)):
            own += ["--model", self.model]
        if self.per_task != PER_TASK:
            own += ["--limit", self.per_task]
        if self.output != self.default_output(self.benchmark, self.model):
            own += ["--output", near(self.output)]
        return shlex.join(map(str, own))

    @property
    def world(self) -> World:
        """The processes that share the questions: two, but one on one CPU, or where there is little to do."""
        return World((("cpu",),) * (2 if self.per_task >= PER_TASK and (os.cpu_count() or 1) > 1 else 1))

    @property
    def data_id(self) -> str:
        """What identifies the data: a digest of the code that makes it, and the number of questions."""
        here = Path(__file__).parent
        digest = hashlib.sha256(b"".join((here / name).read_bytes() for name in SOURCES))
        return f"{self.benchmark.name} {digest.hexdigest()[:16]} {self.per_task}"

    def require_replaceable(self, compressors: Sequence[Compressor]) -> None:
        """Make sure that the demo deletes and changes only what demos made.

        Args:
            compressors: What is evaluated.

        Raises:
            FileExistsError: The directory holds something of the name of a part, which is not known to be a demo's.
        """
        known = State.read(self.output).parts
        parts = ["data", *(folder(one.spec) for one in compressors)]
        if others := [part for part in parts if part not in known and (self.output / part).exists()]:
            raise FileExistsError(
                f"--output {self.output} holds {', '.join(others)}, not known to be a demo's, and --demo would change "
                "it: choose another --output, or remove it yourself"
            )

    @contextmanager
    def sweep(self, compressors: Sequence[Compressor], timed: bool = True) -> Iterator[Sweep]:
        """Make the data if it is not there, and yield a checked sweep. The directory is locked meanwhile.

        Results of the same code stay. Those of a method of another package do not, because nothing tells whether its
        code has changed.

        Args:
            compressors: What is evaluated.
            timed: Their times are compared, so all are measured in one pass: if one is missing, none stays.

        Raises:
            FileExistsError: As `require_replaceable`.
            OutputInUse: Another demo is running in the directory.
        """
        prepare_directory("--output", self.output)
        with reserved(self.output):
            self.require_replaceable(compressors)
            state = self._with_data(State.read(self.output))
            _, checkpoint = demo_model(self.model)
            common = config(self.benchmark, self.output / "data", self.output, checkpoint)
            runs = Sweep(common, compressors).runs
            stale = runs if self.overwrite else [run for run in runs if outdated(run)]
            passes = {state.parts.get(run.output.name) for run in runs}
            if timed and (stale or len(passes) > 1):
                stale = runs
            for run in stale:
                shutil.rmtree(run.output, ignore_errors=True)
            now = datetime.now(timezone.utc).isoformat()
            replace(state, parts={**state.parts, **{run.output.name: now for run in stale}}).write(self.output)
            sweep = Sweep(common, compressors)
            sweep.check()
            yield sweep

    def _with_data(self, state: State) -> State:
        """Make the data if it is not there. Results of other data are deleted."""
        data = self.output / "data"
        if state.data == self.data_id and data.is_dir():
            return state
        for part in state.parts:
            shutil.rmtree(self.output / part, ignore_errors=True)
        State(None, self.per_task, {"data": ""}).write(self.output)
        print(f"making MiniBench's questions and videos in {near(data)}", file=sys.stderr)
        WRITERS[self.benchmark.name](data, self.per_task)
        return State(self.data_id, self.per_task, {"data": ""}).write(self.output)


def outdated(run: RunConfig) -> bool:
    """Tell whether results, or answers of an interrupted run, are missing or must be made again."""
    if not run.output.exists() or not type(run.compressor).__module__.startswith("vidcom2."):
        return True
    try:
        require_same(run.output, run.settings(run.protocol()), finished=run.done)
    except ValueError:  # they have other settings, or settings.json is damaged
        return True
    return False


def with_dense(compressors: Sequence[Compressor]) -> list[Compressor]:
    """Return the compressors without repetitions, dense first: the others are measured against it."""
    return list(dict.fromkeys([Dense(), *compressors]))
