"""What is written when a study has ended: ./launch.sh test tests/study/test_outcome.py"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from eval.study import outcome
from eval.study.outcome import MOST_MODELS, page_names, write_page
from tests.support.studies import FILES, TASKS, row
from unime.config import ReportConfig


def rows_of(names: list[str], folder: Path) -> list[dict[str, Any]]:
    """A finished cell of each recipe."""
    (folder / "suite.yaml").write_text(FILES["suite.yaml"])
    for task in TASKS:
        (folder / f"{task}.json").touch()
    more = {"suite": str(folder / "suite.yaml"), "folder": str(folder)}
    return [row(name, 0, dict.fromkeys(TASKS, [1, 0]), **more) for name in names]


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[ReportConfig]:
    made: list[ReportConfig] = []
    monkeypatch.setattr(outcome, "write_report", made.append)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    return made


def test_arms_of_long_values_have_a_page(reports: list[ReportConfig], tmp_path: Path) -> None:
    rows = rows_of(["unime"] * 3, tmp_path)
    for number, one in enumerate(rows):
        one["grid/stage2.data.sources"] = f"{{a|b:\n{'x' * 150}{number}}}"
    write_page(tmp_path, rows, None)
    (report,) = reports
    first, second, third = report.models
    assert first.startswith("unime sources={a b: xxx") and first.endswith("x…")
    assert second.endswith("x… (2)") and third.endswith("x… (3)")
    assert {len(first), len(second), len(third)} == {100}


def test_names_that_fit_stay() -> None:
    names = ["unime", "unime k=8", "u" * 100]
    assert page_names(names) == names


@pytest.mark.parametrize(
    ("count", "missing", "said"),
    [
        (2, "sklearn", "no page: sklearn is not installed: pip install 'unime[eval]'"),
        (MOST_MODELS + 1, "", "no page: 17 arms, and it has room for 16"),
    ],
)
def test_why_there_is_no_page(
    count: int,
    missing: str,
    said: str,
    reports: list[ReportConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name != missing or None)
    write_page(tmp_path, rows_of([f"recipe-{n}" for n in range(count)], tmp_path), None)
    assert not reports and said in capsys.readouterr().out
