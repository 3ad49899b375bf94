"""Runs a function on several ranks, in processes of their own, over gloo."""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Callable
from datetime import timedelta

import torch.distributed as dist
import torch.multiprocessing as mp
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs


def join_world(rank: int, port: int, world_size: int = 2) -> Accelerator:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
    }
    accelerator = Accelerator(
        cpu=True, kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(seconds=60))]
    )
    assert accelerator.num_processes == world_size
    return accelerator


def spawn(function: Callable[..., None], *args: object, nprocs: int = 2) -> None:
    """Run ``function(rank, port, *args)`` in processes of its own; the first failure is raised."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_run_rank, args=(function, port, *args), nprocs=nprocs)


def _run_rank(rank: int, function: Callable[..., None], *args: object) -> None:
    function(rank, *args)
    leave_world()


def leave_world() -> None:
    """Once a rank is done, nothing may hold a DDP model: one that lives on until Python ends keeps
    the process group's threads, and they abort the process now and then."""
    gc.collect()  # of tracebacks and frames that hold each other
    dist.destroy_process_group()
