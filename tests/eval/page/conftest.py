"""The page of two models, opened in a browser."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from eval.page.build import write_page
from tests.support.pages.browser import Tabs
from tests.support.pages.results import write_results


@dataclass
class Made:
    """A page on disk, the data in it, and the models' folders."""

    path: Path
    data: dict[str, Any]
    models: dict[str, Path]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("page")
    report, models = write_results(folder, num_queries=16, size=96)
    write_page(report, models, folder / "report.html", map_points=60)
    page = (folder / "report.html").read_text(encoding="utf-8")
    (data,) = re.findall(r'id="data">(.*?)</script>', page, re.S)
    return Made(folder / "report.html", json.loads(data), models)


@pytest.fixture
def opened(browser: Any, request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """``opened(color_scheme="dark")``: the page of `made`, or another, in a tab; at the end of the
    test no tab may have said anything in its console, or have asked for anything but the file."""
    tabs, opened_files = Tabs(browser, patience=10), set()

    def open_page(path: Path | None = None, **options: Any) -> Any:
        path = path or request.getfixturevalue("made").path
        tab = tabs.open(**options)
        opened_files.add(path.as_uri())
        tab.goto(path.as_uri())
        return tab

    yield open_page
    tabs.close()
    assert tabs.said == []
    assert [url for url in tabs.asked if not url.startswith(("data:", "file:"))] == []
    assert {url for url in tabs.asked if url.startswith("file:")} == opened_files


def count_of(tab: Any) -> int:
    return int(tab.locator("#gallery-count").inner_text().split()[0])
