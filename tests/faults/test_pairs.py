"""While one program writes a folder no other does: it says who is there, and the first comes to the
result that it would have alone: ./launch.sh test -m faults tests/faults/test_pairs.py"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Sequence

import pytest

from tests.faults.forks import Fork
from tests.faults.programs import PROGRAMS, Workshop

pytestmark = pytest.mark.faults
AT_ONCE = 20.0  # seconds; the whole programs take less: this is for what waits


def refusal(fork: Fork, holder: int) -> str | None:
    """What is wrong with the way in which a program refused to write; None: nothing."""
    try:
        status = fork.wait(AT_ONCE)
    except AssertionError as error:
        return str(error)
    said = [line for line in fork.said.splitlines() if "rror: " in line]
    named = f"in use by process {holder} on {socket.gethostname()}"
    right = status == 2 and len(said) == 1 and named in said[0] and "Traceback" not in fork.said
    return None if right else f"status {status}: {fork.said[-600:]}"


@pytest.mark.parametrize(
    ("first", "others"),
    [(name, tuple(PROGRAMS)) for name in PROGRAMS],
)
def test_the_second_program_says_who_is_there(
    workshop: Workshop, first: str, others: Sequence[str]
) -> None:
    """The first is stopped halfway through its changes of the folder while the others are tried."""
    for name in (first, *others):
        for needed in PROGRAMS[name].needs:
            workshop.straight(needed)
    changes = workshop.straight(first).changes
    folder = workshop.fresh(first)
    holder = workshop.start(first, at=len(changes) // 2, signum=signal.SIGSTOP)
    holder.until(lambda: holder.poll() is not None or holder.is_stopped())
    assert holder.poll() is None, holder.said[-3000:]
    tried = {name: refusal(workshop.start(name, into=folder), holder.pid) for name in others}
    os.kill(holder.pid, signal.SIGCONT)
    assert holder.wait() == 0, f"{tried}\n{holder.said[-3000:]}"
    assert not any(tried.values()), {name: told for name, told in tried.items() if told}
    workshop.check_same(first)
