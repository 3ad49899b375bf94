"""Programs that are killed at random moments come to the same result when they are called again:
./launch.sh test -m faults tests/faults/test_kills.py"""

from __future__ import annotations

import random
import signal
import time

import pytest

from tests.faults.programs import Workshop

pytestmark = pytest.mark.faults
KILLED = {"teacher": 6, "stage1": 5, "stage2": 6, "eval": 6, "report": 5, "export": 5,
          "miniatures": 5, "demo_data": 2}  # fmt: skip
CASES = [(name, number) for name, count in KILLED.items() for number in range(count)]


def kill(workshop: Workshop, name: str, draw: random.Random, aimed: bool) -> int:
    """SIGKILL, aimed: before one of the changes of its folder, or else at any time; the status."""
    straight = workshop.straight(name)
    if aimed:
        return workshop.start(name, at=draw.randint(1, len(straight.changes))).wait()
    fork = workshop.start(name)
    time.sleep(draw.uniform(0, 0.95) * straight.seconds)
    fork.kill()
    return fork.wait()


@pytest.mark.parametrize(("name", "number"), CASES)
def test_a_killed_program_goes_on(workshop: Workshop, name: str, number: int) -> None:
    """Every third is killed while it goes on, too."""
    draw = random.Random(f"{name} {number}")
    workshop.straight(name)
    workshop.fresh(name)
    assert kill(workshop, name, draw, aimed=number % 2 == 0) in (-signal.SIGKILL, 0)
    if number % 3 == 0:
        kill(workshop, name, draw, aimed=number % 2 == 1)
    workshop.finish(name)
