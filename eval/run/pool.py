"""The processes that answer: one per GPU, or a team with one model between them.

Whichever is free gets the next video, and one that dies costs one question under one setting.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from safetensors import SafetensorError

from ..models import Protocol, load_engine
from ..models.cores import suit_threads
from ..results.errors import UserError
from ..results.sample import Key, Sample
from .config import RunConfig
from .distributed import Team
from .process import Child, dismiss_all
from .worker import Answering, Job

Note = Callable[[int, Sample], None]
"""Takes a setting, and what was answered under it or why not."""
LIVES = 2
"""A question fails under a setting when it has lost so many processes. The first loss may have another cause."""
FRUITLESS = 3
"""When so many questions lose a process, with no answer in between, the model or the machine is at fault."""
PATIENCE = 5.0
"""Seconds that processes have to end by themselves."""
DOWNLOADING = 86400.0
"""Seconds that a process has to load a model that is no local directory."""


class Unsuitable(UserError):
    """The model cannot be loaded, or a compressor cannot serve it."""


@contextmanager
def loading(flag: str) -> Iterator[None]:
    """Where a model is loaded: Unsuitable for what is wrong with it. flag: what named it, "--model NAME"."""
    try:
        yield
    except (ValueError, OSError, ImportError, SafetensorError) as error:
        raise Unsuitable(f"{flag} cannot be loaded: {error}") from error
    except torch.OutOfMemoryError as error:
        raise Unsuitable(f"{flag} does not fit into the device's memory: {error}") from error


@contextmanager
def fitting(flag: str) -> Iterator[None]:
    """Where compressors are tried on a model: Unsuitable for one that cannot serve it. flag: as in `loading`."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise Unsuitable(f"on {flag}, {error}") from error


@dataclass(frozen=True)
class Setup:
    """What a process that answers is made of. specs: of the compressors. Picklable."""

    config: RunConfig
    protocol: Protocol
    specs: tuple[str, ...]

    def answering(self, device: str) -> Answering:
        """device: "cpu", "cuda:0" or "auto". Raises Unsuitable."""
        config = self.config
        flag, together = f"--model {config.model}", config.zero3 is not None
        with loading(flag):
            engine = load_engine(config.model, self.protocol, device, config.dtype, config.attn, config.zero3)
        if device == "cpu":
            suit_threads(engine.model)
        with fitting(flag):
            return Answering(engine, self.specs, config.workers, config.timeout, config.batch_size, together)

    @property
    def ahead(self) -> int:
        """Jobs to hold: one for each that reads ahead, and the one that is answered."""
        return max(2, self.config.workers + 1)


class Alone:
    """This process answers itself; if it dies, so does the run. ahead: jobs to hold, as `Setup.ahead`."""

    def __init__(self, answering: Answering, ahead: int):
        self._answering, self._ahead = answering, ahead

    def answer(self, jobs: Iterator[Job], note: Note) -> None:
        """As `Crew.answer`."""
        planned: deque[Job] = deque()
        while True:
            for job in islice(jobs, self._ahead - len(planned)):
                self._answering.plan(job)
                planned.append(job)
            if not planned:
                return
            self._answering.see(planned[0])
            for setting, sample in self._answering.answers(planned.popleft()):
                note(setting, sample)

    def close(self) -> None:
        self._answering.close()


