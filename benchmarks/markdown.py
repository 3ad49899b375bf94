"""The tables of the documents, and how they get there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
NOT_RUN = "–"


def lines(heads: Sequence[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """A table in Markdown, a line as soon as there is its row."""
    yield line(heads)
    yield line(["---"] * len(heads))
    yield from map(line, rows)


def line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def table(heads: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    return "\n".join(lines(heads, rows))


def fill(document: str, content: str) -> str:
    """`document` with `content` between its two marks."""
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{content}\n\n{END}{after}"
