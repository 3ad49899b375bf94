"""The page of the report in headless Chromium, opened as a file.

./launch.sh test tests/eval/page/test_page_browser.py -m evaluation

The executable is chromium, chromium-browser or google-chrome on the path, or the one that
`playwright install chromium` downloads. Without any the tests are skipped, unless
UNIME_REQUIRE_BROWSER=1 is set.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from eval.page.build import render, write_page
from tests.support.page_files import MODELS, NASTY, TASKS, collapse, write_results

playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.evaluation
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 360, "height": 740}


@dataclass
class Made:
    """A page on disk, the data in it, and the models' folders."""

    path: Path
    data: dict[str, Any]
    models: dict[str, Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("page")
    report, models = write_results(folder, num_queries=16, size=96)
    write_page(report, models, folder / "report.html", map_points=60)
    page = (folder / "report.html").read_text(encoding="utf-8")
    (data,) = re.findall(r'id="data">(.*?)</script>', page, re.S)
    return Made(folder / "report.html", json.loads(data), models)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    names = ("chromium", "chromium-browser", "google-chrome")
    with playwright.sync_playwright() as driver:
        own = driver.chromium.executable_path
        found = next(filter(None, map(shutil.which, names)), own if Path(own).is_file() else None)
        if found is None:
            reason = f"no browser: none of {', '.join(names)}, and none of playwright's own"
            if os.environ.get("UNIME_REQUIRE_BROWSER") == "1":
                pytest.fail(reason)
            pytest.skip(reason)
        flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        started = driver.chromium.launch(executable_path=found, args=flags)
        yield started
        started.close()


@pytest.fixture
def opened(browser: Any, made: Made) -> Iterator[Callable[..., Any]]:
    """``opened(color_scheme="dark")``: the page in a tab; at the end of the test no tab may have
    said anything in its console, or have asked for anything but the file."""
    contexts, said, asked, opened_files = [], [], [], set()

    def open_page(path: Path = made.path, **options: Any) -> Any:
        context = browser.new_context(**{"viewport": WIDE, "reduced_motion": "reduce"} | options)
        contexts.append(context)
        tab = context.new_page()
        tab.set_default_timeout(10_000)
        tab.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url.split("#")[0]))
        opened_files.add(path.as_uri())
        tab.goto(path.as_uri())
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("data:", "file:"))] == []
    assert {url for url in asked if url.startswith("file:")} == opened_files


