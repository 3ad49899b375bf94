"""The page in headless Chromium, by the demo's small base model (assets/base).

./launch.sh test -m use tests/app

Its answers are those of `Index` and `Embedder`, which need no training; the base finds a goat.
Screenshots stay in the folder that each test prints (-s).
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.app.conftest import HOSTILE, PASSAGE, Page
from tests.support.pages.browser import COLOURS_OF_TEXTS, WIDE, ratio

pytestmark = pytest.mark.use
PHONE = {"width": 390, "height": 844}
GOAT, TEA = "a goat on a gray background", "a cup of tea on a purple background"
DROP = """([selector, kind, base64]) => {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const held = new DataTransfer();
  held.items.add(new File([bytes], "given.png", { type: "image/png" }));
  const words = kind === "paste" ? { clipboardData: held } : { dataTransfer: held };
  const Event = kind === "paste" ? ClipboardEvent : DragEvent;
  document.querySelector(selector).dispatchEvent(
    new Event(kind, { bubbles: true, cancelable: true, ...words }));
}"""


def names(tab: Any) -> list[str]:
    """Of what was found, once nothing is under way."""
    tab.wait_for_selector("#search:not(.busy) .hit")
    return tab.locator(".hit .name").all_inner_texts()


def until(tab: Any, is_so: Callable[[], object]) -> None:
    """Wait; the page's policy forbids the browser to evaluate a text for this."""
    for _ in range(400):
        if is_so():
            return
        tab.wait_for_timeout(50)
    assert is_so()


def first_score(tab: Any) -> str:
    found = tab.locator("#search:not(.busy) .score")
    return str(found.first.inner_text()) if found.count() else ""


def paths_of(page: Page, item: Any, limit: int = 24) -> list[str]:
    return [Path(hit.path).name for hit in page.index.search(item, limit)]


def kept(tab: Any, folder: Path, name: str) -> None:
    tab.evaluate("scrollTo({ top: 0, behavior: 'instant' })")
    tab.wait_for_load_state("networkidle")
    tab.screenshot(path=folder / f"{name}.png", full_page=True)
    print(f"screenshot: {folder / name}.png")
    with Image.open(folder / f"{name}.png") as picture:
        assert len(picture.convert("RGB").getcolors(picture.width * picture.height)) > 200


def test_a_sentence_finds_its_picture(
    opened: Callable[..., Any], page: Page, tmp_path: Path
) -> None:
    tab = opened()
    assert tab.title() == "Search <b>24</b> drawings · UniME"
    tab.fill("#query", GOAT)
    tab.keyboard.press("Enter")
    found = names(tab)
    text = {"text": GOAT}
    assert {found[0], found[1]} == {f"{GOAT}.png", HOSTILE}  # which is a copy of it
    shown = [name.replace(", line 1", "") for name in found]
    assert shown[2:] == paths_of(page, text)[2:]
    assert tab.locator("#search .state").inner_text().startswith("24 results")
    scores = [float(one.replace("−", "-")) for one in tab.locator(".score").all_inner_texts()]
    assert scores == sorted(scores, reverse=True) and scores[0] > scores[2] + 0.1
    first = tab.locator(".hit img").first
    first.scroll_into_view_if_needed()
    until(tab, lambda: first.evaluate("one => one.naturalWidth") == 64)
    large = tab.locator(".hit a").first.get_attribute("href")
    assert re.fullmatch(r"/pictures/[0-9a-f-]{36}/large", large)
    kept(tab, tmp_path, "search")
    tab.locator("#examples button").first.click()
    assert names(tab) == found
    tab.locator("summary").click()
    tab.select_option("#kind", "text")
    until(tab, lambda: tab.locator(".hit").count() == 1)
    assert PASSAGE[:40] in tab.locator(".hit .passage").inner_text()


def test_a_picture_that_is_gone(opened: Callable[..., Any], page: Page) -> None:
    """The page says so, and asks for none of it (`opened`: nothing in the console)."""
    path = page.folder / f"{TEA}.png"
    path.rename(page.folder / "elsewhere")
    try:
        tab = opened()
        tab.fill("#query", TEA)
        tab.keyboard.press("Enter")
        names(tab)
        gone = tab.locator(".hit", has=tab.locator(".absent"))
        assert gone.locator(".name").all_inner_texts() == [path.name]
        assert "gone" in gone.inner_text() and gone.locator("button, img").count() == 0
        tab.wait_for_load_state("networkidle")
    finally:
        (page.folder / "elsewhere").rename(path)


