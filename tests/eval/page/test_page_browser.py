"""The page of the report in headless Chromium, opened as a file.

./launch.sh test tests/eval/page/test_page_browser.py -m evaluation

The executable is chromium, chromium-browser or google-chrome on the path, or the one that
`playwright install chromium` downloads. Without any the tests are skipped, unless
UNIME_REQUIRE_BROWSER=1 is set.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import load_file

from eval.page.build import write_page
from tests.eval.page.conftest import Made, count_of
from tests.support.pages.browser import NARROW, WIDE
from tests.support.pages.results import MODELS, NASTY, TASKS, write_results

pytestmark = pytest.mark.evaluation


@pytest.mark.fast
def test_a_collapsed_model_says_so(
    opened: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """At the top, in the table and on the map, in words; of the other models nothing does."""
    folder = tmp_path_factory.mktemp("collapsed")
    collapsed = write_results(folder, num_queries=16, size=24, collapsed=["before"])
    write_page(*collapsed, folder / "report.html", map_points=60)
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
    first.get_by_role("button", name="all-5").click()
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


def test_the_curve_over_dimensions(opened: Callable[..., Any], made: Made) -> None:
    """A line a model, and the numbers of what is chosen in a table."""
    page = opened()
    section = page.locator("#sizes")
    assert section.locator("svg.curve polyline").count() == len(MODELS)
    heads = section.locator("thead th").all_inner_texts()
    assert [head.strip("\xa0↕") for head in heads[1:]] == ["4", "16"]
    section.locator("select").select_option(label="FashionIQ")
    curve = next(found for found in made.data["sizes"] if found["label"] == "FashionIQ")
    row = section.locator("tbody tr").nth(1).inner_text()
    for _, score, *_ in curve["models"][1]:
        assert f"{100 * score:.1f}" in row
    assert "FashionIQ" in section.locator("svg.curve").get_attribute("aria-label")


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