class Crew:
    """The processes of `teams`; they load the model at once. say: told of each that dies."""

    def __init__(self, setup: Setup, teams: Sequence[Team], say: Callable[[str], None]):
        self._setup, self._say = setup, say
        self._again: deque[Job] = deque()  # what was left when a process died
        self._blamed: Counter[tuple[tuple[Key, int], ...]] = Counter()  # questions, each with a setting
        self._fruitless = 0
        self._members: list[_Member] = []
        try:
            for team in teams:
                self._members.append(_Member(setup, team, len(teams)))
        except BaseException:
            self.close()
            raise

    def answer(self, jobs: Iterator[Job], note: Note) -> None:
        """Answer, in no particular order; `note` is called here, as answers come.

        A question that kills its process twice under a setting is noted as failed under that one; all questions about a
        video under all settings, if it dies of that.
        Raises Unsuitable, and RuntimeError where processes die before they are ready, or whatever they are asked.
        """
        while True:
            for member in self._members:
                while len(member.jobs) < self._setup.ahead and (job := self._next(jobs)):
                    member.give(job, self._setup.config.stuck_after)
            busy = [member for member in self._members if member.jobs]
            if not busy:
                return
            first = min(member.heard + self._limit(member)[0] for member in busy) - time.monotonic()
            ready = set(wait([one for member in busy for one in member.signs], max(0.0, first)))
            for i, member in enumerate(self._members):
                if not member.jobs:
                    continue
                seconds, whose = self._limit(member)
                if not ready.isdisjoint(member.signs):
                    if not self._listen(member, note):
                        self._members[i] = self._replace(member, note)
                elif time.monotonic() > member.heard + seconds:  # it may have been stopped
                    member.cause = f"it said nothing for {seconds:g} s, {whose}"
                    self._members[i] = self._replace(member, note)

    def close(self) -> None:
        dismiss_all([child for member in self._members for child in member.children], PATIENCE)

    def _limit(self, member: _Member) -> tuple[float, str]:
        """Seconds in which it has to say something, and whose they are."""
        config = self._setup.config
        if not member.ready:
            local = Path(config.model).is_dir()
            return (config.stuck_after, "--stuck-after") if local else (DOWNLOADING, "for the download of a model")
        if config.workers:
            return config.stuck_after + config.timeout * len(member.jobs[0].parts), "--stuck-after and --timeout"
        return config.stuck_after, "--stuck-after"

    def _next(self, jobs: Iterator[Job]) -> Job | None:
        return self._again.popleft() if self._again else next(jobs, None)

    def _listen(self, member: _Member, note: Note) -> bool:
        """Take what the member has to say; False if it is dead."""
        heard = member.hear()
        if heard is None:
            return False
        member.heard = time.monotonic()
        kind, what = heard
        match kind:
            case "unsuitable":
                raise Unsuitable(what)
            case "unfit":
                raise RuntimeError(f"a process that answers on {', '.join(member.team)} cannot start:\n{what}")
            case "ready":
                member.ready = True
            case "seen":
                batches = member.jobs[0].batches(self._setup.config.batch_size)
                member.seen = [[(one.key, i) for one in batch for i in one.settings] for batch in batches]
            case "answer":
                self._fruitless = 0
                member.answered(*what)
                note(*what)
            case "done":
                member.jobs.popleft()
                member.seen = []
            case "dying":
                member.cause = what
        return True

    def _replace(self, dead: _Member, note: Note) -> _Member:
        cause, name = dead.end(), f"the process that answers on {', '.join(dead.team)}"
        if not dead.ready:
            raise RuntimeError(f"{name} died before it was ready ({cause})")
        job, *others = dead.jobs
        if not job.questions:
            self._say(f"a process died ({cause}) after its last answer to a question; another one takes over")
            self._again.extend(others)
            return _Member(self._setup, dead.team, len(self._members))
        left = [(question.key, i) for question in job.questions for i in question.settings]
        if dead.seen:  # of the first batch that lacks answers, those under the first setting that lacks them
            batch = next(lacking for batch in dead.seen if (lacking := [pair for pair in batch if pair in left]))
            setting = min(i for _, i in batch)
            left = [pair for pair in batch if pair[1] == setting]
        blamed = tuple(left)
        before = {key for pairs in self._blamed for key, _ in pairs}
        self._fruitless += not any(key in before for key, _ in blamed)
        self._blamed[blamed] += 1
        if self._fruitless == FRUITLESS:
            raise RuntimeError(f"{name} died ({cause}), as others did at the {FRUITLESS - 1} questions before")
        suspects = job.left(lambda one: tuple(i for i in one.settings if (one.key, i) in blamed))
        rest = job.left(lambda one: tuple(i for i in one.settings if (one.key, i) not in blamed))
        under = f" under {self._setup.specs[blamed[0][1]]}" if dead.seen else ""
        self._say(f"a process died ({cause}) at {suspects}{under}; another one takes over")
        if self._blamed[blamed] == LIVES:
            error = RuntimeError(
                f"{suspects}: the process that answered{under} died {LIVES} times, at last of: {cause}"
            )
            for part in suspects.parts:
                for question in part.questions:
                    for setting in question.settings:
                        note(setting, Sample.failed(question.key, part.video, error))
        else:  # next time one by one, to see which it is
            self._again.extend(suspects.apart(by_question=bool(dead.seen)))
        self._again.extend(([rest] if rest.parts else []) + others)
        return _Member(self._setup, dead.team, len(self._members))


