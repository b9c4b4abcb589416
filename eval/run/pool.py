"""A pool of worker processes, one per GPU, or one group of processes per model that is sharded over several GPUs.

A free worker gets the next item. A worker that crashes or hangs is replaced, and what it worked on is retried; a
question that goes on crashing workers fails under the compressor that it crashes them under.
"""

from __future__ import annotations

import multiprocessing
import os
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch

from ..models import environment
from ..results.sample import Key, Sample
from .distributed import DeviceGroup
from .process import Child, ChildDied, fork_server, stop_all, wait_any
from .setup import OnAnswer, Unsuitable, WorkerSetup
from .worker import WorkItem

Pairs = tuple[tuple[Key, int], ...]
"""Questions, each with a setting."""
MAX_CRASHES = 2
"""A question may crash this many workers before it counts as failed. The first crash may have another cause."""
MAX_CRASHES_IN_A_ROW = 3
"""When this many questions crash a worker, with no answer in between, the model or the machine is at fault."""
STOP_SECONDS = 5.0
"""Workers have this many seconds to clean up and end when the pool is closed."""
DOWNLOAD_SECONDS = 86400.0
"""A worker must have loaded its model after this many seconds if the model may have to be downloaded."""


class WorkerPool:
    """Worker processes; each loads the model as soon as the pool is made.

    Args:
        setup: What workers are made of.
        device_groups: The devices of each worker.
        report: Called with a line of text for each worker that crashes.
    """

    def __init__(self, setup: WorkerSetup, device_groups: Sequence[DeviceGroup], report: Callable[[str], None]):
        self._setup, self._report = setup, report
        self._retries: deque[WorkItem] = deque()  # what crashed workers left
        self._crashes: Counter[Pairs] = Counter()  # by what the worker worked on
        self._crashes_in_a_row = 0
        self._workers: list[_WorkerProcesses] = []
        try:
            for devices in device_groups:
                self._workers.append(_WorkerProcesses(setup, devices, len(device_groups)))
        except BaseException:
            self.close()
            raise

    def answer(self, items: Iterator[WorkItem], on_answer: OnAnswer) -> None:
        """Answer all items, in no particular order; `on_answer` is called in this process as the answers come.

        A single question that crashes its worker `MAX_CRASHES` times under a compressor is noted as failed under it.
        If a batch crashes, its questions are retried one by one, so there it is one crash more. If a video crashes its
        worker while it is read or encoded, all questions about it are noted as failed under all compressors.

        Raises:
            Unsuitable: The model cannot be loaded, or a compressor cannot serve it.
            RuntimeError: A worker died before it was ready, or workers crash whatever they are asked.
        """
        while True:
            for worker in self._workers:
                while len(worker.items) < self._setup.ahead and (item := self._next(items)):
                    worker.give(item)
            busy = [worker for worker in self._workers if worker.items]
            if not busy:
                return
            for worker, overdue in wait_any(busy):
                if overdue:  # it hangs, or was stopped
                    seconds, flag = worker.limit
                    worker.cause = f"it said nothing for {seconds:g} s, {flag}"
                if overdue or not self._handle_message(worker, on_answer):
                    self._workers[self._workers.index(worker)] = self._replace(worker, on_answer)

    def close(self) -> None:
        """Stop the workers."""
        stop_all([child for worker in self._workers for child in worker.children], STOP_SECONDS)

    def _next(self, items: Iterator[WorkItem]) -> WorkItem | None:
        return self._retries.popleft() if self._retries else next(items, None)

    def _handle_message(self, worker: _WorkerProcesses, on_answer: OnAnswer) -> bool:
        """Receive a worker's next message and act on it. Returns False if the worker is dead."""
        message = worker.receive()
        if message is None:
            return False
        kind, content = message
        match kind:
            case "unsuitable":
                raise Unsuitable(content)
            case "unfit":
                raise RuntimeError(f"{worker} cannot start:\n{content}")
            case "ready":
                worker.ready = True
            case "encoded":
                batches = worker.items[0].batches(self._setup.config.batch_size)
                worker.batches = [[(one.key, i) for one in batch for i in one.settings] for batch in batches]
            case "answer":
                self._crashes_in_a_row = 0
                worker.remove_answered(*content)
                on_answer(*content)
            case "done":
                worker.items.popleft()
                worker.batches = []
            case "dying":
                worker.cause = content
        return True

    def _replace(self, dead: _WorkerProcesses, on_answer: OnAnswer) -> _WorkerProcesses:
        """Kill what is left of a worker, take back its items, and start another worker on its devices."""
        cause = dead.kill()
        if not dead.ready:
            raise RuntimeError(f"{dead} died before it was ready ({cause})")
        item, *others = dead.items
        if item.questions:
            self._retry_or_fail(dead, item, cause, on_answer)
        else:
            self._report(f"a process died ({cause}) after its last answer to a question; another one takes over")
        self._retries.extend(others)
        return _WorkerProcesses(self._setup, dead.devices, len(self._workers))

    def _retry_or_fail(self, dead: _WorkerProcesses, item: WorkItem, cause: str, on_answer: OnAnswer) -> None:
        """Blame what the worker worked on: retry it, or note it as failed. The rest of the item is retried anyway."""
        blamed = dead.in_progress()
        blamed_before = {key for pairs in self._crashes for key, _ in pairs}
        self._crashes_in_a_row += not any(key in blamed_before for key, _ in blamed)
        self._crashes[blamed] += 1
        if self._crashes_in_a_row == MAX_CRASHES_IN_A_ROW:
            others = f"as others did at the {MAX_CRASHES_IN_A_ROW - 1} questions before"
            raise RuntimeError(f"{dead} died ({cause}), {others}")
        suspect = item.remaining(lambda one: tuple(i for i in one.settings if (one.key, i) in blamed))
        rest = item.remaining(lambda one: tuple(i for i in one.settings if (one.key, i) not in blamed))
        under = f" under {self._setup.compressors[blamed[0][1]].spec}" if dead.batches else ""
        self._report(f"a process died ({cause}) at {suspect}{under}; another one takes over")
        if self._crashes[blamed] == MAX_CRASHES:
            error = RuntimeError(
                f"{suspect}: the process that answered{under} died {MAX_CRASHES} times, at last of: {cause}"
            )
            for one in suspect.videos:
                for question in one.questions:
                    for setting in question.settings:
                        on_answer(setting, Sample.failed(question.key, one.video, error))
        else:  # one by one, to find out which it is
            self._retries.extend(suspect.split(by_question=bool(dead.batches)))
        self._retries.extend([rest] if rest.videos else [])


