"""How every program ends: done, or with one line that says why, and an exit status.

Exit statuses of the programs: 0 done; 1 the run cannot go on (what is saved stays); 2 settings or
data that cannot be used; 130 after Ctrl-C and 143 after SIGTERM, with everything saved.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn

from unime.errors import ConfigError, DataError, RunError, in_a_line, in_words
from unime.runtime.interruption import heed_ctrl_c
from unime.runtime.launcher import LAUNCHED_BY, end_with
from unime.runtime.lost_ranks import OTHER_RANKS_WAIT, explain_collective, rank

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


@contextmanager
def noted_as_running() -> Iterator[None]:
    """While entered, the file that launch.sh names in UNIME_RUNNING has this process's id, if it is
    the only rank: killed, it leaves it there, which says what accelerate's status 1 does not."""
    name = os.environ.get("UNIME_RUNNING")
    if not name or os.environ.get("WORLD_SIZE", "1") != "1":
        yield
        return
    Path(name).write_text(str(os.getpid()))
    try:
        yield
    finally:
        Path(name).write_text("")


def run_program(main: Callable[[], None]) -> None:
    """Run a program's main; what it cannot go on with ends it with one line, and it ends with what
    launched it."""
    heed_ctrl_c()
    _print_any_letter()
    end_with(LAUNCHED_BY)
    try:
        with noted_as_running():
            main()
    except KeyboardInterrupt:  # outside of training, where there is nothing to save
        print("stopped", file=sys.stderr)
        raise SystemExit(130) from None
    except Exception as error:
        if told := _told(error):
            _end(*told)
        meaning = explain_collective(error) if isinstance(error, RuntimeError) else None
        if meaning is None:
            raise
        print(f"error: {meaning}", file=sys.stderr, flush=True)
        time.sleep(OTHER_RANKS_WAIT)  # the launcher looks for the first to fail: not this one
        os._exit(1)  # leaving the world in good order would wait for the lost rank
    finally:
        if (ranks := _ranks()) is not None:
            ranks.destroy_process_group()


def _print_any_letter() -> None:
    """Hours of work do not end on a letter that standard output lacks, as stderr's do not."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _told(error: Exception) -> tuple[str, int] | None:
    """The line and the exit status for what is no mistake of this code; None: it may be one."""
    name = type(error).__name__  # of libraries that need not be loaded
    if isinstance(error, ConfigError | DataError):
        return f"error: {error}", 2
    if isinstance(error, RunError):
        return f"error: {error}", 1
    if isinstance(error, OSError):
        text = in_words(error) if error.filename is None else " ".join(str(error).split())
        if error.errno not in FULL:
            return f"error: {text}", 2
        return f"error: {text}; once there is room, the same command goes on from what is saved", 1
    if name == "SafetensorError":  # a full disk is one, too
        return f"error: {in_words(error)}", 1
    if name == "OutOfMemoryError":
        return f"error: no memory outside of a chunk ({error}); try a smaller optim.chunk_size", 1
    return None


def _end(text: str, status: int) -> NoReturn:
    if rank() != 0:
        time.sleep(OTHER_RANKS_WAIT)  # where rank 0 fails as well, the launcher ends this one
    print(in_a_line(text), file=sys.stderr, flush=True)
    if (ranks := _ranks()) is not None and ranks.get_world_size() > 1:
        os._exit(status)  # leaving in good order may wait for ranks that wait for this one
    raise SystemExit(status)


def _ranks() -> Any:
    """torch.distributed where it is in use; a program that needs no torch does not load it."""
    dist = sys.modules.get("torch.distributed")
    return dist if dist is not None and dist.is_available() and dist.is_initialized() else None