class _Member:
    """A team of processes that answers; mostly of one.

    jobs: given and not done; the first is being worked on, and has lost the questions that are answered. ready: its
    model is loaded. seen: once the first job's video is encoded, its batches, of questions with settings. signs: ready
    to be waited for when it speaks or dies. heard: when it last said something or, if that was later, was given its
    first job, on time.monotonic's clock.
    """

    def __init__(self, setup: Setup, team: Team, members: int):
        self.team = team
        self.jobs: deque[Job] = deque()
        self.ready = False
        self.seen: list[list[tuple[Key, int]]] = []
        self.cause = ""
        self.heard = time.monotonic()
        on_gpu = team[0] == "auto" or team[0].startswith("cuda")
        # A server that forks starts processes in no time, but its imports may have woken CUDA, which no fork survives.
        context = multiprocessing.get_context("spawn" if on_gpu else "forkserver")
        if not on_gpu:
            context.set_forkserver_preload([__name__])
        threads = max(1, (os.cpu_count() or 1) // members) if not on_gpu else None
        meeting = str(Path(mkdtemp(), "meeting")) if len(team) > 1 else None
        # No daemons: they have children, the processes that read ahead.
        self.children = [
            Child.start(context, _work, setup, team, rank, meeting, threads, daemon=False) for rank in range(len(team))
        ]

    @property
    def signs(self) -> list[Any]:
        return [sign for child in self.children for sign in (child.connection, child.process.sentinel)]

    def hear(self) -> tuple[str, Any] | None:
        """What one of them has to say, None where it is only that it is dead."""
        try:
            return next((child.hear() for child in self.children if child.connection.poll()), None)
        except (EOFError, ConnectionError):
            return None

    def give(self, job: Job, seconds: float) -> None:
        """seconds: in which it has to take it; much text has to wait for it to read what it was given before."""
        if not self.jobs and self.ready:
            self.heard = time.monotonic()
        self.jobs.append(job)
        with suppress(ConnectionError):  # if one is dead, `signs` will tell
            for child in self.children:
                with child.hurried(seconds):
                    child.connection.send(job)

    def answered(self, setting: int, sample: Sample) -> None:
        self.jobs[0] = self.jobs[0].left(
            lambda one: tuple(i for i in one.settings if (one.key, i) != (sample.key, setting))
        )

    def end(self) -> str:
        """Kill it; returns what it had died of, if it had."""
        ended = [child.end() for child in self.children]
        return self.cause or next((how for how in ended if how != "killed"), "killed")


def _work(
    connection: Connection, setup: Setup, team: Team, rank: int, meeting: str | None, threads: int | None
) -> None:
    """Answer, as the member `rank` of a team, which meets at a new file, `meeting`; the first one tells the answers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that hands out the questions ends it
    if threads is not None and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads)

    def tell(kind: str, what: Any = None) -> None:
        if rank == 0:
            connection.send((kind, what))

    on_gpu = team[rank].startswith("cuda")
    try:
        if on_gpu:  # else what names no GPU, such as NCCL and kernels written in Triton, takes the first one
            torch.cuda.set_device(team[rank])
        if meeting is not None:
            backend = "nccl" if on_gpu else "gloo"
            torch.distributed.init_process_group(
                backend, init_method=f"file://{meeting}", rank=rank, world_size=len(team)
            )
        answering = setup.answering(team[rank])
    except Unsuitable as error:
        connection.send(("unsuitable", str(error)))
        return
    except Exception:
        connection.send(("unfit", traceback.format_exc()))
        return
    tell("ready")
    waiting: deque[Job] = deque()
    try:
        while True:
            while not waiting or connection.poll():
                waiting.append(connection.recv())
                answering.plan(waiting[-1])
            job = waiting.popleft()
            answering.see(job)
            tell("seen")
            for answer in answering.answers(job):
                tell("answer", answer)
            tell("done")
    except (EOFError, ConnectionError):
        pass  # the run is over
    except Exception as error:
        connection.send(("dying", f"{type(error).__name__}: {error}"))
        raise
    finally:
        answering.close()
