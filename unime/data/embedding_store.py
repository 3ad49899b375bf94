"""Embeddings on disk, one for each distinct item: what was encoded once is never encoded again.

A folder for each model and its settings (stores/files.py: what lies in it). A vector is on the disk
before its record is written, so a process may be killed at any moment: whatever has no record does
not count, and is cut off when more is added. What the disk has damaged is refused where it is read.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unime.data.stores.files import (
    BLOCK,
    FACTS,
    GROWING,
    KEY,
    RECORD,
    VALUE,
    VERSION,
    Rows,
    add_digests,
    digests_of,
    file_sizes,
    hint,
    read_facts,
    read_rows,
    row_sizes,
    write_facts,
)
from unime.errors import ConfigError, DataError
from unime.losses import first_unsound
from unime.runtime.files import append
from unime.runtime.folder_lock import lock_folder, unlock_folder


class StoredEmbeddings:
    """Embeddings of unit norm by the keys of their items: the keys are in memory, the vectors stay
    on the disk.

    Attributes:
        facts: what the embeddings depend on, for people and results.
    """

    def __init__(self, folder: Path, facts: dict[str, Any], rows: Rows) -> None:
        self.folder = folder
        self.facts = facts
        self._take(rows)

    @classmethod
    def open(cls, folder: Path) -> StoredEmbeddings:
        """Open what is complete of a store, which another process may be adding to.

        Raises:
            DataError: the store is damaged.
        """
        facts, version = read_facts(folder)
        return cls(folder, facts, read_rows(folder, facts["dimension"], version))

    def missing(self, keys: Sequence[bytes]) -> list[int]:
        """Places of the keys that have no embedding."""
        found: list[int] = np.flatnonzero(self._find(keys) < 0).tolist()
        return found

    def embeddings(self, keys: Sequence[bytes]) -> Tensor:
        """The embeddings (n, D) of these items, copied out of the memory map.

        Raises:
            KeyError: an item that has none.
            DataError: one that is not as it was written: the disk has damaged the files.
        """
        rows = self._find(keys)
        if (rows < 0).any():
            raise KeyError(f"{self.folder}: {(rows < 0).sum()} of {len(rows)} items are missing")
        return torch.from_numpy(self._sound(rows))

    def check(self, keys: Sequence[bytes]) -> None:
        """Look at these items' embeddings, which are there, once, in the order of the disk.

        Raises:
            DataError: one is not as it was written.
        """
        rows = np.unique(self._find(keys))
        for start in range(0, len(rows), BLOCK):
            self._sound(rows[start : start + BLOCK])

    def num_truncated(self, keys: Sequence[bytes]) -> int:
        """How many of these items, which are there, had their text cut."""
        return int(self._rows.records["truncated"][self._find(keys)].sum())

    def _sound(self, numbers: np.ndarray) -> np.ndarray:
        """The vectors (n, D) of these rows."""
        found = self._rows[numbers]
        damaged = found.damaged()
        if damaged.any():
            raise DataError(
                f"{self.folder}, row {numbers[damaged.argmax()]}: damaged: no unit vector, or not"
                f" the one that was written ({damaged.sum():,} of the {len(found):,} that were"
                f" read); {hint(self.folder)}"
            )
        return found.vectors

    def _take(self, rows: Rows) -> None:
        self._rows = rows
        present, keys = rows.present(), rows.records["key"]
        self._order = present[np.argsort(keys[present])]
        self._keys = keys[self._order]  # sorted

    def _find(self, keys: Sequence[bytes]) -> np.ndarray:
        """The rows (n,) of these items, -1 where there is none."""
        wanted = np.array(keys, dtype=KEY)
        if not len(self._keys):
            return np.full(len(wanted), -1)
        places = np.searchsorted(self._keys, wanted).clip(max=len(self._keys) - 1)
        return np.where(self._keys[places] == wanted, self._order[places], -1)


class EmbeddingStore(StoredEmbeddings):
    """The embeddings of one model with one set of settings, open for more of them; in one process
    at a time. A store without digests is given them.

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
        super().__init__(folder, *_opened(folder, described))
        present = self._rows.present()
        self._sound(np.concatenate([present[:1], present[-1:]]))  # before anything is cut
        self._count = len(self._rows)
        self._cut()

    def describe(self, **facts: Any) -> None:
        """Write the facts, with these among them.

        Raises:
            ConfigError: the disk is full or cannot be written.
        """
        self.facts |= facts
        try:
            write_facts(self.folder, self.facts)
        except OSError as error:
            raise self._cannot_write(error) from error

    def check_space(self, count: int, dimension: int) -> None:
        """Look whether so many more embeddings have room on the disk.

        Raises:
            ConfigError: they have not.
        """
        needed = count * sum(row_sizes(dimension).values())
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise ConfigError(
                f"{self._key}: {self.folder}: {count:,} more embeddings need {needed:,}"
                f" bytes, {free:,} are free"
            )

    def add(self, keys: Sequence[bytes], vectors: Tensor, truncated: Sequence[bool]) -> None:
        """Append embeddings (n, D) of items that are missing.

        Raises:
            ConfigError: the disk is full or cannot be written; nothing is lost.
            DataError: one that is no unit vector.
        """
        if not (self.folder / FACTS).is_file():
            self.describe(dimension=vectors.shape[1])
        if vectors.shape[1] != self.facts["dimension"]:
            raise ConfigError(
                f"{self._key}: {self.folder} has embeddings of {self.facts['dimension']}"
                f" dimensions, got {vectors.shape[1]}"
            )
        if bad := first_unsound(vectors):
            raise DataError(f"{self.folder}: not kept: {bad[1]}")
        records = np.zeros(len(keys), dtype=RECORD)
        records["key"], records["truncated"] = list(keys), list(truncated)
        rows = Rows(records, vectors.numpy().astype(VALUE))
        contents = (rows.vectors, digests_of(rows), rows.records)
        try:
            for name, content in zip(GROWING, contents, strict=True):
                self._append(name, content.tobytes())
        except OSError as error:
            with suppress(OSError):  # else whoever opens it next does it
                self._cut()
            raise self._cannot_write(error) from error
        self._count += len(keys)

    def close(self) -> None:
        unlock_folder(self.folder)

    def _find(self, keys: Sequence[bytes]) -> np.ndarray:
        if len(self._rows) < self._count:  # look at what was added since
            self._take(read_rows(self.folder, self.facts["dimension"]))
        return super()._find(keys)

    def _cut(self) -> None:
        """Forget what has no record."""
        for name, size in row_sizes(self.facts.get("dimension", 0)).items():
            if (self.folder / name).is_file():
                os.truncate(self.folder / name, self._count * size)

    def _append(self, name: str, content: bytes) -> None:
        append(self.folder / name, content)

    def _cannot_write(self, error: OSError) -> ConfigError:
        return ConfigError(
            f"{self._key}: {self.folder} cannot be written: {error}; what was kept before stays,"
            " and the same command goes on from it"
        )


def _opened(folder: Path, described: dict[str, Any]) -> tuple[dict[str, Any], Rows]:
    """The facts of a store and its rows, which have digests from now on."""
    if not (folder / FACTS).exists():
        if any(file_sizes(folder).values()):
            raise DataError(f"{folder / FACTS} is lost, and says what the rest is; remove {folder}")
        return dict(described), read_rows(folder, 1)
    facts, version = read_facts(folder)
    rows = read_rows(folder, facts["dimension"], version)
    if version < VERSION:
        add_digests(folder, facts, rows)
        rows = read_rows(folder, facts["dimension"])
    return facts, rows
