"""Programs end with what launched them, and with nothing else: pytest tests/runtime/test_launcher.py

The programs run this file.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.checkout import Checkout
from tests.support.launching import Launch
from tests.support.material import assert_same_run, stage1
from tests.support.paths import ROOT
from unime.runtime.launcher import process
from unime.runtime.program import run_program
from unime.runtime.workers import load_batches

PROGRAM = ("-m", "tests.runtime.test_launcher")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
ACCELERATE = (
    *(sys.executable, "-m", "accelerate.commands.launch", "--quiet"),
    *("--config_file", "configs/accelerate/cpu.yaml"),
)


def note(folder: str, name: str) -> None:
    path = Path(folder, f"{name}_{os.getpid()}")
    path.with_suffix(".new").touch()
    path.with_suffix(".new").rename(path)


def slow(folder: str) -> str:
    note(folder, "worker")
    time.sleep(600)
    return ""


def main() -> None:
    """Run for ever, with a worker that is in the middle of a batch."""
    folder = sys.argv[1]
    make = {"with": slow, "without": str}[sys.argv[2]]
    with load_batches(make, [folder] * 3, int(make is slow)) as batches:
        note(folder, "rank")
        if make is slow:
            next(batches)
        time.sleep(600)


def started(folder: Path, count: int) -> list[int]:
    return wait_for(lambda: [int(p.name.rpartition("_")[2]) for p in folder.glob("*_*[0-9]")], count)


def wait_for(found: Callable[[], list[int]], count: int, seconds: float = 120) -> list[int]:
    deadline = time.monotonic() + seconds
    while len(now := found()) != count:
        assert time.monotonic() < deadline, now
        time.sleep(0.1)
    return now


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    run_program(main)
