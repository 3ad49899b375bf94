r"""MMEB's evaluation rows, version 1: instructions inside of the texts, the right answer first.

A row::

    qry_text      "<|image_1|>\nRepresent the given image with the following question: Is it red?\n"
    qry_img_path  "OK-VQA/Test/0.jpg"  ("" or null: no picture)
    tgt_text      ["a bird", "a boat", …]  (its candidates, the right one first)
    tgt_img_path  ["", "", …]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from eval.tasks.base import EvalTask, TaskBuilder
from eval.tasks.sources import EvalSource
from unime.config import EvalData
from unime.data.mmeb_rows import EVAL_COLUMNS, read_candidates, read_item, read_query
from unime.data.rows import Row
from unime.data.tables import Table
from unime.inputs.items import Item
from unime.runtime.progress import progress_bar

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

        def read_row(row: Row) -> tuple[Item, Candidates]:
            own = read_candidates(row, shared)
            names = (candidate_name(path, item.text)
                     for path, item in zip(row["tgt_img_path"], own, strict=True))  # fmt: skip
            return read_query(row, shared), list(zip(names, own, strict=True))

        return read_task(name, table, source.data.limit, read_row)


def candidate_name(path: str | None, text: str) -> str:
    return ":".join(part for part in (path, text) if part)


def read_task(
    name: str,
    table: Table,
    limit: int | None,
    read_row: Callable[[Row], tuple[Item, Candidates]],
) -> EvalTask:
    """A task of rows that are one query each, with its own candidates, the right one first."""
    task, count = TaskBuilder(), min(limit or len(table), len(table))
    rows = table.read(range(count))
    for row in progress_bar(rows, total=count, desc=f"reading {name}", unit="row"):
        query, candidates = read_row(row)
        places = [task.place(*candidate) for candidate in candidates]
        task.ask(query, places[:1], places)
    return task.task(name, len(table))


def read_mmeb(root: str, name: str) -> EvalTask:
    """A task of a local folder in MMEB-eval's layout."""
    return MmebRows().read(name, EvalSource(EvalData(root=root)))
