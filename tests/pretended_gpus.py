"""Pretended GPUs for machines without one: tensors that say they are on "cuda" and hold their values on the CPU.

They refuse what real GPUs refuse: operators with tensors on different devices. The CPU computes all values, so tests
show that every tensor is on the right device, not what a GPU's kernels compute.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
CPU = torch.device("cpu")
COPIES = {aten._to_copy, aten.copy_, aten.set_}
"""Operators that may move values from one device to another."""
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
"""Operators that may take indices on the CPU for a tensor on a GPU."""


class OnGpu(Tensor):
    """A tensor that says it is on a GPU. `held` has its values, on the CPU."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor, device: torch.device) -> OnGpu:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=device,
            requires_grad=held.requires_grad,
        )
        made.held = held
        return made

    def __repr__(self) -> str:
        return f"OnGpu({self.held!r}, {self.device})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


class Gpus(TorchDispatchMode):
    """Turns tensors that are made on "cuda" or moved there into `OnGpu`."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


def compute(func: Any, args: Any, kwargs: Any) -> Any:
    """Return an operator's result on the device where it would be. Raises RuntimeError where a GPU would."""
    tensors: list[Tensor] = []
    collect(args, tensors)
    collect(kwargs, tensors)
    here = {tensor.device for tensor in tensors if type(tensor) is OnGpu}
    if not here and kwargs.get("device") in (None, CPU):
        return func(*args, **kwargs)
    if here and func.overloadpacket not in INDEXING and any(t.ndim for t in tensors if type(t) is not OnGpu):
        here.add(CPU)
    if len(here) > 1 and func.overloadpacket not in COPIES:
        raise RuntimeError(f"{func}: tensors are on {' and '.join(sorted(map(str, here)))}")
    if kwargs.get("device") is not None:
        there = torch.device(kwargs["device"])
        kwargs = {**kwargs, "device": CPU if there.type == "cuda" else there}
    else:
        there = args[0].device if func.overloadpacket in COPIES else next(iter(here), CPU)
    if func is aten._fused_sdp_choice.default and here:
        return 0  # the plain implementation, which is made of other operators
    if func is aten.bmm.dtype:
        out = torch.bmm(args[0].held.to(args[2]), args[1].held.to(args[2]))
    else:
        out = func(*mapped(values, args), **mapped(values, kwargs))
    if func._schema.is_mutable:
        return args[0] if isinstance(out, Tensor) else out
    if there.type != "cuda":
        return out
    return mapped(lambda part: OnGpu(part, there) if isinstance(part, Tensor) else part, out)


def collect(value: Any, tensors: list[Tensor]) -> None:
    """Add the tensors in nested lists, tuples and dicts to `tensors`."""
    if isinstance(value, Tensor):
        tensors.append(value)
    elif isinstance(value, (list, tuple, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            collect(part, tensors)


def mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """Apply `change` to the leaves of nested lists, tuples and dicts. torch's own tree_map takes five times as long."""
    kind = type(value)
    if kind is tuple or kind is list:
        return kind([mapped(change, part) for part in value])
    if kind is dict:
        return {name: mapped(change, part) for name, part in value.items()}
    return change(value)


def values(value: Any) -> Any:
    return value.held if type(value) is OnGpu else value


class NoDriver(TorchFunctionMode):
    """Keeps torch functions from asking the driver before they reach operators."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = [first_gpu(arg) for arg in args], {name: first_gpu(arg) for name, arg in (kwargs or {}).items()}
        if func in (torch.tensor, torch.as_tensor, torch.asarray) and "device" in kwargs:
            return func(*mapped(values, args), **{**kwargs, "device": None}).to(kwargs["device"])
        if func is Tensor.tolist and isinstance(args[0], OnGpu):
            return args[0].held.tolist()
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[1], list):
            args = [args[0], torch.tensor(args[1]), *args[2:]]
        return func(*args, **kwargs)


def first_gpu(value: Any) -> Any:
    """Turn "cuda" into "cuda:0"."""
    return torch.device("cuda:0") if type(value) in (str, torch.device) and str(value) == "cuda" else value


DRIVER = {
    "_lazy_init": None,
    "is_available": True,
    "device_count": 2,
    "current_device": 0,
    "current_stream": None,
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
"""What torch.cuda's functions answer. Memory is not counted."""


class Event:
    """torch.cuda.Event of a GPU that does its work at once."""

    def __init__(self, enable_timing: bool = False):
        assert enable_timing

    def record(self, stream: Any) -> None:
        self.seconds = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: Event) -> float:
        return 1000 * (end.seconds - self.seconds)


@contextmanager
def pretended_gpus() -> Iterator[None]:
    """Pretend two GPUs for a with-block, in this thread only: other threads see none."""
    torch._C._ensureCUDADeviceGuardSet()  # a guard that does nothing, as there is no driver
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    with ExitStack() as stack:
        for name, answer in DRIVER.items():
            stack.enter_context(patch.object(torch.cuda, name, lambda *_, answer=answer, **__: answer))
        stack.enter_context(patch.object(torch.cuda, "Event", Event))
        stack.enter_context(patch.dict(os.environ, HF_DEACTIVATE_ASYNC_LOAD="1"))  # otherwise threads read checkpoints
        # In inference mode, composite operators are not taken apart.
        stack.enter_context(
            patch.object(torch._C, "_InferenceMode", lambda on: torch.no_grad() if on else nullcontext())
        )
        # Otherwise module.to() fills the existing parameters, which are of torch's own class.
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrite)
        stack.enter_context(Gpus())
        stack.enter_context(NoDriver())
        yield
