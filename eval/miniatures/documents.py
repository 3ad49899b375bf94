"""Writes small BEIR triples in the layout of a hub repository, with real pictures as bytes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets

from eval.miniatures.mmeb import write_picture

Id = int | str


def write_table(
    root: Path, subset: str, split: str, names: tuple[str, ...], rows: Iterable[tuple[Any, ...]]
) -> Path:
    """``<root>/<subset>/<split>-00000-of-00001.parquet``, as `datasets` writes it for the hub: a
    column ``image`` of bytes becomes one of pictures."""
    columns = {
        name: list(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)
    }
    pictures = [value and {"bytes": value, "path": "x.png"} for value in columns.pop("image", [])]
    table = datasets.Dataset.from_dict(columns)
    if pictures:
        kind = datasets.Features({"image": datasets.Image()})
        found = datasets.Dataset.from_dict({"image": pictures}, kind)
        table = datasets.concatenate_datasets([table, found], axis=1)
    path = root / subset / f"{split}-00000-of-00001.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    quiet = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        table.to_parquet(path)
    finally:
        if not quiet:
            datasets.enable_progress_bars()
    return path


def write_corpus(root: Path, *rows: tuple[Id, bytes | None], split: str = "test") -> Path:
    return write_table(root, "corpus", split, ("corpus-id", "image"), rows)


def write_queries(root: Path, *rows: tuple[Id, str | None], split: str = "test") -> Path:
    return write_table(root, "queries", split, ("query-id", "query"), rows)


def write_qrels(root: Path, *rows: tuple[Id, Id, float], split: str = "test") -> Path:
    return write_table(root, "qrels", split, ("query-id", "corpus-id", "score"), rows)


def picture(folder: Path, seed: int, size: int = 32) -> bytes:
    return write_picture(folder / f"{seed}.png", seed, size).read_bytes()


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
    folder = root.parent / f".pictures-{root.name}"
    pictures = [picture(folder, seed) for seed in range(documents - 1)]
    write_corpus(root, *zip(pages, [*pictures, pictures[0]], strict=True), split=split)
    texts_of = [f"What does page {n} show?" for n in range(queries)]
    write_queries(root, *zip(asks, texts_of, strict=True), split=split)
    right = [(ask, pages[n % documents], 2) for n, ask in enumerate(asks)]
    near = [(ask, pages[(n + 1) % documents], 1) for n, ask in enumerate(asks)]
    write_qrels(root, *right, *near, (asks[0], pages[3 % documents], 0), split=split)
