"""Threads for small models, and figures of a machine that was busy with something else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from eval.models import cores, protocol_for
from eval.models.cores import PER_THREAD, Waiting, mark, marks, suit_threads
from eval.run.config import RunConfig
from eval.run.setup import WorkerSetup
from eval.speed.efficiency.report import figures, how, markdown
from eval.speed.rounds import machine, with_mark
from tests.eval.speed.test_efficiency import line, made_up
from vidcom2 import Dense


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(4)
    yield monkeypatch
    torch.set_num_threads(before)


@pytest.mark.parametrize(("millions", "expected"), [(1, 1), (60, 1), (110, 2), (1000, 4)])
def test_threads_that_a_model_is_worth(millions, expected, threads):
    with torch.device("meta"):
        model = torch.nn.Linear(1000, millions * 1000, bias=False)
    suit_threads(model)
    assert torch.get_num_threads() == expected
    assert PER_THREAD == 50_000_000


def test_who_says_how_many_gets_as_many(threads):
    threads.setenv("OMP_NUM_THREADS", "4")
    suit_threads(torch.nn.Linear(2, 2))
    assert torch.get_num_threads() == 4


def test_an_evaluation_of_a_tiny_model_has_one_thread(threads, onevision, tmp_path):
    config = RunConfig(str(onevision), "mvbench_action_count", Dense(), tmp_path, dtype="float32", device="cpu")
    WorkerSetup(config, protocol_for(str(onevision)), (Dense(),)).load_worker("cpu").close()
    assert torch.get_num_threads() == 1


def schedstat(tasks: Path, **threads: tuple[int, int]) -> None:
    for name, (ran, waited) in threads.items():
        (tasks / name).mkdir(parents=True, exist_ok=True)
        (tasks / name / "schedstat").write_text(f"{ran} {waited} 17\n", encoding="ascii")


def test_waiting_is_that_of_all_threads_since_it_was_begun(tmp_path, monkeypatch):
    monkeypatch.setattr(cores, "TASKS", tmp_path)
    assert Waiting().share is None
    schedstat(tmp_path, a=(100, 900), b=(50, 50))
    waiting = Waiting()
    assert waiting.share is None
    schedstat(tmp_path, a=(160, 930), c=(30, 0))
    assert waiting.share == pytest.approx(30 / 120)
    assert Waiting(ever=True).share == pytest.approx(980 / 1220)


@pytest.mark.skipif(not list(cores.TASKS.glob("*/schedstat")), reason="the system does not tell")
def test_two_that_share_a_core_wait_half_of_the_time():
    cores_before = os.sched_getaffinity(0)
    one = min(cores_before)
    program = f"import os, time; os.sched_setaffinity(0, {{{one}}}); print(flush=True); end = time.monotonic() + 2\n"
    program += "while time.monotonic() < end: pass"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        waiting, end = Waiting(), time.monotonic() + 1
        os.sched_setaffinity(0, {one})  # which may have to wait for the other one's end
        try:
            while time.monotonic() < end:
                pass
            assert waiting.share is not None
            assert waiting.share > 0.2
        finally:
            os.sched_setaffinity(0, cores_before)
            other.kill()


@pytest.mark.parametrize("share", [None, 0.0, 0.05])
def test_a_quiet_machine(share):
    assert mark(share) == ""
    assert marks({} if share is None else {"waited_for_cpu": share}) == ""


def test_figures_of_a_busy_machine_are_marked(tmp_path, monkeypatch):
    raw = made_up(line("none", [1.0] * 2), line("vidcom2@0.25", [0.5] * 2))
    assert "LOADED" not in markdown(raw)
    raw["waited_for_cpu"] = 0.62
    assert how(raw)[0].startswith("LOADED MACHINE: this process waited for a CPU for 62 % of its time")
    assert "- LOADED MACHINE" in markdown(raw)
    titles = []
    monkeypatch.setattr(
        "eval.speed.efficiency.report.latency_breakdown", lambda bars, path, title: titles.append(title) or ()
    )
    figures(raw, tmp_path)
    assert titles == ["m_1, GPU, bfloat16, LOADED MACHINE"]


def test_benchmarks_say_so_too(monkeypatch):
    monkeypatch.setattr("eval.speed.rounds.Waiting", lambda ever: type("Busy", (), {"share": 0.5}))
    assert machine(torch.device("cpu"))["waited_for_cpu"] == 0.5
    assert with_mark(["a note"])[0].startswith("LOADED MACHINE: ")
    monkeypatch.setattr("eval.speed.rounds.Waiting", lambda ever: type("Quiet", (), {"share": 0.01}))
    assert with_mark(["a note"]) == ("a note",)
    assert json.loads(json.dumps(machine(torch.device("cpu"))))["waited_for_cpu"] == 0.01
