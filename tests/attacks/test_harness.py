"""The harness of the attacks sorts what comes of one: ./launch.sh test tests/attacks"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.attacks import meeting
from tests.attacks.__main__ import bad, choose, table
from tests.attacks.damage import write
from tests.attacks.harness import SECRET, Area, Attack, nothing
from unime.errors import ConfigError, DataError, RunError


def raises(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


def tasks_failed() -> None:
    print("2 of 2 tasks failed:\n  A: x.json is bad\n  B: no word of it")
    raise SystemExit(1)


def two_lines() -> None:
    print("error: x.json:\ngot 7", file=sys.stderr)
    raise SystemExit(2)


OUTCOMES: dict[str, tuple[str, Callable[[], Any]]] = {
    "a file by name": ("refused", raises(DataError("x.json, row 1: got 7"))),
    "a run by name": ("refused", raises(RunError("x.json: no"))),
    "the other file": ("unnamed", raises(ConfigError("y.json, row 1: got 7"))),
    "in two lines": ("unnamed", two_lines),
    "one task of two": ("unnamed", tasks_failed),
    "a status alone": ("traceback", raises(SystemExit(3))),
    "another error": ("traceback", raises(KeyError("x.json"))),
    "a signal": ("traceback", lambda: os.kill(os.getpid(), signal.SIGSEGV)),
    "memory": ("exhausted", lambda: bytearray(4 << 30)),
    "memory in words": ("exhausted", raises(DataError("x.json: MemoryError"))),
    "waits": ("hung", lambda: time.sleep(60)),
    "survives": ("survived", lambda: "right"),
    "is wrong": ("let in", lambda: "wrong"),
    "writes outside": ("let in", lambda: write("../outside/new", "")),
    "changes outside": ("let in", lambda: write("../outside/notes.txt", "")),
    "repeats the secret": ("let in", lambda: write("out/a", SECRET)),
    "refused too late": ("let in", lambda: (write("../new", ""), tasks_failed())),
}


@pytest.mark.parametrize("name", OUTCOMES)
def test_an_outcome_is_what_it_is(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meeting, "SECONDS", 2)
    expected, victim = OUTCOMES[name]
    attack = Attack("a", nothing, victim, ("x.json",), lambda found: found == "wrong" and "it is")
    area = Area("an area", nothing, lambda: [attack], ())
    met = meeting.meet(area, attack, tmp_path)
    assert met.outcome == expected, met
    assert bad([met]) == ([] if expected in ("refused", "survived") else [met])
    assert "an area" in table([met], 1.0)


def test_there_are_enough_attacks_and_a_control_of_every_victim() -> None:
    attacks = choose([], sample=False)
    assert len(attacks) >= 400
    for area in {area.name: area for area, _ in attacks}.values():
        names = {attack.name for attack in area.attacks()}
        assert "control" in names and set(area.sample) <= names and area.sample
