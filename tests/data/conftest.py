"""A look at small data takes no time."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest

SECONDS = 20


@pytest.fixture
def soon() -> Iterator[None]:
    """The test fails where it would wait."""

    def late(*_: Any) -> None:
        raise TimeoutError("it waits")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
