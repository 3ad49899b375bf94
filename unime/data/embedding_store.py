"""Embeddings on disk, one for each distinct item: what was encoded once is never encoded again.

A folder for each model and its settings: `store.json` with the facts, and two files that only grow,
`vectors` (float32, read through a memory map) and `records` (the item's key, and whether its text
was cut). A vector is on the disk before its record is written, so a process may be killed at any
moment: whatever has no complete record does not count, and is cut off when more is added.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unime.errors import ConfigError, DataError
from unime.inputs.items import KEY_BYTES
from unime.runtime.files import read_json, write_json, writing
from unime.runtime.folder_lock import lock_folder, unlock_folder

FACTS = "store.json"
KEY = np.dtype(f"S{KEY_BYTES}")  # as bytes it drops zeros at the end, which changes no comparison
RECORD = np.dtype([("key", KEY), ("truncated", "?")])
VALUE = np.dtype("<f4")
NORM_TOLERANCE = 1e-2


class StoredEmbeddings:
    """Embeddings of unit norm by the keys of their items: the keys are in memory, the vectors stay
    on the disk.

    Attributes:
        facts: what the embeddings depend on, for people and results.

    Args:
        records: (N,) of RECORD.
        vectors: (N, D) float32, memory-mapped.
    """

    def __init__(
        self, folder: Path, facts: dict[str, Any], records: np.ndarray, vectors: np.ndarray
    ) -> None:
        self.folder = folder
        self.facts = facts
        self._take(records, vectors)

    @classmethod
    def open(cls, folder: Path) -> StoredEmbeddings:
        """Open what is complete of a store, which another process may be adding to.

        Raises:
            DataError: the store is damaged.
        """
        facts = _read_facts(folder)
        return cls(folder, facts, *_read_rows(folder, facts["dimension"]))

    def missing(self, keys: Sequence[bytes]) -> list[int]:
        """Places of the keys that have no embedding."""
        found: list[int] = np.flatnonzero(self._find(keys) < 0).tolist()
        return found

    def embeddings(self, keys: Sequence[bytes]) -> Tensor:
        """The embeddings (n, D) of these items, copied out of the memory map.

        Raises:
            KeyError: an item that has none.
            DataError: one that is no unit vector: the disk has damaged the file.
        """
        rows = self._find(keys)
        if (rows < 0).any():
            raise KeyError(f"{self.folder}: {(rows < 0).sum()} of {len(rows)} items are missing")
        found = self._vectors[rows]
        if not (np.abs(np.linalg.norm(found, axis=1) - 1) < NORM_TOLERANCE).all():
            raise DataError(f"{self.folder} holds rows that are no unit vectors; remove it")
        return torch.from_numpy(found)

    def num_truncated(self, keys: Sequence[bytes]) -> int:
        """How many of these items, which are there, had their text cut."""
        rows = self._find(keys)
        return int(self._truncated[rows].sum())

    def _take(self, records: np.ndarray, vectors: np.ndarray) -> None:
        self._vectors = np.asarray(vectors)  # rows of a memmap take longer
        self._truncated = records["truncated"]
        self._order = np.argsort(records["key"])
        self._keys = records["key"][self._order]  # sorted

    def _find(self, keys: Sequence[bytes]) -> np.ndarray:
        """The rows (n,) of these items, -1 where there is none."""
        wanted = np.array(keys, dtype=KEY)
        if not len(self._keys):
            return np.full(len(wanted), -1)
        places = np.searchsorted(self._keys, wanted).clip(max=len(self._keys) - 1)
        return np.where(self._keys[places] == wanted, self._order[places], -1)


class EmbeddingStore(StoredEmbeddings):
    """The embeddings of one model with one set of settings, open for more of them; in one process
    at a time.

    Attributes:
        facts: written with the first embeddings, from then on those of the file.

    Args:
        described: the facts of a new store.
        key: the setting that names the folder, for messages.

    Raises:
        ConfigError: the folder cannot be written, or another process has it open.
        DataError: the store is damaged.
    """

    def __init__(self, folder: Path, described: dict[str, Any], key: str = "store") -> None:
        lock_folder(key, folder)
        self._key = key
        is_new = not (folder / FACTS).is_file()
        facts = dict(described) if is_new else _read_facts(folder)
        super().__init__(folder, facts, *_read_rows(folder, 0 if is_new else facts["dimension"]))
        self._count = len(self._keys)
        self._cut()

    def describe(self, **facts: Any) -> None:
        """Write the facts, with these among them."""
        self.facts |= facts
        with writing(self._key, self.folder):
            write_json(self.folder / FACTS, self.facts)

    def add(self, keys: Sequence[bytes], vectors: Tensor, truncated: Sequence[bool]) -> None:
        """Append embeddings (n, D) of items that are missing.

        Raises:
            ConfigError: the disk is full or cannot be written; nothing is lost.
        """
        if not (self.folder / FACTS).is_file():
            self.describe(dimension=vectors.shape[1])
        if vectors.shape[1] != self.facts["dimension"]:
            raise ConfigError(
                f"{self._key}: {self.folder} has embeddings of {self.facts['dimension']}"
                f" dimensions, got {vectors.shape[1]}"
            )
        records = np.zeros(len(keys), dtype=RECORD)
        records["key"], records["truncated"] = list(keys), list(truncated)
        try:
            self._append("vectors", vectors.numpy().astype(VALUE).tobytes(), sync=True)
            self._append("records", records.tobytes())
        except OSError as error:
            self._cut()
            raise ConfigError(f"{self._key}: {self.folder} cannot be written: {error}") from error
        self._count += len(keys)

    def close(self) -> None:
        unlock_folder(self.folder)

    def _find(self, keys: Sequence[bytes]) -> np.ndarray:
        if len(self._keys) < self._count:  # look at what was added since
            self._take(*_read_rows(self.folder, self.facts["dimension"]))
        return super()._find(keys)

    def _cut(self) -> None:
        """Forget what has no complete record."""
        for name, size in _sizes(self.facts.get("dimension", 0)).items():
            if (self.folder / name).is_file():
                os.truncate(self.folder / name, self._count * size)

    def _append(self, name: str, content: bytes, sync: bool = False) -> None:
        with (self.folder / name).open("ab") as file:
            file.write(content)
            file.flush()
            if sync:
                os.fdatasync(file.fileno())


def _read_facts(folder: Path) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = read_json(folder / FACTS)
        return facts | {"dimension": int(facts["dimension"])}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / FACTS} is damaged ({error}); remove {folder}") from None


def _read_rows(folder: Path, dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """The complete records (N,), and their vectors (N, D), memory-mapped."""
    have = [
        (folder / name).stat().st_size // size if size and (folder / name).is_file() else 0
        for name, size in _sizes(dimension).items()
    ]
    count, shape = min(have), (min(have), dimension)
    if not count:
        return np.zeros(0, RECORD), np.zeros(shape, VALUE)
    records = np.fromfile(folder / "records", RECORD, count)
    return records, np.memmap(folder / "vectors", VALUE, "r", shape=shape)


def _sizes(dimension: int) -> dict[str, int]:
    """Bytes of an item in each file."""
    return {"vectors": dimension * VALUE.itemsize, "records": RECORD.itemsize}
