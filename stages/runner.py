"""Commands that a user could type, one after another: shown, timed, and gone on with after a stop.

The programs know what they have done and do not repeat it; a record of the seconds that each took
until it was done stands beside what they write.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from unime.errors import DataError
from unime.runtime.files import read_json, write_json

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def read_record(path: Path, helps: str) -> dict[str, Any]:
    """What `run_in_order` wrote; empty: nothing yet.

    Args:
        helps: what to do where it is damaged, for messages.

    Raises:
        DataError: it is damaged.
    """
    known: dict[str, Any] = read_json(path) if path.is_file() else {}
    is_right = isinstance(known.get("seconds", {}), dict) and isinstance(
        known.get("done", []), list
    )
    if not is_right or (known and not {"fingerprint", "seconds", "done"} <= known.keys()):
        raise DataError(f"{path}: damaged; {helps}")
    return known


def run_in_order(
    todo: Mapping[str, list[str]],
    record: Path,
    known: dict[str, Any],
    typed: str,
    run: Callable[[list[str]], int],
) -> dict[str, float]:
    """Run all commands; returns the seconds that each took until it was done.

    Args:
        todo: command by the name of its step, in order.
        known: the record.
        typed: what goes on with them, for messages.
        run: runs one of them; returns its status.

    Raises:
        SystemExit: a command failed, with its status.
    """
    seconds: dict[str, float] = known["seconds"]
    for number, (name, command) in enumerate(todo.items(), 1):
        print(f"\n[{number}/{len(todo)}] {name}: {shlex.join(command)}", flush=True)
        began = time.monotonic()
        status = run(command)
        if name not in known["done"]:  # else it found its work done
            seconds[name] = seconds.get(name, 0.0) + time.monotonic() - began
            known["done"] += [] if status else [name]
        write_json(record, known)
        if status:
            print(f"{name} stopped; {typed} goes on from here", file=sys.stderr)
            raise SystemExit(status)
    return seconds


def run_to_its_end(command: list[str], environment: Mapping[str, str]) -> int:
    """Run a command, in this program's environment of packages, to its end, also after a signal,
    which is passed on: training saves then, which takes its time.

    Returns:
        Its status; after a signal 128 and its number.
    """
    came: list[int] = []
    child: subprocess.Popen[bytes] | None = None

    def pass_on(signum: int, _: FrameType | None = None) -> None:
        came.append(signum)
        of_terminal = signum == signal.SIGINT and os.isatty(0)  # a key press reaches both
        if child is not None and not of_terminal:
            child.send_signal(signum)

    heeded = [signum for signum in STOPS if signal.getsignal(signum) is not signal.SIG_IGN]
    before = {signum: signal.signal(signum, pass_on) for signum in heeded}
    try:
        child = subprocess.Popen(command, env={**environment, "UNIME_VENV": sys.prefix})
        for signum in came[:1]:  # while it was started
            child.send_signal(signum)
        status = child.wait()
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
    return 128 + came[0] if came else status
