"""How a worker is made, and the worker of a run that needs one only: in this process."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import torch
from safetensors import SafetensorError

from vidcom2 import Compressor

from ..models import Protocol, load_engine
from ..models.base import Engine
from ..models.cores import suit_threads
from ..models.served import VllmEngine
from ..results.errors import UserError
from ..results.sample import Sample
from .config import RunConfig
from .worker import Worker, WorkItem

OnAnswer = Callable[[int, Sample], None]
"""Called with each answer or failure: the setting (the index of the compressor), and the sample."""


class Unsuitable(UserError):
    """The model cannot be loaded, or a compressor cannot serve it."""


@contextmanager
def loading(flag: str) -> Iterator[None]:
    """Raise Unsuitable for what goes wrong while the block loads a model. flag: what named it, "--model NAME"."""
    try:
        yield
    except (ValueError, OSError, ImportError, SafetensorError) as error:
        raise Unsuitable(f"{flag} cannot be loaded: {error}") from error
    except torch.OutOfMemoryError as error:
        raise Unsuitable(f"{flag} does not fit into the device's memory: {error}") from error


@contextmanager
def fitting(flag: str) -> Iterator[None]:
    """Raise Unsuitable if a compressor that the block tries cannot serve the model. flag: as in `loading`."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise Unsuitable(f"on {flag}, {error}") from error


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker is made of. Picklable: worker processes receive it.

    Attributes:
        config: The first run's configuration. Its compressor and output are not used.
        protocol: How the model is evaluated.
        compressors: What to answer under.
    """

    config: RunConfig
    protocol: Protocol
    compressors: tuple[Compressor, ...]

    def load_worker(self, device: str) -> Worker:
        """Load the model on a device: "cpu", "cuda:0" or "auto"; for vLLM also "cuda:0,cuda:1". Raises Unsuitable."""
        config = self.config
        flag, sharded = f"--model {config.model}", config.zero3 is not None
        with loading(flag):
            if config.engine == "vllm":
                (compressor,) = self.compressors
                engine: Engine = VllmEngine(config.model, self.protocol, device, config.dtype, compressor)
            else:
                engine = load_engine(config.model, self.protocol, device, config.dtype, config.attn, config.zero3)
        if device == "cpu" and config.engine != "vllm":
            suit_threads(engine.model)
        with fitting(flag):
            return Worker(engine, self.compressors, config.workers, config.timeout, config.batch_size, sharded)

    @property
    def ahead(self) -> int:
        """Number of items that a worker holds: one for each process that reads ahead, and the one being answered."""
        return max(2, self.config.workers + 1)


class InProcess:
    """Answers in this process. If a question crashes it, the run ends.

    Args:
        worker: The loaded model.
        ahead: See `WorkerSetup.ahead`.
    """

    def __init__(self, worker: Worker, ahead: int):
        self._worker, self._ahead = worker, ahead
        self.engine = worker.engine

    def answer(self, items: Iterator[WorkItem], on_answer: OnAnswer) -> None:
        """Answer all items, in order. See `WorkerPool.answer`."""
        planned: deque[WorkItem] = deque()
        while True:
            for item in islice(items, self._ahead - len(planned)):
                self._worker.plan(item)
                planned.append(item)
            if not planned:
                return
            self._worker.encode(planned[0])
            for setting, sample in self._worker.answers(planned.popleft()):
                on_answer(setting, sample)

    def close(self) -> None:
        """Stop the processes that read ahead."""
        self._worker.close()