class _WorkerProcesses:
    """A worker: one process, or one for each of its devices, which share a sharded model.

    Attributes:
        devices: A device for each process.
        items: Given and not done. The first is being worked on; questions that are answered are taken out of it.
        ready: The model is loaded.
        batches: The first item's batches, of questions with settings. Empty until its videos are encoded.
        cause: What the worker died of, as far as it is known.
        last_message: When it last said something or, if that is later, got its first item (`time.monotonic`).
    """

    def __init__(self, setup: WorkerSetup, devices: DeviceGroup, workers: int):
        self._config = setup.config
        self.devices = devices
        self.items: deque[WorkItem] = deque()
        self.ready = False
        self.batches: list[list[tuple[Key, int]]] = []
        self.cause = ""
        self.last_message = time.monotonic()
        on_gpu = devices[0] == "auto" or devices[0].startswith("cuda")
        # A fork server's imports may have initialised CUDA, which does not survive a fork.
        context = multiprocessing.get_context("spawn") if on_gpu else fork_server(__name__)
        threads = max(1, (os.cpu_count() or 1) // workers) if not on_gpu else None
        meeting = str(Path(mkdtemp(), "meeting")) if len(devices) > 1 else None
        # Not daemons, which may not have children: these start the processes that read ahead.
        self.children = [
            Child.start(context, _work, setup, devices, rank, meeting, threads, daemon=False)
            for rank in range(len(devices))
        ]

    def __str__(self) -> str:
        return f"the process that answers on {', '.join(self.devices)}"

    @property
    def limit(self) -> tuple[float, str]:
        """Seconds in which it must say something, and the flags that set them."""
        config = self._config
        if not self.ready:
            local = Path(config.model).is_dir()
            return (config.stuck_after, "--stuck-after") if local else (DOWNLOAD_SECONDS, "for the download of a model")
        if config.workers:
            return config.stuck_after + config.timeout * len(self.items[0].videos), "--stuck-after and --timeout"
        return config.stuck_after, "--stuck-after"

    @property
    def deadline(self) -> float:
        return self.last_message + self.limit[0]

    def receive(self) -> tuple[str, Any] | None:
        """Return the next message of one of its processes, or None if one of them is dead."""
        try:
            message = next((child.receive() for child in self.children if child.connection.poll()), None)
        except (ChildDied, ConnectionError):
            return None
        self.last_message = time.monotonic()
        return message

    def give(self, item: WorkItem) -> None:
        """Send an item. The worker must take it within --stuck-after seconds: a long one waits until it reads."""
        if not self.items and self.ready:
            self.last_message = time.monotonic()
        self.items.append(item)
        with suppress(ConnectionError):  # if a process is dead, `wait_any` reports it
            for child in self.children:
                with child.kill_after(self._config.stuck_after):
                    child.connection.send(item)

    def remove_answered(self, setting: int, sample: Sample) -> None:
        """Take an answer's question and setting out of the item that is being worked on."""
        answered = (sample.key, setting)
        self.items[0] = self.items[0].remaining(lambda one: tuple(i for i in one.settings if (one.key, i) != answered))

    def in_progress(self) -> Pairs:
        """Return what it works on: of the first batch that lacks answers, the questions under the first setting.

        Before its videos are encoded, that is all questions of the item under all settings.
        """
        left = [(question.key, i) for question in self.items[0].questions for i in question.settings]
        if self.batches:
            batch = next(lacking for batch in self.batches if (lacking := [pair for pair in batch if pair in left]))
            setting = min(i for _, i in batch)
            left = [pair for pair in batch if pair[1] == setting]
        return tuple(left)

    def kill(self) -> str:
        """Kill its processes. Returns what the worker died of, or "killed"."""
        ended = [child.kill() for child in self.children]
        return self.cause or next((how for how in ended if how != "killed"), "killed")


def _work(
    connection: Connection,
    setup: WorkerSetup,
    devices: DeviceGroup,
    rank: int,
    meeting: str | None,
    threads: int | None,
) -> None:
    """A worker's process: load the model, then answer items until the pipe ends.

    Args:
        connection: Items come in. Out go (kind, content): see `WorkerPool._handle_message`.
        setup: What the worker is made of.
        devices: The devices of the worker's processes.
        rank: This process's index among them. Only rank 0 sends answers.
        meeting: For several processes, a new file through which they form a torch.distributed group.
        threads: For torch on a CPU.
    """
    if threads is not None and not environment.sets_threads():
        torch.set_num_threads(threads)

    def send(kind: str, content: Any = None) -> None:
        if rank == 0:
            connection.send((kind, content))

    on_gpu = devices[rank].startswith("cuda")
    try:
        # NCCL, Triton kernels and others that name no GPU would take the first one. vLLM takes those that it can see.
        if on_gpu and setup.config.engine != "vllm":
            torch.cuda.set_device(devices[rank])
        if meeting is not None:
            backend = "nccl" if on_gpu else "gloo"
            torch.distributed.init_process_group(
                backend, init_method=f"file://{meeting}", rank=rank, world_size=len(devices)
            )
        worker = setup.load_worker(devices[rank])
    except Unsuitable as error:
        connection.send(("unsuitable", str(error)))
        return
    except Exception:
        connection.send(("unfit", traceback.format_exc()))
        return
    send("ready")
    waiting: deque[WorkItem] = deque()
    try:
        while True:
            while not waiting or connection.poll():
                waiting.append(connection.recv())
                worker.plan(waiting[-1])
            item = waiting.popleft()
            worker.encode(item)
            send("encoded")
            for answer in worker.answers(item):
                send("answer", answer)
            send("done")
    except (EOFError, ConnectionError):
        pass  # the run is over
    except Exception as error:
        connection.send(("dying", f"{type(error).__name__}: {error}"))
        raise
    finally:
        worker.close()
