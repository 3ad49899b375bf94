"""One process of several is killed: the launcher, a rank, launch.sh. All others end by themselves,
and the same command comes to the result of an undisturbed run.

./launch.sh test -m faults tests/faults/test_rank_kills.py
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.faults.programs import PROGRAMS, Outcome, Workshop
from tests.support.checkout import Checkout
from tests.support.launching import ON_CPU, STAGES, Launch
from tests.support.paths import ROOT

pytestmark = pytest.mark.faults
MARK = "UNIME_TEST_FAULTS"  # in the environment of all that a case has started
ENDS = 60.0  # seconds, for all other processes; an import of torch is part of it
NUMBERS = count()
STEPS = ("optim.steps=60", "run.save_every=5")  # more than there is time for after a kill
CASES = [  # program, ranks, who is killed, after which step, or task; None: while it starts
    ("stage1", 2, "launcher", 8), ("stage1", 2, "rank 0", 1), ("stage1", 2, "rank 1", 20),
    ("stage1", 2, "launch.sh", 4), ("stage1", 1, "launcher", 12), ("stage1", 2, "launcher", None),
    ("stage2", 2, "launcher", 2), ("stage2", 2, "rank 0", 16), ("stage2", 2, "rank 1", None),
    ("stage2", 1, "launch.sh", 13), ("eval", 2, "launcher", 1), ("eval", 2, "rank 1", 1),
]  # fmt: skip
Started = Callable[[str, int, bool], Launch]


def alive(mark: str) -> dict[int, list[str]]:
    """The processes that a case has started, and how they were called."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            is_own = f"{MARK}={mark}".encode() in (path / "environ").read_bytes().split(b"\0")
            called = (path / "cmdline").read_text().split("\0")
        except OSError:  # gone by now
            continue
        if is_own and called != [""]:  # a zombie has none
            found[int(path.name)] = called
    return found


def rank_of(pid: int) -> int:
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return int(next((v[5:] for v in variables if v.startswith(b"RANK=")), b"0"))


class Case:
    """Calls of one command, all of whose processes are known by a mark."""

    def __init__(self, workshop: Workshop, name: str, ranks: int, script: Checkout | None) -> None:
        self.workshop, self.name, self.ranks, self.script = workshop, name, ranks, script
        self.mark = f"{os.getpid()} {next(NUMBERS)}"

    def start(self) -> Launch:
        root, into = self.workshop.root, self.workshop.place(self.name)
        words = list(STEPS)
        if self.name == "eval":
            words = [w for w in self.workshop.words("eval")[2:] if not w.startswith("output_dir=")]
            words.append("batch_size=1")  # there is time for a kill
        return Launch(
            root, str(into.relative_to(root)), *words, stage=self.name, ranks=self.ranks,
            config="cpu_two_ranks" if self.ranks > 1 else "cpu", script=self.script,
            environment=ON_CPU | {MARK: self.mark},
        )  # fmt: skip

    def the(self, who: str, launch: Launch) -> int:
        """The process id of one of them."""
        if who in ("launcher", "launch.sh"):
            return launch.process.pid
        module = STAGES[self.name][0]
        (pid,) = (
            pid
            for pid, called in alive(self.mark).items()
            if module in called
            and "launch" not in " ".join(called[:4])
            and f"rank {rank_of(pid)}" == who
        )
        return pid

    def kill(self) -> None:
        for pid in alive(self.mark):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


@pytest.fixture(scope="module")
def straight(workshop: Workshop) -> Callable[[str, int], Outcome]:
    """``straight(program, ranks)``: what comes out undisturbed."""
    known: dict[tuple[str, int], Outcome] = {}

    def outcome(name: str, ranks: int) -> Outcome:
        if (name, ranks) not in known:
            workshop.fresh(name)
            folder = Case(workshop, name, ranks, None).start().done()
            known[name, ranks] = PROGRAMS[name].outcome(folder)
        return known[name, ranks]

    return outcome


@pytest.fixture
def script(checkout: Checkout) -> Checkout:
    """launch.sh with the real stages, and without pip."""
    for name in ("stages", "eval"):
        shutil.rmtree(checkout.root / name, ignore_errors=True)
        (checkout.root / name).symlink_to(ROOT / name)
    return checkout.with_accelerate()


@pytest.fixture
def case(request: pytest.FixtureRequest, workshop: Workshop) -> Iterator[Callable[..., Case]]:
    made: list[Case] = []

    def make(name: str, ranks: int, who: str) -> Case:
        script = request.getfixturevalue("script") if who == "launch.sh" else None
        made.append(Case(workshop, name, ranks, script))
        return made[-1]

    yield make
    for one in made:
        one.kill()


@pytest.mark.parametrize(("name", "ranks", "who", "after"), CASES)
def test_all_end_when_one_is_killed_and_the_same_command_goes_on(
    workshop: Workshop,
    case: Callable[..., Case],
    straight: Callable[[str, int], Outcome],
    name: str,
    ranks: int,
    who: str,
    after: int | None,
) -> None:
    draw = random.Random(f"{name} {ranks} {who} {after}")
    for needed in PROGRAMS[name].needs:
        workshop.straight(needed)
    expected = straight(name, ranks)
    folder, own = workshop.fresh(name), case(name, ranks, who)
    launch = own.start()
    if after is None:
        launch.until(lambda: sum(STAGES[name][0] in w for w in alive(own.mark).values()) > ranks)
        time.sleep(draw.uniform(0, 2))
    elif name == "eval":
        launch.until(lambda: len(list(folder.glob("*.json"))) >= after)
    else:
        launch.until_step(after)
    time.sleep(draw.uniform(0, 0.2))
    os.kill(own.the(who, launch), signal.SIGKILL)
    began = time.monotonic()
    assert launch.wait(ENDS) != 0
    while alive(own.mark):
        assert time.monotonic() - began < ENDS, f"outlive the {who}: {alive(own.mark)}"
        time.sleep(0.1)
    assert not (folder / "finished.json").exists(), "went on without what was killed"
    print(f"all gone after {time.monotonic() - began:.1f} s", file=sys.stderr)
    found = PROGRAMS[name].outcome(own.start().done())
    other = {key for key in found.keys() | expected if found.get(key) != expected.get(key)}
    assert not other, {key: (expected.get(key), found.get(key)) for key in sorted(other)[:5]}
