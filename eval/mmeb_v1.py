"""MMEB's evaluation rows, version 1: instructions inside of the texts, the right answer first."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from eval.sources import Source
from eval.task import EvalTask, Targets, each_once
from unime.items import Item
from unime.mmeb_rows import EVAL_COLUMNS, read_candidates, read_item, read_query
from unime.progress import progress_bar
from unime.tables import plain_rows


@dataclass(frozen=True)
class MmebRows:
    """``TIGER-Lab/MMEB-eval``: one row a query, with its own candidates.

    Pictures are looked for below ``data.root`` and its ``eval_images``, or ``data.image_root``.
    """

    repository: str | None = None
    revision: str | None = None
    subset: str | None = None  # None: the task's name
    split: str = "test"

    def read(self, name: str, source: Source) -> EvalTask:
        subset, limit = self.subset or name, source.data.limit
        table = source.rows(self.repository, subset, self.split, self.revision, EVAL_COLUMNS)
        find = cache(source.images("eval_images").find)

        @cache
        def shared(text: str, path: str) -> Item:
            return read_item(text, path, find)

        count = len(table.rows) if limit is None else min(limit, len(table.rows))
        targets, queries, candidates = Targets(), [], []
        rows = plain_rows(table.rows.select(range(count)))
        for number, row in enumerate(
            progress_bar(rows, total=count, desc=f"reading {name}", unit="row")
        ):
            where = table.where(number)
            queries.append(read_query(row, where, shared))
            own = read_candidates(row, where, shared)
            candidates.append(each_once(targets.place(_name(item), item) for item in own))
        relevance = [{places[0]: 1.0} for places in candidates]
        return EvalTask(
            name, len(table.rows), queries, targets.items, targets.names, relevance, candidates
        )


def _name(item: Item) -> str:
    return ":".join((*item.images, item.text) if item.text else item.images)
