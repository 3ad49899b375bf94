"""Programs end with what launched them, and with nothing else.

pytest tests/runtime/test_launcher.py
"""

from __future__ import annotations

import errno
import fcntl
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.checkout import Checkout
from tests.support.launching import ON_CPU, Launch
from tests.support.material import assert_same_run, stage1
from tests.support.paths import ROOT
from unime.runtime.launcher import INTERVAL, is_running, process

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
ACCELERATE = (
    *(sys.executable, "-m", "accelerate.commands.launch", "--quiet"),
    *("--config_file", "configs/accelerate/cpu.yaml"),
)


OURS = ON_CPU | {"PYTHONPATH": str(ROOT)}
PROGRAM = """
import multiprocessing, os, sys, time
from unime.runtime.program import run_program
folder, with_worker = sys.argv[1], sys.argv[2:]
def note(name, number):
    open(f"{folder}/{name}_{number}", "w").close()
def make(_):  # never ready in a worker
    if multiprocessing.parent_process():
        note("worker", os.getpid())
        time.sleep(600)
def main():
    if with_worker:
        from unime.runtime.workers import load_batches
        with load_batches(make, [0, 1], 1) as batches:
            next(batches)
            time.sleep(600)
    time.sleep(600)
if __name__ == "__main__":
    note("rank", os.getpid())
    note("parent", os.getppid())
    run_program(main)
"""


def running(folder: Path, count: int, seconds: float = 60) -> list[int]:
    """The ids of the processes that say they run, once there are so many."""
    deadline = time.monotonic() + seconds
    while True:
        found = [int(path.name.rpartition("_")[2]) for path in folder.glob("*_*")]
        alive = [number for number in found if process(number)]
        if len(alive) == count:
            return alive
        assert time.monotonic() < deadline, (count, alive)
        time.sleep(0.1)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "program.py").write_text(PROGRAM)
    yield tmp_path
    for path in tmp_path.glob("*_*"):
        with suppress(ProcessLookupError):
            os.kill(int(path.name.rpartition("_")[2]), signal.SIGKILL)


@pytest.mark.parametrize(
    ("launcher", "words"), [(ACCELERATE, ["with_worker"]), (TORCHRUN, [])], ids=["one", "two"]
)
def test_ranks_and_workers_end_with_a_launcher_that_is_killed(
    folder: Path, launcher: tuple[str, ...], words: list[str]
) -> None:
    log = (folder / "log.txt").open("wb")
    launched = subprocess.Popen(
        [*launcher, folder / "program.py", folder, *words], cwd=ROOT, env=os.environ | OURS,
        stdout=log, stderr=log, start_new_session=True,
    )  # fmt: skip
    running(folder, 3)
    launched.kill()
    running(folder, 0, 10)
    launched.wait()
    assert "error: what started this process was killed" in (folder / "log.txt").read_text()


def test_ranks_end_with_launch_sh(checkout: Checkout, folder: Path) -> None:
    """It is not their parent; accelerate, between them, ends as they do."""
    stage = checkout.root / "stages" / "stage1_distill.py"
    stage.write_text(PROGRAM.replace("sys.argv[1], sys.argv[2:]", f"{str(folder)!r}, []"))
    process = checkout.with_accelerate().start(
        "stage1", "some config.yaml", UNIME_NUM_PROCESSES="1", CUDA_VISIBLE_DEVICES=""
    )
    running(folder, 2)
    process.kill()
    running(folder, 0, 10)
    process.communicate()


def test_a_program_of_a_shell_stays_when_the_shell_ends(folder: Path) -> None:
    """Though the shell knows of launchers: a rank may have started it."""
    words = shlex.join([sys.executable, str(folder / "program.py"), str(folder)])
    marks = {"ACCELERATE_MIXED_PRECISION": "no", "UNIME_LAUNCHERS": " 999999999"}
    shell = subprocess.Popen(
        ["bash", "-c", f"nohup {words} & read"], cwd=ROOT, env=os.environ | OURS | marks,
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    running(folder, 2)
    shell.communicate(b"\n")
    time.sleep(3 * INTERVAL)
    running(folder, 1, 0)


def test_what_cannot_be_looked_at_is_taken_for_running(monkeypatch: pytest.MonkeyPatch) -> None:
    own = process(os.getpid())
    assert own is not None and is_running(own)
    assert not is_running(replace(own, began=own.began - 1))  # an earlier one of this number

    def no_handles(_: int) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("unime.runtime.launcher.process", no_handles)
    assert is_running(own)


def test_a_stage_goes_on_where_its_launcher_was_killed(material: Path) -> None:
    """The same adapter in the end as of a run that nothing disturbed."""
    launched = Launch(
        material, "killed", "optim.steps=40", "run.save_every=1",
        stage="stage1", config="cpu", ranks=1,
    )  # fmt: skip
    launched.until_step(2)
    launched.process.kill()
    launched.process.wait()
    deadline = time.monotonic() + 10
    while not is_free(launched.output_dir / ".lock"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert not (launched.output_dir / "finished.json").exists()
    settings = ("optim.steps=40", "run.save_every=1")
    assert_same_run(stage1(material, "killed", *settings), stage1(material, "straight", *settings))


def is_free(lock: Path) -> bool:
    with lock.open("r+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True
