"""Ctrl-C and SIGTERM: leave the step in hand, save the one before it, and say how to go on."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

SHOWN = ("ACCELERATE_USE_CPU", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")  # what also was typed
TYPED = "UNIME_TYPED"  # launch.sh says here how it was called,
SHOWN_OF_SCRIPT = ("CUDA_VISIBLE_DEVICES", "UNIME_NUM_PROCESSES", "UNIME_ACCELERATE_CONFIG")  # with
SAME_SECONDS = 2.0
# A launcher passes on a Ctrl-C that the terminal has sent to its processes too, so that each gets
# one key press twice.


class Interruption:
    """While it is entered, ``signum`` is the first signal that came, 0 before any.

    A second key press ends the process at once, which costs what came after the last checkpoint.
    torchrun and accelerate kill processes that have not ended 30 seconds after the first, which is
    why a step is left between two of its chunks (grad_cache.py).
    """

    def __init__(self, speaks: bool = True) -> None:
        self.signum = 0
        self._speaks = speaks
        self._when = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._before[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if not self.signum:
            self.signum, self._when = signum, now
            if self._speaks:
                self._say("leaving this step, then saving; once more: quit without saving")
        elif now - self._when > SAME_SECONDS:
            os._exit(128 + signum)

    def _say(self, text: str) -> None:
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"\n{text}\n".encode())


def heed_sigterm() -> None:
    """From now on SIGTERM ends the program by an exit, which puts away what was begun; once."""
    signal.signal(signal.SIGTERM, _exit)


def _exit(signum: int, _: FrameType | None) -> NoReturn:
    signal.signal(signum, signal.SIG_IGN)
    raise SystemExit(128 + signum)


def leave_signals_to_parent() -> None:
    """For the data loader's processes: the parent decides when they end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def typed_command() -> str:
    """The command that started this program, its launcher's if it has one, for a shell."""
    if TYPED in os.environ:
        known = [f"{name}={os.environ[name]}" for name in SHOWN_OF_SCRIPT if name in os.environ]
        return " ".join([*map(shlex.quote, known), os.environ[TYPED]])
    spec = sys.modules["__main__"].__spec__
    words = ["python", "-m", spec.name] if spec else ["python", sys.argv[0]]
    words += sys.argv[1:]
    parent = _parents_words()
    if spec and spec.name in parent:  # accelerate launch … -m stages.…, torchrun … -m stages.…
        is_script = Path(parent[0]).name.startswith("python") and not parent[1].startswith("-")
        words = parent[1:] if is_script else parent
    shown = [f"{name}={value}" for name, value in _parents_variables().items() if name in SHOWN]
    return shlex.join([*(["env", *shown] if shown else []), *words])


def _parents_variables() -> dict[str, str]:
    try:
        variables = Path(f"/proc/{os.getppid()}/environ").read_text().split("\0")
    except OSError:  # not Linux
        return {}
    return dict(variable.split("=", 1) for variable in variables if "=" in variable)


def _parents_words() -> list[str]:
    try:
        return Path(f"/proc/{os.getppid()}/cmdline").read_text().split("\0")[:-1]
    except OSError:  # not Linux
        return []


def heed_ctrl_c() -> None:
    """launch.sh lets accelerate ignore Ctrl-C; its ranks inherit that, and have to undo it."""
    if TYPED in os.environ and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
