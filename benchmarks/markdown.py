"""The tables of the documents, and how they get there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

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


def fill(document: str, content: str, mark: str = "tables") -> str:
    """`document` with `content` between its two marks of that name."""
    begin, end = (f"<!-- {mark}: {place} -->" for place in ("begin", "end"))
    before, _, rest = document.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n\n{content}\n\n{end}{after}"
