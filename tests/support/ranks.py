"""Runs functions of tests on several ranks over gloo, which are started once for all that is run
on them: each costs an import of torch.

A function on ranks is a module's own; it makes its accelerator itself.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from unittest.mock import patch

from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs

from tests.support.launching import ON_CPU
from tests.support.paths import ROOT

PATIENCE = timedelta(seconds=60)  # for another rank


class Ranks:
    """Processes that wait for functions to run; they are started when there is the first."""

    def __init__(self, folder: Path, count: int = 2) -> None:
        self.folder, self.count = folder, count
        self.process: subprocess.Popen[bytes] | None = None
        self.done = 0

    def run(self, function: Callable[..., None], *words: str, timeout: float = 240) -> str:
        """Run ``function(*words)`` on all, and return what rank 0 wrote on its standard outputs.

        Raises:
            AssertionError: it failed on a rank, or took too long; the next function gets new
                processes.
        """
        if self.process is None:
            ranks = f"-m torch.distributed.run --standalone --nproc_per_node {self.count}"
            launch = ranks if self.count > 1 else ""  # one is a process like any other
            arguments = [str(self.folder), str(self.done), str(os.getpid())]
            log = (self.folder / "launcher.txt").open("ab")
            self.process = subprocess.Popen(
                [sys.executable, *launch.split(), "-m", __name__, *arguments], cwd=ROOT,
                env=os.environ | ON_CPU, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        task = self.folder / f"{self.done}"
        asked = {"module": function.__module__, "name": function.__name__, "words": words}
        task.with_suffix(".new").write_text(json.dumps(asked))
        task.with_suffix(".new").rename(task)
        self.done += 1
        ends = [task.with_suffix(f".end{rank}") for rank in range(self.count)]
        deadline = time.monotonic() + timeout
        while not all(end.exists() for end in ends):
            failed = any(end.exists() and end.read_text() for end in ends)
            if failed or self.process.poll() is not None or time.monotonic() > deadline:
                break
            time.sleep(0.02)
        errors = [end.read_text() if end.exists() else "still running" for end in ends]
        if any(errors):
            self.stop()
            said = [self._said(task, rank) for rank in range(self.count)]
            raise AssertionError("\n".join(errors + said))
        return self._said(task, 0)

    def _said(self, task: Path, rank: int) -> str:
        path = task.with_suffix(f".out{rank}")
        return path.read_text() if path.exists() else ""

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()  # the launcher ends its ranks and waits for them
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
            self.process = None


def wait_for_functions(folder: Path, number: int, tests: Path) -> None:
    """What each rank does, until it is killed, or the process of the tests is gone."""
    accelerator = Accelerator(cpu=True, kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)])
    rank = accelerator.process_index
    while True:
        task = folder / f"{number}"
        while not task.exists():
            if not tests.exists():
                return
            time.sleep(0.02)
        with task.with_suffix(f".out{rank}").open("wb") as out:
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
        error = ""
        try:
            asked = json.loads(task.read_text())
            with patch.dict(os.environ):
                getattr(importlib.import_module(asked["module"]), asked["name"])(*asked["words"])
        except BaseException:
            error = traceback.format_exc()
        sys.stdout.flush()
        AcceleratorState._reset_state(reset_partial_state=True)  # it would stay FSDP's
        gc.collect()  # of DDP models: each holds the process group
        end = task.with_suffix(f".end{rank}")
        end.with_suffix(f".ending{rank}").write_text(error)
        end.with_suffix(f".ending{rank}").rename(end)
        number += 1


if __name__ == "__main__":
    wait_for_functions(Path(sys.argv[1]), int(sys.argv[2]), Path("/proc") / sys.argv[3])