def test_a_text_that_is_gone(opened: Callable[..., Any], page: Page) -> None:
    path = page.folder / "notes.md"
    path.rename(page.folder / "elsewhere")
    try:
        tab = opened()
        tab.fill("#query", "passage")
        tab.locator("summary").click()
        tab.select_option("#kind", "text")
        until(tab, lambda: tab.locator(".hit").count() == 1)
        assert "gone" in tab.locator(".hit .gone").inner_text()
        assert PASSAGE[:40] in tab.locator(".hit .passage").inner_text()
    finally:
        (page.folder / "elsewhere").rename(path)


def test_a_picture_finds_its_neighbours(
    opened: Callable[..., Any], page: Page, tmp_path: Path
) -> None:
    tab = opened()
    tab.set_input_files("#search input[type=file]", page.folder / f"{TEA}.png")
    found = names(tab)
    assert found[0] == f"{TEA}.png" and tab.locator(".score").first.inner_text() == "1.000"
    assert [name.replace(", line 1", "") for name in found] == paths_of(
        page, page.folder / f"{TEA}.png"
    )
    assert tab.locator("#search .slot li .name").inner_text() == f"{TEA}.png"
    kept(tab, tmp_path, "neighbours")
    both = {"text": "the same, but blue", "image": page.folder / f"{TEA}.png"}
    tab.fill("#query", both["text"])
    tab.get_by_role("button", name="Search").click()
    until(tab, lambda: first_score(tab) not in ("", "1.000"))
    shown = [name.replace(", line 1", "") for name in names(tab)]
    assert shown == paths_of(page, both) != paths_of(page, both["image"])
    kept(tab, tmp_path, "both")
    tab.get_by_role("button", name=f"Remove {TEA}.png").click()
    until(tab, lambda: tab.locator("#search .slot li").count() == 0)
    shown = [name.replace(", line 1", "") for name in names(tab)]
    assert tab.evaluate("document.activeElement.textContent") == "Add a picture"


def test_more_like_what_was_found(opened: Callable[..., Any], page: Page) -> None:
    tab = opened()
    tab.fill("#query", TEA)
    tab.keyboard.press("Enter")
    assert names(tab)[0] == f"{TEA}.png"
    tab.get_by_role("button", name=f"More like {TEA}.png").click()
    until(tab, lambda: first_score(tab) == "1.000")
    assert names(tab)[0] == f"{TEA}.png" and tab.input_value("#query") == ""
    tab.keyboard.type("but blue")  # where the focus is
    tab.keyboard.press("Enter")
    until(tab, lambda: first_score(tab) not in ("", "1.000"))
    both = {"text": "but blue", "image": page.folder / f"{TEA}.png"}
    assert [name.replace(", line 1", "") for name in names(tab)] == paths_of(page, both)


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_pictures_come_in_every_way(opened: Callable[..., Any], page: Page, kind: str) -> None:
    tab = opened()
    content = b64encode((page.folder / f"{TEA}.png").read_bytes()).decode()
    tab.evaluate(DROP, ["#search form" if kind == "drop" else "body", kind, content])
    assert names(tab)[0] == f"{TEA}.png"


def test_classify(opened: Callable[..., Any], page: Page, tmp_path: Path) -> None:
    tab = opened()
    tab.get_by_role("link", name="Classify").click()
    assert not tab.locator("#search").is_visible()
    pictures = [page.folder / f"{name}.png" for name in (GOAT, TEA)]
    labels, templates = ["a goat", "a cup of tea", "a <b>fish</b>"], ["{}", "a photo of {}"]
    tab.set_input_files("#classify input[type=file]", pictures)
    tab.fill("#labels", "\n".join(["", *labels, " "]))
    tab.fill("#templates", "\n".join(templates))
    tab.get_by_role("button", name="Classify").click()
    tab.wait_for_selector("#classify .card")
    expected = page.embedder.classify(pictures, labels, templates)
    for card, wanted in zip(tab.locator("#classify .card").all(), expected, strict=True):
        rows = [row.inner_text().split("\n") for row in card.locator("li").all()]
        assert [row[0] for row in rows] == [*wanted]
        found = [float(row[-1].replace("−", "-")) for row in rows]
        assert found == pytest.approx([*wanted.values()], abs=6e-4)
    assert [next(iter(wanted)) for wanted in expected] == labels[:2]
    kept(tab, tmp_path, "classify")


