"""MMEB's evaluation rows, version 1: instructions inside of the texts, the right answer first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from eval.tasks.base import EvalTask, Targets, each_once
from eval.tasks.sources import EvalSource
from unime.config import EvalData
from unime.data.mmeb_rows import EVAL_COLUMNS, read_candidates, read_item, read_query
from unime.data.tables import Table, plain_rows
from unime.inputs.items import Item
from unime.runtime.progress import progress_bar

Row = dict[str, Any]
Candidates = list[tuple[str, Item]]  # name and item of each, the right one first


@dataclass(frozen=True)
class MmebRows:
    """``TIGER-Lab/MMEB-eval``: one row a query, with its own candidates.

    Candidates are told apart by path and text, as VLM2Vec does (branch v1, eval.py); one that a
    row lists again, the right one too, is one candidate.

    Pictures are looked for below ``data.root`` and its ``eval_images``, or ``data.image_root``.
    """

    repository: str | None = None
    revision: str | None = None
    subset: str | None = None  # None: the task's name
    split: str = "test"

    def read(self, name: str, source: EvalSource) -> EvalTask:
        subset = self.subset or name
        table = source.rows(self.repository, subset, self.split, self.revision, EVAL_COLUMNS)
        find = cache(source.images("eval_images").find)

        @cache
        def shared(text: str, path: str) -> Item:
            return read_item(text, path, find)

        def read_row(row: Row, where: str) -> tuple[Item, Candidates]:
            own = read_candidates(row, where, shared)
            names = (candidate_name(path, item.text)
                     for path, item in zip(row["tgt_img_path"], own, strict=True))  # fmt: skip
            return read_query(row, where, shared), list(zip(names, own, strict=True))

        return read_task(name, table, source.data.limit, read_row)


def candidate_name(path: str | None, text: str) -> str:
    return ":".join(part for part in (path, text) if part)


def read_task(
    name: str,
    table: Table,
    limit: int | None,
    read_row: Callable[[Row, str], tuple[Item, Candidates]],
) -> EvalTask:
    """A task of rows that are one query each, with its own candidates, the right one first."""
    count = len(table.rows) if limit is None else min(limit, len(table.rows))
    targets, queries, candidates = Targets(), [], []
    rows = plain_rows(table.rows.select(range(count)))
    bar = progress_bar(rows, total=count, desc=f"reading {name}", unit="row")
    for number, row in enumerate(bar):
        query, own = read_row(row, table.where(number))
        queries.append(query)
        candidates.append(each_once(targets.place(*candidate) for candidate in own))
    relevance = [{places[0]: 1.0} for places in candidates]
    return targets.task(name, len(table.rows), queries, relevance, candidates)


def read_mmeb(root: str, name: str) -> EvalTask:
    """A task of a local folder in MMEB-eval's layout."""
    return MmebRows().read(name, EvalSource(EvalData(root=root)))
