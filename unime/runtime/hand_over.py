"""A batch on its way out of a worker process: what is pickled, and beside it one piece of shared
memory with all of its arrays.

torch's own way takes a handle for every tensor and fails, where there is no memory or no handle
left, in a thread of the worker that nobody listens to, so that the batch is waited for for ever.
Here that is an exception of `pack`.
"""

from __future__ import annotations

import os
import pickle
import resource
from io import BytesIO
from itertools import accumulate
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unime.errors import ConfigError

SHARED = "/dev/shm"
PREFETCH = 2  # batches of each worker that are made ahead
ALIGNED = 64  # bytes, from which any type can be read
SPARE = 8  # handles that sending and receiving one takes
OF_A_WORKER, OF_ALL = 4, 16  # handles in this process (seen: 4 each, and 3)


class _Pickler(pickle.Pickler):
    """Puts tensors beside what it writes, as it does with arrays itself."""

    def reducer_override(self, value: Any) -> Any:
        if type(value) is not Tensor or value.device.type != "cpu" or value.requires_grad:
            return NotImplemented
        content = value.contiguous().reshape(-1).view(torch.uint8).numpy()
        return _tensor, (pickle.PickleBuffer(content.data), value.dtype, tuple(value.shape))


def _tensor(content: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    if not len(content):
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(content, dtype=dtype).reshape(shape)


def _parts(value: Any) -> tuple[bytes, list[memoryview], list[int]]:
    """What is pickled, the arrays, and where each begins and the last ends in shared memory."""
    file, buffers = BytesIO(), list[pickle.PickleBuffer]()
    _Pickler(file, pickle.HIGHEST_PROTOCOL, buffer_callback=buffers.append).dump(value)
    arrays = [buffer.raw() for buffer in buffers]
    sizes = (-(-len(array) // ALIGNED) * ALIGNED for array in arrays)
    return file.getvalue(), arrays, list(accumulate(sizes, initial=0))


def shared_size(value: Any) -> int:
    """Bytes of shared memory that a batch takes."""
    return _parts(value)[2][-1]


def pack(value: Any) -> bytes:
    """What a process that asks this one for it, by :func:`unpack`, makes the same value of.

    Raises:
        OSError, RuntimeError: no shared memory or no handle is left.
    """
    for spare in [os.dup(2) for _ in range(SPARE)]:
        os.close(spare)
    pickled, arrays, places = _parts(value)
    # in full or not at all, where memory that is only mapped would end the process when it is used
    shared = torch.UntypedStorage._new_shared(max(1, places[-1]))
    memory = torch.empty(0, dtype=torch.uint8).set_(shared)  # type: ignore[call-overload]
    lengths = [len(array) for array in arrays]
    for begin, array in zip(places, arrays, strict=False):
        memory.numpy()[begin : begin + len(array)] = np.frombuffer(array, np.uint8)
    return bytes(ForkingPickler.dumps((pickled, memory, places, lengths)))


def unpack(packed: bytes) -> Any:
    """The value; its arrays stay in shared memory, which is given back with the last of them."""
    pickled, memory, places, lengths = pickle.loads(packed)
    content = memory.numpy().data
    arrays = [
        content[begin : begin + length] for begin, length in zip(places, lengths, strict=False)
    ]
    return pickle.loads(pickled, buffers=arrays)


def check_room(size: int, num_workers: int, key: str) -> None:
    """Whether so many workers find the shared memory and the handles that they need; the limit on
    handles is raised where it may be.

    Args:
        size: of a batch, in bytes.
        key: the setting that names the number of workers, for messages.

    Raises:
        ConfigError: they do not.
    """
    _check_handles(num_workers, key)
    try:
        disk = os.statvfs(SHARED)
    except OSError:  # not Linux
        return
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    in_flight = num_workers * PREFETCH + 2  # and the one in use, and the one that comes
    need, free, total = (
        size * in_flight,
        disk.f_bavail * disk.f_frsize,
        disk.f_blocks * disk.f_frsize,
    )
    if not total or (need <= free and need * ranks <= total):  # 0: as much as there is memory
        return
    each = f" on each of {ranks} processes" if ranks > 1 else ""
    raise ConfigError(
        f"{key}: {num_workers} workers hold {in_flight} batches of {_mib(size)}{each},"
        f" {_mib(need * ranks)} of shared memory, and {SHARED} has {_mib(total)}, {_mib(free)} of"
        f" them free: make it larger (docker run --shm-size={need * ranks // 2**20 + 64}m), or take"
        " fewer workers, or 0",
        key,
    )


def _check_handles(num_workers: int, key: str) -> None:
    try:
        used = len(os.listdir("/proc/self/fd"))
    except OSError:  # not Linux
        return
    need = used + OF_ALL + num_workers * OF_A_WORKER
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or need <= soft:
        return
    if hard != resource.RLIM_INFINITY and need > hard:
        raise ConfigError(
            f"{key}: {num_workers} workers need {need} file handles, and a process may have {hard}:"
            f" raise the limit (ulimit -n {need}), or take fewer workers, or 0",
            key,
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _mib(size: int) -> str:
    return f"{size / 2**20:,.4g} MiB"
