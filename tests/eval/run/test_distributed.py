from __future__ import annotations

import multiprocessing
import os
import socket
from typing import Any

import pytest

from eval.models.environment import show_gpus, visible_gpus
from eval.run.distributed import World


@pytest.fixture
def four_gpus(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("requested", "device", "sharded", "groups"),
    [
        (None, "cuda", False, (("cuda:0",), ("cuda:1",), ("cuda:2",), ("cuda:3",))),
        (2, "cuda", False, (("cuda:0",), ("cuda:1",))),
        (None, "cuda", True, (("cuda:0", "cuda:1", "cuda:2", "cuda:3"),)),
        (2, "cuda", True, (("cuda:0", "cuda:1"),)),
        (None, "cpu", False, (("cpu",),)),
        (3, "cpu", False, (("cpu",),) * 3),
        (None, "auto", False, (("auto",),)),
        (1, "auto", False, (("auto",),)),
    ],
)
def test_device_groups(requested, device, sharded, groups, four_gpus):
    world = World.join(requested, device, sharded)
    assert (world.device_groups, world.rank, world.size) == (groups, 0, 1)


def test_processes_of_a_machine_share_its_gpus(four_gpus, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    shares = []
    for rank in "01":
        monkeypatch.setenv("LOCAL_RANK", rank)
        shares.append(World.join(None, "cuda").device_groups)
    assert sorted(team for share in shares for team in share) == [(f"cuda:{i}",) for i in range(4)]
    with pytest.raises(ValueError, match="--num-gpus 2 with --device auto"):
        World.join(None, "auto")


@pytest.mark.parametrize(("requested", "device"), [(8, "cuda"), (0, "cuda"), (0, "cpu"), (-1, "cpu"), (2, "auto")])
def test_more_devices_than_there_are(requested, device, four_gpus):
    with pytest.raises(ValueError, match=f"--num-gpus {requested} "):
        World.join(requested, device)


@pytest.mark.parametrize(
    ("requested", "per_worker", "groups"),
    [
        (None, 1, (("cuda:0",), ("cuda:1",), ("cuda:2",), ("cuda:3",))),
        (None, 2, (("cuda:0,cuda:1",), ("cuda:2,cuda:3",))),
        (2, 2, (("cuda:0,cuda:1",),)),
    ],
)
def test_workers_of_several_gpus(requested, per_worker, groups, four_gpus):
    """--num-gpus is the number of GPUs, as ever, and --tensor-parallel-size how many a worker has."""
    assert World.join(requested, "cuda", per_worker=per_worker).device_groups == groups


def test_gpus_that_cannot_be_divided(four_gpus):
    with pytest.raises(ValueError, match="--tensor-parallel-size 3 does not divide the 4 GPUs"):
        World.join(None, "cuda", per_worker=3)


@pytest.mark.parametrize(
    ("visible", "expected"), [("", "2,3"), ("4,5,6,7", "6,7"), ("GPU-a,GPU-b,GPU-c,GPU-d", "GPU-c,GPU-d")]
)
def test_a_worker_sees_its_gpus_only(visible, expected, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    visible_gpus.cache_clear()
    for _ in range(2):  # an engine after the other
        show_gpus(["cuda:2", "cuda:3"])
        assert os.environ["CUDA_VISIBLE_DEVICES"] == expected
    visible_gpus.cache_clear()


def test_no_gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(ValueError, match="--device cuda: torch finds no GPU"):
        World.join(None, "cuda")


def test_alone():
    world = World().scoped("a run")
    with world.rank_0_first("anything"):
        assert list(world.claim([1, 2, 3])) == [1, 2, 3]
    assert world.count_answer() is None
    assert world.gather("mine") == ["mine"]


def take_part(environment: dict[str, str], results: Any) -> None:
    os.environ.update(environment)
    everything = World.join(1, "cpu")
    assert "RANK" not in os.environ
    order, claims = [], []
    for run in ("one", "two"):
        world = everything.scoped(run)
        with world.rank_0_first("begin"):
            order.append(world.store.add("through", 1))
        claims.append(list(world.claim(range(100))))
        counts = [world.count_answer() for _ in claims[-1]]
        assert counts == sorted(counts)
        assert world.gather({"rank": world.rank}) == [{"rank": 0}, {"rank": 1}, {"rank": 2}]
    results.put((everything.rank, order, claims))
    with everything.rank_0_first("end"):
        pass
    everything.gather(None)  # rank 0 holds the store


def test_three_processes():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["eval.run.distributed"])
    results = context.Queue()
    shared = {"WORLD_SIZE": "3", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    processes = [context.Process(target=take_part, args=({**shared, "RANK": str(i)}, results)) for i in range(3)]
    for process in processes:
        process.start()
    by_rank = {rank: (order, claims) for rank, order, claims in (results.get(timeout=120) for _ in processes)}
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert by_rank[0][0] == [1, 1], "rank 0 is first"
    for run in (0, 1):
        assert sorted(item for _, claims in by_rank.values() for item in claims[run]) == list(range(100))
