"""Pages of PDF files as pictures, drawn by pypdfium2 in a process of little time and memory: a PDF
may be a stranger's."""

from __future__ import annotations

import base64
import io
import math
from typing import Any

from unime.errors import DataError, require_package
from unime.runtime.bounded import OutOfBoundsError, WorkError, bounded

SECONDS = 20  # of computing, for a page
MOST_PIXELS = 3 << 20  # which fit as PNG into what a child may say, noise too


def count_pages(path: str) -> int:
    """The pages of a PDF file.

    Raises:
        DataError: it cannot be read, or has none.
    """
    count = _done(path, lambda document: len(document))
    if not count:
        raise DataError(f"{path}: no pages")
    return int(count)


def page_as_png(path: str, page: int, longer_side: int) -> bytes:
    """A page, counted from 1, on white.

    Raises:
        DataError: it cannot be drawn.
    """

    def draw(document: Any) -> str:
        found = document[page - 1]
        width, height = found.get_size()
        if not (math.isfinite(width * height) and width > 0 < height):
            raise ValueError(f"a page of {width:g} x {height:g} points")
        scale = min(longer_side / max(width, height), math.sqrt(MOST_PIXELS / (width * height)))
        picture = found.render(scale=scale).to_pil()
        held = io.BytesIO()
        picture.convert("RGB").save(held, "PNG", compress_level=1)
        return base64.b64encode(held.getvalue()).decode()

    return base64.b64decode(_done(f"{path}, page {page}", draw, path))


def _done(named: str, work: Any, path: str | None = None) -> Any:
    require_package("pypdfium2", "use", "PDF files")
    import pypdfium2  # before the fork, so that each child has it

    def read() -> Any:
        document = pypdfium2.PdfDocument(path or named)
        return work(document)

    try:
        return bounded(read, SECONDS)
    except (OutOfBoundsError, WorkError) as error:
        raise DataError(f"{named}: cannot be read: {error}") from None
