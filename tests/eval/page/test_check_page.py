"""The page of a check in headless Chromium, opened as a file, and what strangers put on it.

./launch.sh test tests/eval/page/test_check_page.py -m evaluation
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval.page.data_check import LISTED, write_check_page
from tests.support.pages.browser import NARROW
from tests.support.pages.results import NASTY
from unime.data.checks.check import DataReport, TaskReport
from unime.data.checks.content import Histogram
from unime.data.checks.faults import Fault

pytestmark = pytest.mark.evaluation


def report(faults: int) -> DataReport:
    lengths, sides = Histogram("tokens of an item"), Histogram("pixels of the longer side")
    for value in (5, 9, 10, 70):
        lengths.add(value)
        sides.add(10 * value)
    rows = [
        Fault(n, f"/home/me/x.parquet, row {n}", NASTY, "too long", "query",
              f"/home/me/x.parquet, row {n}, column 'query': {NASTY}", rejected=n > 0)
        for n in range(faults)
    ]  # fmt: skip
    task = TaskReport(NASTY, "train", 500, 500 - max(0, faults - 1), 400, 3, 2, rows)
    return DataReport([task], lengths, sides, 12)


@pytest.mark.fast
def test_it_opens(opened: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "check.html"
    write_check_page(report(LISTED + 5), "/data/pets", path)
    assert "/home/me" not in path.read_text() and "<script" not in path.read_text()
    for options in ({}, {"color_scheme": "dark", "viewport": NARROW}):
        tab = opened(path, **options)
        assert tab.locator("h1").inner_text() == "pets"
        figures = tab.locator(".figures .number").all_inner_texts()
        assert figures == ["500", "296", "204", "0"]
        assert tab.locator("#tasks tbody td").first.text_content() == NASTY
        lines = tab.locator("#rows tbody tr")
        assert lines.count() == LISTED and "left out" in lines.first.inner_text()
        assert f"The first {LISTED} of {LISTED + 5}" in tab.locator("#rows").inner_text()
        assert tab.locator(".bars li").count() == 10
        assert tab.locator(".bars i").nth(1).bounding_box()["width"] > 50
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert tab.title() == "UniME data check: pets"


def test_nothing_was_found(opened: Callable[..., Any], tmp_path: Path) -> None:
    write_check_page(report(0), "/data/pets", tmp_path / "check.html")
    assert "Nothing was found." in opened(tmp_path / "check.html").locator("#rows").inner_text()
