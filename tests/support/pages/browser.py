"""Headless Chromium, and how readable a page's colours are in it.

The executable is chromium, chromium-browser or google-chrome on the path (Debian, Ubuntu: apt-get
install chromium), or the one that `playwright install chromium` downloads. Without any the tests
are skipped, unless UNIME_REQUIRE_BROWSER=1 is set.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
COLOURS_OF_TEXTS = """() => {
  const numbers = (colour) => colour.match(/[0-9.]+/g)
    .map((number) => Number(number) * (colour.startsWith("color(srgb") ? 255 : 1)); // color-mix()
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


@contextmanager
def started_browser() -> Iterator[Any]:
    """A browser, or the test is skipped."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        own = driver.chromium.executable_path
        found = next(filter(None, map(shutil.which, NAMES)), own if Path(own).is_file() else None)
        if found is None:
            reason = f"no browser: none of {', '.join(NAMES)} (apt-get install chromium)"
            if os.environ.get("UNIME_REQUIRE_BROWSER") == "1":
                pytest.fail(reason)
            pytest.skip(reason)
        started = driver.chromium.launch(executable_path=found, args=FLAGS)
        yield started
        started.close()


@dataclass
class Tabs:
    """Tabs of a browser, and what is heard of them.

    Attributes:
        said: in their consoles and dialogs.
        asked: addresses, without what follows "#".
    """

    browser: Any
    patience: float  # seconds that a test waits for something in a tab
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    contexts: list[Any] = field(default_factory=list)

    def open(self, **options: Any) -> Any:
        """An empty tab of its own context."""
        calm = {"viewport": WIDE, "reduced_motion": "reduce"}
        context = self.browser.new_context(**calm | options)
        self.contexts.append(context)
        tab = context.new_page()
        tab.set_default_timeout(self.patience * 1000)
        tab.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        tab.on("pageerror", lambda error: self.said.append(str(error)))
        tab.on("request", lambda request: self.asked.append(request.url.split("#")[0]))
        tab.on("dialog", lambda dialog: self.said.append(f"dialog: {dialog.message}"))
        return tab

    def close(self) -> None:
        for context in self.contexts:
            context.close()


def ratio(one: list[float], other: list[float]) -> float:
    """The contrast of two colours (WCAG 2.2)."""

    def luminance(colour: list[float]) -> float:
        parts = [c / 255 for c in colour[:3]]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)
