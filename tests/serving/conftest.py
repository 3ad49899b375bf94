"""A tiny model behind a service."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.serving import Running, running
from unime.embedder import Embedder


@pytest.fixture(scope="session")
def embedder(tiny_model: Callable[..., Path]) -> Embedder:
    return Embedder(tiny_model("qwen2_vl"), device="cpu")


@pytest.fixture(scope="session")
def served(embedder: Embedder) -> Iterator[Running]:
    with running(embedder, ("tiny", "text-embedding-3-large")) as found:
        yield found
