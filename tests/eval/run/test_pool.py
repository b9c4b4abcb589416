"""Workers that crash. The names of the videos say what a worker does with them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from eval.results.sample import Sample
from eval.run.config import RunConfig
from eval.run.pool import WorkerPool, _work
from eval.run.setup import Unsuitable, WorkerSetup
from eval.run.worker import Question, VideoQuestions, WorkItem, work_items
from vidcom2 import Dense, VidCom2, compressor


class CrashingWorker:
    """Stands in for eval.run.worker.Worker."""

    def __init__(self, device: str, batch: int):
        if device == "unfit":
            raise ValueError("no such model")
        if device == "stillborn":
            os._exit(9)
        if device == "unready":
            os.kill(os.getpid(), signal.SIGSTOP)
        self.device, self.batch = device, batch

    def plan(self, item: WorkItem) -> None:
        pass

    def encode(self, item: WorkItem) -> None:
        for one in item.videos:
            self.do("see", one.video)

    def answers(self, item: WorkItem) -> Iterator[tuple[int, Sample]]:
        videos = {question.key: one.video for one in item.videos for question in one.questions}
        for batch in item.batches(self.batch):
            for one in batch:
                self.do(str(one.key[1]), videos[one.key])
            for setting in sorted({setting for one in batch for setting in one.settings}):
                those = [one for one in batch if setting in one.settings]
                for one in those:
                    self.do(f"{one.key[1]}.{setting}", videos[one.key])
                for one in those:
                    made = Sample(*one.key, videos[one.key], str(os.getpid()), self.device, None, 1, 1.0, 1, 1, {})
                    yield setting, made
        for one in item.videos:
            self.do("end", one.video)

    def do(self, stage: str, video: str) -> None:
        """`crash:see` has the process crash when it sees, `crash:1` at question 1, `crash:1.0` at question 1 under
        setting 0; `once:1` the first time."""
        what, when, *_ = Path(video).name.split(":")
        if stage != when:
            return
        if what == "slow":
            time.sleep(1)
        if what == "once":
            try:
                Path(video).touch(exist_ok=False)
            except FileExistsError:
                return
        if what == "bug":
            raise KeyError("a mistake")
        if what in ("crash", "once"):
            os.kill(os.getpid(), signal.SIGSEGV)
        if what == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class CrashingSetup(WorkerSetup):
    def load_worker(self, device: str) -> Any:
        return CrashingWorker(device, self.config.batch_size)


def setup(batch: int = 1, model: str = "no-directory", **more: Any) -> WorkerSetup:
    config = RunConfig(model=model, tasks="", compressor=Dense(), output=Path(), batch_size=batch, **more)
    return CrashingSetup(config, protocol=None, compressors=(Dense(), VidCom2()))  # type: ignore[arg-type]


def items(root: Path, *names: str, batch: int = 1) -> list[WorkItem]:
    """A video per name, with three questions under both settings."""
    return work_items(
        [
            VideoQuestions(str(root / name), tuple(Question((name, i), "", {}, (0, 1)) for i in range(3)))
            for name in names
        ],
        batch,
    )


@pytest.fixture
def pool(request):
    """Of the devices that the parameter names; a number among them is the batch size."""
    batch = next((one for one in request.param if isinstance(one, int)), 1)
    said: list[str] = []
    pool = WorkerPool(setup(batch), [(device,) for device in request.param if device != batch], said.append)
    pool.said = said
    yield pool
    pool.close()


def answered(pool: WorkerPool, todo: list[WorkItem]) -> dict[tuple[str, int, int], Sample]:
    notes: list[tuple[int, Sample]] = []
    pool.answer(iter(todo), lambda setting, sample: notes.append((setting, sample)))
    by_question = {(*sample.key, setting): sample for setting, sample in notes}
    assert len(by_question) == len(notes), "something was answered twice"
    assert set(by_question) == {(*q.key, s) for item in todo for q in item.questions for s in q.settings}
    return by_question


@pytest.mark.parametrize("pool", [("cpu:a", "cpu:b")], indirect=True)
def test_a_death_costs_one_question(pool, tmp_path):
    names = ("slow:0", "crash:1", "fine:a", "once:2", "fine:b", "crash:see", "fine:c", "bug:2", "fine:d")
    got = answered(pool, items(tmp_path, *names))
    failed = {key: sample.error for key, sample in got.items() if sample.error}
    assert set(failed) == {
        *(("crash:1", 1, setting) for setting in (0, 1)),
        *(("bug:2", 2, setting) for setting in (0, 1)),
        *(("crash:see", i, setting) for i in range(3) for setting in (0, 1)),
    }
    assert "crash:1: the process that answered under none died 2 times, at last of: SIGSEGV" in str(
        failed["crash:1", 1, 0]
    )
    assert "KeyError: 'a mistake'" in str(failed["bug:2", 2, 0])
    assert len(pool.said) == 11
    assert sum("SIGSEGV" in line for line in pool.said) == 7
    # The other process had the whole rest while this one was slow or being replaced.
    assert {sample.answer for sample in got.values() if not sample.error} == {"cpu:a", "cpu:b"}
    assert len({sample.prompt for sample in got.values() if not sample.error}) > 2


@pytest.mark.parametrize("pool", [("cpu:a",), ("cpu:a", 3)], indirect=True)
@pytest.mark.parametrize("setting", [0, 1])
def test_a_death_costs_the_setting_that_it_came_under(setting, pool, tmp_path):
    """The same answers are there under the others, which the comparison is between."""
    got = answered(pool, items(tmp_path, "fine:a", f"crash:1.{setting}", "fine:b", batch=pool._setup.config.batch_size))
    (failed,) = [key for key, sample in got.items() if sample.error]
    assert failed == (f"crash:1.{setting}", 1, setting)
    assert len(pool.said) == (2 if pool._setup.config.batch_size == 1 else 3)  # at first, the batch is blamed
    assert f"answered under {('none', 'vidcom2@0.25')[setting]} died 2 times" in str(got[failed].error)


@pytest.mark.parametrize("pool", [("cpu:a", 2)], indirect=True)
def test_the_rest_of_a_batch_under_a_setting_is_not_the_next_batch(pool, tmp_path):
    """As where some questions were answered under some settings before."""
    name = "crash:1.1"
    settings = ((0,), (1,), (0, 1), (0, 1))
    video = VideoQuestions(
        str(tmp_path / name), tuple(Question((name, i), "", {}, own) for i, own in enumerate(settings))
    )
    got = answered(pool, [WorkItem((video,))])
    assert {key for key, sample in got.items() if sample.error} == {(name, 1, 1)}
    assert len(pool.said) == 2


@pytest.mark.parametrize("pool", [("cpu",)], indirect=True)
def test_one_question_that_dies_under_every_setting_does_not_end_the_run(pool, tmp_path):
    specs = ("none", "vidcom2", "random", "fastv")
    object.__setattr__(pool._setup, "compressors", tuple(map(compressor, specs)))
    one = Question(("crash:0", 0), "", {}, (0, 1, 2, 3))
    fine = Question(("fine:a", 0), "", {}, (0, 1, 2, 3))
    got = answered(pool, [WorkItem((VideoQuestions(str(tmp_path / q.key[0]), (q,)),)) for q in (one, fine)])
    assert {key for key, sample in got.items() if sample.error} == {("crash:0", 0, setting) for setting in range(4)}


@pytest.mark.parametrize("pool", [("cpu:a",)], indirect=True)
def test_a_death_after_the_last_answer_costs_nothing(pool, tmp_path):
    got = answered(pool, items(tmp_path, "fine:a", "crash:end", "fine:b"))
    assert not any(sample.error for sample in got.values())
    assert pool.said == ["a process died (SIGSEGV) after its last answer to a question; another one takes over"]


def test_a_stopped_process_costs_one_question(tmp_path):
    pool = WorkerPool(setup(stuck_after=4.0), [("cpu:a",), ("cpu:b",)], lambda line: None)
    try:
        got = answered(pool, items(tmp_path, "fine:a", "stop:1.0", "fine:b", "fine:c"))
    finally:
        pool.close()
    failed = {key: sample.error for key, sample in got.items() if sample.error}
    assert set(failed) == {("stop:1.0", 1, 0)}
    assert "died 2 times, at last of: it said nothing for 4 s, --stuck-after" in str(failed["stop:1.0", 1, 0])


def test_a_process_that_is_stopped_while_it_loads(tmp_path):
    pool = WorkerPool(setup(stuck_after=2.0, model=str(tmp_path)), [("unready",)], lambda line: None)
    with pytest.raises(RuntimeError, match=r"died before it was ready \(it said nothing for 2 s, --stuck-after\)"):
        answered(pool, items(tmp_path, "fine:a"))
    pool.close()


@pytest.mark.parametrize("pool", [("cpu:a", "cpu:b", 4)], indirect=True)
def test_a_death_costs_one_question_of_a_batch(pool, tmp_path):
    names = ("fine:a", "crash:1", "fine:b", "once:2", "crash:see", "fine:c")
    got = answered(pool, items(tmp_path, *names, batch=4))
    failed = {key for key, sample in got.items() if sample.error}
    assert failed == {
        *(("crash:1", 1, setting) for setting in (0, 1)),
        *(("crash:see", i, setting) for i in range(3) for setting in (0, 1)),
    }


@pytest.mark.parametrize("pool", [("cpu:a", "cpu:b")], indirect=True)
def test_who_is_faster_gets_more(pool, tmp_path):
    slow, *fast = items(tmp_path, "slow:1", *(f"fine:{i}" for i in range(20)))
    got = answered(pool, [slow, *fast])
    mine = got["slow:1", 0, 0].answer
    per_process = [sum(sample.answer == name for sample in got.values()) for name in ("cpu:a", "cpu:b")]
    assert sum(per_process) == 21 * 6
    assert (per_process[0] < per_process[1]) == (mine == "cpu:a")


@pytest.mark.parametrize("pool", [("cpu",)], indirect=True)
def test_what_kills_every_process_ends_the_run(pool, tmp_path):
    with pytest.raises(RuntimeError, match=r"died \(KeyError: .*\), as others did at the 2 questions before"):
        answered(pool, items(tmp_path, "crash:see", "crash:see:2", "bug:see", "fine:a"))


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        (("unfit",), r"on unfit cannot start:\n(?s:.*)ValueError: no such model"),
        (("stillborn",), r"on stillborn died before it was ready \(exit status 9\)"),
    ],
    indirect=["pool"],
)
def test_what_cannot_start_is_told(pool, message, tmp_path):
    with pytest.raises(RuntimeError, match=message):
        answered(pool, items(tmp_path, "fine:a"))


@pytest.mark.parametrize("pool", [("cpu",)], indirect=True)
def test_nothing_to_do(pool):
    assert answered(pool, []) == {}


@pytest.mark.parametrize(("group", "meeting"), [(("cuda:3",), None), (("cuda:0", "cuda:3"), "meeting")])
def test_a_process_makes_its_gpu_the_current_one_before_anything_else(group, meeting, monkeypatch):
    log = []

    class Loading:
        config = SimpleNamespace(engine="torch")

        def load_worker(self, device: str) -> None:
            log.append(("load", device))
            raise Unsuitable("no further")

    monkeypatch.setattr("torch.cuda.set_device", lambda device: log.append(("current", device)))
    monkeypatch.setattr("torch.distributed.init_process_group", lambda backend, **_: log.append(("meet", backend)))
    monkeypatch.setattr("signal.signal", lambda *_: None)
    told, telling = multiprocessing.Pipe()
    _work(telling, Loading(), group, len(group) - 1, meeting, None)  # type: ignore[arg-type]
    assert told.recv() == ("unsuitable", "no further")
    assert log == [("current", "cuda:3"), *([("meet", "nccl")] if meeting else []), ("load", "cuda:3")]
