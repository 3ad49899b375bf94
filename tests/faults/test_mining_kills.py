"""Mining that is killed five times writes what it writes undisturbed, byte for byte:
./launch.sh test -m data tests/faults/test_mining_kills.py"""

from __future__ import annotations

import random
import signal
import time

import pytest

from tests.faults.programs import Workshop

pytestmark = pytest.mark.data
KILLS = 5


@pytest.mark.parametrize("aimed", [True, False])
def test_mining_killed_five_times(workshop: Workshop, aimed: bool) -> None:
    """Aimed: before a change of its folder that it comes to, so that each start does a little."""
    pytest.importorskip("faiss")
    pytest.importorskip("imagehash")
    draw = random.Random(int(aimed))
    straight = workshop.straight("mine")
    workshop.fresh("mine")
    for _ in range(KILLS):
        if aimed:
            at = draw.randint(1, max(2, len(straight.changes) // KILLS))
            assert workshop.start("mine", at=at).wait() == -signal.SIGKILL
            continue
        fork = workshop.start("mine")
        time.sleep(draw.uniform(0.2, 0.6) * straight.seconds)
        fork.kill()
        fork.wait()
    workshop.finish("mine")