@pytest.mark.fast
def test_a_collapsed_model_says_so(
    opened: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """At the top, in the table and on the map, in words; of the other models nothing does."""
    folder = tmp_path_factory.mktemp("collapsed")
    report, models = write_results(folder, num_queries=16, size=24)
    collapse(report, models, "before")
    write_page(report, models, folder / "report.html", map_points=60)
    for options in ({}, {"color_scheme": "dark", "viewport": NARROW}):
        tab = opened(folder / "report.html", **options)
        banner = tab.locator("#warnings .warning")
        assert banner.first.is_visible() and "Warning: before" in banner.first.inner_text()
        assert "collapsed: 32 different items" in banner.first.inner_text()
        assert tab.locator("#averages tr:has-text('before') .small").first.is_visible()
        tab.locator("#map-controls select").first.select_option("0")
        warning = tab.locator("#map-warning")
        assert warning.is_visible() and "next to nothing" in warning.inner_text()
        tab.locator("#map-controls select").first.select_option("1")
        assert warning.is_hidden()
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        tab.locator("#gallery-controls select").first.select_option("0")
        assert "tied with 15 others" in tab.locator(".card .badge").first.inner_text()


def found_of(made: Made, model: int, **wanted: Any) -> list[dict[str, Any]]:
    """The gallery's examples of a model as its filters should show them."""
    return [
        card
        for card in made.data["gallery"]
        if wanted.get("hit") in (None, card["answers"][model]["hit"])
        and wanted.get("task") in (None, card["task"])
    ]


def count_of(tab: Any) -> int:
    return int(tab.locator("#gallery-count").inner_text().split()[0])


@pytest.mark.fast
def test_it_opens(opened: Callable[..., Any], made: Made, tmp_path: Path) -> None:
    tab = opened()
    assert tab.title() == "before, after stage 1, after stage 2 on generated"
    assert tab.locator("#task-table tbody tr").count() == len(TASKS)
    assert tab.locator(".matrix canvas").count() == len(MODELS)
    assert tab.locator(".card").count() == 12  # of more: cards are made page by page
    assert count_of(tab) == len(made.data["gallery"]) == 40
    tab.locator(".card img").first.scroll_into_view_if_needed()
    natural = tab.eval_on_selector_all(".card img", "all => all.map((one) => one.naturalWidth)")
    assert natural and set(natural) == {96}
    assert "onerror" in NASTY and tab.locator("img[src=x]").count() == 0
    screenshot = tmp_path / "report.png"
    tab.screenshot(path=screenshot, full_page=True)
    print(f"screenshot: {screenshot}")
    with Image.open(screenshot) as picture:
        assert picture.width == WIDE["width"] and picture.height > 3000
        colours = picture.convert("RGB").getcolors(picture.width * picture.height)
    assert len(colours) > 2000 and max(count for count, _ in colours) < 0.9 * (
        picture.width * picture.height
    )


def test_gallery_filters(opened: Callable[..., Any], made: Made) -> None:
    tab = opened()
    controls = tab.locator("#gallery-controls")
    for place in (0, 2):
        controls.get_by_label("Model").select_option(str(place))
        for name, hit in (("Hits", True), ("Misses", False), ("All", None)):
            controls.get_by_role("button", name=name).click()
            expected = found_of(made, place, hit=hit)
            assert count_of(tab) == len(expected)
            badges = tab.locator(".card .badge").all_inner_texts()
            said = ["✓ hit" if c["answers"][place]["hit"] else "✗ miss" for c in expected[:12]]
            assert badges == said
    assert len(found_of(made, 0, hit=False)) not in (0, len(made.data["gallery"]))
    controls.get_by_label("Task").select_option("4")
    assert count_of(tab) == len(found_of(made, 2, task=4)) == 8
    assert tab.locator(".card .pictures.many").count() > 0  # frames of a video
    controls.get_by_label("Task").select_option("")
    words = made.data["items"][made.data["gallery"][-1]["query"]]["text"].upper().split()[:3]
    controls.get_by_label("Search").fill(" ".join(words))
    texts = ["\n".join(texts_of(made, card)).upper() for card in made.data["gallery"]]
    assert count_of(tab) == sum(all(word in text for word in words) for text in texts) > 0
    assert count_of(tab) < 12
    controls.get_by_label("Search").fill("</script>")
    assert count_of(tab) == sum(NASTY in texts_of(made, card) for card in made.data["gallery"]) > 0
    controls.get_by_label("Search").fill("")
    tab.get_by_role("button", name="Next →").click()
    assert "Page 2 of 4" in tab.locator("#pager").inner_text()
    number = made.data["gallery"][12]["number"]
    assert f"#{number}" in tab.locator(".card h3").first.inner_text()


def texts_of(made: Made, card: dict[str, Any]) -> list[str]:
    """Every text of a card, as search sees it for the last model."""
    places = [card["query"], *card["gold"], *(place for place, *_ in card["answers"][2]["top"])]
    return [made.data["items"][place].get("text", "") for place in places]


def test_tables_sort_and_compare(opened: Callable[..., Any], made: Made) -> None:
    tab = opened()
    names = lambda: [  # noqa: E731
        text.split("\n")[0] for text in tab.locator("#task-table tbody th").all_inner_texts()
    ]
    scores = {task["name"]: task["scores"][0][0] for task in made.data["tasks"]}
    header = tab.locator("#task-table thead th").nth(2)
    assert names() == list(TASKS)
    for ascending in (False, True):
        header.get_by_role("button").click()
        assert [scores[name] for name in names()] == sorted(scores.values(), reverse=not ascending)
        state = "ascending" if ascending else "descending"
        assert header.get_attribute("aria-sort") == state
    first = tab.locator("#averages table").nth(1)
    first.get_by_role("button", name="micro-5").click()
    column = first.locator("tbody tr td:last-child").all_inner_texts()
    values = [float(text.split("\n")[0]) for text in column]
    assert len(values) == len(MODELS) + 2 and values == sorted(values, reverse=True)
    differences = tab.locator("#task-table tbody tr").first.locator("td").nth(4)
    name = names()[0]
    expected = made.data["tasks"][list(TASKS).index(name)]["differences"]
    assert differences.inner_text().startswith(f"+{100 * expected['after stage 1|before'][0]:.1f}")
    tab.get_by_label("Baseline").select_option("1")  # turned round: the interval too
    low = expected["after stage 1|before"][1]
    row = tab.locator("#task-table tbody tr", has_text=name)
    assert re.search(rf"to [−+]{abs(100 * low):.1f}", row.locator("td").nth(4).inner_text())
    tab.locator("#task-controls").get_by_label("Tasks").select_option("retrieval")
    assert sorted(names()) == ["FashionIQ", "MSCOCO_t2i"]


def test_matrix_reads_the_cosine(opened: Callable[..., Any], made: Made) -> None:
    tab = opened()
    tab.locator("#matrix-controls").get_by_label("Task").select_option("2")
    tab.locator(".matrix canvas").nth(1).focus()
    for key in ["ArrowDown"] * 2 + ["ArrowRight"] * 4 + ["ArrowLeft"]:
        tab.keyboard.press(key)
    assert_cosines(tab, made, "MSCOCO_t2i", 2, 3)
    box = tab.locator(".matrix canvas").nth(2).bounding_box()
    cell = box["width"] / 16
    tab.mouse.move(box["x"] + 7.5 * cell, box["y"] + 7.5 * cell)
    assert_cosines(tab, made, "MSCOCO_t2i", 7, 7)
    assert "the right target" in tab.locator("#matrix-readout").inner_text()
    said = tab.locator(".figures-grid figcaption").all_inner_texts()
    for place, text in enumerate(said):
        matrix = made.data["matrices"][2]["models"][place]
        numbers = [float(number.replace("−", "-")) for number in re.findall(r"[−\d]\d*\.\d+", text)]
        assert numbers == pytest.approx([matrix["diagonal"], matrix["off_diagonal"]], abs=6e-4)


def assert_cosines(tab: Any, made: Made, task: str, row: int, column: int) -> None:
    text = tab.locator("#matrix-readout").inner_text()
    assert f"query {row}:" in text and f"target {column}:" in text
    shown = tab.locator("#matrix-readout b").all_inner_texts()
    for place, name in enumerate(MODELS):
        sample = load_file(made.models[name] / TASKS[task][2] / f"{task}_sample.safetensors")
        query, target = sample["queries"][row].double(), sample["targets"][column].double()
        cosine = float(query @ target / query.norm() / target.norm())
        assert float(shown[place].replace("−", "-")) == pytest.approx(cosine, abs=6e-4)


def test_map(opened: Callable[..., Any], made: Made) -> None:
    tab, canvas = (tab := opened()), tab.locator("#map-canvas")
    points = made.data["map"]["points"]
    shown = lambda: int(canvas.get_attribute("data-points"))  # noqa: E731
    assert shown() == len(points)
    controls = tab.locator("#map-controls")
    controls.get_by_label("video").uncheck()
    kinds = [made.data["items"][place]["kind"] for _, _, place in points]
    assert shown() == len(points) - kinds.count("video") and "video" in kinds
    controls.get_by_label("targets").uncheck()
    assert shown() == sum(role == 0 for _, role, _ in points)
    controls.get_by_label("Task").select_option("1")
    assert shown() == sum(role == 0 and task == 1 for task, role, _ in points)
    canvas.focus()
    readout = tab.locator("#map-readout")
    before = readout.inner_text()
    tab.keyboard.press("ArrowRight")
    first = readout.inner_text()
    tab.keyboard.press("ArrowRight")
    assert len({before, first, readout.inner_text()}) == 3 and "OK-VQA" in first
    assert readout.locator("img").count() == 1
    before = canvas.screenshot()
    controls.get_by_label("Model").select_option("0")
    assert canvas.screenshot() != before


def test_keyboard_alone(opened: Callable[..., Any], made: Made) -> None:
    tab = opened()
    focused = lambda: tab.evaluate("document.activeElement.innerText || document.activeElement.id")  # noqa: E731
    tab.keyboard.press("Tab")
    assert focused() == "Skip to the scores"
    tab.keyboard.press("/")
    assert focused() == "search"
    tab.keyboard.type("/")  # a letter like others, there
    assert tab.locator("#search").input_value() == "/"
    tab.keyboard.press("Backspace")
    tab.keyboard.press("Shift+Tab")
    assert focused() == "Misses"
    tab.keyboard.press("Enter")
    assert count_of(tab) == len(found_of(made, 2, hit=False)) > 0
    outline = tab.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    tab.keyboard.press("Tab")
    tab.keyboard.press("Tab")
    assert focused().startswith("Compare models")
    tab.keyboard.press("Enter")
    dialog = tab.get_by_role("dialog")
    assert dialog.is_visible() and focused() == "Close"
    assert dialog.locator(".answer h3").all_inner_texts() == list(MODELS)
    card = found_of(made, 2, hit=False)[0]
    said = dialog.locator(".badge").all_inner_texts()
    assert said == ["✓ hit" if answer["hit"] else "✗ miss" for answer in card["answers"]]
    tab.keyboard.press("Escape")
    assert not dialog.is_visible() and focused().startswith("Compare models")


def test_everything_has_a_name(opened: Callable[..., Any]) -> None:
    tab = opened()
    unnamed = tab.eval_on_selector_all(
        "select, input, button, canvas[tabindex], img, svg[role], [role=region]",
        """all => all.filter((one) => !(one.labels?.length || one.innerText?.trim() || one.alt
             || one.getAttribute("aria-label") || one.getAttribute("aria-labelledby")))
             .map((one) => one.outerHTML)""",
    )
    assert unnamed == []
    missing = tab.eval_on_selector_all(
        "[aria-labelledby], [aria-describedby], nav a",
        """all => all.map((one) => one.getAttribute("aria-labelledby") || one.hash?.slice(1)
             || one.getAttribute("aria-describedby"))
             .filter((id) => !document.getElementById(id))""",
    )
    assert [name for name in missing if name != "detail-title"] == []  # made when a card opens


def ratio(one: list[float], other: list[float]) -> float:
    """The contrast of two colours (WCAG 2.2)."""

    def luminance(colour: list[float]) -> float:
        parts = [c / 255 for c in colour[:3]]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


COLOURS_OF_TEXTS = """() => {
  const numbers = (colour) => colour.match(/[0-9.]+/g).map(Number);
  return [...document.querySelectorAll("body, body *")].flatMap((one) => {
    const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !one.checkVisibility()) return [];
    let ground = one;
    while (getComputedStyle(ground).backgroundColor === "rgba(0, 0, 0, 0)")
      ground = ground.parentElement;
    const below = numbers(getComputedStyle(ground).backgroundColor);
    return [[one.textContent.slice(0, 40), numbers(getComputedStyle(one).color), below]];
  });
}"""


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


def test_long_names_and_a_model_without_files(
    opened: Callable[..., Any], made: Made, tmp_path: Path
) -> None:
    """The map opens on a model that it can show, and no name widens the page."""
    data = json.loads(json.dumps(made.data))
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


def with_models(data: dict[str, Any], count: int) -> dict[str, Any]:
    """The page's data with its first model `count` times."""
    data = json.loads(json.dumps(data))
    places = [0] * (count - len(MODELS)) + list(range(len(MODELS)))
    repeat = lambda found: [found[place] for place in places]  # noqa: E731
    models = enumerate(repeat(data["models"]))
    data["models"] = [model | {"name": f"model-{number}"} for number, model in models]
    data["overall"]["cells"] = repeat(data["overall"]["cells"])
    for table in data["tables"]:
        table["ours"] = repeat(table["ours"])
    for task in data["tasks"]:
        for key in ("scores", "not_supported", "without_examples"):
            task[key] = repeat(task[key])
    for holder, key in [(m, "models") for m in data["matrices"]] + [(data["map"], "places")]:
        holder[key] = repeat(holder[key])
    data["map"]["methods"] = repeat(data["map"]["methods"])
    for setting in data["settings"]:
        setting["values"] = repeat(setting["values"])
    for card in data["gallery"]:
        card["answers"] = repeat(card["answers"])
    return data


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
    (tmp_path / "many.html").write_text(render(with_models(made.data, count)))
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
    opened: Callable[..., Any], made: Made, tmp_path: Path
) -> None:
    data = json.loads(json.dumps(made.data))
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


def test_large_data(opened: Callable[..., Any], made: Made, tmp_path: Path) -> None:
    tasks, rounds = len(TASKS), 16
    large = dict(made.data)
    large["tasks"] = [
        task | {"name": f"{task['name']}-{turn}"}
        for turn in range(rounds)
        for task in made.data["tasks"]
    ]
    large["matrices"] = made.data["matrices"] * rounds
    large["gallery"] = [
        card | {"task": card["task"] + turn * tasks}
        for turn in range(rounds)
        for card in made.data["gallery"] * 4
    ]
    (tmp_path / "large.html").write_text(render(large), encoding="utf-8")
    started = time.monotonic()
    tab = opened(tmp_path / "large.html")
    assert count_of(tab) == 2560 and tab.locator(".card").count() == 12
    tab.locator("#search").fill("FashionIQ 1")
    assert 0 < count_of(tab) < 2560
    assert tab.locator("#task-table tbody tr").count() == 80
    assert time.monotonic() - started < 8  # about one second on a machine that does nothing else
