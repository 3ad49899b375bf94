"""Work that a stranger's file asks for (a template, a pattern, the plan of a model), done where it
can be ended: in a child process of little time and memory.

Nothing in this process ends a multiplication of two long numbers, or a regular expression.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import select
import signal
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

SECONDS = 2  # of computing, of which a template takes a hundredth
MEMORY = 2 << 30  # bytes beyond what the process has already
ANSWER = 1 << 24  # bytes
PATIENCE = 10  # times the seconds, on a machine that has other things to do
PIECE = 1 << 16


class OutOfBoundsError(Exception):
    """Work that was ended; the message says which of its bounds it met."""


class WorkError(Exception):
    """What the work itself raised, in its words."""


def bounded(work: Callable[[], Any], seconds: int = SECONDS, memory: int = MEMORY) -> Any:
    """Do it in a child of this process, which may be running threads (the child has only this one)
    and be a worker itself.

    Args:
        work: returns JSON values, and shall use no accelerator.
        seconds: of computing.
        memory: bytes that it may take.

    Raises:
        OutOfBoundsError: it takes longer, or more.
        WorkError: it raised something else.
    """
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, from Python 3.12 on
        child = os.fork()
    if child == 0:
        _answer(work, writer, seconds, memory)
    os.close(writer)
    try:
        answer = _read(reader, seconds)
    finally:
        os.close(reader)
        os.kill(child, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(child, 0)
    if "raised" in answer:
        raise WorkError(answer["raised"])
    if "answer" not in answer:
        raise OutOfBoundsError(f"needs more than {memory >> 20} MB")
    return answer["answer"]


def _answer(work: Callable[[], Any], place: int, seconds: int, memory: int) -> NoReturn:
    """In the child, which never leaves: nothing of its parent's is to be tidied up by it."""
    try:
        gc.disable()  # collected, what is the parent's would be ended
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGXCPU):
            signal.signal(number, signal.SIG_DFL)
        silence = os.open(os.devnull, os.O_WRONLY)
        for shown in (1, 2):
            os.dup2(silence, shown)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        _limit(resource.RLIMIT_CORE, 0)
        _limit(resource.RLIMIT_CPU, seconds)
        _limit(resource.RLIMIT_AS, used + memory)
        try:
            said: dict[str, Any] = {"answer": work()}
        except MemoryError:
            said = {}
        except BaseException as error:
            said = {"raised": f"{type(error).__name__}: {' '.join(str(error).split())}"}
        content = json.dumps(said).encode() + b"\n"
        while content:
            content = content[os.write(place, content) :]
    finally:
        os._exit(0)


def _limit(kind: int, value: int) -> None:
    most = resource.getrlimit(kind)[1]
    value = value if most == resource.RLIM_INFINITY else min(value, most)
    resource.setrlimit(kind, (value, most))


def _read(place: int, seconds: int) -> dict[str, Any]:
    """What the child says in its one line."""
    content, end = bytearray(), time.monotonic() + PATIENCE * seconds
    poll = select.poll()
    poll.register(place, select.POLLIN)
    while not content.endswith(b"\n"):
        if not poll.poll(max(0, end - time.monotonic()) * 1000):
            raise OutOfBoundsError(f"does not end within {PATIENCE * seconds} seconds")
        piece = os.read(place, PIECE)
        if not piece:
            raise OutOfBoundsError(f"does not end within {seconds} seconds of computing")
        content += piece
        if len(content) > ANSWER:
            raise OutOfBoundsError(f"says more than {ANSWER >> 20} MB")
    said: dict[str, Any] = json.loads(content)
    return said
