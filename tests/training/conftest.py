"""A run that nothing stopped."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.stand_in import fit, make_config


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps without a break."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    fit(make_config(folder))
    return folder
