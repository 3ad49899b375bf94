"""The folder of a prepared set.

set.json                              what it was made of, where its pictures are, rows by task
<task>/train-00000-of-00002.parquet   rows (:mod:`unime.data.prepared.rows`)
<task>/test-00000-of-00001.parquet    rows that are held out
images/                               pictures that lay in tables or archives
suite.yaml                            the evaluation of what is held out
check/                                what ./launch.sh check has found in it
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from unime.data.prepared.rows import SCHEMA, written
from unime.errors import DataError
from unime.inputs.items import Pair
from unime.runtime.files import check_kinds, read_json, write_json

SET, CHECK = "set.json", "check"
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

    def splits(self, task: str) -> list[str]:
        """Those that a task has rows of."""
        found = self.rows.get(task)
        return [name for name, rows in found.items() if rows] if isinstance(found, dict) else []

    def write(self, root: Path) -> None:
        """Last: a folder without set.json is none that is finished."""
        write_json(root / SET, asdict(self))


class RowWriter:
    """Writes the shards of one task's split, row by row, into its folder.

    Args:
        total: how many rows there will be, by which the shards are named.
        task: its name; None: the folder's.
    """

    def __init__(self, folder: Path, split: str, total: int, task: str | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.split, self.total = folder, split, total
        self.task = task or folder.name
        self.count = max(1, -(-total // SHARD_ROWS))
        self.found = 0
        self._rows: list[dict[str, Any]] = []
        self._file: pq.ParquetWriter | None = None
        self._open(0)

    def add(self, pair: Pair) -> None:
        """A row, with paths relative to the set's folder of pictures."""
        if self.found and self.found % SHARD_ROWS == 0 and self.found < self.total:
            self._open(self.found // SHARD_ROWS)
        self._rows.append(written(pair, self.task))
        self.found += 1
        if len(self._rows) == AT_ONCE:
            self._flush()

    def close(self) -> None:
        """Write what is left.

        Raises:
            DataError: there were more rows, or fewer.
        """
        self._close()
        if self.found != self.total:
            raise DataError(f"{self.folder}: {self.found} rows, expected {self.total}")

    def _open(self, number: int) -> None:
        self._close()
        name = f"{self.split}-{number:05d}-of-{self.count:05d}.parquet"
        self._file = pq.ParquetWriter(self.folder / name, SCHEMA)

    def _flush(self) -> None:
        if self._rows and self._file is not None:
            self._file.write_batch(pa.RecordBatch.from_pylist(self._rows, schema=SCHEMA))
            self._rows = []

    def _close(self) -> None:
        if self._file is not None:
            self._flush()
            self._file.close()
            self._file = None


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
    writer = RowWriter(folder, split, total, task)
    for pair in pairs:
        writer.add(pair)
    writer.close()
