"""What is held out of a prepared set (unime/data/prepared): each query among all targets.

A row: see unime/data/prepared/rows.py. Two rows of one query, or one target, may spell it apart:
what an item shows decides (:func:`unime.inputs.items.item_digest`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from eval.tasks.base import EvalTask
from eval.tasks.sources import EvalSource
from unime.data.prepared.folder import PreparedSet
from unime.data.prepared.rows import ANSWER, PREPARED_COLUMNS, read_prepared
from unime.data.tables import image_folder
from unime.errors import DataError
from unime.inputs.items import Item, item_digest, right_targets
from unime.runtime.progress import progress_bar


@dataclass(frozen=True)
class PreparedRows:
    """A task of the set in ``data.root``: every distinct query is asked once, among the distinct
    targets of its split, of which those of all its rows are right, and those of rows with an answer
    that one of these has.

    Negatives are no candidates unless they are somebody's target.
    """

    split: str = "test"

    def read(self, name: str, source: EvalSource) -> EvalTask:
        root, links = source.data.root or "", source.data.follow_links
        made = PreparedSet.of(root)
        if made is None:
            raise DataError(f"data.root: {root or 'null'} is no prepared set")
        table = source.rows(None, name, self.split, None, PREPARED_COLUMNS, (ANSWER,))
        place = source.data.image_root or made.image_root or None
        find = cache(image_folder(root, place, [], links).find)
        task = EvalTask(name)
        targets: dict[bytes, int] = {}
        queries: dict[bytes, Item] = {}
        rows: list[tuple[bytes, int, str]] = []
        for row in progress_bar(table.read(), total=len(table), desc=f"reading {name}", unit="row"):
            pair = read_prepared(row, find)
            key = item_digest(pair.target)
            if key not in targets:
                targets[key] = task.place(pair.target.text or key.hex(), pair.target)
            asked = item_digest(pair.query)
            queries.setdefault(asked, pair.query)
            rows.append((asked, targets[key], pair.answer))
        task.num_rows, right = len(queries), right_targets(rows)
        for asked, query in list(queries.items())[: source.data.limit]:
            task.ask(query, right[asked])
        return task
