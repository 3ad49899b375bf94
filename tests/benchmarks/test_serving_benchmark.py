"""benchmarks/serving says in its exit status whether the service did well.

./launch.sh test tests/benchmarks/test_serving_benchmark.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.serving import __main__ as program
from tests.support.paths import ROOT
from unime.runtime.files import read_json

MEASURED = read_json(ROOT / program.RESULT)


def ended_with(found: dict[str, Any], output: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(program, "measure", lambda *_: dict(MEASURED) | found)
    try:
        program.main([f"output={output}"])
    except SystemExit as end:
        return end.code
    return None


def test_a_good_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ended_with({}, tmp_path / "found.json", monkeypatch) is None


@pytest.mark.parametrize(
    "found",
    [
        {"wrong": 3},
        {"flood wrong": 3},
        {"without Retry-After": 3},
        {"statuses": {"200": 9, "500": 3}},
        {"answers after": False},
    ],
)
def test_a_bad_one_is_recorded_and_said(
    found: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = ended_with(found, tmp_path / "found.json", monkeypatch)
    assert isinstance(said, str) and ("3 " in said or "answers after" in found)
    assert read_json(tmp_path / "found.json").items() >= found.items()
