"""qdrant-client's local mode with its points on the disk as numbers and JSON.

As it is, it pickles each point, and who opens a stranger's index would run what is in there; and it
waits for the disk at each. Here a point is a row of JSON and float32, and it is committed to
SQLite's write-ahead log, which a kill does not harm, nor a power cut once `sync` is done.
"""

from __future__ import annotations

import importlib
import json
import sqlite3
import threading
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unime.errors import ConfigError

if TYPE_CHECKING:
    from qdrant_client import QdrantClient
    from qdrant_client.http.models import PointStruct

META, POINTS = "meta.json", "points.sqlite"
TABLE = "create table if not exists points (id text primary key, said text, vectors blob)"
NUMBER = np.dtype("<f4")
LARGE = "Local mode is not recommended"  # begins a warning; docs/search.md has what was measured
LOCK = threading.Lock()


class Points:
    """The points of a collection on the disk, in place of qdrant-client's `CollectionPersistence`.

    A row's `said` is the JSON of its payload and its vectors' names and sizes, its `vectors` their
    numbers one after the other.
    """

    def __init__(self, location: str, force_disable_check_same_thread: bool = False) -> None:
        folder = Path(location)
        folder.mkdir(parents=True, exist_ok=True)
        self._file = sqlite3.connect(folder / POINTS, check_same_thread=False)
        self._file.execute("pragma journal_mode = wal")
        self._file.execute("pragma synchronous = normal")
        self._file.execute(TABLE)

    def close(self) -> None:
        self._file.close()

    def persist(self, point: PointStruct) -> None:
        """Add or replace a point."""
        named: Any = point.vector
        vectors = {name: np.asarray(vector, NUMBER) for name, vector in named.items()}
        sizes = {name: len(vector) for name, vector in vectors.items()}
        said = json.dumps({"payload": point.payload, "sizes": sizes})
        content = b"".join(vector.tobytes() for vector in vectors.values())
        with self._file:
            row = (str(point.id), said, content)
            self._file.execute("insert or replace into points values (?, ?, ?)", row)

    def delete(self, point_id: str) -> None:
        with self._file:
            self._file.execute("delete from points where id = ?", (str(point_id),))

    def load(self) -> Iterator[PointStruct]:
        """All of them.

        Raises:
            ValueError: something that is no point.
        """
        for point_id, said, content in self._file.execute("select id, said, vectors from points"):
            yield _point(point_id, said, content)


def _point(point_id: object, said: object, content: object) -> PointStruct:
    from qdrant_client.http.models import PointStruct

    if not (isinstance(point_id, str) and isinstance(said, str) and isinstance(content, bytes)):
        raise ValueError("a row of other types than a point's")
    found = json.loads(said)
    payload, sizes = found["payload"], found["sizes"]
    numbers = np.frombuffer(content, NUMBER)
    if not isinstance(payload, dict) or sum(sizes.values()) != len(numbers):
        raise ValueError(f"the point {point_id[:40]!r} is damaged")
    vectors, begin = {}, 0
    for name, size in sizes.items():
        vectors[name] = numbers[begin : begin + size].copy()
        begin += size
    return PointStruct.model_construct(id=point_id, vector=vectors, payload=payload)


def sync(folder: Path) -> None:
    """Have all points below a folder on the disk itself when it returns."""
    for path in folder.rglob(POINTS):
        with closing(sqlite3.connect(path)) as file:
            file.execute("pragma wal_checkpoint")


@contextmanager
def local_mode() -> Iterator[None]:
    """While entered, collections are opened and made as said above."""
    collection: Any = importlib.import_module("qdrant_client.local.local_collection")
    with LOCK, warnings.catch_warnings():
        warnings.filterwarnings("ignore", LARGE)
        plain, collection.CollectionPersistence = collection.CollectionPersistence, Points
        try:
            yield
        finally:
            collection.CollectionPersistence = plain


def open_local(folder: Path) -> QdrantClient:
    """Open, or make, what local mode keeps in a folder.

    Raises:
        ConfigError: another program has it, or it is damaged.
    """
    from qdrant_client import QdrantClient

    meta = folder / META
    if meta.is_file() and not meta.stat().st_size:  # killed while it made the folder
        meta.unlink()
    try:
        with local_mode():
            return QdrantClient(path=str(folder))
    except Exception as error:  # whatever SQLite, JSON and pydantic raise
        reason = " ".join(str(error).split())
        raise ConfigError(f"index: {folder} cannot be opened: {reason}", "index") from error
