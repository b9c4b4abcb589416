"""DeepSpeed ZeRO-3 inference, for a model that is larger than one GPU.

Each process holds a part of every parameter. A module's parameters are gathered while the module runs, and freed
afterwards. So all processes run the same calls in the same order, and each gets the whole answer. The computation is
that of one process, so the answers are the same.

The processes are torch.distributed's default group. It is started from RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT if
there is none.
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
"""The DeepSpeed configuration that `--engine deepspeed` uses by default."""

READ_DIRECTLY = ("image_newline",)
"""Ends of the names of parameters that the llava tree reads outside a call of their module. ZeRO-3 gathers in calls
only."""


def read_config(file: Path, dtype: str) -> dict[str, Any]:
    """Read a DeepSpeed configuration for inference.

    Args:
        file: The configuration, JSON.
        dtype: "float16", "bfloat16" or "float32". It is added to the configuration.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no ZeRO-3 configuration, or has an "auto" that only transformers' Trainer fills in.
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
    """Yield the names of all settings that are "auto"."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _auto(value, f"{prefix}{name}.")
        elif value == "auto":
            yield prefix + name


def require_zero3(file: Path, dtype: str, device: str) -> None:
    """Check that ZeRO-3 can be used.

    Raises:
        ValueError, OSError: The configuration is wrong (see `read_config`), or the device is "auto".
        ImportError: DeepSpeed is not installed.
    """
    read_config(file, dtype)
    if device == "auto":
        raise ValueError("device='auto' spreads a model in one process; with ZeRO-3 each process has its own device")
    if find_spec("deepspeed") is None:
        raise ImportError("ZeRO-3 inference needs deepspeed: pip install deepspeed")


def load_sharded(load: Callable[[], Engine], file: Path, device: str, dtype: str) -> Engine:
    """Load an engine whose weights are sharded over the processes of the group.

    No device ever holds more than a part of the model. Rank 0 reads the checkpoint into its host memory.

    Args:
        load: Loads the engine. Its `model` must come from transformers' from_pretrained without a device map.
        file: The DeepSpeed configuration.
        device: "cpu" or "cuda:N".
        dtype: The dtype in which `load` loads the model.

    Raises:
        ValueError, OSError, ImportError: As `require_zero3` and `load`.
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
        # DeepSpeed would compile its own all-reduce now. Inference does not use it.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(auto_mpi_discovery=False)

    # While this object exists, transformers builds models in parts, and generate() keeps the processes in step.
    switch = HfDeepSpeedConfig(config)
    engine: Any = load()
    model = engine.model.requires_grad_(False)
    runtime = deepspeed.initialize(model=model, config=switch.config)[0]
    for name in [name for name, _ in model.named_parameters() if name.endswith(READ_DIRECTLY)]:
        replicate(model, name)
    model.zero3 = (switch, runtime)  # both undo their work when they are garbage collected
    return engine


def replicate(model: nn.Module, name: str) -> None:
    """Give every process the whole of a parameter, as a buffer. ZeRO-3 does not shard buffers."""
    import deepspeed

    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    parameter = getattr(module, leaf)
    with deepspeed.zero.GatheredParameters([parameter]):
        whole = parameter.detach().clone()
    delattr(module, leaf)
    module.register_buffer(leaf, whole)
