"""Programs that make data ready, killed five times, write what they write undisturbed, byte for
byte: ./launch.sh test -m data tests/faults/test_data_kills.py"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time

import pytest

from tests.faults.programs import Workshop
from unime.data.checks.memory import CACHE

pytestmark = pytest.mark.data
KILLS = 5


@pytest.mark.parametrize("aimed", [True, False])
@pytest.mark.parametrize("name", ["own", "check", "teacher", "mine", "batches"])
def test_killed_five_times(workshop: Workshop, name: str, aimed: bool) -> None:
    """Aimed: before a change of its folder that it comes to, so that each start does a little."""
    pytest.importorskip("faiss")
    pytest.importorskip("imagehash")
    draw = random.Random(int(aimed))
    straight = workshop.straight(name)
    workshop.fresh(name)
    shutil.rmtree(os.environ[CACHE], ignore_errors=True)  # what a check remembers
    for _ in range(KILLS):
        if aimed:
            at = draw.randint(1, max(2, len(straight.changes) // KILLS))
            assert workshop.start(name, at=at).wait() in (-signal.SIGKILL, 0)
            continue
        fork = workshop.start(name)
        time.sleep(draw.uniform(0.2, 0.6) * straight.seconds)
        fork.kill()
        fork.wait()
    workshop.finish(name)
