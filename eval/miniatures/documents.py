"""Writes small BEIR triples in the layout of a hub repository, with real pictures as bytes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from eval.miniatures.mmeb import picture_bytes, write_rows

Id = int | str


def write_table(
    root: Path, subset: str, split: str, names: tuple[str, ...], rows: Iterable[tuple[Any, ...]]
) -> Path:
    """A subset of these columns, of which an ``image`` holds a picture's bytes."""
    named = [dict(zip(names, row, strict=True)) for row in rows]
    for row in named:
        if row.get("image") is not None:
            row["image"] = {"bytes": row["image"], "path": "x.png"}
    return write_rows(root, subset, split, named)


def write_corpus(root: Path, *rows: tuple[Id, bytes | None], split: str = "test") -> Path:
    return write_table(root, "corpus", split, ("corpus-id", "image"), rows)


def write_queries(root: Path, *rows: tuple[Id, str | None], split: str = "test") -> Path:
    return write_table(root, "queries", split, ("query-id", "query"), rows)


def write_qrels(root: Path, *rows: tuple[Id, Id, float], split: str = "test") -> Path:
    return write_table(root, "qrels", split, ("query-id", "corpus-id", "score"), rows)


def write_beir(
    root: Path, queries: int = 6, documents: int = 9, split: str = "test", texts: bool = False
) -> None:
    """A repository with graded relevance: of query n, page n scores 2 and the next page 1. The last
    page is a copy of the first one under another id.

    Args:
        texts: ids are texts ("page-3.jpg"), as in VisRAG's repositories; else numbers, as in
            ViDoRe's.
    """
    asks: list[Id] = [f"query {n}" if texts else n for n in range(queries)]
    pages: list[Id] = [f"page-{n}.jpg" if texts else 100 + n for n in range(documents)]
    pictures = [picture_bytes(n % (documents - 1)) for n in range(documents)]
    write_corpus(root, *zip(pages, pictures, strict=True), split=split)
    texts_of = [f"What does page {n} show?" for n in range(queries)]
    write_queries(root, *zip(asks, texts_of, strict=True), split=split)
    right = [(ask, pages[n % documents], 2) for n, ask in enumerate(asks)]
    near = [(ask, pages[(n + 1) % documents], 1) for n, ask in enumerate(asks)]
    write_qrels(root, *right, *near, (asks[0], pages[3 % documents], 0), split=split)