def test_compare(opened: Callable[..., Any], page: Page, tmp_path: Path) -> None:
    tab = opened()
    tab.get_by_role("link", name="Compare").click()
    pictures = [page.folder / f"{name}.png" for name in (GOAT, TEA)]
    tab.set_input_files("#compare input[type=file]", pictures)
    tab.fill("#sentences", f"{GOAT}\n\n{TEA}\n")
    tab.get_by_role("button", name="Compare").click()
    tab.wait_for_selector(".cosines tbody tr")
    vectors = page.embedder.encode([*pictures, GOAT, TEA])
    cells = tab.locator(".cosines td").all_inner_texts()[1:]
    found = [float(cell.replace("−", "-")) for cell in cells]
    expected = page.embedder.similarity(vectors, vectors).ravel()
    assert found == pytest.approx([*expected], abs=6e-4)
    heads = tab.locator(".cosines thead th img").evaluate_all("all => all.map((one) => one.alt)")
    assert heads == [f"{GOAT}.png", f"{TEA}.png"]
    kept(tab, tmp_path, "compare")


def test_keyboard_alone(opened: Callable[..., Any]) -> None:
    tab = opened()

    def focused() -> str:
        return tab.evaluate(
            "(one => one.getAttribute('aria-label') || one.id || one.textContent.trim())"
            "(document.activeElement)"
        )

    def outlined() -> bool:
        style = "getComputedStyle(document.activeElement).outline"
        return "solid 2px" in tab.evaluate(style)

    def tab_to(is_there: Callable[[], bool]) -> None:
        for _ in range(40):
            if is_there():
                return
            tab.keyboard.press("Tab")
        assert is_there()

    tab.keyboard.press("Tab")
    assert focused() == "Skip to the search" and outlined()
    seen = []
    for _ in range(14):
        tab.keyboard.press("Tab")
        seen.append(focused())
        assert outlined(), seen
        if seen[-1] == "Options":
            break
    expected = ["Auto", "Light", "Dark", "Search", "Classify", "Compare"]
    assert seen == [*expected, "query", "Search", "Add a picture", "Options"]
    tab.keyboard.press("Enter")
    assert tab.locator("#kind").is_visible()
    tab.keyboard.press("/")
    assert focused() == "query"
    tab.keyboard.type(f"{TEA}")
    tab.keyboard.press("Enter")
    assert names(tab)[0] == f"{TEA}.png"
    tab_to(lambda: focused().startswith(f"{TEA}.png"))
    assert outlined()
    tab.keyboard.press("Tab")
    assert focused() == f"More like {TEA}.png" and outlined()
    tab.keyboard.press("Enter")
    until(tab, lambda: first_score(tab) == "1.000")
    with tab.expect_file_chooser() as chooser:
        tab_to(lambda: focused() == "Add a picture")
        tab.keyboard.press("Space")
    assert not chooser.value.is_multiple()
    tab.keyboard.press("Shift+Tab")
    assert focused() == f"Remove {TEA}.png"


def test_everything_has_a_name(opened: Callable[..., Any], page: Page) -> None:
    tab = opened()
    tab.fill("#query", GOAT)
    tab.keyboard.press("Enter")
    names(tab)
    unnamed = tab.eval_on_selector_all(
        "select, input, textarea, button, a, img, [role=region]",
        """all => all.filter((one) => !(one.labels?.length || one.innerText?.trim() || one.alt
             || one.getAttribute("aria-label") || one.getAttribute("aria-labelledby") || one.hidden
             || one.alt === "" || one.closest("[hidden]"))).map((one) => one.outerHTML)""",
    )
    assert unnamed == []
    for part in ("search", "classify", "compare"):
        state = tab.locator(f"#{part} .state")
        assert state.get_attribute("role") == "status"  # aria-live
        assert tab.locator(f"#{part} .problem").get_attribute("role") == "alert"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [PHONE, WIDE])
def test_looks(
    opened: Callable[..., Any], page: Page, tmp_path: Path, scheme: str, viewport: dict[str, int]
) -> None:
    """No sideways scrolling, and every text is readable on its ground."""
    tab = opened(color_scheme=scheme, viewport=viewport)
    pictures = [page.folder / f"{name}.png" for name in (GOAT, TEA)]
    tab.fill("#query", GOAT)
    tab.set_input_files("#search input[type=file]", page.folder / HOSTILE)
    names(tab)
    tab.locator("summary").click()

    def check(name: str) -> None:
        assert tab.evaluate("document.documentElement.scrollWidth") == viewport["width"], name
        found = tab.evaluate(COLOURS_OF_TEXTS)
        ratios = [(text, ratio(colour, ground)) for text, colour, ground in found]
        assert len(ratios) > 15 and [(t, r) for t, r in ratios if r < 4.5] == []
        kept(tab, tmp_path, f"{name}-{scheme}-{viewport['width']}")

    check("search")
    for part, ready in (("classify", ".card"), ("compare", ".cosines")):
        tab.get_by_role("link", name=part.capitalize()).click()
        tab.set_input_files(f"#{part} input[type=file]", [*pictures, page.folder / HOSTILE])
        if part == "compare":
            tab.fill("#sentences", "\n".join([GOAT, "a-word-that-is-long" * 12, TEA, PASSAGE]))
        tab.locator(f"#{part} button.main").click()
        tab.wait_for_selector(f"#{part} {ready}")
        check(part)


