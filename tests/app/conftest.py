"""The page on a tiny random model, and in a browser on the demo's base model."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from data_prep.demo.samples import draw_samples
from tests.app.served import indexed, paged
from tests.search.conftest import drawing
from tests.serving.services import Running
from tests.support.pages.browser import Tabs
from tests.support.paths import ROOT
from unime.app.page import About
from unime.embedder import Embedder
from unime.search import Index

HOSTILE = "<img src=x onerror=alert(1)> & \"quoted\" 'name'.png"
PASSAGE = "<script>alert(2)</script><b onmouseover=alert(3)>bold</b> {{css}} </style>"
ABOUT = About("Search <b>24</b> drawings", "base", [], "", ["a goat on a gray background"], ["a b"])


@dataclass
class Page:
    """A page, what it searches in, and where it is."""

    served: Running
    index: Index
    folder: Path

    @property
    def embedder(self) -> Embedder:
        return self.index.embedder


def page_of(folder: Path, embedder: Embedder, place: Path) -> Iterator[Page]:
    with indexed(folder, embedder, place) as index, paged(index, ABOUT) as served:
        yield Page(served, index, folder)


@pytest.fixture(scope="session")
def tiny(
    tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Page]:
    """Two pictures, a text of some passages and a PDF file of two pages."""
    folder = tmp_path_factory.mktemp("tiny")
    for seed in range(2):
        drawing(seed).save(folder / f"{seed}.png")
    pages = [drawing(10 + n) for n in range(2)]
    pages[0].save(folder / "pages.pdf", save_all=True, append_images=pages[1:])
    (folder / "notes.md").write_text("\n\n".join(f"Paragraph {n} of some." for n in range(40)))
    embedder = Embedder(tiny_model("qwen2_vl"), device="cpu")
    yield from page_of(folder, embedder, folder / ".index")


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """Drawings of the demo and things with hostile names, by the demo's small base model."""
    folder = tmp_path_factory.mktemp("page")
    draw_samples(folder, 24)
    shutil.copy(folder / "a goat on a gray background.png", folder / HOSTILE)
    (folder / "notes.md").write_text(PASSAGE)
    embedder = Embedder(ROOT / "assets/base", device="cpu")
    yield from page_of(folder, embedder, folder / ".index")


@pytest.fixture
def opened(browser: Any, page: Page) -> Iterator[Callable[..., Any]]:
    """``opened(color_scheme="dark")``: the page in a tab; at the end of the test no tab may have
    said anything in its console, nor asked anybody else, unless it ``may`` hold such words."""
    tabs = Tabs(browser, patience=20)
    expected: list[str] = []

    def open_page(may: str = "", **options: Any) -> Any:
        expected.extend([may] * bool(may))
        tab = tabs.open(**options)
        tab.goto(page.served.url)
        tab.wait_for_selector("#examples button")
        return tab

    yield open_page
    tabs.close()
    assert [line for line in tabs.said if not any(may in line for may in expected)] == []
    others = [url for url in tabs.asked if not url.startswith((page.served.url, "blob:", "data:"))]
    assert others == []
