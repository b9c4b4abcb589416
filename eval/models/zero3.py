"""DeepSpeed ZeRO-3 inference: a model larger than one GPU, its weights spread over a group of processes.

Each process holds its part of every parameter; a module's are gathered while it runs, and let go afterwards. So all
processes of the group have to run the same calls in the same order, and each gets the whole answer. Nothing is computed
with fewer or other numbers than in one process, so answers are the same.

The group is torch.distributed's default one, or is started from RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llava.model.builder import resolve_dtype

from . import environment
from .base import Engine

CONFIG = Path(__file__).with_name("zero3.json")
"""What `--engine deepspeed` uses unless another configuration is named."""

READ_DIRECTLY = ("image_newline",)
"""Ends of the names of those few parameters that the llava tree reads without a call of the module that has them, which
is when ZeRO-3 gathers."""


def read_config(file: Path, dtype: str) -> dict[str, Any]:
    """A DeepSpeed configuration for inference, with what `dtype` ("float16" | "bfloat16" | "float32") adds.

    Raises OSError where the file cannot be read, ValueError for one that is no ZeRO-3 configuration or leaves something
    to transformers' Trainer.
    """
    resolve_dtype(dtype)
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise OSError(f"--zero3-config {file} cannot be read: {error}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is no JSON: {error}") from error
    zero = config.get("zero_optimization") if isinstance(config, dict) else None
    if not isinstance(zero, dict) or zero.get("stage") != 3:
        raise ValueError(f"{file}: zero_optimization.stage must be 3, the one that spreads parameters")
    if auto := sorted(_auto(config)):
        raise ValueError(f"{file}: {', '.join(auto)} cannot be 'auto', which only transformers' Trainer fills in")
    if given := sorted({"fp16", "bf16", "optimizer", "scheduler"} & set(config)):
        raise ValueError(f"{file}: take out {', '.join(given)}; nothing is trained, and --dtype says the precision")
    return config | {"fp16": {"enabled": dtype == "float16"}, "bf16": {"enabled": dtype == "bfloat16"}}


def _auto(config: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _auto(value, f"{prefix}{name}.")
        elif value == "auto":
            yield prefix + name


def require_zero3(file: Path, dtype: str, device: str) -> None:
    """Raise what `read_config` raises; ValueError for a device that this is not for, ImportError without DeepSpeed."""
    read_config(file, dtype)
    if device == "auto":
        raise ValueError("device='auto' spreads a model in one process; with ZeRO-3 each process has its own device")
    if find_spec("deepspeed") is None:
        raise ImportError("ZeRO-3 inference needs deepspeed: pip install deepspeed")


def load_sharded(load: Callable[[], Engine], file: Path, device: str, dtype: str) -> Engine:
    """What `load` returns, an engine with a `model` from transformers' from_pretrained without a device map, its
    weights spread over the processes of the group.

    Nowhere is there more of the model than a part, but for the memory of the first process, not of its GPU, while it
    reads the checkpoint. device: "cpu" or "cuda:N". dtype: as the model is loaded.
    Raises what `require_zero3` and `load` raise.
    """
    require_zero3(file, dtype, device)
    config = read_config(file, dtype)
    import deepspeed
    from deepspeed.accelerator import get_accelerator
    from transformers.integrations import HfDeepSpeedConfig

    deepspeed.utils.logger.setLevel("WARNING")
    mine = torch.device(device)
    if get_accelerator().device_name() != mine.type:
        raise ValueError(
            f"DeepSpeed has chosen {get_accelerator().device_name()!r}, not {device!r}: set DS_ACCELERATOR={mine.type}"
        )
    environment.set_local_rank(mine.index or 0)
    if mine.type == "cpu":
        # Its own all-reduce, which would be compiled now, and which inference has no use for.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(auto_mpi_discovery=False)

    # While this object is there, transformers builds models in parts, and generate() keeps the processes in step.
    switch = HfDeepSpeedConfig(config)
    engine: Any = load()
    model = engine.model.requires_grad_(False)
    runtime = deepspeed.initialize(model=model, config=switch.config)[0]
    for name in [name for name, _ in model.named_parameters() if name.endswith(READ_DIRECTLY)]:
        replicate(model, name)
    model.zero3 = (switch, runtime)  # both undo what they did as soon as they are gone
    return engine


def replicate(model: nn.Module, name: str) -> None:
    """Have every process hold the whole of a parameter, as a buffer, which ZeRO-3 leaves alone."""
    import deepspeed

    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    parameter = getattr(module, leaf)
    with deepspeed.zero.GatheredParameters([parameter]):
        whole = parameter.detach().clone()
    delattr(module, leaf)
    module.register_buffer(leaf, whole)
