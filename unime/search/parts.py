"""What of a file becomes an item: a picture, the passages of a text, the pages of a PDF file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from unime.errors import DataError
from unime.inputs.given import Input
from unime.runtime.files import read_text
from unime.search.pdf import count_pages, page_as_png

# where a passage may end, the best first: paragraphs, lines, sentences (of scripts without spaces,
# too), words
ENDS = [re.compile(pattern) for pattern in (r"\n\s*\n", r"\n", r"[.!?…]\s|[。！？]", r"\s")]

SHORTEST = 16  # characters, which are not cut again


@dataclass(frozen=True)
class Limits:
    """How files are taken apart, as `IndexConfig` has it."""

    passage_characters: int
    page_pixels: int
    max_pages: int
    max_text_mib: float


@dataclass(frozen=True)
class Part:
    """One item of a file.

    Attributes:
        place: of a page or passage, from 1; 0: the whole file.
        given: what is embedded; None: it cannot be read.
        line: where a passage begins, from 1.
        problem: why it cannot be read, or what is missing after it.
    """

    place: int = 0
    given: Input | None = None
    line: int = 0
    problem: str = ""

    @property
    def text(self) -> str:
        return self.given if isinstance(self.given, str) else ""


def parts_of(path: str, kind: str, limits: Limits, fits: Callable[[str], bool]) -> Iterator[Part]:
    """Take a file apart.

    Args:
        fits: whether the model is shown the whole of a text.

    Raises:
        DataError: it cannot be read at all.
    """
    if kind == "picture":
        yield Part(given=Path(path))
    elif kind == "text":
        yield from _of_text(Path(path), limits, fits)
    else:
        yield from _of_pdf(path, limits)


def _of_text(path: Path, limits: Limits, fits: Callable[[str], bool]) -> Iterator[Part]:
    size = path.stat().st_size / (1 << 20)
    if size > limits.max_text_mib:
        raise DataError(f"{path}: {size:.1f} MiB, more than max_text_mib={limits.max_text_mib:g}")
    found = passages(read_text(path), limits.passage_characters, fits)
    if not found:
        raise DataError(f"{path}: there is no text in it")
    for place, (line, passage) in enumerate(found, 1):
        yield Part(place, passage, line)


def _of_pdf(path: str, limits: Limits) -> Iterator[Part]:
    count = count_pages(path)
    for page in range(1, min(count, limits.max_pages) + 1):
        try:
            yield Part(page, page_as_png(path, page, limits.page_pixels))
        except DataError as error:
            yield Part(page, problem=str(error))
    if count > limits.max_pages:
        over = count - limits.max_pages
        yield Part(problem=f"{path}: {over} of {count} pages are more than max_pages")


def passages(text: str, most: int, fits: Callable[[str], bool] = bool) -> list[tuple[int, str]]:
    """Cut a text into pieces of at most so many characters, each with its line: in its second half
    a piece ends at a paragraph, else at a line, a sentence or a word. One that does not fit is cut
    at half of the length, and so on."""
    found, begin, line = [], 0, 1
    while begin < len(text):
        size = most
        piece = text[begin : _end_of(text, begin, size)]
        while size > SHORTEST and piece.strip() and not fits(piece.strip()):
            size //= 2
            piece = text[begin : _end_of(text, begin, size)]
        if passage := piece.strip():
            before = piece[: len(piece) - len(piece.lstrip())]
            found.append((line + before.count("\n"), passage))
        line += piece.count("\n")
        begin += len(piece)
    return found


def _end_of(text: str, begin: int, most: int) -> int:
    if len(text) - begin <= most:
        return len(text)
    middle = begin + most // 2
    for pattern in ENDS:
        *_, last = [None, *pattern.finditer(text, middle, begin + most)]
        if last is not None:
            return last.end()
    return begin + most
