"""Pictures of several sizes."""

from __future__ import annotations

import pytest

from eval.miniatures.mmeb import write_picture


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    return [str(write_picture(folder / f"{seed}.png", seed, 20 + 9 * seed)) for seed in range(6)]
