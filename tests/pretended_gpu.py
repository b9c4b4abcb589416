"""A GPU that is none, for machines without: tensors that say they are on "cuda", with their numbers on the CPU.

It refuses what a real one refuses: operators whose tensors are on different devices. Numbers are the CPU's, so it
shows where things are, not what a GPU's kernels compute.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
# What may have tensors of both devices: copies, and indices, which may stay on the CPU.
MIXED = {aten._to_copy, aten.copy_, aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten.set_}


class OnGpu(Tensor):
    """Says it is on cuda:0; `held` has the numbers."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, real: Tensor) -> OnGpu:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            real.shape,
            strides=real.stride(),
            storage_offset=real.storage_offset(),
            dtype=real.dtype,
            layout=real.layout,
            device=torch.device("cuda:0"),
            requires_grad=real.requires_grad,
        )
        made.held = real
        return made

    def __repr__(self) -> str:
        return f"OnGpu({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


class Gpu(TorchDispatchMode):
    """What is made on "cuda", or moved there, becomes `OnGpu`."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


def compute(func: Any, args: Any, kwargs: Any) -> Any:
    leaves = tree_leaves((args, kwargs))
    ours = [leaf for leaf in leaves if isinstance(leaf, OnGpu)]
    theirs = [leaf for leaf in leaves if isinstance(leaf, Tensor) and not isinstance(leaf, OnGpu) and leaf.ndim]
    if ours and theirs and func.overloadpacket not in MIXED:
        raise RuntimeError(f"{func}: some tensors are on cuda:0, others on the CPU")
    if func is aten.copy_.default and not isinstance(args[0], OnGpu):
        ours = []
    device = kwargs.get("device")
    if device is not None:
        kwargs = {**kwargs, "device": torch.device("cpu") if torch.device(device).type == "cuda" else device}
    on_gpu = bool(ours) if device is None else torch.device(device).type == "cuda"
    if func is aten._fused_sdp_choice.default and ours:
        return 0  # the plain one, which is made of other operators
    if func is aten.bmm.dtype:
        out = torch.bmm(args[0].held.to(args[2]), args[1].held.to(args[2]))
    else:
        out = func(*tree_map(real, args), **tree_map(real, kwargs))
    if func._schema.is_mutable:
        return args[0] if isinstance(out, Tensor) else out
    return tree_map(lambda part: OnGpu(part) if isinstance(part, Tensor) else part, out) if on_gpu else out


class NoDriver(TorchFunctionMode):
    """Keeps torch from asking the driver, before operators are reached."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map(numbered, (args, kwargs or {}))
        if func in (torch.tensor, torch.as_tensor, torch.asarray) and "device" in kwargs:
            return func(*tree_map(real, args), **{**kwargs, "device": None}).to(kwargs["device"])
        if func is Tensor.tolist and isinstance(args[0], OnGpu):
            return args[0].held.tolist()
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[1], list):
            args = [args[0], torch.tensor(args[1]), *args[2:]]
        return func(*args, **kwargs)


def numbered(value: Any) -> Any:
    if isinstance(value, (str, torch.device)) and str(value) == "cuda":
        return torch.device("cuda:0")
    return value


def real(value: Any) -> Any:
    return value.held if isinstance(value, OnGpu) else value


DRIVER = {
    "_lazy_init": None,
    "is_available": True,
    "device_count": 1,
    "current_device": 0,
    "synchronize": None,
    "empty_cache": None,
    "get_device_name": "pretended",
    "get_device_capability": (9, 0),
    "mem_get_info": (2**37, 2**37),
    "memory_allocated": 0,
    "memory_reserved": 0,
    "max_memory_allocated": 0,
    "reset_peak_memory_stats": None,
    "get_rng_state": None,
    "set_rng_state": None,
    "manual_seed_all": None,
}
"""What torch.cuda's functions answer; memory is not counted."""


@contextmanager
def pretended_gpu() -> Iterator[None]:
    """Within, "cuda" is there. In this thread only: threads that were started see none."""
    torch._C._ensureCUDADeviceGuardSet()  # one that does nothing, as there is no driver
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    with ExitStack() as stack:
        for name, answer in DRIVER.items():
            stack.enter_context(patch.object(torch.cuda, name, lambda *_, answer=answer, **__: answer))
        stack.enter_context(patch.dict(os.environ, HF_DEACTIVATE_ASYNC_LOAD="1"))  # else threads read checkpoints
        # Inference mode hands over operators that are made of others as a whole.
        stack.enter_context(
            patch.object(torch._C, "_InferenceMode", lambda on: torch.no_grad() if on else nullcontext())
        )
        # Otherwise module.to() puts the numbers into the parameters that are there, which are of torch's own class.
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrite)
        stack.enter_context(Gpu())
        stack.enter_context(NoDriver())
        yield