def test_names_and_texts_of_strangers_are_shown_as_they_are(
    opened: Callable[..., Any], page: Page
) -> None:
    tab = opened(may="Executing inline event handler")  # which is tried at the end
    tab.fill("#query", "a")
    tab.keyboard.press("Enter")
    tab.locator("summary").click()
    tab.select_option("#limit", "60")
    until(tab, lambda: tab.locator(".hit").count() == 26)
    found = names(tab)
    assert HOSTILE in found and "notes.md, line 1" in found
    assert PASSAGE in tab.locator(".hit .passage").inner_text()
    tab.get_by_role("button", name=f"More like {HOSTILE}").click()
    until(tab, lambda: first_score(tab) == "1.000")
    assert tab.locator("h1").inner_text() == "Search <b>24</b> drawings"
    for selector in ("img[src=x]", "main script", ".hit b", "h1 b"):
        assert tab.locator(selector).count() == 0, selector
    # and had one of them become HTML, the policy would not run it
    blocked = tab.evaluate(
        """() => new Promise((give) => {
          addEventListener("securitypolicyviolation", (event) => give(event.effectiveDirective));
          const image = document.createElement("img");
          image.setAttribute("onerror", "alert(1)");
          document.body.append(image);
        })"""
    )
    assert blocked == "script-src-attr"


def test_an_older_answer_never_comes_over_a_newer(opened: Callable[..., Any], page: Page) -> None:
    tab = opened()
    held: list[Any] = []  # the first question, until the test lets it go
    tab.route("**/search", lambda route: route.continue_() if held else held.append(route))
    tab.evaluate("() => { AbortController.prototype.abort = () => {}; }")  # it is on its way back
    tab.fill("#query", TEA)
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#search.busy")
    assert tab.locator("#search .state").inner_text() == "Searching…"
    assert tab.locator("#search .results").get_attribute("aria-busy") == "true"
    until(tab, lambda: held)
    tab.fill("#query", GOAT)
    tab.keyboard.press("Enter")
    assert GOAT in names(tab)[0] or HOSTILE in names(tab)[0]
    found = names(tab)
    (route,) = held
    route.fulfill(json={"hits": [], "cut": False})
    tab.wait_for_timeout(300)
    assert names(tab) == found and tab.locator("#search.busy").count() == 0


def test_what_goes_wrong_is_said(opened: Callable[..., Any], page: Page, tmp_path: Path) -> None:
    tab = opened(may="Failed to load resource")
    problem = tab.locator("#search .problem")
    tab.get_by_role("button", name="Search").click()
    assert "Nothing to look for" in problem.inner_text()
    (tmp_path / "no picture.png").write_bytes(b"no picture")
    tab.set_input_files("#search input[type=file]", tmp_path / "no picture.png")
    until(tab, lambda: "not a" in tab.inner_text("#search .problem"))
    assert tab.locator(".hit").count() == 0
    (tmp_path / "large.png").write_bytes(b"0" * 20_000_001)
    tab.set_input_files("#search input[type=file]", tmp_path / "large.png")
    until(tab, lambda: "MB" in tab.inner_text("#search .problem"))
    tab.get_by_role("button", name="Remove large.png").click()
    tab.route("**/search", lambda route: route.abort())
    tab.fill("#query", "a")
    tab.keyboard.press("Enter")
    until(tab, lambda: "run" in tab.inner_text("#search .problem"))
    tab.unroute("**/search")
    tab.keyboard.press("Enter")
    assert names(tab) and problem.inner_text() == ""
    tab.get_by_role("link", name="Classify").click()
    tab.locator("#classify button.main").click()
    assert "No picture" in tab.locator("#classify .problem").inner_text()
    tab.set_input_files("#classify input[type=file]", page.folder / f"{TEA}.png")
    tab.fill("#labels", "a\nb")
    tab.fill("#templates", "a photo")
    tab.locator("#classify button.main").click()
    until(tab, lambda: "{}" in tab.inner_text("#classify .problem"))
    tab.set_input_files("#classify input[type=file]", page.folder / "notes.md")
    assert tab.locator("#classify .problem").inner_text() == "No picture: notes.md"
    tab.get_by_role("link", name="Compare").click()
    tab.fill("#sentences", "only one")
    tab.locator("#compare button.main").click()
    assert "Two" in tab.locator("#compare .problem").inner_text()
