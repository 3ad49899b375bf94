"""The service under load, in short: ./launch.sh test -m use tests/serving/test_load.py"""

from __future__ import annotations

import pytest

from benchmarks.serving.load import measure
from tests.support.paths import ROOT

pytestmark = pytest.mark.use


def test_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = measure("assets/base", 10, 8, None)
    assert set(found["statuses"]) == {"200"} and found["wrong"] == found["flood wrong"] == 0
    assert found["ratio"] > 0.5  # 0.8 on a machine that does nothing else (docs/serving.md)
    assert set(found["flood statuses"]) == {"200", "429"} and found["without Retry-After"] == 0
    assert found["answers after"]
    # full batches, and what is ready for two more, whatever else has come
    assert found["MB in the flood"] < found["MB under load"] + 400
