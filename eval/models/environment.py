"""The environment variables of other libraries that evaluation reads or sets. No other file here does.

Variables that stand in for flags (MODEL, COMPRESSOR, ...) are read in `run/flags.py`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import huggingface_hub.constants

OF_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
OF_COMPRESSOR = ("COMPRESSOR", "R_RATIO")
CACHE_ON_CPU = "4"
"""GiB of vLLM's cache on CPUs. By itself, vLLM 0.32 takes nine tenths of the memory, and does not start if they are not
free."""


@dataclass(frozen=True)
class Launch:
    """What torchrun, or another launcher that sets its variables, says about this process.

    Attributes:
        distributed: Whether there is a launcher (RANK is set).
        local_rank: Index of this process among those on this machine (LOCAL_RANK).
        local_processes: Number of processes on this machine (LOCAL_WORLD_SIZE).
    """

    distributed: bool
    local_rank: int
    local_processes: int


def launch() -> Launch:
    """Read the launcher's variables. Without a launcher, this process is alone."""
    local_rank, processes = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return Launch("RANK" in os.environ, local_rank, processes)


def forget_launch() -> None:
    """Remove the launcher's variables. lmms-eval reads them too, and would divide the questions a second time."""
    for name in OF_TORCHRUN:
        os.environ.pop(name, None)


def set_local_rank(index: int) -> None:
    """Set LOCAL_RANK, in which DeepSpeed looks for this process's device."""
    os.environ["LOCAL_RANK"] = str(index)


def forget_compressor() -> None:
    """Remove the variables that choose a compressor: an engine of vLLM in this process is told in another way."""
    for name in OF_COMPRESSOR:
        os.environ.pop(name, None)


def log_to_stderr() -> None:
    """Let vLLM log to standard error, unless the user chose another place: answers go to standard output."""
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")


def show_gpus(devices: Sequence[str]) -> None:
    """Let libraries that this process loads from now on see only some of the visible GPUs.

    Args:
        devices: Such as "cuda:0", as they are called before the first call.
    """
    names = visible_gpus()
    chosen = [int(device.removeprefix("cuda:")) for device in devices]
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names[i] if names else str(i) for i in chosen)


@lru_cache(maxsize=1)
def visible_gpus() -> list[str]:
    """Return what CUDA_VISIBLE_DEVICES names before `show_gpus` changes it."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return visible.split(",") if visible else []


def prepare_vllm_on_cpu() -> bool:
    """Choose how vLLM uses a CPU, and return whether its engine will run in this process. Variables that are set win.

    By itself, vLLM makes two more processes, and keeps a core for this one: on two cores, that took half as long again.
    """
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", CACHE_ON_CPU)
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    return os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0") == "0"


def of_server(spec: str) -> dict[str, str]:
    """Return the environment of a server of vLLM whose caches can be emptied.

    Args:
        spec: Its compressor.
    """
    chosen = {"COMPRESSOR": spec, "VLLM_SERVER_DEV_MODE": "1"}
    rest = {name: value for name, value in os.environ.items() if name not in OF_COMPRESSOR}
    return {"VLLM_CPU_KVCACHE_SPACE": CACHE_ON_CPU, **rest, **chosen}


def sets_threads() -> bool:
    """Return whether the user chose the number of CPU threads (OMP_NUM_THREADS)."""
    return "OMP_NUM_THREADS" in os.environ


def prepare_hub() -> Path:
    """Prepare downloads from the Hugging Face hub. Returns the hub's directory (HF_HOME).

    Some of lmms-eval's tasks look for videos in a folder called "~" if HF_HOME is unset. So it is set to its default.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    return Path(os.environ.setdefault("HF_HOME", huggingface_hub.constants.HF_HOME))
