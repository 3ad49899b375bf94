"""Figures that somebody drew beforehand, as the page holds them: `./launch.sh study` writes a list
of them (figures.json) beside their SVG files."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from unime.errors import DataError
from unime.runtime.files import inside, read_json, regular

LISTED = "figures.json"
LARGEST = 4 << 20  # bytes of a figure


def drawn_figures(folder: Path | None) -> list[dict[str, Any]]:
    """Title, text and content of every figure of a folder; none without one.

    The content is an image of the page, in which scripts of an SVG do not run.

    Raises:
        DataError: the list or one of its files is not there or damaged.
    """
    found = []
    for entry in [] if folder is None else read_json(folder / LISTED, list, "figures"):
        name = entry.get("name") if isinstance(entry, dict) else None
        if not inside(name) or not all(isinstance(entry.get(k), str) for k in ("title", "text")):
            raise DataError(f"{folder}/{LISTED}: expected name, title and text, got {entry!r:.200}")
        path = regular(Path(str(folder), f"{name}.svg"))
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: cannot read it: {error}") from None
        if len(content) > LARGEST:
            raise DataError(f"{path}: more than {LARGEST} bytes")
        uri = "data:image/svg+xml;base64," + base64.b64encode(content).decode()
        found.append({"title": entry["title"], "text": entry["text"], "uri": uri})
    return found
