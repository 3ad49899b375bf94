"""One Parquet file of a study: a row a cell, made anew from what lies on the disk.

==================  ========================================================================
recipe, seed        and ``grid/KEY`` for every key of the grid (what is no number as a text)
status, reason      done, failed or not run
score/TASK          and ``average/KEY`` (eval/report/averages.py), ``hits/TASK``: of each query
alignment/TASK      and ``uniformity/TASK``, ``gap/TASK`` (eval/study/space.py)
seconds             and ``cpu_seconds``, of all steps; ``seconds/STEP`` of each
STAGE/METRIC        the last line of metrics.jsonl; ``curve/STAGE/METRIC``: of all lines
cell, folder        the evaluation's name and folder; commit, versions, hardware of it
==================  ========================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from unime.errors import DataError
from unime.runtime.files import replacing

TABLE = "table.parquet"  # its name in a study's folder
Row = dict[str, Any]


def write_table(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Whole, or what was there stays."""
    found = list(rows)
    names = list(dict.fromkeys(key for row in found for key in row))
    columns = {name: [row.get(name) for row in found] for name in names}
    for name, values in columns.items():
        if name.startswith("grid/") and any(isinstance(value, str) for value in values):
            columns[name] = [None if v is None else v if isinstance(v, str) else f"{v:g}"
                             for v in values]  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as aside:
        pq.write_table(pa.table(columns), aside, compression="zstd")


def read_table(path: Path) -> list[Row]:
    """The rows, each with what it has.

    Raises:
        DataError: there is no such file, or it is no study's.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; ./launch.sh study NAME writes it")
    try:
        rows: list[Row] = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot read it: {error}") from None
    if rows and not {"recipe", "seed", "status"} <= rows[0].keys():
        raise DataError(f"{path}: not the table of a study")
    return [{key: value for key, value in row.items() if value is not None} for row in rows]
