"""What one rank says, in one line, when others are gone or do not come."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

OTHER_RANKS_WAIT = 3.0  # seconds, before another rank than the first says what it failed for
LOST = (
    "closed by peer",
    "reset by peer",
    "Broken pipe",
    "remote process exited",
    "unhandled system",
)
TIMED_OUT = ("Timed out", "timeout", "Timeout")


@contextmanager
def stall_watch(step: int, timeout: float, num_processes: int) -> Iterator[None]:
    """Say so when a step has lasted most of the time after which ranks give each other up, and end
    the process when it has lasted half as long again: NCCL's own watchdog says little, and
    DeepSpeed's exchange through shared memory waits for ever."""
    done = threading.Event()

    def watch() -> None:
        if done.wait(0.8 * timeout):
            return
        tqdm.write(
            f"rank {rank()} has been in step {step} for {timeout * 0.8:.0f} s; it may wait for"
            f" another rank. run.collective_timeout is {timeout:.0f} s; `py-spy dump --pid"
            f" {os.getpid()}` shows where it is",
            file=sys.stderr,
        )
        if not done.wait(0.7 * timeout):
            print(f"error: {_waited(f'in step {step}')}", file=sys.stderr, flush=True)
            os._exit(1)

    if num_processes > 1:
        threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def explain_collective(error: RuntimeError) -> str | None:
    """What a failure of communication between ranks means; None: it is something else."""
    import torch.distributed as dist

    text = str(error)
    from_backend = isinstance(error, dist.DistError) or "gloo" in text or "NCCL" in text
    if any(word in text for word in TIMED_OUT) and (from_backend or "waiting" in text):
        return _waited(_first_line(text))
    if any(word in text for word in LOST):
        return (
            f"rank {rank()} lost another rank ({_first_line(text)}); the launcher's lines below"
            " name it and its exit code (-9: killed, often for want of memory). The same command"
            " goes on from the newest checkpoint"
        )
    return None


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0][:200] if text.strip() else "no message"


def _waited(what: str) -> str:
    return (
        f"rank {rank()} waited for the others longer than run.collective_timeout allows ({what})."
        " One of them is stuck or far behind: compare the last log lines and `py-spy dump --pid …`"
        " of all ranks; look for a slow disk or network, and for a rank without memory. The same"
        " command goes on from the newest checkpoint; where steps are just long, raise"
        " run.collective_timeout"
    )
