"""qdrant-client's local mode, made to write fast and to read no code.

It commits each point by itself, with a wait for the disk, and pickles them. Here it commits to
SQLite's write-ahead log, which a kill does not harm (a power cut may take the last points, which
the ledger then misses and embeds again), and what it unpickles are points of plain values: an index
may be a stranger's.
"""

from __future__ import annotations

import importlib
import io
import pickle
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from unime.errors import ConfigError

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

META = "meta.json"
POINT = ("qdrant_client.http.models.models", "PointStruct")
ALLOWED = {
    POINT,
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "_reconstruct"),
}
LARGE = "Local mode is not recommended"  # begins a warning; docs/search.md has what was measured
LOCK = threading.Lock()


class _Points(pickle.Unpickler):
    """Unpickles points of numbers and texts.

    Raises:
        UnpicklingError: something else.
    """

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of a point")
        return super().find_class(module, name)


def _loads(content: bytes) -> Any:
    return _Points(io.BytesIO(content)).load()


@contextmanager
def local_mode() -> Iterator[None]:
    """While entered, collections are opened and made as said above."""
    persistence: Any = importlib.import_module("qdrant_client.local.persistence")
    plain = persistence.CollectionPersistence._ensure_table

    def ensure_table(self: Any) -> None:
        self.storage.execute("pragma journal_mode = wal")
        self.storage.execute("pragma synchronous = normal")
        plain(self)

    with LOCK, warnings.catch_warnings():
        warnings.filterwarnings("ignore", LARGE)
        persistence.CollectionPersistence._ensure_table = ensure_table
        persistence.pickle = SimpleNamespace(loads=_loads, dumps=pickle.dumps)
        try:
            yield
        finally:
            persistence.CollectionPersistence._ensure_table = plain
            persistence.pickle = pickle


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
    except Exception as error:  # whatever SQLite, pickle, JSON and pydantic raise
        reason = " ".join(str(error).split())
        raise ConfigError(f"index: {folder} cannot be opened: {reason}", "index") from error
