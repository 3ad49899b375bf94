"""Work in a child of little time and memory: its answer, or which bound it met.

./launch.sh test tests/runtime/test_bounded.py
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unime.runtime.bounded import OutOfBoundsError, WorkError, bounded


def test_an_answer_comes_back_and_nothing_else(tmp_path: Path) -> None:
    changed: list[int] = []

    def work() -> list[Any]:
        changed.append(1)
        print("not to be seen")
        return ["é", None, os.getpid()]

    *answer, process = bounded(work)
    assert answer == ["é", None] and process != os.getpid() and not changed
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


@pytest.mark.parametrize(
    ("work", "bound"),
    [
        (lambda: re.match("(a+)+$", "a" * 60 + "b"), "does not end within 1 seconds of computing"),
        (lambda: 9 ** (9**9), "does not end within 1 seconds of computing"),
        (lambda: len("a" * 10**11), "needs more than 512 MB"),
        (lambda: "a" * (2 * 10**7), "says more than 16 MB"),
        (lambda: time.sleep(100), "of waiting"),
    ],
)
def test_what_goes_too_far_is_ended(
    work: Callable[[], Any], bound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if bound == "of waiting":
        monkeypatch.setattr("unime.runtime.bounded.PATIENCE", 2)
        bound = "does not end within 2 seconds$"
    with pytest.raises(OutOfBoundsError, match=bound):
        bounded(work, 1, 512 << 20)


def test_what_fails_says_how() -> None:
    with pytest.raises(WorkError, match=r"^KeyError: 1$"):
        bounded(lambda: {}[1])


def test_it_works_beside_threads_and_leaves_no_file_open() -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    before = len(os.listdir("/proc/self/fd"))
    assert [bounded(lambda n=n: n) for n in range(5)] == list(range(5))
    assert len(os.listdir("/proc/self/fd")) == before
    done.set()
    thread.join()
