"""A program ends with what launched it: ranks whose launcher was killed would train on, unseen,
beside the same command typed again.

It ends at once, as by a kill, which every program survives: what is saved stays.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SCRIPTS = "UNIME_LAUNCHERS"  # processes of launch.sh, each named by itself, the outermost first
MARKS = ("TORCHELASTIC_RUN_ID", "ACCELERATE_MIXED_PRECISION")  # by torchrun, by accelerate
INTERVAL = 1.0  # seconds


@dataclass(frozen=True)
class Process:
    """One that is running; another that gets its number later began at another time."""

    number: int
    began: int
    parent: int = field(compare=False)


def process(number: int) -> Process | None:
    """The process of this number; None: it has ended (or this is not Linux).

    Raises:
        OSError: one cannot look, as where no file handle is left.
    """
    try:
        found = Path(f"/proc/{number}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if found[0] in (b"Z", b"X") else Process(number, int(found[19]), int(found[1]))


def launchers() -> list[Process]:
    """The processes that this one must not outlive, its parent first: all up to the outermost
    launch.sh, or torchrun or accelerate alone. A shell, from which programs may be left running, is
    none of them."""
    scripts = os.environ.get(SCRIPTS, "").split()
    above = list(_ancestors())
    places = (place for place, found in enumerate(above, 1) if str(found.number) in scripts)
    outermost = max(places, default=0)
    if outermost or not any(mark in os.environ for mark in MARKS):
        return above[:outermost]
    return [parent for parent in above[:1] if _is_python(parent)]


def _ancestors() -> Iterator[Process]:
    found = process(os.getpid())
    while found and (found := process(found.parent)):
        yield found


def _is_python(found: Process) -> bool:
    try:
        return Path(os.readlink(f"/proc/{found.number}/exe")).name.startswith("python")
    except OSError:
        return False


LAUNCHED_BY = launchers()  # before what takes seconds to import, in which they may be killed


def end_with(others: Sequence[Process]) -> None:
    """End this process at once when any of these has ended."""

    def watch() -> None:
        while all(is_running(other) for other in others):
            time.sleep(INTERVAL)
        _say(
            "error: what started this process was killed, so it ends too; the same command goes on"
        )
        os._exit(1)

    if others:
        threading.Thread(target=watch, name="launcher", daemon=True).start()


def is_running(one: Process) -> bool:
    """Perhaps, where one cannot look."""
    try:
        return process(one.number) == one
    except OSError:
        return True


def _say(text: str) -> None:
    """If anyone reads it."""
    try:
        os.set_blocking(2, False)
        os.write(2, f"{text}\n".encode())
    except OSError:
        pass
