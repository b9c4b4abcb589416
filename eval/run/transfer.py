"""Objects with large tensors, from process to process.

Their bytes go through an anonymous file in memory. torch's own way takes room in /dev/shm, of which a container of
Docker has 64 MB, and asks the sender again when the receiver unpacks, by when it may be dead or stopped.
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
"""Bytes: where a tensor begins, as torch aligns its own."""
IN_MEMORY = hasattr(os, "memfd_create")
"""Only Linux has such files. Elsewhere the bytes go through the pipe, and the sender waits until they are taken."""


class _Pickler(pickle.Pickler):
    """Leaves the bytes of arrays and of CPU tensors out; they are `buffers` then."""

    def __init__(self, file: BytesIO, buffers: list[pickle.PickleBuffer]):
        super().__init__(file, protocol=5, buffer_callback=buffers.append)

    def reducer_override(self, thing: Any) -> Any:
        if type(thing) is not torch.Tensor or thing.device.type != "cpu" or not thing.numel():
            return NotImplemented
        data = thing.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data
        return _tensor, (pickle.PickleBuffer(data), thing.dtype, thing.shape)


def _tensor(data: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.frombuffer(data, dtype=dtype).reshape(shape)


Packed = tuple[bytes, list[memoryview]]
"""Pickled, without the bytes of arrays and tensors; and these."""


def pack(thing: Any) -> Packed:
    """Raises what pickling it raises."""
    buffers: list[pickle.PickleBuffer] = []
    pickled = BytesIO()
    _Pickler(pickled, buffers).dump(thing)
    return pickled.getvalue(), [buffer.raw() for buffer in buffers]


def send(connection: Connection, packed: Packed) -> None:
    """Through a duplex pipe. OSError where there is no memory, or nobody listens."""
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
    """What `send` sent. EOFError or OSError where the sender ended before all was sent."""
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
    """The same pipe once more: multiprocessing's are sockets."""
    return socket.socket(fileno=os.dup(connection.fileno()))
