"""A row of a prepared set: the only place that knows its columns.

A row, as `datasets` shows it::

    row_id     "pets.csv:17"
    task       "pets_t2i"
    query      {"text": "a sleeping cat", "images": [], "instruction": "Find me a picture of this:"}
    target     {"text": "", "images": ["cats/0031.jpg"], "instruction": ""}
    negatives  [{"text": "", "images": ["cats/0144.jpg"], "instruction": ""}]
    scores     [0.93, 0.41]      of a judge, the target's and each negative's; [] or no column: none
    answer     "tabby"           which right answer it has; "" or no column: unknown

Paths are relative to the set's folder of pictures (:mod:`unime.data.prepared.folder`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from unime.data.rows import Row, is_number
from unime.inputs.items import Item, Pair

PREPARED_COLUMNS = ("row_id", "task", "query", "target", "negatives")
SCORES, ANSWER = OPTIONAL_COLUMNS = ("scores", "answer")
ITEM = pa.struct(
    [("text", pa.string()), ("images", pa.list_(pa.string())), ("instruction", pa.string())]
)
SCHEMA = pa.schema(
    [
        ("row_id", pa.string()),
        ("task", pa.string()),
        ("query", ITEM),
        ("target", ITEM),
        ("negatives", pa.list_(ITEM)),
        (SCORES, pa.list_(pa.float64())),
        (ANSWER, pa.string()),
    ]
)


def written(pair: Pair, task: str) -> dict[str, Any]:
    """A pair whose paths are relative as a row."""
    return {
        "row_id": pair.row_id,
        "task": task,
        "query": _written_item(pair.query),
        "target": _written_item(pair.target),
        "negatives": [_written_item(item) for item in pair.negatives],
        SCORES: list(pair.scores),
        ANSWER: pair.answer,
    }


def pictures_of(file: Path) -> set[str]:
    """The paths of all pictures in a shard, as they stand there; of another file none."""
    found: set[str] = set()
    try:
        for rows in pq.ParquetFile(file).iter_batches(columns=["query", "target", "negatives"]):
            for items in (rows["query"], rows["target"], pc.list_flatten(rows["negatives"])):
                paths = pc.list_flatten(pc.struct_field(items, "images"))
                found |= {path for path in paths.unique().to_pylist() if isinstance(path, str)}
    except (pa.ArrowException, OSError, KeyError, UnicodeError):
        return set()
    return found


def _written_item(item: Item) -> dict[str, Any]:
    return {"text": item.text, "images": list(item.images), "instruction": item.instruction}


def read_prepared(row: Row, find: Callable[[str], str]) -> Pair:
    """A row as a pair.

    Args:
        find: a path of the row to the picture's own path; raises DataError where there is none.

    Raises:
        DataError: a bad row; names file, row, column and value.
    """
    negatives = [_read_item(entry, place, find) for entry in row.entries("negatives")
                 for place in entry.values]  # fmt: skip
    return Pair(
        _read_item(row, "query", find),
        _read_item(row, "target", find),
        tuple(negatives),
        row.text("row_id"),
        _read_scores(row, 1 + len(negatives)),
        row.name_or_none(ANSWER) if ANSWER in row.values else "",
    )


def _read_scores(row: Row, expected: int) -> tuple[float, ...]:
    """Those of a judge, for so many candidates, or none."""
    found = row.values.get(SCORES) or []
    if (
        not isinstance(found, list)
        or not all(map(is_number, found))
        or len(found) not in (0, expected)
    ):
        raise row.expected(f"the target's score and each negative's, {expected} numbers", SCORES)
    return tuple(found)


def _read_item(row: Row, column: str, find: Callable[[str], str]) -> Item:
    if not isinstance(row[column], dict):
        raise row.expected("text, images and instruction", column)
    cells = Row({f"{column}.{name}": value for name, value in row[column].items()}, row.where)
    text, images, instruction = (f"{column}.{name}" for name in ITEM.names)
    item = Item(
        cells.text_or_none(text),
        tuple(
            entry.image(place, find) for entry in cells.entries(images) for place in entry.values
        ),
        instruction=cells.text_or_none(instruction),
    )
    if not item.kind:
        raise cells.error("neither text nor picture", text, images, kind="empty side")
    return item
