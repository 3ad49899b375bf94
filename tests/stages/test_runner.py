"""Programs that run others let them save when they are stopped.

pytest tests/stages/test_runner.py
"""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PROGRAM = """
import os, sys
from stages.runner import run_to_its_end
sys.exit(run_to_its_end([sys.executable, sys.argv[1]], os.environ))
"""
SAVER = """
import pathlib, signal, sys, time
here = pathlib.Path(__file__).parent
def save(signum, _):
    time.sleep(0.5)
    with open(here / "saved", "a") as file:
        file.write(f"{signum} ")
    sys.exit(0)
for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(signum, save)
(here / "ready").touch()
time.sleep(60)
"""
Started = Callable[[int], subprocess.Popen[bytes]]


def _heed_signals() -> None:
    """As in a shell: in the background SIGINT is ignored, after nohup SIGHUP."""
    for signum in (signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_DFL)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Started]:
    """A program that runs one which saves at a signal, until it is ready."""
    programs: list[subprocess.Popen[bytes]] = []
    (tmp_path / "saver.py").write_text(SAVER)

    def started(stdin: int) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-c", PROGRAM, str(tmp_path / "saver.py")]
        program = subprocess.Popen(
            words,
            cwd=ROOT,
            stdin=stdin,
            start_new_session=True,
            preexec_fn=_heed_signals,
        )
        programs.append(program)
        deadline = time.monotonic() + 120
        while not (tmp_path / "ready").exists():
            assert time.monotonic() < deadline and program.poll() is None
            time.sleep(0.05)
        return program

    yield started
    for program in programs:
        if program.poll() is None:
            os.killpg(program.pid, signal.SIGKILL)
            program.wait()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_passed_on(start: Started, tmp_path: Path, signum: signal.Signals) -> None:
    """Its status says so, also where the command that it ran ends well."""
    program = start(subprocess.DEVNULL)
    program.send_signal(signum)
    assert program.wait(timeout=60) == 128 + signum
    assert (tmp_path / "saved").read_text() == f"{int(signum)} "


def test_a_key_press_is_left_to_the_terminal(start: Started, tmp_path: Path) -> None:
    """Which has sent it to both."""
    terminal, stdin = pty.openpty()
    try:
        program = start(stdin)
        os.killpg(program.pid, signal.SIGINT)
        assert program.wait(timeout=60) == 128 + signal.SIGINT
    finally:
        os.close(terminal)
        os.close(stdin)
    assert (tmp_path / "saved").read_text() == f"{int(signal.SIGINT)} "
