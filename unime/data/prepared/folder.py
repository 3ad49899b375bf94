"""The folder of a prepared set.

set.json                              what it was made of, where its pictures are, rows by task
<task>/train-00000-of-00002.parquet   rows (:mod:`unime.data.prepared.rows`)
<task>/test-00000-of-00001.parquet    rows that are held out
images/                               pictures that lay in tables or archives
suite.yaml                            the evaluation of what is held out
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from unime.data.prepared.rows import SCHEMA, written
from unime.errors import DataError
from unime.inputs.items import Pair
from unime.runtime.files import check_kinds, read_json, write_json

SET = "set.json"
SHARD_ROWS = 50_000
AT_ONCE = 1000  # rows in memory


@dataclass(frozen=True)
class PreparedSet:
    """What is known of a prepared set beside its rows.

    Attributes:
        image_root: the folder that the rows' paths are relative to, absolute; "": the set's own.
        rows: task -> split -> how many.
        source: what it was made of and how, for whoever reads it.
    """

    image_root: str = ""
    rows: dict[str, dict[str, int]] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, root: str | Path) -> PreparedSet | None:
        """Of a folder; None: it is no prepared set.

        Raises:
            DataError: its set.json cannot be read.
        """
        path = Path(root) / SET
        if not path.is_file():
            return None
        kinds = {"image_root": str, "rows": dict, "source": dict}
        return cls(**check_kinds(read_json(path), kinds, str(path)))

    def write(self, root: Path) -> None:
        """Last: a folder without set.json is none that is finished."""
        write_json(root / SET, asdict(self))


def write_rows(
    folder: Path, split: str, pairs: Iterable[Pair], total: int, task: str | None = None
) -> None:
    """Write the shards of one task's split into its folder.

    Args:
        pairs: as many as `total`, with paths relative to the set's folder of pictures.
        task: its name; None: the folder's.

    Raises:
        DataError: there are more or fewer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    count = max(1, -(-total // SHARD_ROWS))
    rows, found = iter(pairs), 0
    for number in range(count):
        path = folder / f"{split}-{number:05d}-of-{count:05d}.parquet"
        with pq.ParquetWriter(path, SCHEMA) as writer:
            for batch in _batches(islice(rows, SHARD_ROWS), task or folder.name):
                writer.write_batch(batch)
                found += len(batch)
    found += sum(1 for _ in rows)
    if found != total:
        raise DataError(f"{folder}: {found} rows, expected {total}")


def _batches(pairs: Iterator[Pair], task: str) -> Iterator[pa.RecordBatch]:
    while some := list(islice(pairs, AT_ONCE)):
        yield pa.RecordBatch.from_pylist([written(pair, task) for pair in some], schema=SCHEMA)
