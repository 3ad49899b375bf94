"""Runs functions of tests on several ranks over gloo: on two that are started once for all tests
(`TwoRanks`), or on as many as needed, which costs an import of torch each (`spawn`).

A function on ranks is a module's own; it makes its accelerator itself.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist
import torch.multiprocessing as mp
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs

from tests.support.launching import ON_CPU
from tests.support.paths import ROOT

PATIENCE = timedelta(seconds=60)  # for another rank


class TwoRanks:
    """Two processes that wait for functions to run; they are started when there is the first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        self.done = 0

    def run(self, function: Callable[..., None], *words: str, timeout: float = 240) -> str:
        """Run ``function(*words)`` on both, and return what rank 0 wrote on its standard outputs.

        Raises:
            AssertionError: it failed on a rank, or took too long; the next function gets two new
                processes.
        """
        if self.process is None:
            launch = "-m torch.distributed.run --standalone --nproc_per_node 2"
            command = [sys.executable, *launch.split(), "-m", __name__, str(self.folder)]
            log = (self.folder / "launcher.txt").open("ab")
            self.process = subprocess.Popen(
                [*command, str(self.done)], cwd=ROOT, env=os.environ | ON_CPU, stdout=log,
                stderr=log, start_new_session=True,
            )  # fmt: skip
        task = self.folder / f"{self.done}"
        asked = {"module": function.__module__, "name": function.__name__, "words": words}
        task.with_suffix(".new").write_text(json.dumps(asked))
        task.with_suffix(".new").rename(task)
        self.done += 1
        ends = [task.with_suffix(f".end{rank}") for rank in (0, 1)]
        deadline = time.monotonic() + timeout
        while not all(end.exists() for end in ends):
            failed = any(end.exists() and end.read_text() for end in ends)
            if failed or self.process.poll() is not None or time.monotonic() > deadline:
                break
            time.sleep(0.02)
        errors = [end.read_text() if end.exists() else "still running" for end in ends]
        if any(errors):
            self.stop()
            raise AssertionError("\n".join([*errors, *(self._said(task, rank) for rank in (0, 1))]))
        return self._said(task, 0)

    def _said(self, task: Path, rank: int) -> str:
        path = task.with_suffix(f".out{rank}")
        return path.read_text() if path.exists() else ""

    def stop(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


def wait_for_functions(folder: Path, number: int) -> None:
    """What each of the two ranks does, until it is killed."""
    accelerator = Accelerator(cpu=True, kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)])
    rank, parent = accelerator.process_index, os.getppid()
    while True:
        task = folder / f"{number}"
        while not task.exists():
            if os.getppid() != parent:
                return
            time.sleep(0.02)
        with task.with_suffix(f".out{rank}").open("wb") as out:
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
        error = ""
        try:
            asked = json.loads(task.read_text())
            getattr(importlib.import_module(asked["module"]), asked["name"])(*asked["words"])
        except BaseException:
            error = traceback.format_exc()
        sys.stdout.flush()
        AcceleratorState._reset_state()
        gc.collect()  # of DDP models: each holds the process group
        end = task.with_suffix(f".end{rank}")
        end.with_suffix(f".ending{rank}").write_text(error)
        end.with_suffix(f".ending{rank}").rename(end)
        number += 1


def join_world(rank: int, port: int, world_size: int) -> Accelerator:
    """The accelerator of one of the ranks that `spawn` started."""
    os.environ |= ON_CPU | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    accelerator = Accelerator(cpu=True, kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)])
    assert accelerator.num_processes == world_size
    return accelerator


def spawn(function: Callable[..., None], *args: object, nprocs: int) -> None:
    """Run ``function(rank, port, *args)`` in processes of its own; the first failure is raised."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_run_rank, args=(function, port, *args), nprocs=nprocs)


def _run_rank(rank: int, function: Callable[..., None], *args: object) -> None:
    """Once a rank is done, nothing may hold a DDP model: one that lives on until Python ends keeps
    the process group's threads, and they abort the process now and then."""
    function(rank, *args)
    gc.collect()  # of tracebacks and frames that hold each other
    dist.destroy_process_group()


if __name__ == "__main__":
    wait_for_functions(Path(sys.argv[1]), int(sys.argv[2]))
