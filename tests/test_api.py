"""docs/api.md says what the code says, and the front door works.

./launch.sh test tests/test_api.py
"""

from __future__ import annotations

import importlib

import pytest

import unime
from tests.support.paths import ROOT


def test_the_page_is_what_the_docstrings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs")
    page = importlib.import_module("make_pages").api_page()
    assert (ROOT / "docs/api.md").read_text("utf-8") == page, "run python -m docs.make_pages"


def test_the_front_door() -> None:
    names = ["Embedder", "Encoder", "InputConfig", "Item", "LoraSettings", "ModelConfig", "Pair"]
    assert unime.__all__ == names
    for name in names:
        assert getattr(unime, name).__name__ == name
