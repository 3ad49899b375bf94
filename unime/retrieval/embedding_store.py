"""Embeddings on disk, one for each distinct item: what was encoded once is never encoded again.

A folder for each model and its settings; in it two files that only grow, `vectors` (float32, read
through a memory map) and `records` (the item's key, and whether its text was cut). A vector is on
the disk before its record is written, so a process may be killed at any moment: whatever has no
complete record is cut off when the store is opened again.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unime.errors import ConfigError, DataError
from unime.inputs.items import KEY_BYTES
from unime.runtime.files import write_json

RECORD = np.dtype([("key", f"V{KEY_BYTES}"), ("truncated", "?")])
VALUE = np.dtype("<f4")
PATIENCE = 30.0  # seconds to wait for the workers of a killed run to end
NORM_TOLERANCE = 1e-2


class EmbeddingStore:
    """The embeddings of one model with one set of settings; open in one process at a time.

    Attributes:
        facts: what the embeddings depend on, for people and results; written with the first of
            them, from then on those of the file.

    Args:
        described: the facts of a new store.

    Raises:
        ConfigError: the folder cannot be written, or another process has it open.
    """

    def __init__(self, folder: Path, described: dict[str, Any]) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = (folder / "lock").open("w")
        except OSError as error:
            raise ConfigError(f"store: {folder} cannot be written: {error}") from None
        self._take_lock()
        self.facts = dict(described)
        self.dimension: int | None = None
        path = folder / "store.json"
        if path.is_file():
            try:
                self.facts = json.loads(path.read_text(encoding="utf-8"))
                self.dimension = int(self.facts["dimension"])
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(f"store: {path} is damaged ({error}); remove {folder}") from None
        self._rows: dict[bytes, int] = {}
        self._truncated: list[bool] = []
        self._cut_incomplete()

    def missing(self, keys: Sequence[bytes]) -> list[int]:
        """Places of the keys that have no embedding."""
        return [place for place, key in enumerate(keys) if key not in self._rows]

    def add(self, keys: Sequence[bytes], vectors: Tensor, truncated: Sequence[bool]) -> None:
        """Append embeddings (n, D) of items that are missing.

        Raises:
            ConfigError: the disk is full or cannot be written; nothing is lost.
        """
        if self.dimension is None:
            self.dimension = self.facts["dimension"] = vectors.shape[1]
            write_json(self.folder / "store.json", self.facts)
        if vectors.shape[1] != self.dimension:
            raise ConfigError(
                f"store: {self.folder} has embeddings of {self.dimension} dimensions, got"
                f" {vectors.shape[1]}"
            )
        records = np.zeros(len(keys), dtype=RECORD)
        records["key"] = np.frombuffer(b"".join(keys), dtype=f"V{KEY_BYTES}")
        records["truncated"] = list(truncated)
        try:
            self._append("vectors", vectors.numpy().astype(VALUE).tobytes(), sync=True)
            self._append("records", records.tobytes())
        except OSError as error:
            self._cut(len(self._rows))
            raise ConfigError(f"store: {self.folder} cannot be written: {error}") from error
        self._remember(records)

    def embeddings(self, keys: Sequence[bytes]) -> Tensor:
        """The embeddings (n, D) of these items, copied out of the memory map.

        Raises:
            DataError: one that is no unit vector: the disk has damaged the file.
        """
        rows = np.fromiter((self._rows[key] for key in keys), dtype=np.int64, count=len(keys))
        stored = np.memmap(
            self.folder / "vectors",
            dtype=VALUE,
            mode="r",
            shape=(len(self._rows), self.dimension or 0),
        )
        found = torch.from_numpy(np.asarray(stored[rows], dtype=np.float32))
        norms = found.norm(dim=1)
        if not ((norms - 1).abs() < NORM_TOLERANCE).all():
            raise DataError(
                f"{self.folder / 'vectors'}: holds rows that are no unit vectors; remove the folder"
            )
        return found

    def num_truncated(self, keys: Sequence[bytes]) -> int:
        """How many of these items had their text cut."""
        return sum(self._truncated[self._rows[key]] for key in keys)

    def close(self) -> None:
        self._lock.close()

    def _take_lock(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                if time.monotonic() > deadline:
                    raise ConfigError(
                        f"store: another process has {self.folder} open; let it end, or name"
                        " another store"
                    ) from None
                time.sleep(0.2)

    def _cut_incomplete(self) -> None:
        """Read the records, and forget what a kill left without one, or half written."""
        if self.dimension is None:
            for name in ("vectors", "records"):
                (self.folder / name).unlink(missing_ok=True)
            return
        have = [
            (self.folder / name).stat().st_size // size if (self.folder / name).is_file() else 0
            for name, size in self._sizes.items()
        ]
        self._cut(min(have))
        if min(have):
            self._remember(np.fromfile(self.folder / "records", dtype=RECORD))

    def _cut(self, count: int) -> None:
        for name, size in self._sizes.items():
            if (self.folder / name).is_file():
                os.truncate(self.folder / name, count * size)

    @property
    def _sizes(self) -> dict[str, int]:
        """Bytes of an item in each file."""
        return {"vectors": (self.dimension or 0) * VALUE.itemsize, "records": RECORD.itemsize}

    def _remember(self, records: np.ndarray) -> None:
        for key, truncated in zip(records["key"], records["truncated"], strict=True):
            self._rows[key.tobytes()] = len(self._truncated)
            self._truncated.append(bool(truncated))

    def _append(self, name: str, content: bytes, sync: bool = False) -> None:
        with (self.folder / name).open("ab") as file:
            file.write(content)
            file.flush()
            if sync:
                os.fdatasync(file.fileno())
