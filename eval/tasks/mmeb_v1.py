r"""MMEB's evaluation rows, version 1: instructions inside of the texts, the right answer first.

A row::

    qry_text      "<|image_1|>\nRepresent the given image with the following question: Is it red?\n"
    qry_img_path  "OK-VQA/Test/0.jpg"  ("" or null: no picture)
    tgt_text      ["a bird", "a boat", …]  (its candidates, the right one first)
    tgt_img_path  ["", "", …]
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import ClassVar

from eval.tasks.base import EvalTask
from eval.tasks.sources import EvalSource
from unime.config import EvalData
from unime.data.mmeb_rows import EVAL_COLUMNS, MakeItem, read_candidates, read_item, read_query
from unime.data.rows import Row
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

    below: ClassVar[tuple[str, ...]] = ("eval_images",)
    repository: str | None = None
    revision: str | None = None
    subset: str | None = None  # None: the task's name
    split: str = "test"

    @property
    def columns(self) -> tuple[str, ...]:
        return EVAL_COLUMNS

    def read(self, name: str, source: EvalSource) -> EvalTask:
        subset = self.subset or name
        table = source.rows(self.repository, subset, self.split, self.revision, self.columns)
        make = cache(partial(read_item, find=cache(source.images(*self.below).find)))
        task = EvalTask(name, len(table))
        count = min(source.data.limit or len(table), len(table))
        rows = table.read(range(count))
        for row in progress_bar(rows, total=count, desc=f"reading {name}", unit="row"):
            query, candidates = self.read_row(row, make)
            places = [task.place(*candidate) for candidate in candidates]
            task.ask(query, places[:1], places)
        return task

    def read_row(self, row: Row, make: MakeItem) -> tuple[Item, Candidates]:
        own = read_candidates(row, make)
        names = map(candidate_name, row["tgt_img_path"], (item.text for item in own))
        return read_query(row, make), list(zip(names, own, strict=True))


def candidate_name(path: str | None, text: str) -> str:
    return ":".join(part for part in (path, text) if part)


def read_mmeb(root: str, name: str) -> EvalTask:
    """A task of a local folder in MMEB-eval's layout."""
    return MmebRows().read(name, EvalSource(EvalData(root=root)))
