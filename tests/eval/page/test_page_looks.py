"""The page's colours, widths and amounts, in a browser.

./launch.sh test tests/eval/page/test_page_looks.py -m evaluation
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.page.build import render, write_page
from tests.eval.page.conftest import Made, count_of
from tests.support.pages.browser import COLOURS_OF_TEXTS, NARROW, WIDE, ratio
from tests.support.pages.results import MODELS, TASKS, report_on

pytestmark = pytest.mark.evaluation


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(opened: Callable[..., Any], scheme: str) -> None:
    tab = opened(color_scheme=scheme)
    tab.locator(".matrix canvas").first.focus()
    tab.locator(".card button").first.click()
    found = tab.evaluate(COLOURS_OF_TEXTS)
    assert len(found) > 200 and len({tuple(colour) for _, colour, _ in found}) >= 4
    ratios = [(text, ratio(colour, ground)) for text, colour, ground in found]
    assert [(text, value) for text, value in ratios if value < 4.5] == []
    (body,) = [ground for text, _, ground in found if text.startswith("UniME evaluation")]
    assert ratio(body, [0, 0, 0]) < 1.5 if scheme == "dark" else ratio(body, [0, 0, 0]) > 15


def test_theme(opened: Callable[..., Any]) -> None:
    tab = opened(color_scheme="light")
    ground = lambda: tab.evaluate("getComputedStyle(document.body).backgroundColor")  # noqa: E731
    corner = (
        "document.querySelector('.scale canvas').getContext('2d').getImageData(0,0,1,1).data[0]"
    )
    light, painted = ground(), tab.evaluate(corner)
    tab.get_by_role("button", name="Dark").click()
    dark = ground()
    assert dark != light and tab.evaluate(corner) < 64 < 192 < painted  # canvases are drawn anew
    assert tab.get_by_role("button", name="Dark").get_attribute("aria-pressed") == "true"
    tab.reload()
    assert ground() == dark
    tab.get_by_role("button", name="Auto").click()
    assert ground() == light
    tab.emulate_media(color_scheme="dark")
    assert ground() == dark
    tab.emulate_media(media="print", color_scheme="dark")
    assert ground() == light and not tab.locator("nav").is_visible()


@pytest.mark.parametrize("viewport", [NARROW, WIDE])
def test_no_horizontal_scroll(opened: Callable[..., Any], viewport: dict[str, int]) -> None:
    tab = opened(viewport=viewport)
    assert tab.evaluate("document.documentElement.scrollWidth") == viewport["width"]
    tab.locator(".card button").first.click()
    tab.wait_for_selector("dialog[open]")
    body = tab.evaluate("(d => [d.scrollWidth, d.clientWidth])(document.querySelector('dialog'))")
    assert body[0] <= body[1]


@pytest.fixture
def data(made: Made) -> dict[str, Any]:
    """The data of the page, which a test may change."""
    return deepcopy(made.data)


def test_long_names_and_a_model_without_files(
    opened: Callable[..., Any], data: dict[str, Any], tmp_path: Path
) -> None:
    """The map opens on a model that it can show, and no name widens the page."""
    for place, model in enumerate(data["models"]):
        model["name"] = f"organisation/a-model-with-a-name-that-is-rather-long-indeed-{place}"
    nowhere = base64.b64encode(b"\x00\x80" * (2 * len(data["map"]["points"]))).decode()
    data["map"]["places"][-1] = nowhere
    data["matrices"][0]["models"][1] = None
    for task in data["tasks"]:
        task["without_examples"][0] = True
    (tmp_path / "long.html").write_text(render(data))
    tab = opened(tmp_path / "long.html", viewport=NARROW)
    assert tab.evaluate("document.documentElement.scrollWidth") == NARROW["width"]
    assert tab.locator("#map-controls select").first.input_value() == str(len(MODELS) - 2)
    assert tab.locator("#matrix-figures figure").count() == len(MODELS) - 1  # and no hole
    bare = tab.locator("#bare")
    assert bare.locator("summary").inner_text().endswith(f"{len(TASKS)} tasks")
    assert not bare.locator("p").is_visible()


def apart(one: list[float], other: list[float]) -> float:
    """The distance of two colours in OKLab, as one without red or without green cones sees them
    (the matrices of Machado, Oliveira and Fernandes 2009), where it is least."""
    seen = [
        np.eye(3),
        np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]),
        np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]),
    ]
    cones = np.array([[0.412, 0.536, 0.052], [0.212, 0.681, 0.107], [0.088, 0.282, 0.630]])
    lab = np.array([[0.211, 0.794, -0.004], [1.978, -2.429, 0.451], [0.026, 0.783, -0.809]])
    linear = [(np.array(colour[:3]) / 255) ** 2.2 for colour in (one, other)]
    places = [[lab @ np.cbrt(cones @ np.clip(m @ x, 0, 1)) for x in linear] for m in seen]
    return min(float(np.linalg.norm(left - right)) for left, right in places)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("count", [3, 4, 8])
def test_models_are_told_apart(
    opened: Callable[..., Any], made: Made, tmp_path: Path, scheme: str, count: int
) -> None:
    folders = [made.models[MODELS[0]]] * (count - len(MODELS)) + list(made.models.values())
    models = {f"model-{number}": folder for number, folder in enumerate(folders)}
    write_page(report_on(models), models, tmp_path / "many.html", examples=1, map_points=20)
    tab = opened(tmp_path / "many.html", color_scheme=scheme)
    script = """all => all.map((one) => {
      const pen = document.createElement("canvas").getContext("2d");
      pen.fillStyle = getComputedStyle(one).backgroundColor;
      pen.fillRect(0, 0, 1, 1);
      return [...pen.getImageData(0, 0, 1, 1).data];
    })"""
    colours = tab.eval_on_selector_all("#task-legend i", script)
    (ground,) = tab.eval_on_selector_all("body", script)
    assert len(colours) == count
    assert [colour for colour in colours if ratio(colour, ground) < 3] == []
    pairs = [(a, b) for place, a in enumerate(colours) for b in colours[:place]]
    assert min(apart(*pair) for pair in pairs) > 0.08


def test_wide_tables_show_that_there_is_more(
    opened: Callable[..., Any], data: dict[str, Any], tmp_path: Path
) -> None:
    table = data["tables"][0]
    table["columns"] += [{"key": f"macro-{n}", "label": f"macro-{n}"} for n in range(20)]
    table["ours"] = [cells + cells[:1] * 20 for cells in table["ours"]]
    data["models"][0]["name"] = "Some-Organisations-Embedding model"
    (tmp_path / "wide.html").write_text(render(data))
    tab = opened(tmp_path / "wide.html", viewport=NARROW)
    box = tab.locator("#averages .scroll").first
    fade = lambda: box.evaluate("one => getComputedStyle(one).maskImage")  # noqa: E731
    tab.wait_for_selector("#averages .scroll.more")
    assert "gradient" in fade()
    box.evaluate("one => one.scrollTo({ left: one.scrollWidth, behavior: 'instant' })")
    tab.wait_for_selector("#averages .scroll:not(.more)")
    assert fade() == "none"
    lines = box.locator("thead .whole").evaluate_all(
        "all => all.map((one) => one.getClientRects().length)"
    )
    assert len(lines) >= 20 and set(lines) == {1}  # no hyphen breaks a line


def test_large_data(opened: Callable[..., Any], data: dict[str, Any], tmp_path: Path) -> None:
    turns = range(16)
    data["tasks"] = [t | {"name": f"{t['name']}-{turn}"} for turn in turns for t in data["tasks"]]
    data["matrices"] *= len(turns)
    data["gallery"] = [
        card | {"task": card["task"] + turn * len(TASKS)}
        for turn in turns
        for card in data["gallery"] * 4
    ]
    (tmp_path / "large.html").write_text(render(data), encoding="utf-8")
    started = time.monotonic()
    tab = opened(tmp_path / "large.html")
    assert count_of(tab) == 2560 and tab.locator(".card").count() == 12
    tab.locator("#search").fill("FashionIQ 1")
    assert 0 < count_of(tab) < 2560
    assert tab.locator("#task-table tbody tr").count() == 80
    assert time.monotonic() - started < 8  # about one second on a machine that does nothing else
