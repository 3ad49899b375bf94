"""Clusters of rows that are hard for one another, on disk: what `./launch.sh prepare batches`
writes and ``data.mixing: mined`` makes batches of.

clusters.json     the size of a cluster, what it was made with, rows and digest of each task
<task>.parquet    a line a row: key (of its query and target), cluster
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from unime.errors import ConfigError, DataError
from unime.runtime.digests import check_digests, digest_of
from unime.runtime.files import check_kinds, inside, read_json, regular, replacing, write_json

FACTS = "clusters.json"
HINT = "run ./launch.sh prepare batches on these data"
SCHEMA = pa.schema([("key", pa.int64()), ("cluster", pa.int32())])
ODD = np.int64(-7046029254386353131)  # multiplied by it, no two keys are mistaken for each other


@dataclass(frozen=True)
class Clusters:
    """Clusters of the rows of each task.

    Attributes:
        size: rows of a cluster.
        made: with which model and settings, for whoever reads it.
        tasks: rows of each.
        digests: of each one's file.
    """

    folder: Path
    size: int
    made: dict[str, Any] = field(default_factory=dict)
    tasks: dict[str, int] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: str | Path) -> Clusters:
        """What is known of the clusters in a folder.

        Raises:
            ConfigError: there are none.
            DataError: they are damaged.
        """
        path = Path(folder) / FACTS
        if not path.is_file():
            raise ConfigError(f"data.clusters: got {str(folder)!r}, expected a folder with {FACTS}")
        kinds = {"size": int, "made": dict, "tasks": dict, "digests": dict}
        found = check_kinds(read_json(path), kinds, str(path))
        if found["size"] < 1:
            raise DataError(f"{path}, size: got {found['size']}, expected 1 or more")
        return cls(Path(folder), **{name: found[name] for name in kinds})

    def write(self) -> None:
        """Last: a folder without clusters.json has none that are finished."""
        digests = {task: digest_of(self._path(task)) for task in self.tasks}
        facts = asdict(replace(self, digests=digests))
        del facts["folder"]
        write_json(self.folder / FACTS, facts)

    @property
    def content(self) -> str:
        """Equal for equal clusters."""
        words = json.dumps([self.size, self.digests], sort_keys=True)
        return hashlib.blake2b(words.encode(), digest_size=16).hexdigest()

    def _path(self, task: str) -> Path:
        return self.folder / f"{task}.parquet"

    def write_task(self, task: str, keys: np.ndarray, labels: np.ndarray) -> None:
        """Write one task's.

        Args:
            keys: of each row's query and target (n, 2).
            labels: the cluster of each row (n,).
        """
        path = self._path(task)
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = {"key": pair_keys(keys), "cluster": labels.astype(np.int32)}
        with replacing(path) as aside:
            pq.write_table(pa.table(columns, schema=SCHEMA), aside)

    def units(self, task: str, keys: np.ndarray) -> np.ndarray:
        """The rows of a task in clusters (u, size), numbered from 0. Rows that are no longer there
        leave gaps, which those of the smallest clusters fill; of the last cluster's those that are
        left are rows that come twice.

        Raises:
            DataError: rows that were not there when the clusters were made, or a damaged file.
        """
        path = self._path(task)
        if not inside(task) or task not in self.tasks or not path.is_file():
            raise DataError(f"data.clusters: {self.folder} has none of task {task!r}; {HINT}")
        try:
            check_digests(self.folder, {path.name: self.digests.get(task, "")})
            table = pq.read_table(regular(path), schema=SCHEMA)
        except (pa.ArrowException, OSError, DataError) as error:
            raise DataError(f"{path}: cannot read it: {error}; {HINT}") from None
        known, clusters = (table[name].to_numpy() for name in SCHEMA.names)
        order = known.argsort(kind="stable")
        wanted = pair_keys(keys)
        places = np.searchsorted(known[order], wanted).clip(max=max(0, len(known) - 1))
        new = known[order][places] != wanted if len(known) else np.ones(len(wanted), dtype=bool)
        if new.any():
            raise DataError(
                f"data.clusters: {self.folder} lacks {new.sum():,} of the {len(new):,} rows of task"
                f" {task!r} (the first: number {new.argmax()}); {HINT}"
            )
        return units_of(clusters[order][places], self.size)


def units_of(labels: np.ndarray, size: int) -> np.ndarray:
    """Rows in units (u, size), those of one cluster (n,) together as far as they fit; none where
    there are fewer than `size`."""
    rows = labels.argsort(kind="stable")
    parts = np.split(rows, np.flatnonzero(np.diff(labels[rows])) + 1)
    parts.sort(key=len, reverse=True)
    count = -(-len(labels) // size) if len(labels) >= size else 0
    kept = [part[:size] for part in parts[:count]]
    kept += [rows[:0]] * (count - len(kept))
    spare = np.concatenate([rows[:0], *(part[size:] for part in parts[:count]), *parts[count:]])
    lacking = count * size - len(labels)  # of the last
    spare = np.concatenate(
        [spare, rows[:: max(1, len(rows) // max(1, lacking))][: max(0, lacking)]]
    )
    found = []
    for part in kept:
        gap = size - len(part)
        found.append(np.concatenate([part, spare[:gap]]))
        spare = spare[gap:]
    return np.stack(found) if found else np.empty((0, size), dtype=np.int64)


def pair_keys(keys: np.ndarray) -> np.ndarray:
    """One key (n,) of each query and target (n, 2)."""
    with np.errstate(over="ignore"):
        return keys[:, 0] * ODD ^ keys[:, 1]


def rows_in_clusters(
    clusters: Clusters, task_sizes: Mapping[str, int], keys: np.ndarray
) -> tuple[np.ndarray, dict[str, int]]:
    """All rows, a cluster's as neighbours, and how many of each task these are.

    Args:
        task_sizes: rows of each task, in index order.
        keys: of each row's query and target (N, 2).
    """
    order, sizes, first = [], {}, 0
    for task, size in task_sizes.items():
        units = clusters.units(task, keys[first : first + size])
        order.append(first + units.ravel())
        sizes[task] = units.size
        first += size
    return np.concatenate(order), sizes
