"""Send objects with large tensors from one process to another.

The bytes of the tensors go through an anonymous file in memory. torch's own way has two faults here: it needs room in
/dev/shm, where a Docker container has 64 MB by default, and the receiver asks the sender again when it unpickles, when
the sender may be dead or stopped.
"""

from __future__ import annotations

import mmap
import os
import pickle
import socket
from io import BytesIO
from multiprocessing.connection import Connection
from typing import Any

import torch

ALIGNED = 64
"""Tensors begin at multiples of this many bytes, as in torch's own memory."""
IN_MEMORY = hasattr(os, "memfd_create")
"""Whether there are anonymous files in memory, as on Linux. Elsewhere the bytes go through the pipe, and the sender
waits until they are read."""


class _Pickler(pickle.Pickler):
    """Pickles an object without the bytes of its arrays and CPU tensors, and appends these to `buffers`."""

    def __init__(self, file: BytesIO, buffers: list[pickle.PickleBuffer]):
        super().__init__(file, protocol=5, buffer_callback=buffers.append)

    def reducer_override(self, thing: Any) -> Any:
        if type(thing) is not torch.Tensor or thing.device.type != "cpu" or not thing.numel():
            return NotImplemented
        data = thing.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data
        return _tensor, (pickle.PickleBuffer(data), thing.dtype, thing.shape)


def _tensor(data: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    """Rebuild a tensor on its received bytes, without a copy."""
    return torch.frombuffer(data, dtype=dtype).reshape(shape)


Packed = tuple[bytes, list[memoryview]]
"""The pickled object without the bytes of arrays and tensors, and these bytes."""


def pack(thing: Any) -> Packed:
    """Pickle an object for `send`.

    Args:
        thing: Any object that can be pickled.

    Returns:
        The pickled object and the bytes of its arrays and CPU tensors. The bytes of contiguous ones are not copied.

    Raises:
        Exception: What pickling raises.
    """
    buffers: list[pickle.PickleBuffer] = []
    pickled = BytesIO()
    _Pickler(pickled, buffers).dump(thing)
    return pickled.getvalue(), [buffer.raw() for buffer in buffers]


def send(connection: Connection, packed: Packed) -> None:
    """Send a packed object.

    Args:
        connection: An end of a duplex pipe.
        packed: What `pack` returned.

    Raises:
        OSError: If there is no memory left, or the receiver is gone.
    """
    pickled, parts = packed
    sizes = [part.nbytes for part in parts]
    if not IN_MEMORY or not parts:
        connection.send((pickled, sizes))
        for part in parts:
            connection.send_bytes(part)
        return
    with open(os.memfd_create("handover"), "wb") as file:
        for part in parts:
            file.write(part)
            file.write(bytes(-part.nbytes % ALIGNED))
        file.flush()
        connection.send((pickled, sizes))
        with _socket(connection) as channel:
            socket.send_fds(channel, [b"."], [file.fileno()])


def receive(connection: Connection) -> Any:
    """Receive an object.

    Args:
        connection: The other end of the pipe.

    Returns:
        The object. Its tensors lie in the received memory.

    Raises:
        EOFError: If the sender ended before all was sent.
        OSError: As EOFError, where the system noticed it first.
    """
    pickled, sizes = connection.recv()
    if not IN_MEMORY or not sizes:
        return pickle.loads(pickled, buffers=[bytearray(connection.recv_bytes()) for _ in sizes])
    with _socket(connection) as channel:
        _, files, _, _ = socket.recv_fds(channel, 1, 1)
    if not files:
        raise EOFError("the sender ended before all was sent")
    steps = [size + -size % ALIGNED for size in sizes]
    try:
        memory = memoryview(mmap.mmap(files[0], sum(steps)))
    finally:
        os.close(files[0])
    begins = [sum(steps[:i]) for i in range(len(steps))]
    parts = [memory[begin : begin + size] for begin, size in zip(begins, sizes, strict=True)]
    return pickle.loads(pickled, buffers=parts)


def _socket(connection: Connection) -> socket.socket:
    """Return a pipe's end as a socket, which multiprocessing's duplex pipes are."""
    return socket.socket(fileno=os.dup(connection.fileno()))
